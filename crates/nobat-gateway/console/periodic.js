// Periodic tasks in plain words: when each runs next, how its last runs went.

import { html, useState } from "./vendor/preact.mjs";
import { t, number, duration } from "./words.js";
import { get, post, segment } from "./api.js";
import { useLive } from "./live.js";
import { Asked, Act, State, Time, Table, Id } from "./ui.js";
import { link } from "./router.js";

const KINDS = ["predict", "fetch", "reload", "exec", "vacuum"];

function kindOf(task) {
  const kind = KINDS.find(name => task[name]);
  const what = { predict: task.predict?.model, fetch: task.fetch?.url, reload: task.reload?.model, exec: task.exec?.command?.join(" ") }[kind] ?? "";
  return { kind, what };
}

export function Periodic() {
  const asked = useLive("periodic", signal => get("api/v1/periodic", {}, signal), 3000);
  return html`<div>
    <h1>${t("Periodic tasks")}</h1>
    <${Asked} asked=${asked}>${data => (data.tasks.length === 0 ? html`<p class="empty">${t("None is declared. They stand in the configuration, under scheduler.periodic.")}</p>` : data.tasks.map(task => html`<${Task} key=${task.name} task=${task} refresh=${asked.refresh} />`))}<//></div>`;
}

function Task({ task, refresh }) {
  const [open, setOpen] = useState(false);
  const path = `api/v1/periodic/${segment(task.name)}`;
  const { kind, what } = kindOf(task);
  return html`
    <section class="group">
      <h2><bdi>${task.name}</bdi> ${task.is_paused ? html`<${State} value="paused" />` : ""}</h2>
      <p><bdi dir="ltr">${task.means}</bdi> <code dir="ltr">${task.schedule}</code> <bdi>${task.timezone}</bdi></p>
      <p><code>${kind}</code> <bdi>${what}</bdi></p>
      <p>${t("next:")} ${task.next ? html`<${Time} ms=${task.next * 1000} />` : "–"} · ${t("last:")} ${task.last_run ? html`<${State} value=${task.last_run.outcome} /> <${Time} ms=${task.last_run.started_at_ms || task.last_run.tick * 1000} />` : t("never")}</p>
      <p class="actions">
        <${Act} label=${t("Run now")} run=${async () => { await post(`${path}/run`); return t("asked for"); }} done=${refresh} />
        ${task.is_paused ? html`<${Act} key="resume" label=${t("Resume")} run=${() => post(`${path}/resume`)} done=${refresh} />` : html`<${Act} key="pause" label=${t("Pause")} run=${() => post(`${path}/pause`)} done=${refresh} />`}
        <button onClick=${() => setOpen(!open)} aria-expanded=${open}>${t("History")}</button>
      </p>
      ${open ? html`<${History} name=${task.name} path=${path} />` : ""}
    </section>`;
}

function History({ name, path }) {
  const asked = useLive(`periodic ${name}`, signal => get(path, { limit: 20 }, signal), 3000);
  const columns = [
    { name: "tick", label: t("for"), cell: run => html`<${Time} ms=${run.tick * 1000} exact />${run.manual ? html` <small>${t("asked for")}</small>` : ""}` },
    { name: "outcome", label: t("outcome"), cell: run => html`<${State} value=${run.outcome} />` },
    { name: "took", label: t("took"), numeric: true, cell: run => duration(run.duration_ms) },
    { name: "attempts", label: t("attempts"), numeric: true, cell: run => number(run.attempts) },
    { name: "message", label: t("what it did"), cell: run => html`<bdi class="clip" title=${run.output || run.message}>${run.message}</bdi>` },
    { name: "job", label: t("job"), cell: run => (run.job ? html`<${Id} id=${run.job} href=${link(["jobs", run.job])} />` : "") },
  ];
  return html`<${Asked} asked=${asked}>${data => html`<${Table} caption=${t("History")} columns=${columns} rows=${data.runs} of=${run => `${run.tick} ${run.started_at_ms} ${run.manual}`} empty=${t("It has not run yet.")} />`}<//>`;
}
