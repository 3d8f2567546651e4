// One job: where its time went, what went in and what came out, and how to ask the same again.

import { html, useEffect, useMemo, useState } from "./vendor/preact.mjs";
import { t, number, duration, time } from "./words.js";
import { get, post, base, may, segment, server, url } from "./api.js";
import { live, useLive } from "./live.js";
import { State, Asked, Time, Facts, Act, Copy, Id } from "./ui.js";
import { TensorView, labelsOf } from "./tensors.js";
import { nest } from "./json.js";
import { link, go } from "./router.js";
import { Tags } from "./jobs.js";
import { Findings, Photo, findingsOf, photosIn, photosOf, remember, remembered } from "./photos.js";
import { Family } from "./family.js";
import { DeliveriesOf } from "./webhooks.js";

const ENDED = ["succeeded", "dead", "cancelled", "expired"];
const STATES = ["scheduled", "queued", "leased", "failed", ...ENDED];

export function Job({ id }) {
  const path = `api/v1/jobs/${segment(id)}`;
  const asked = useLive(`job ${id}`, signal => get(path, {}, signal), 3000);
  const isOver = ENDED.includes(asked.data?.state);
  const isKnown = asked.data !== undefined;
  // Told of each change until its end; asked now and then too, where events cannot be had.
  useEffect(() => {
    if (isOver || !isKnown) return undefined;
    const source = new EventSource(url(`${path}/events`));
    source.onerror = () => source.close();
    for (const state of STATES) {
      source.addEventListener(state, () => {
        if (ENDED.includes(state)) source.close();
        if (!live.paused) asked.refresh();
      });
    }
    return () => source.close();
  }, [path, isOver, isKnown]);
  return html`<div>
    <h1>${t("Job")} <bdi class="id whole">${id}</bdi></h1>
    <${Asked} asked=${asked}>${job => html`<${Known} job=${job} path=${path} refresh=${asked.refresh} />`}<//></div>`;
}

function Known({ job, path, refresh }) {
  const isOver = ENDED.includes(job.state);
  const result = useLive(`result ${job.id} ${job.state}`, signal => (job.state === "succeeded" ? get(`${path}/result`, { form: "preview" }, signal) : Promise.resolve(null)), 0);
  const model = useLive(`model of ${job.model}`, signal => get(`api/v1/models/${segment(job.model)}`, {}, signal).catch(() => null), 0);
  const [input, setInput] = useState({});
  const readInput = async () => setInput({ data: await get(`${path}/input`, { form: "preview" }) });
  const photos = input.data ? photosOf(input.data) : remembered(job.id);
  const file = (part, name) => url(`${path}/${part}`, { tensor: name }).href;
  const version = model.data?.versions?.find(one => one.version === result.data?.version) ?? model.data?.versions?.[0];
  return html`<div>
    <${Facts} facts=${[
      [t("state"), html`<${State} value=${job.state} />`],
      [t("model"), html`<a href=${link(["models", job.model])}><bdi>${job.model}</bdi></a>`],
      [t("priority"), number(job.priority)],
      [t("attempts"), number(job.attempts)],
      [t("enqueued"), job.created_at_ms ? html`<${Time} ms=${job.created_at_ms} />` : ""],
      [t("made for"), job.parent ? html`<${Id} id=${job.parent} href=${link(["jobs", job.parent])} />` : ""],
      [t("tags"), job.tags?.length ? html`<${Tags} tags=${job.tags} />` : ""],
      [t("key id"), job.owner ? html`<bdi class="id">${job.owner}</bdi>` : ""],
      [t("finished"), job.finished_at_ms ? html`<${Time} ms=${job.finished_at_ms} />` : ""],
    ]} />
    <p class="actions">
      ${isOver ? "" : html`<${Act} label=${t("Cancel the job")} needs="predict" danger run=${() => post(`${path}/cancel`)} done=${refresh} question=${{ title: t("Cancel this job?"), text: t("A job that runs ends cancelled at once; its answer is dropped.") }} />`}
      ${job.state === "dead" ? html`<${Act} label=${t("Retry")} needs="predict" run=${() => post(`${path}/retry`)} done=${refresh} />` : ""}
      <a class="button" href=${link(["try", job.model])}>${t("Try the model")}</a>
    </p>
    ${job.error ? html`<h2>${t("Error")}</h2><p class="problem"><code>${job.error.code}</code> <bdi>${job.error.detail}</bdi></p>` : ""}
    <${Timeline} job=${job} />
    <${Family} job=${job} />
    ${isOver && may("admin") ? html`<${DeliveriesOf} job=${job} />` : ""}
    <h2>${t("Result")}</h2>
    ${job.state !== "succeeded" ? html`<p class="empty">${isOver ? t("It has none.") : t("Not there yet.")}</p>` : html`
      <${Asked} asked=${result}>${data => (data ? html`<${Result} outputs=${data.outputs} photos=${photos} version=${version} file=${file} />` : "")}<//>`}
    <h2>${t("Input")}</h2>
    ${input.data ? html`<${Input} job=${job} input=${input.data} file=${file} />` : html`<p><${Act} label=${t("Show the input")} needs="read" run=${readInput} /> <small>${t("It is kept until the job ends, and of a dead letter as long as that is.")}</small></p>`}</div>`;
}

function Result({ outputs, photos, version, file }) {
  const found = useMemo(() => findingsOf(outputs), [outputs]);
  return html`
    <${Findings} found=${found} photos=${photos} />
    ${outputs.map(tensor => html`<${TensorView} key=${tensor.name} tensor=${tensor} labels=${labelsOf(version, tensor.name)} file=${file("result", tensor.name)} />`)}`;
}

function Input({ job, input, file }) {
  const isWhole = input.inputs.every(tensor => tensor.data.length === tensor.values);
  return html`
    ${photosOf(input).map((photo, at) => html`<${Photo} key=${at} photo=${photo} />`)}
    ${input.inputs.map(tensor => html`<${TensorView} key=${tensor.name} tensor=${tensor} file=${file("input", tensor.name)} />`)}
    ${isWhole ? html`<${Again} job=${job} body=${bodyOf(input)} />` : html`<p><small>${t("It is too large to be sent again from here.")}</small></p>`}`;
}

// The native body of an input that was read: whole tensors by name.
export function bodyOf(input) {
  const members = input.inputs.map(tensor => `${JSON.stringify(tensor.name)}:${nest(tensor.data, tensor.shape, tensor.datatype)}`);
  return `{"inputs":{${members.join(",")}}}`;
}

export function Again({ job, body, label = t("Run again") }) {
  const path = `api/v1/predict/${segment(job.model)}`;
  const run = async () => {
    const made = await post(path, { priority: job.priority || undefined }, body);
    remember(made.id, photosIn(body));
    go(["jobs", made.id]);
  };
  const address = new URL(path, base).href;
  // The key itself is nothing that a page knows.
  const keyed = server.keys ? ' -H "authorization: Bearer $NOBAT_KEY"' : "";
  const curl = `curl -s ${quoted(`${address}?wait=30`)}${keyed} -H 'content-type: application/json' -d ${quoted(body)}`;
  const python = [
    "import json",
    ...(server.keys ? ["import os"] : []),
    "import urllib.request",
    "",
    `body = json.loads(r'''${body.replaceAll("'''", "\\u0027\\u0027\\u0027")}''')`,
    `request = urllib.request.Request(${JSON.stringify(`${address}?wait=30`)}, json.dumps(body).encode(), {"content-type": "application/json"${server.keys ? ', "authorization": f"Bearer {os.environ[\'NOBAT_KEY\']}"' : ""}})`,
    "with urllib.request.urlopen(request) as answer:",
    "    print(json.load(answer))",
  ].join("\n");
  return html`<p class="actions"><${Act} label=${label} needs="predict" run=${run} /><${Copy} label=${t("Copy as curl")} text=${curl} /><${Copy} label=${t("Copy as Python")} text=${python} /></p>`;
}

export const quoted = text => `'${text.replaceAll("'", "'\\''")}'`;

// Its steps, each with when it began and how long it took.
function Timeline({ job }) {
  const explain = job.explain;
  const start = job.created_at_ms;
  const steps = [];
  if (start) steps.push({ what: t("accepted"), at: start });
  if (explain) {
    const phases = [
      [t("queued"), explain.queue_us, ""],
      [t("leased by {worker}, waiting for its batch", { worker: explain.worker || "–" }), explain.batch_wait_us, ""],
      [t("input filled"), explain.input_us, ""],
      [t("ran in a {rows}-row batch", { rows: number(explain.batch_size) }), explain.infer_us, "run"],
      [t("output split"), explain.output_us, ""],
    ];
    for (const [what, us, kind] of phases) steps.push({ what, tookMs: us / 1000, kind });
  } else if (job.attempts > 0) {
    steps.push({ what: t("attempts: {count}", { count: number(job.attempts) }) });
  }
  if (job.error) steps.push({ what: job.error.code, kind: "bad" });
  if (job.finished_at_ms) steps.push({ what: t(job.state), at: job.finished_at_ms, kind: job.state === "succeeded" ? "good" : "bad" });
  const longest = Math.max(...steps.map(step => step.tookMs ?? 0), 0);
  return html`<div>
    <h2>${t("Timeline")}</h2>
    <ol class="timeline">${steps.map((step, at) => html`
      <li key=${at} class=${step.kind ?? ""}>
        <span><bdi>${step.what}</bdi></span>
        ${step.at ? html`<time class="at" datetime=${new Date(step.at).toISOString()}>${time(step.at)}</time>` : ""}
        ${step.tookMs !== undefined ? html`<meter min="0" max=${longest || 1} value=${step.tookMs} aria-label=${step.what}></meter><span class="numeric">${duration(step.tookMs)}</span>` : ""}
      </li>`)}</ol>
    ${job.finished_at_ms && start ? html`<p><small>${t("From enqueued to finished: {time}.", { time: duration(job.finished_at_ms - start) })}</small></p>` : ""}</div>`;
}

