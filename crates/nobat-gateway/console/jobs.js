// Jobs: filtered, page by page; the filters stand in the address.

import { html, useState, useEffect } from "./vendor/preact.mjs";
import { t, number, duration } from "./words.js";
import { get, may, server } from "./api.js";
import { useLive } from "./live.js";
import { Table, State, Asked, Time, Id, Choice } from "./ui.js";
import { Many, Operations } from "./operations.js";
import { link, refine, go } from "./router.js";

// A job's id; everything else is looked for.
const ID = /^[0-9A-Za-z]{30,60}$/;
const PAGE = 50;
const STATES = ["scheduled", "queued", "leased", "failed", "succeeded", "dead", "cancelled", "expired"];

const columnsOfJobs = () => [
  { name: "id", label: t("job"), cell: job => html`<${Id} id=${job.id} href=${link(["jobs", job.id])} />` },
  { name: "model", label: t("model"), value: job => job.model, cell: job => html`<bdi>${job.model}</bdi>` },
  { name: "state", label: t("state"), value: job => job.state, cell: job => html`<${State} value=${job.state} />` },
  { name: "priority", label: t("priority"), numeric: true, value: job => job.priority, cell: job => number(job.priority) },
  { name: "attempts", label: t("attempts"), numeric: true, value: job => job.attempts, cell: job => number(job.attempts) },
  { name: "created", label: t("enqueued"), value: job => job.created_at_ms, cell: job => html`<${Time} ms=${job.created_at_ms} />` },
  { name: "took", label: t("took"), numeric: true, value: job => taken(job) ?? -1, cell: job => (taken(job) === 0 ? t("under 1 ms") : duration(taken(job))) },
  { name: "tags", label: t("tags"), cell: job => html`<${Tags} tags=${job.tags} />` },
  { name: "error", label: t("error"), value: job => job.error?.code ?? "", cell: job => (job.error ? html`<bdi class="clip" title=${job.error.detail}><code>${job.error.code}</code> ${job.error.detail}</bdi>` : "") },
];

// Tags, each a link to its jobs.
export const Tags = ({ tags }) => (tags ?? []).map(tag => html`<a key=${tag} class="tag" href=${link(["jobs"], { tag })}><bdi>${tag}</bdi></a> `);

const AGES = [["", "any time"], ["5m", "5 min"], ["1h", "1 h"], ["1d", "1 d"]];
const FILTERS = ["model", "state", "q", "tag", "error", "priority", "owner", "since", "until"];

const taken = job => (job.finished_at_ms && job.created_at_ms ? job.finished_at_ms - job.created_at_ms : null);

export function Jobs({ query }) {
  const [trail, setTrail] = useState([]);
  const [begun, setBegun] = useState(0);
  const { cursor = "" } = query;
  const given = Object.fromEntries(FILTERS.map(name => [name, query[name] ?? ""]));
  const { model, state } = given;
  const isNarrowed = FILTERS.some(name => given[name]);
  const models = useLive("names", signal => get("api/v1/queues", {}, signal), 10_000);
  const asked = useLive(`jobs ${JSON.stringify(given)} ${cursor}`, signal => get("api/v1/jobs", { ...given, cursor, limit: PAGE }, signal), 3000);
  const filter = values => {
    setTrail([]);
    refine({ ...given, ...values, cursor: "" });
  };
  const names = [...new Set([...(models.data?.queues ?? []).map(queue => queue.model), ...(model ? [model] : [])])];
  return html`<div>
    <h1>${t("Jobs")}</h1>
    <div class="filters">
      <${Find} value=${given.q} onFind=${q => filter({ q })} />
      <${Choice} label=${t("model")} value=${model} options=${[["", t("all")], ...names.map(name => [name, name])]} onChange=${value => filter({ model: value })} />
      <${Choice} label=${t("state")} value=${state} options=${[["", t("all")], ...STATES.map(name => [name, t(name)])]} onChange=${value => filter({ state: value })} />
      <${Choice} label=${t("enqueued")} value=${given.since} options=${[...AGES.map(([value, name]) => [value, value ? t("last {time}", { time: name }) : t(name)]), ...(AGES.some(([value]) => value === given.since) ? [] : [[given.since, given.since]])]} onChange=${value => filter({ since: value })} />
      <${Word} name="tag" label=${t("tag")} value=${given.tag} onSet=${filter} />
      <${Word} name="error" label=${t("error code")} value=${given.error} onSet=${filter} />
      <${Word} name="priority" label=${t("priority")} value=${given.priority} onSet=${filter} />
      ${server.keys && may("admin") ? html`<${Word} name="owner" label=${t("key id")} value=${given.owner} onSet=${filter} />` : ""}
      ${isNarrowed ? html`<button onClick=${() => filter(Object.fromEntries(FILTERS.map(name => [name, ""])))}>${t("All jobs")}</button>` : ""}
    </div>
    <${Many} given=${given} begun=${() => setBegun(begun + 1)} />
    <${Asked} asked=${asked}>${data => html`
      <${Table} caption=${t("Jobs")} columns=${columnsOfJobs()} rows=${data.jobs} of=${job => job.id} empty=${data.cursor ? t("None on this page; there is more to look through.") : isNarrowed || cursor ? t("No job is like that.") : t("There is no job yet. Send one under Try it, or with any client.")} />
      <p class="actions">
        ${cursor ? html`<button onClick=${() => { refine({ ...given, cursor: trail.at(-1) ?? "" }); setTrail(trail.slice(0, -1)); }}>${t("Back")}</button>` : ""}
        ${data.cursor ? html`<button onClick=${() => { setTrail([...trail, cursor]); refine({ ...given, cursor: data.cursor }); }}>${t("Next page")}</button>` : ""}
        ${data.jobs.length ? html`<small>${t("{count} on this page", { count: number(data.jobs.length) })}</small>` : ""}
      </p>`}<//>
    <${Operations} begun=${begun} />
  </div>`;
}

// A filter that is typed in, and counts once it is left or entered.
function Word({ name, label, value, onSet }) {
  const [text, setText] = useState(value);
  useEffect(() => setText(value), [value]);
  const set = () => text.trim() !== value && onSet({ [name]: text.trim() });
  return html`<label class="choice"><span>${label}</span><input size="12" dir="auto" autocomplete="off" spellcheck=${false} value=${text} onInput=${event => setText(event.target.value)} onChange=${set} onKeyDown=${event => event.key === "Enter" && set()} /></label>`;
}

// Opens a job by its id, and finds others by an idempotency key, a request's id or a tag. `/`
// anywhere on the page leads here.
function Find({ value, onFind }) {
  const [id, setId] = useState(value);
  useEffect(() => setId(value), [value]);
  useEffect(() => {
    const slash = event => {
      if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName)) return;
      event.preventDefault();
      document.getElementById("find").focus();
    };
    addEventListener("keydown", slash);
    return () => removeEventListener("keydown", slash);
  }, []);
  const open = event => {
    event.preventDefault();
    if (ID.test(id.trim())) go(["jobs", id.trim()]);
    else onFind(id.trim());
  };
  return html`<form role="search" onSubmit=${open}><label class="choice"><span>${t("find")}</span><input id="find" type="search" dir="auto" title=${t("By id, idempotency key, request id or tag")} placeholder="/" value=${id} onInput=${event => setId(event.target.value)} autocomplete="off" spellcheck=${false} /></label> <button>${t("Open")}</button></form>`;
}
