// What several pages are made of: tables, states, times, questions before a change.

import { html, useState, useRef, useEffect } from "./vendor/preact.mjs";
import { t, time, ago, number } from "./words.js";
import { may } from "./api.js";

// Columns: {name, label, cell(row), value(row) to sort by, numeric}.
export function Table({ caption, columns, rows, of, empty }) {
  const [sort, setSort] = useState(null);
  const sorted = sort ? [...rows].sort((a, b) => compare(sort.value(a), sort.value(b)) * sort.way) : rows;
  const turn = column => setSort(sort?.name === column.name ? { ...sort, way: -sort.way } : { name: column.name, value: column.value, way: column.numeric ? -1 : 1 });
  const order = column => (sort?.name === column.name ? (sort.way > 0 ? "ascending" : "descending") : null);
  if (rows.length === 0) return html`<p class="empty">${empty}</p>`;
  return html`
    <div class="scroll" tabindex="0" role="region" aria-label=${caption}>
      <table>
        <caption class="unseen">${caption}</caption>
        <thead><tr>${columns.map(column => html`
          <th key=${column.name} scope="col" class=${column.numeric ? "numeric" : ""} aria-sort=${order(column)}>
            ${column.value ? html`<button class="plain" onClick=${() => turn(column)}>${column.label}<span aria-hidden="true">${{ ascending: " ▲", descending: " ▼" }[order(column)] ?? ""}</span></button>` : column.label}
          </th>`)}</tr></thead>
        <tbody>${sorted.map(row => html`
          <tr key=${of(row)}>${columns.map(column => html`<td key=${column.name} class=${column.numeric ? "numeric" : ""}>${column.cell(row)}</td>`)}</tr>`)}
        </tbody>
      </table>
    </div>`;
}

function compare(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  return String(a ?? "").localeCompare(String(b ?? ""), undefined, { numeric: true });
}

// A state by shape and word, not by colour alone.
const MARKS = {
  ok: "●", ready: "●", succeeded: "●", running: "●", as_profiled: "●", delivered: "●", finished: "●", active: "●",
  failing: "▲", failed: "▲", dead: "▲", unavailable: "▲", missed: "▲", drifting: "▲", interrupted: "▲",
  queued: "○", scheduled: "◷", leased: "◐", loading: "◐", pending: "○",
  paused: "‖", cancelled: "✕", expired: "✕", revoked: "✕", stopped: "✕", rotating: "◐", draining: "‖",
};
const TONES = { "●": "good", "▲": "bad", "‖": "warn", "✕": "dim" };

export function State({ value }) {
  const mark = MARKS[value] ?? "○";
  return html`<span class=${`state ${TONES[mark] ?? ""}`}><span aria-hidden="true">${mark}</span> ${t(value).replaceAll("_", " ")}</span>`;
}

export function Time({ ms, exact }) {
  if (!ms) return "–";
  const text = time(ms);
  return html`<time datetime=${new Date(ms).toISOString()} title=${text}>${exact ? text : ago(ms)}</time>`;
}

export function Id({ id, href }) {
  const short = id.length > 14 ? `${id.slice(0, 6)}…${id.slice(-4)}` : id;
  const shown = html`<bdi class="id line" title=${id}>${short}</bdi>`;
  return href ? html`<a href=${href} aria-label=${id}>${shown}</a>` : shown;
}

export function Problem({ error }) {
  if (!error) return null;
  const text = error.status ? error.message : t("The gateway cannot be reached. Trying again.");
  return html`<p class="problem" role="alert"><bdi>${text}</bdi>${error.requestId ? html` <small><bdi>${t("request")} ${error.requestId}</bdi></small>` : ""}</p>`;
}

// What a page shows of a question: its answer, its refusal, or that it waits. In an element of its
// own, as every page is: several without one lose their place among the others when they come later.
export function Asked({ asked, children }) {
  if (asked.data === undefined && !asked.error) return html`<div><p class="empty" role="status">${t("Loading …")}</p></div>`;
  return html`<div><${Problem} error=${asked.error} />${asked.data === undefined ? "" : children(asked.data)}</div>`;
}

export function Facts({ facts }) {
  const shown = facts.filter(fact => fact && fact[1] !== undefined && fact[1] !== null && fact[1] !== "");
  return html`<dl class="facts">${shown.map(([name, value]) => html`<div key=${name}><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>`;
}

export function Figure({ label, value, note, tone }) {
  return html`<div class=${`figure ${tone ?? ""}`}><dt>${label}</dt><dd><strong>${value}</strong>${note ? html`<small>${note}</small>` : ""}</dd></div>`;
}

// A text to take along. Over plain HTTP a page may not write to the clipboard: there the
// text is selected, ready for the keys that copy.
export function Copy({ label, text }) {
  const [shown, setShown] = useState("");
  const field = useRef();
  useEffect(() => {
    if (shown === "select") field.current?.select();
  }, [shown]);
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
      setShown("copied");
      setTimeout(() => setShown(""), 2000);
    } catch {
      setShown("select");
    }
  };
  return html`
    <span class="copy">
      <button onClick=${copy}>${label}</button>
      <span role="status">${shown === "copied" ? t("Copied") : ""}</span>
      ${shown === "select" ? html`<textarea ref=${field} readonly rows="4" aria-label=${label} value=${text}></textarea>` : ""}
    </span>`;
}

// A button whose click changes something: it says that it runs, and what was refused. It
// is there for who may do that.
export function Act({ label, run, done, danger, question, disabled, needs = "admin" }) {
  const [state, setState] = useState({});
  const [asking, setAsking] = useState(false);
  const act = async () => {
    setAsking(false);
    setState({ running: true });
    try {
      const said = await run();
      setState({ said: typeof said === "string" ? said : "" });
      done?.();
    } catch (error) {
      setState({ error });
    }
  };
  if (!may(needs)) return null;
  return html`
    <span class="act">
      <button class=${danger ? "danger" : ""} disabled=${disabled || state.running} onClick=${() => (question ? setAsking(true) : act())}>${label}</button>
      <span role="status">${state.running ? "…" : state.said ?? ""}</span>
      <${Problem} error=${state.error} />
      ${asking ? html`<${Question} ...${question} label=${label} yes=${act} no=${() => setAsking(false)} />` : ""}
    </span>`;
}

// Asks before what cannot be undone; `typed` is a name to type in.
function Question({ title, text, typed, label, yes, no }) {
  const dialog = useRef();
  const [name, setName] = useState("");
  useEffect(() => {
    dialog.current.showModal();
  }, []);
  const submit = event => {
    event.preventDefault();
    if (!typed || name === typed) yes();
  };
  return html`
    <dialog ref=${dialog} onClose=${no} aria-label=${title}>
      <form onSubmit=${submit}>
        <h2>${title}</h2>
        <p>${text}</p>
        ${typed ? html`<label>${t("Type the name to go on:")} <bdi class="id">${typed}</bdi><input autocomplete="off" spellcheck=${false} value=${name} onInput=${event => setName(event.target.value)} /></label>` : ""}
        <p class="actions">
          <button type="button" onClick=${() => dialog.current.close()}>${t("Cancel")}</button>
          <button type="submit" class="danger" disabled=${Boolean(typed) && name !== typed}>${label}</button>
        </p>
      </form>
    </dialog>`;
}

export function Choice({ label, value, options, onChange }) {
  return html`
    <label class="choice"><span>${label}</span>
      <select value=${value} onChange=${event => onChange(event.target.value)}>
        ${options.map(([key, text]) => html`<option key=${key} value=${key} selected=${key === value}>${text}</option>`)}
      </select>
    </label>`;
}

export function Bars({ caption, bars, unit }) {
  const most = Math.max(...bars.map(bar => bar.value), 0) || 1;
  return html`
    <table class="bars"><caption>${caption}</caption><tbody>
      ${bars.map(bar => html`<tr key=${bar.label}><th scope="row">${bar.colour ? html`<svg class="swatch" viewBox="0 0 10 10" aria-hidden="true"><rect width="10" height="10" fill=${bar.colour} /></svg> ` : ""}<bdi>${bar.label}</bdi></th>
        <td><meter min="0" max=${most} value=${bar.value} aria-label=${bar.label}></meter></td>
        <td class="numeric">${unit ? unit(bar.value) : number(bar.value, 4)}</td></tr>`)}
    </tbody></table>`;
}
