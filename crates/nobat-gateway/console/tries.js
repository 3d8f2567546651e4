// Try it: a form made of the model's signature, the answer as it is best seen, its time.

import { html, useState, useEffect, useMemo, useRef } from "./vendor/preact.mjs";
import { t, number, duration } from "./words.js";
import { get, post, segment } from "./api.js";
import { useLive } from "./live.js";
import { Asked, Choice, Problem, Bars, Id } from "./ui.js";
import { TensorView, labelsOf, tensorsOf } from "./tensors.js";
import { Again } from "./job.js";
import { Pad, padOf } from "./pad.js";
import { PictureFile, pictureInput } from "./picture.js";
import { parse, flatten, shapeOf } from "./json.js";
import { Findings, findingsOf, photosIn } from "./photos.js";
import { link, go, refine } from "./router.js";

const MOST_FILLED = 4096;

export function Try({ name, query }) {
  const asked = useLive("models to try", signal => get("api/v1/models", {}, signal), 10_000);
  return html`<div>
    <h1>${t("Try a model")}</h1>
    <${Asked} asked=${asked}>${data => html`<${Chosen} models=${data.models} name=${name} query=${query} />`}<//></div>`;
}

function Chosen({ models, name, query }) {
  const model = models.find(one => one.name === name) ?? (name ? undefined : models.find(one => one.ready) ?? models[0]);
  if (models.length === 0) return html`<p class="empty">${t("No worker serves a model yet.")}</p>`;
  const version = model?.versions.find(one => one.version === (query.version ?? model.default_version)) ?? model?.versions[0];
  return html`
    <div class="filters">
      <${Choice} label=${t("model")} value=${model?.name ?? ""} options=${models.map(one => [one.name, one.name])} onChange=${value => go(["try", value])} />
      ${model ? html`<${Choice} label=${t("version")} value=${version.version} options=${model.versions.map(one => [one.version, one.version])} onChange=${value => { refine({ version: value }); }} />` : ""}
    </div>
    ${model ? html`<${Form} key=${`${model.name} ${version.version} ${version.digest}`} model=${model} version=${version} />` : html`<p class="problem">${t("No model is called {name}.", { name })}</p>`}`;
}

// What a field holds before anything is put into it: one row of zeros, or of text.
function blank(spec) {
  const shape = spec.shape.map(size => (size < 0 ? 1 : size));
  if (shape.reduce((product, size) => product * size, 1) > MOST_FILLED) return "";
  const value = spec.datatype === "BYTES" ? "" : spec.datatype === "BOOL" ? false : 0;
  return JSON.stringify(shape.reduceRight((inner, size) => Array.from({ length: size }, () => inner), value));
}

function Form({ model, version }) {
  const [texts, setTexts] = useState(() => Object.fromEntries(version.inputs.map(spec => [spec.name, blank(spec)])));
  const [state, setState] = useState({});
  const [live, setLive] = useState(0);
  const set = (name, text) => setTexts(known => ({ ...known, [name]: text }));
  const given = version.inputs.filter(spec => texts[spec.name].trim() !== "");
  const body = `{"inputs":{${given.map(spec => `${JSON.stringify(spec.name)}:${texts[spec.name]}`).join(",")}}}`;
  const newest = useRef(0);
  const ask = async () => {
    const turn = ++newest.current;
    const began = performance.now();
    setState(known => ({ ...known, running: true }));
    try {
      const answer = await post(`api/v1/predict/${segment(model.name)}`, { wait: 30, version: version.version }, body);
      if (turn === newest.current) setState({ answer, tookMs: performance.now() - began });
    } catch (error) {
      if (turn === newest.current) setState({ error });
    }
  };
  // What is drawn is asked as it is drawn.
  useEffect(() => {
    if (live === 0) return undefined;
    const timer = setTimeout(ask, 120);
    return () => clearTimeout(timer);
  }, [live]);
  const submit = event => {
    event.preventDefault();
    ask();
  };
  return html`
    <div class="columns">
      <form onSubmit=${submit} aria-label=${t("Input")}>
        <h2>${t("Input")}</h2>
        ${version.inputs.map(spec => html`<${Field} key=${spec.name} spec=${spec} text=${texts[spec.name]} set=${text => set(spec.name, text)} drawn=${text => { set(spec.name, text); setLive(live + 1); }} />`)}
        <p class="actions"><button class="main" type="submit" disabled=${state.running && !state.answer}>${t("Predict")}</button></p>
        <${Again} job=${{ model: model.name, priority: 0 }} body=${body} label=${t("Enqueue as a job")} />
      </form>
      <section aria-label=${t("Answer")} aria-live="polite">
        <h2>${t("Answer")}</h2>
        <${Problem} error=${state.error} />
        ${state.answer ? html`<${Answer} answer=${state.answer} tookMs=${state.tookMs} version=${version} photos=${photosIn(body)} />` : state.error ? "" : html`<p class="empty">${state.running ? t("It runs …") : t("The answer will be here.")}</p>`}
      </section>
    </div>`;
}

function Field({ spec, text, set, drawn }) {
  const pad = padOf(spec);
  const picture = pictureInput(spec);
  const told = `${spec.datatype} [${spec.shape.map(size => (size < 0 ? "?" : size)).join(", ")}]`;
  const isWords = spec.datatype === "BYTES" && spec.shape.length <= 2;
  const [asJson, setAsJson] = useState(!isWords);
  const words = wordsOf(text);
  const write = value => set(JSON.stringify(spec.shape.reduceRight(inner => [inner], value)));
  return html`
    <fieldset>
      <legend><bdi>${spec.name}</bdi> <small><bdi dir="ltr">${told}</bdi>${spec.optional ? ` ${t("may be left out")}` : ""}</small></legend>
      ${pad ? html`<${Pad} pad=${pad} spec=${spec} draw=${drawn} />` : ""}
      ${picture ? html`<${PictureFile} kind=${picture} spec=${spec} put=${set} />` : ""}
      ${isWords && !asJson && words !== null ? html`<label>${t("Text")}<textarea rows="4" dir="auto" value=${words} onInput=${event => write(event.target.value)}></textarea></label>` : html`
        <details open=${!pad && !picture}><summary>${t("As JSON")}</summary>
          <label class="unseen" for=${`in-${spec.name}`}>${t("{name} as JSON", { name: spec.name })}</label>
          <textarea id=${`in-${spec.name}`} rows="5" dir="ltr" spellcheck=${false} value=${text} onInput=${event => set(event.target.value)}></textarea>
          <${Shape} text=${text} spec=${spec} />
        </details>`}
      ${isWords ? html`<button type="button" onClick=${() => setAsJson(!asJson)} aria-pressed=${asJson}>${t("As JSON")}</button>` : ""}
    </fieldset>`;
}

function wordsOf(text) {
  try {
    const { flat, count } = flatten(parse(text));
    return count === 1 && typeof flat[0] === "string" ? flat[0] : null;
  } catch {
    return null;
  }
}

// Says what a text holds before it is sent.
function Shape({ text, spec }) {
  if (text.trim() === "") return html`<small>${spec.optional ? t("left out") : t("empty: put a list here, or choose a file")}</small>`;
  try {
    const value = parse(text);
    return html`<small>${t("shape")} <bdi dir="ltr">[${shapeOf(value).join(", ")}]</bdi></small>`;
  } catch (error) {
    return html`<small class="problem"><bdi>${t("not JSON: {why}", { why: error.message })}</bdi></small>`;
  }
}

function Answer({ answer, tookMs, version, photos }) {
  const tensors = useMemo(() => tensorsOf(answer, version.outputs), [answer, version]);
  const found = useMemo(() => findingsOf(tensors), [tensors]);
  const explain = answer.explain;
  if (!explain) return html`<p>${t("It goes on without us:")} <${Id} id=${answer.id} href=${link(["jobs", answer.id])} /></p>`;
  const spent = [["queue_us", t("in the queue")], ["batch_wait_us", t("waited for its batch")], ["input_us", t("input filled")], ["infer_us", t("the model ran")], ["output_us", t("output split")]];
  const inside = spent.reduce((sum, [name]) => sum + explain[name], 0) / 1000;
  const bars = [...spent.map(([name, label]) => ({ label, value: explain[name] / 1000 })), { label: t("network, gateway and page"), value: Math.max(0, tookMs - inside) }];
  return html`
    <${Findings} found=${found} photos=${photos} />
    ${tensors.map(tensor => tensor.data && flatten(tensor.data).count === 1 ? html`<p key=${tensor.name} class="answer"><small><bdi>${tensor.name}</bdi></small> <strong><bdi>${String(flatten(tensor.data).flat[0])}</bdi></strong></p>` : html`<${TensorView} key=${tensor.name} tensor=${tensor} labels=${labelsOf(version, tensor.name)} />`)}
    <${Bars} caption=${t("{time} in all", { time: duration(tookMs) })} bars=${bars} unit=${duration} />
    <p><small>${t("In a {rows}-row batch, on worker {worker}; cache: {cache}.", { rows: number(explain.batch_size), worker: explain.worker || "–", cache: explain.cache })}</small> ${answer.id ? html`<${Id} id=${answer.id} href=${link(["jobs", answer.id])} />` : ""}</p>`;
}
