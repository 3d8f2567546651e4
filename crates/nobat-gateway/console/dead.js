// Dead letters, grouped by what they died of; a group is sent back or deleted as one.

import { html, useState } from "./vendor/preact.mjs";
import { t, number } from "./words.js";
import { get, post, call, segment } from "./api.js";
import { useLive } from "./live.js";
import { Asked, Act, Choice, Id, Time } from "./ui.js";
import { link, refine } from "./router.js";

async function read(model, signal) {
  const { queues } = await get("api/v1/queues", {}, signal);
  const asked = queues.filter(queue => queue.dead > 0 && (model === "" || queue.model === model));
  const lists = await Promise.all(asked.map(queue => get(`api/v1/queues/${segment(queue.model)}/dead/groups`, {}, signal)));
  const groups = lists.flatMap((list, at) => list.groups.map(group => ({ ...group, model: asked[at].model })));
  const sum = values => values.reduce((total, value) => total + value, 0);
  return {
    queues,
    groups: groups.sort((a, b) => b.count - a.count),
    shown: sum(lists.map(list => list.looked_through)),
    total: sum(lists.map((list, at) => (list.more ? asked[at].dead : list.looked_through))),
  };
}

export function Dead({ query }) {
  const model = query.model ?? "";
  const asked = useLive(`dead ${model}`, signal => read(model, signal), 5000);
  return html`<div>
    <h1>${t("Dead letters")}</h1>
    <${Asked} asked=${asked}>${data => html`
      <div class="filters"><${Choice} label=${t("queue")} value=${model} options=${[["", t("all")], ...data.queues.map(queue => [queue.model, queue.model])]} onChange=${value => refine({ model: value })} /></div>
      <p hidden=${data.total === 0}>${data.shown < data.total ? t("Groups of {shown} dead letters out of {count}.", { shown: number(data.shown), count: number(data.total) }) : t("{count} dead letters.", { count: number(data.total) })}</p>
      ${data.groups.map(group => html`<${Group} key=${`${group.model} ${group.id}`} group=${group} refresh=${asked.refresh} />`)}
      ${data.groups.length === 0 ? html`<p class="empty">${t("No job died. Those that do are kept here, to be looked at and sent back.")}</p>` : ""}`}<//></div>`;
}

function Group({ group, refresh }) {
  const [open, setOpen] = useState(false);
  const path = `api/v1/queues/${segment(group.model)}/dead`;
  const redrive = async () => t("{count} sent back", { count: number((await post(`${path}/redrive`, { group: group.id })).count) });
  const purge = async () => t("{count} deleted", { count: number((await call(path, { method: "DELETE", query: { group: group.id } })).count) });
  const question = {
    title: t("Delete {count} dead letters?", { count: number(group.count) }),
    text: t("They and their inputs are deleted for good."),
    typed: group.count > 100 ? group.model : undefined,
  };
  return html`
    <section class="group">
      <h2><span class="count">${number(group.count)}</span> <bdi>${group.model}</bdi> <code>${group.code}</code></h2>
      <p><bdi>${group.detail}</bdi></p>
      <p><small>${t("first:")} <${Time} ms=${group.first_at_ms} /> · ${t("last:")} <${Time} ms=${group.last_at_ms} /></small></p>
      <p class="actions">
        <${Act} label=${t("Send all back")} run=${redrive} done=${refresh} />
        <${Act} label=${t("Delete all")} danger question=${question} run=${purge} done=${refresh} />
        <button onClick=${() => setOpen(!open)} aria-expanded=${open}>${t("Show samples")}</button>
      </p>
      ${open ? html`<ul>${group.samples.map(id => html`<li key=${id}><${Id} id=${id} href=${link(["jobs", id])} /></li>`)}</ul>` : ""}
    </section>`;
}
