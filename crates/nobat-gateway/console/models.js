// Models: their versions and what they take and give; one model with its batches, its
// controller and its workers; load and unload.

import { html, useRef } from "./vendor/preact.mjs";
import { t, number, duration } from "./words.js";
import { get, post, segment } from "./api.js";
import { useLive } from "./live.js";
import { Table, State, Asked, Act, Facts, Bars, Time, Figure } from "./ui.js";
import { link } from "./router.js";
import { Chart } from "./chart.js";

// Looks that the chart of caps remembers: 15 minutes, one every two seconds.
const CAPS = 450;

export const specText = specs => specs.map(spec => `${spec.name} ${spec.datatype} [${spec.shape.join(", ")}]`).join(", ");

function stateOf(version) {
  return version.state === "ready" && version.workers.length === 0 ? "no live worker" : version.state;
}

export function Models() {
  const asked = useLive("models", signal => get("api/v1/models", {}, signal), 3000);
  const rowsOf = data => data.models.flatMap(model => model.versions.map(version => ({ model, version })));
  const columns = [
    { name: "model", label: t("model"), value: row => row.model.name, cell: row => html`<a href=${link(["models", row.model.name])}><bdi>${row.model.name}</bdi></a>` },
    { name: "version", label: t("version"), value: row => row.version.version, cell: row => html`<bdi>${row.version.version}</bdi>${row.version.version === row.model.default_version ? html` <small>${t("default")}</small>` : ""}${row.version.labels.map(label => html` <span class="tag"><bdi>${label}</bdi></span>`)}` },
    { name: "state", label: t("state"), value: row => stateOf(row.version), cell: row => html`<${State} value=${stateOf(row.version)} />${row.version.reason ? html` <bdi class="clip" title=${row.version.reason}>${row.version.reason}</bdi>` : ""}` },
    { name: "takes", label: t("takes"), cell: row => html`<bdi dir="ltr" class="clip" title=${specText(row.version.inputs)}>${specText(row.version.inputs)}</bdi>` },
    { name: "gives", label: t("gives"), cell: row => html`<bdi dir="ltr" class="clip" title=${specText(row.version.outputs)}>${specText(row.version.outputs)}</bdi>` },
    { name: "workers", label: t("workers"), numeric: true, value: row => row.version.workers.length, cell: row => number(row.version.workers.length) },
    { name: "try", label: t("try"), cell: row => html`<a class="button" href=${link(["try", row.model.name], { version: row.version.version === row.model.default_version ? "" : row.version.version })}>${t("Try it")}</a>` },
  ];
  return html`<div>
    <h1>${t("Models")}</h1>
    <${Asked} asked=${asked}>${data => html`<${Table} caption=${t("Models")} columns=${columns} rows=${rowsOf(data)} of=${row => `${row.model.name} ${row.version.version}`} empty=${t("No worker serves a model yet.")} />`}<//></div>`;
}

export function Model({ name }) {
  const asked = useLive(`model ${name}`, signal => get(`api/v1/models/${segment(name)}`, {}, signal), 2000);
  const status = useLive("caches", signal => get("api/v1/status", {}, signal), 5000);
  // One that was unloaded is nobody's, and can be loaded by its name.
  const isGone = asked.error?.code === "model_not_found";
  const path = `v2/repository/models/${segment(name)}`;
  return html`<div>
    <h1><bdi>${name}</bdi></h1>
    <p class="actions">
      <a class="button" href=${link(["try", name])}>${t("Try it")}</a>
      <a class="button" href=${link(["jobs"], { model: name })}>${t("Its jobs")}</a>
      <${Act} label=${isGone ? t("Load") : t("Load again")} run=${async () => { await post(`${path}/load`); return t("loaded"); }} done=${asked.refresh} />
    </p>
    ${isGone ? html`<p class="problem"><bdi>${asked.error.message}</bdi></p>` : html`<${Asked} asked=${asked}>${model => html`
      <p class="actions">
        <${Act} label=${t("Unload")} danger run=${async () => { await post(`${path}/unload`); return t("unloaded"); }} done=${asked.refresh} question=${{ title: t("Unload {name}?", { name }), text: t("No worker serves it until it is loaded again; its jobs wait."), typed: name }} />
      </p>
      <dl class="figures">
        <${Figure} label=${t("queued")} value=${number(model.queue.queued)} />
        <${Figure} label=${t("leased")} value=${number(model.queue.leased)} />
        <${Figure} label=${t("dead letters")} value=${number(model.queue.dead)} tone=${model.queue.dead ? "warn" : ""} />
        <${Figure} label=${t("workers")} value=${number(model.workers.length)} />
        <${Cache} stats=${status.data?.caches?.[name]} />
      </dl>
      ${model.versions.map(version => html`<${Version} key=${version.version} model=${model} version=${version} refresh=${asked.refresh} />`)}
      <h2>${t("Workers")}</h2>
      <${Table} caption=${t("Workers")} columns=${workerColumns()} rows=${model.workers} of=${worker => worker.id} empty=${t("No live worker has it.")} />`}<//>`}</div>`;
}

function Cache({ stats }) {
  if (!stats) return null;
  const asked = (stats.hits ?? 0) + (stats.misses ?? 0);
  return html`<${Figure} label=${t("cache hits")} value=${asked ? `${number((100 * stats.hits) / asked, 1)} %` : "–"} note=${t("{count} answers kept", { count: number(stats.entries ?? 0) })} />`;
}

export const workerColumns = () => [
  { name: "id", label: t("worker"), cell: worker => html`<bdi class="id">${worker.id}</bdi>` },
  { name: "host", label: t("host and process"), value: worker => worker.host, cell: worker => html`<bdi>${worker.host}</bdi>` },
  { name: "sessions", label: t("sessions"), numeric: true, value: worker => worker.sessions, cell: worker => number(worker.sessions) },
  { name: "since", label: t("started"), value: worker => worker.started_at_ms, cell: worker => html`<${Time} ms=${worker.started_at_ms} />` },
];

// What the controllers allow a run to have over time, as this page saw it: workers tell how they
// stand and not how they stood.
function Caps({ controllers, slo }) {
  const seen = useRef({ times: [], lines: new Map() });
  const { times, lines } = seen.current;
  const now = Math.floor(Date.now() / 1000);
  if (times.at(-1) !== now) {
    times.push(now);
    for (const one of controllers) if (!lines.has(one.worker.id)) lines.set(one.worker.id, Array(times.length - 1).fill(null));
    for (const [id, values] of lines) values.push(controllers.find(one => one.worker.id === id)?.cap ?? null);
    if (times.length > CAPS) [times, ...lines.values()].forEach(list => list.shift());
  }
  const back = controllers.reduce((sum, one) => sum + (one.back_offs ?? 0), 0);
  const series = [...lines].slice(0, 3).map(([id, values]) => ({ label: id, values: [...values] }));
  return html`
    <div class="charts"><${Chart} whole title=${t("Cap of a run, rows")} times=${[...times]} format=${value => number(value)} series=${series} /></div>
    <p><small>${t("As this page saw it; {count} back-offs since the workers started.", { count: number(back) })} ${slo ? t("slo: {time}", { time: duration(slo) }) : ""}</small></p>`;
}

// The share of their sessions' time that runs took, since this page looked first.
function useBusy(counted, sessions) {
  const first = useRef(null);
  if (!counted) return null;
  const ns = counted.batches.reduce((sum, batch) => sum + (batch.input?.ns ?? 0) + batch.infer.ns + (batch.output?.ns ?? 0), 0);
  const now = performance.now();
  if (!first.current || ns < first.current.ns) first.current = { ns, at: now };
  const passed = now - first.current.at;
  return passed > 1000 && sessions > 0 ? Math.min(1, (ns - first.current.ns) / 1e6 / passed / sessions) : null;
}

function Drift({ model, drift, refresh }) {
  const acknowledge = async () => {
    await post(`api/v1/models/${segment(model)}/drift/acknowledge`);
    return t("it is watched anew");
  };
  const isOff = drift.state === "drifting";
  return html`
    <h3>${t("Drift from the profile")} <${State} value=${drift.state} /></h3>
    <p class=${isOff ? "problem" : ""}><bdi>${drift.words}</bdi> <small>${t("rows counted: {count}", { count: number(drift.rows) })}</small></p>
    ${isOff ? html`<p><small>${t("Where the new rows are right, acknowledge them and make a new profile.")}</small></p><p><${Act} label=${t("Acknowledge")} run=${acknowledge} done=${refresh} /></p>` : ""}`;
}

function Version({ model, version, refresh }) {
  const counted = model.statistics.find(one => one.version === version.version);
  const controllers = model.workers.flatMap(worker => (worker.report.batching ?? []).filter(one => one.version === version.version && one.model === model.name).map(one => ({ worker, ...one })));
  const busy = useBusy(counted, model.workers.reduce((sum, worker) => sum + worker.sessions, 0));
  const mean = tally => (tally?.count ? tally.ns / tally.count / 1e6 : null);
  return html`
    <section class="group">
      <h2>${t("Version")} <bdi>${version.version}</bdi> <${State} value=${stateOf(version)} />${version.labels.map(label => html` <span class="tag"><bdi>${label}</bdi></span>`)}</h2>
      ${version.reason ? html`<p class="problem"><bdi>${version.reason}</bdi></p>` : ""}
      <${Facts} facts=${[
        [t("rows of different requests"), `${t(version.rows.verdict)}${version.rows.why ? ` – ${version.rows.why}` : ""}`],
        [t("most rows in a run"), number(version.max_batch_size)],
        [t("most rows in a request"), number(version.max_rows)],
        [t("digest"), html`<bdi class="id">${version.digest}</bdi>`],
        [t("runs"), counted ? number(counted.execution_count) : ""],
        [t("rows per run"), counted?.execution_count ? number(counted.inference_count / counted.execution_count, 2) : ""],
        [t("busy share of all sessions, here seen"), busy === null ? "" : `${number(100 * busy, 2)} %`],
        [t("mean time of a run"), duration(mean(counted?.infer))],
        [t("mean time in the queue"), duration(mean(counted?.queue))],
        [t("failed attempts"), counted ? number(counted.fail.count) : ""],
      ]} />
      <div class="columns">
        <${Signature} title=${t("Takes")} specs=${version.inputs} />
        <${Signature} title=${t("Gives")} specs=${version.outputs} />
      </div>
      ${counted?.batches.length ? html`<${Bars} caption=${t("Runs by their rows")} bars=${counted.batches.map(batch => ({ label: number(batch.rows), value: batch.infer.count }))} unit=${value => number(value)} />` : ""}
      ${(model.drift ?? []).filter(one => one.version === version.version).map(one => html`<${Drift} key=${one.version} model=${model.name} drift=${one} refresh=${refresh} />`)}
      ${controllers.length ? html`<${Caps} controllers=${controllers} slo=${version.settings?.batching?.slo_ms} />` : ""}
      ${controllers.length ? html`<${Table} caption=${t("Batching by worker")} columns=${controllerColumns()} rows=${controllers} of=${row => row.worker.id} empty="" />` : ""}
    </section>`;
}

function Signature({ title, specs }) {
  const columns = [
    { name: "name", label: title, cell: spec => html`<bdi>${spec.name}</bdi>${spec.optional ? html` <small>${t("may be left out")}</small>` : ""}` },
    { name: "type", label: t("datatype"), cell: spec => html`<code>${spec.datatype}</code>` },
    { name: "shape", label: t("shape"), cell: spec => html`<bdi dir="ltr">[${spec.shape.map(size => (size === -1 ? "?" : size)).join(", ")}]</bdi>` },
  ];
  return html`<${Table} caption=${title} columns=${columns} rows=${specs} of=${spec => spec.name} empty=${t("nothing")} />`;
}

const controllerColumns = () => [
  { name: "worker", label: t("worker"), cell: row => html`<bdi class="id">${row.worker.id}</bdi>` },
  { name: "policy", label: t("policy"), cell: row => html`<code>${row.policy}</code>` },
  { name: "cap", label: t("cap, rows"), numeric: true, cell: row => number(row.cap) },
  { name: "target", label: t("target of a run"), numeric: true, cell: row => (row.run_target_ms === null ? "–" : duration(row.run_target_ms)) },
  { name: "fit", label: t("fitted p99 of a run"), cell: row => (row.fit ? html`<bdi dir="ltr">${number(row.fit.base_ms, 3)} ms + ${number(row.fit.per_row_ms, 4)} ms / ${t("row")}</bdi>` : "–") },
  { name: "back", label: t("back-offs"), numeric: true, cell: row => number(row.back_offs) },
  { name: "last", label: t("last back-off"), cell: row => (row.last_back_off ? html`<bdi class="clip" title=${JSON.stringify(row.last_back_off)}>${Object.entries(row.last_back_off).map(([name, value]) => `${name} ${value}`).join(", ")}</bdi>` : "–") },
];
