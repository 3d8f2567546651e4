// Queues: how deep, how fast, for how long; pause, resume, and the dead letters' end.

import { html, useRef } from "./vendor/preact.mjs";
import { t, number, bytes, duration } from "./words.js";
import { get, post, call, segment } from "./api.js";
import { useLive } from "./live.js";
import { Table, State, Asked, Act } from "./ui.js";
import { link } from "./router.js";

// Rates of a queue from its totals at two looks.
export function rates(before, now, seconds) {
  if (!before || seconds <= 0) return {};
  const per = name => Math.max(0, now[name] - before[name]) / seconds;
  const entering = per("enqueued_total");
  const leaving = per("finished_total");
  const waiting = now.queued + now.scheduled + now.leased;
  return { entering, leaving, empty: waiting > 0 && leaving > entering ? (waiting / (leaving - entering)) * 1000 : null };
}

export function Queues() {
  const asked = useLive("queues", signal => get("api/v1/queues", {}, signal), 2000, ["queues", data => data]);
  const seen = useRef({});
  return html`<div>
    <h1>${t("Queues")}</h1>
    <${Asked} asked=${asked}>${data => html`<${QueueTable} queues=${withRates(seen.current, data.queues, asked.at)} refresh=${asked.refresh} />`}<//></div>`;
}

// Holds each queue against what it was some seconds ago.
function withRates(seen, queues, at) {
  return queues.map(queue => {
    const past = (seen[queue.model] ??= []);
    if (past.at(-1)?.at !== at) past.push({ at, queue });
    while (past.length > 2 && at - past[1].at >= 8000) past.shift();
    return { ...queue, ...rates(past[0].queue, queue, (at - past[0].at) / 1000) };
  });
}

function QueueTable({ queues, refresh }) {
  const columns = [
    { name: "model", label: t("queue"), value: row => row.model, cell: row => html`<a href=${link(["jobs"], { model: row.model })}><bdi>${row.model}</bdi></a> ${row.paused ? html`<${State} value="paused" />` : ""}` },
    { name: "queued", label: t("queued"), numeric: true, value: row => row.queued, cell: row => number(row.queued) },
    { name: "leased", label: t("leased"), numeric: true, value: row => row.leased, cell: row => number(row.leased) },
    { name: "scheduled", label: t("scheduled"), numeric: true, value: row => row.scheduled, cell: row => number(row.scheduled) },
    { name: "dead", label: t("dead letters"), numeric: true, value: row => row.dead, cell: row => (row.dead ? html`<a href=${link(["dead"], { model: row.model })}>${number(row.dead)}</a>` : number(0)) },
    { name: "in", label: t("in, per second"), numeric: true, value: row => row.entering ?? 0, cell: row => number(row.entering, 1) },
    { name: "out", label: t("out, per second"), numeric: true, value: row => row.leaving ?? 0, cell: row => number(row.leaving, 1) },
    { name: "empty", label: t("empty in"), numeric: true, value: row => row.empty ?? Infinity, cell: row => (row.queued + row.leased === 0 ? t("is empty") : duration(row.empty)) },
    { name: "oldest", label: t("oldest"), numeric: true, value: row => row.oldest_ms, cell: row => (row.queued ? duration(row.oldest_ms) : "–") },
    { name: "bytes", label: t("waiting bytes"), numeric: true, value: row => row.queued_bytes, cell: row => bytes(row.queued_bytes) },
    { name: "act", label: t("change"), cell: row => html`<${Changes} queue=${row} refresh=${refresh} />` },
  ];
  return html`<${Table} caption=${t("Queues")} columns=${columns} rows=${queues} of=${row => row.model} empty=${t("No model is known yet, and so no queue.")} />`;
}

function Changes({ queue, refresh }) {
  const path = `api/v1/queues/${segment(queue.model)}`;
  const purge = async () => {
    let gone = 0;
    for (;;) {
      const { count } = await call(`${path}/dead`, { method: "DELETE", query: { limit: 10_000 } });
      gone += count;
      if (count < 10_000) return t("{count} deleted", { count: number(gone) });
    }
  };
  const question = {
    title: t("Delete the dead letters of {name}?", { name: queue.model }),
    text: t("Jobs deleted for good, with their inputs: {count}.", { count: number(queue.dead) }),
    typed: queue.model,
  };
  return html`
    <span class="actions">
      ${queue.paused
        ? html`<${Act} key="resume" label=${t("Resume")} run=${() => post(`${path}/resume`)} done=${refresh} />`
        : html`<${Act} key="pause" label=${t("Pause")} run=${() => post(`${path}/pause`)} done=${refresh} />`}
      ${queue.dead ? html`<${Act} key="purge" label=${t("Purge")} danger question=${question} run=${purge} done=${refresh} />` : ""}
    </span>`;
}
