// What is asked for again and again: while the page is seen and not paused, and more
// seldom while the gateway cannot be reached. What the gateway tells by itself is not asked for
// while it does.

import { useState, useEffect, useLayoutEffect, useRef, useCallback } from "./vendor/preact.mjs";
import { server } from "./api.js";
import { close, follow, open, stream } from "./stream.js";

const LONGEST_MS = 30_000;
export const live = { paused: false, listeners: new Set() };

export function setPaused(paused) {
  live.paused = paused;
  steer();
  live.listeners.forEach(listener => listener());
}

// Events come while somebody who may see them looks at a page that is not paused.
function steer() {
  if (live.paused || document.hidden || !server.scope) close();
  else open();
}

document.addEventListener("visibilitychange", steer);
server.listeners.add(steer);

// Draws again whenever one of these stores changes.
export function useChanges(...stores) {
  const [, draw] = useState(0);
  // Before anything else may run: what changes until the next frame would be missed, and with it
  // the only word of who is signed in.
  useLayoutEffect(() => {
    const listener = () => draw(count => count + 1);
    stores.forEach(store => store.listeners.add(listener));
    return () => stores.forEach(store => store.listeners.delete(listener));
  }, []);
}

// The answer of `ask`, fresh every so many milliseconds; `refresh` asks at once. A change of
// `key` forgets what another question was answered. `told` is a topic that says the same, and
// what makes an answer of its data.
export function useLive(key, ask, everyMs = 2000, told = null) {
  const [state, setState] = useState({ key });
  const question = useRef();
  question.current = ask;
  const wake = useRef(() => {});
  useEffect(() => {
    const leaving = new AbortController();
    let timer = 0;
    let failures = 0;
    let asking = false;
    const look = async () => {
      clearTimeout(timer);
      if (asking) return;
      asking = true;
      try {
        const data = await question.current(leaving.signal);
        if (leaving.signal.aborted) return;
        failures = 0;
        setState({ key, data, at: Date.now() });
      } catch (error) {
        if (leaving.signal.aborted) return;
        failures += 1;
        // What is known stays on the page while nothing newer can be had.
        setState(known => ({ key, data: known.key === key ? known.data : undefined, error, at: known.at }));
      } finally {
        asking = false;
      }
      plan();
    };
    const plan = () => {
      clearTimeout(timer);
      if (document.hidden || (live.paused && failures === 0) || everyMs === 0) return;
      // Told by events: asked for again when these end.
      if (told && stream.open && failures === 0) return;
      const pause = failures ? Math.min(LONGEST_MS, 1000 * 2 ** Math.min(failures, 5)) * (0.75 + Math.random() / 2) : everyMs;
      timer = setTimeout(look, pause);
    };
    const resume = () => (document.hidden || live.paused ? clearTimeout(timer) : look());
    wake.current = look;
    document.addEventListener("visibilitychange", resume);
    live.listeners.add(resume);
    const take = told && (data => {
      if (leaving.signal.aborted) return;
      failures = 0;
      setState({ key, data: told[1](data), at: Date.now() });
    });
    const leave = told ? follow(told[0], take) : () => {};
    if (told) stream.listeners.add(plan);
    look();
    return () => {
      leaving.abort();
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", resume);
      live.listeners.delete(resume);
      stream.listeners.delete(plan);
      leave();
    };
  }, [key, everyMs]);
  const refresh = useCallback(() => wake.current(), []);
  const current = state.key === key ? state : {};
  return { data: current.data, error: current.error, at: current.at, refresh };
}
