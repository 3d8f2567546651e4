// Dead letters, grouped by what they died of; a group is sent back or deleted as one.

import { html, useState } from "./vendor/preact.mjs";
import { t, number } from "./words.js";
import { get, post, call, segment } from "./api.js";
import { useLive } from "./live.js";
import { Asked, Act, Choice, Table } from "./ui.js";
import { columnsOfJobs } from "./jobs.js";
import { refine } from "./router.js";

const PAGE = 1000;
const A_CALL = 100;

// Groups jobs by model and error; numbers and ids in the message do not tell errors apart.
export function groupsOf(jobs) {
  const groups = new Map();
  for (const job of jobs) {
    const code = job.error?.code ?? "";
    const detail = job.error?.detail ?? "";
    const alike = detail.replace(/[\w-]*\d[\w.-]*/g, "…");
    const key = JSON.stringify([job.model, code, alike]);
    const group = groups.get(key) ?? { key, model: job.model, code, detail, jobs: [] };
    group.jobs.push(job);
    groups.set(key, group);
  }
  return [...groups.values()].sort((a, b) => b.jobs.length - a.jobs.length);
}

async function read(model, signal) {
  const { queues } = await get("api/v1/queues", {}, signal);
  const asked = queues.filter(queue => queue.dead > 0 && (model === "" || queue.model === model));
  const pages = await Promise.all(asked.map(queue => get(`api/v1/queues/${segment(queue.model)}/dead`, { limit: PAGE }, signal)));
  return { queues, jobs: pages.flatMap(page => page.jobs), total: asked.reduce((sum, queue) => sum + queue.dead, 0) };
}

export function Dead({ query }) {
  const model = query.model ?? "";
  const asked = useLive(`dead ${model}`, signal => read(model, signal), 5000);
  return html`
    <h1>${t("Dead letters")}</h1>
    <${Asked} asked=${asked}>${data => html`
      <div class="filters"><${Choice} label=${t("queue")} value=${model} options=${[["", t("all")], ...data.queues.map(queue => [queue.model, queue.model])]} onChange=${value => refine({ model: value })} /></div>
      <p>${data.jobs.length < data.total ? t("Groups of {shown} dead letters out of {count}.", { shown: number(data.jobs.length), count: number(data.total) }) : t("{count} dead letters.", { count: number(data.total) })}</p>
      ${groupsOf(data.jobs).map(group => html`<${Group} key=${group.key} group=${group} refresh=${asked.refresh} />`)}
      ${data.jobs.length === 0 ? html`<p class="empty">${t("No job died. Those that do are kept here, to be looked at and sent back.")}</p>` : ""}`}<//>`;
}

function Group({ group, refresh }) {
  const [open, setOpen] = useState(false);
  const path = `api/v1/queues/${segment(group.model)}/dead`;
  // Few ids a call: they travel in the address.
  const each = async move => {
    let count = 0;
    for (let at = 0; at < group.jobs.length; at += A_CALL) {
      const ids = group.jobs.slice(at, at + A_CALL).map(job => job.id).join(",");
      count += (await move(ids)).count;
    }
    return count;
  };
  const redrive = async () => t("{count} sent back", { count: number(await each(ids => post(`${path}/redrive`, { ids }))) });
  const purge = async () => t("{count} deleted", { count: number(await each(ids => call(path, { method: "DELETE", query: { ids } }))) });
  const question = {
    title: t("Delete {count} dead letters?", { count: number(group.jobs.length) }),
    text: t("They and their inputs are deleted for good."),
    typed: group.jobs.length > 100 ? group.model : undefined,
  };
  return html`
    <section class="group">
      <h2><span class="count">${number(group.jobs.length)}</span> <bdi>${group.model}</bdi> <code>${group.code}</code></h2>
      <p><bdi>${group.detail}</bdi></p>
      <p class="actions">
        <${Act} label=${t("Send all back")} run=${redrive} done=${refresh} />
        <${Act} label=${t("Delete all")} danger question=${question} run=${purge} done=${refresh} />
        <button onClick=${() => setOpen(!open)} aria-expanded=${open}>${t("Show samples")}</button>
      </p>
      ${open ? html`<${Table} caption=${t("Samples")} columns=${columnsOfJobs()} rows=${group.jobs.slice(0, 10)} of=${job => job.id} empty="" />` : ""}
    </section>`;
}
