// Jobs: filtered, page by page; the filters stand in the address.

import { html, useState, useEffect } from "./vendor/preact.mjs";
import { t, number, duration } from "./words.js";
import { get } from "./api.js";
import { useLive } from "./live.js";
import { Table, State, Asked, Time, Id, Choice } from "./ui.js";
import { link, refine, go } from "./router.js";

const PAGE = 50;
const STATES = ["scheduled", "queued", "leased", "failed", "succeeded", "dead", "cancelled", "expired"];

const columnsOfJobs = () => [
  { name: "id", label: t("job"), cell: job => html`<${Id} id=${job.id} href=${link(["jobs", job.id])} />` },
  { name: "model", label: t("model"), value: job => job.model, cell: job => html`<bdi>${job.model}</bdi>` },
  { name: "state", label: t("state"), value: job => job.state, cell: job => html`<${State} value=${job.state} />` },
  { name: "priority", label: t("priority"), numeric: true, value: job => job.priority, cell: job => number(job.priority) },
  { name: "attempts", label: t("attempts"), numeric: true, value: job => job.attempts, cell: job => number(job.attempts) },
  { name: "created", label: t("enqueued"), value: job => job.created_at_ms, cell: job => html`<${Time} ms=${job.created_at_ms} />` },
  { name: "took", label: t("took"), numeric: true, value: job => taken(job) ?? -1, cell: job => duration(taken(job)) },
  { name: "error", label: t("error"), value: job => job.error?.code ?? "", cell: job => (job.error ? html`<bdi class="clip" title=${job.error.detail}><code>${job.error.code}</code> ${job.error.detail}</bdi>` : "") },
];

const taken = job => (job.finished_at_ms && job.created_at_ms ? job.finished_at_ms - job.created_at_ms : null);

export function Jobs({ query }) {
  const [trail, setTrail] = useState([]);
  const { model = "", state = "", cursor = "" } = query;
  const models = useLive("names", signal => get("api/v1/queues", {}, signal), 10_000);
  const asked = useLive(`jobs ${model} ${state} ${cursor}`, signal => get("api/v1/jobs", { model, state, cursor, limit: PAGE }, signal), 3000);
  const filter = values => {
    setTrail([]);
    refine({ model, state, ...values, cursor: "" });
  };
  const names = [...new Set([...(models.data?.queues ?? []).map(queue => queue.model), ...(model ? [model] : [])])];
  return html`
    <h1>${t("Jobs")}</h1>
    <div class="filters">
      <${Find} />
      <${Choice} label=${t("model")} value=${model} options=${[["", t("all")], ...names.map(name => [name, name])]} onChange=${value => filter({ model: value })} />
      <${Choice} label=${t("state")} value=${state} options=${[["", t("all")], ...STATES.map(name => [name, t(name)])]} onChange=${value => filter({ state: value })} />
    </div>
    <${Asked} asked=${asked}>${data => html`
      <${Table} caption=${t("Jobs")} columns=${columnsOfJobs()} rows=${data.jobs} of=${job => job.id} empty=${data.cursor ? t("None on this page; there is more to look through.") : t("No job is like that.")} />
      <p class="actions">
        ${cursor ? html`<button onClick=${() => { refine({ model, state, cursor: trail.at(-1) ?? "" }); setTrail(trail.slice(0, -1)); }}>${t("Back")}</button>` : ""}
        ${data.cursor ? html`<button onClick=${() => { setTrail([...trail, cursor]); refine({ model, state, cursor: data.cursor }); }}>${t("Next page")}</button>` : ""}
        <small>${t("{count} on this page", { count: number(data.jobs.length) })}</small>
      </p>`}<//>`;
}

// Opens a job by its id. `/` anywhere on the page leads here.
function Find() {
  const [id, setId] = useState("");
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
    if (id.trim()) go(["jobs", id.trim()]);
  };
  return html`<form role="search" onSubmit=${open}><label class="choice"><span>${t("id")}</span><input id="find" type="search" dir="ltr" placeholder="/" value=${id} onInput=${event => setId(event.target.value)} autocomplete="off" spellcheck=${false} /></label> <button>${t("Open")}</button></form>`;
}
