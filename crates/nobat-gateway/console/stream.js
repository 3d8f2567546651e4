// What the gateway tells by itself while it changes: the status, the queues, the newest
// points. A page that cannot be told asks now and then instead.

import { url } from "./api.js";

const SHORTEST_MS = 1_000;
const LONGEST_MS = 30_000;
// The gateway says something every 15 seconds.
const SILENCE_MS = 35_000;
const TOPICS = ["status", "queues", "timeseries"];

// `open` while events come; `followers` of a topic take its data.
export const stream = { open: false, listeners: new Set(), followers: new Map(TOPICS.map(topic => [topic, new Set()])) };

let source = null;
let timer = 0;
let silence = 0;
let failures = 0;
let last = {};

function set(open) {
  if (stream.open === open) return;
  stream.open = open;
  stream.listeners.forEach(listener => listener());
}

function close() {
  clearTimeout(timer);
  clearTimeout(silence);
  source?.close();
  source = null;
  last = {};
  set(false);
}

function failed() {
  close();
  failures += 1;
  const pause = Math.min(LONGEST_MS, SHORTEST_MS * 2 ** Math.min(failures, 5)) * (0.75 + Math.random() / 2);
  timer = setTimeout(open, pause);
}

function heard() {
  clearTimeout(silence);
  silence = setTimeout(failed, SILENCE_MS);
}

// Followed while somebody looks at the page and wants it live.
export function open() {
  if (source || document.hidden) return;
  clearTimeout(timer);
  source = new EventSource(url("api/v1/events"));
  heard();
  source.onopen = heard;
  // What the browser would try again by itself, and what it would give up on.
  source.onerror = failed;
  for (const topic of TOPICS) {
    source.addEventListener(topic, event => {
      heard();
      failures = 0;
      const data = JSON.parse(event.data);
      last[topic] = data;
      stream.followers.get(topic).forEach(follower => follower(data));
      set(true);
    });
  }
}

export { close };

// The newest data of a topic, and what comes after it; ends by the returned call.
export function follow(topic, follower) {
  stream.followers.get(topic).add(follower);
  if (last[topic] !== undefined) follower(last[topic]);
  return () => stream.followers.get(topic).delete(follower);
}
