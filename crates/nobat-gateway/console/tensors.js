// A tensor as people see it: text, a picture, bars of classes, or the numbers themselves;
// of a large one a part, with its size and the whole to download.

import { html, useRef, useEffect, useState } from "./vendor/preact.mjs";
import { t, number, bytes } from "./words.js";
import { Bars, Copy } from "./ui.js";
import { flatten, shapeOf } from "./json.js";

const SHOWN = 64;
const MOST_CLASSES = 2000;
const LARGEST_PICTURE = 1 << 22;
const MOST_COPIED = 100_000;

// `{name, datatype, shape, data}`, the data flat or nested; of a preview also how many `values`
// and `bytes` it has in all. `labels` names its classes, `file` is where the whole is.
export function TensorView({ tensor, labels, file }) {
  const { flat, count: given } = flatten(tensor.data, LARGEST_PICTURE);
  const count = tensor.values ?? given;
  const [asPicture, setAsPicture] = useState(false);
  const isText = flat.some(value => typeof value === "object" && value !== null) || tensor.datatype === "BYTES" || (!tensor.datatype && flat.some(value => typeof value === "string" && !/^-?\d+$/.test(value)));
  const picture = isText ? null : pictureShape(tensor.shape, flat.length);
  const row = isText || flat.length < count ? null : classesOf(tensor.shape, flat);
  return html`
    <section class="tensor">
      <h3><bdi>${tensor.name}</bdi> <small><bdi dir="ltr">${tensor.datatype ?? ""} [${tensor.shape.join(", ")}]</bdi></small></h3>
      ${isText ? html`<${Texts} values=${flat} />` : ""}
      ${row ? html`<${Classes} values=${row} labels=${labels} />` : ""}
      ${!isText && (asPicture || picture?.sure) && picture ? html`<${Picture} values=${flat} shape=${picture} />` : ""}
      ${!isText && !row ? html`<pre dir="ltr" tabindex="0" aria-label=${tensor.name}>${preview(flat, tensor.shape)}</pre>` : ""}
      <p class="actions">
        ${count > SHOWN || flat.length < count ? html`<small>${t("{shown} of {count} values", { shown: number(Math.min(SHOWN, flat.length)), count: number(count) })}${tensor.bytes ? ` · ${bytes(tensor.bytes)}` : ""}</small>` : ""}
        ${picture && !picture.sure ? html`<button onClick=${() => setAsPicture(!asPicture)} aria-pressed=${asPicture}>${t("As a picture")}</button>` : ""}
        ${file ? html`<a class="button" href=${file} download>${t("Download")}</a>` : html`<${Download} name=${tensor.name} value=${tensor} />`}
        ${flat.length === count && count <= MOST_COPIED ? html`<${Copy} label=${t("Copy")} text=${JSON.stringify(tensor.data)} />` : ""}
      </p>
    </section>`;
}

function preview(flat, shape) {
  const last = shape.at(-1) || 1;
  const lines = [];
  for (let at = 0; at < Math.min(flat.length, SHOWN); at += last) lines.push(flat.slice(at, Math.min(at + last, SHOWN)).map(shown).join("  "));
  return lines.join("\n") + (flat.length > SHOWN ? "\n…" : "");
}

const shown = value => (typeof value === "number" && !Number.isInteger(value) ? String(Number(value.toPrecision(7))) : String(value));

// A row of classes: one row of floats, none below 0, that add up to 1.
function classesOf(shape, flat) {
  const wide = shape.at(-1);
  if (flat.length !== wide || wide < 2 || wide > MOST_CLASSES || flat.some(value => typeof value !== "number" || value < 0)) return null;
  const sum = flat.reduce((total, value) => total + value, 0);
  return Math.abs(sum - 1) < 1e-3 ? flat : null;
}

function Classes({ values, labels }) {
  const order = values.map((value, at) => ({ label: String(labels?.[at] ?? at), value })).sort((a, b) => b.value - a.value).slice(0, 10);
  return html`<${Bars} caption=${t("The ten highest")} bars=${order} unit=${value => `${number(value * 100, 2)} %`} />`;
}

function Texts({ values }) {
  return values.slice(0, SHOWN).map((value, at) => {
    const coded = typeof value === "object" && value !== null ? value.b64 : undefined;
    const text = coded !== undefined ? t("{size} that are no text", { size: bytes(coded.length * 0.75) }) : String(value);
    return html`<pre key=${at} class="wrap" dir="auto" tabindex="0">${text.length > 4000 ? `${text.slice(0, 4000)}…` : text}</pre>`;
  });
}

// Height, width and where the channels are, for what may be a picture: its first row has to
// be there whole.
export function pictureShape(shape, there) {
  const inner = shape.slice(1).map(Number);
  const needed = inner.reduce((product, size) => product * size, 1);
  if (there === 0 || needed > Math.min(there, LARGEST_PICTURE) || shape.some(size => Number(size) < 1)) return null;
  const fits = (height, width) => height >= 8 && width >= 8;
  if (inner.length === 3 && [1, 3].includes(inner[0]) && fits(inner[1], inner[2])) return { height: inner[1], width: inner[2], channels: inner[0], first: true, sure: true };
  if (inner.length === 3 && [1, 3].includes(inner[2]) && fits(inner[0], inner[1])) return { height: inner[0], width: inner[1], channels: inner[2], first: false, sure: true };
  if (inner.length === 2 && fits(inner[0], inner[1])) return { height: inner[0], width: inner[1], channels: 1, first: true, sure: false };
  const side = Math.sqrt(inner[0] ?? 0);
  if (inner.length === 1 && Number.isInteger(side) && side >= 8) return { height: side, width: side, channels: 1, first: true, sure: false };
  return null;
}

function Picture({ values, shape }) {
  const canvas = useRef();
  useEffect(() => {
    const { height, width, channels, first } = shape;
    const own = values.slice(0, height * width * channels).map(Number);
    const low = own.reduce((least, value) => Math.min(least, value), Infinity);
    const high = own.reduce((most, value) => Math.max(most, value), -Infinity);
    const scale = high > low ? 255 / (high - low) : 0;
    const image = new ImageData(width, height);
    for (let at = 0; at < height * width; at++) {
      for (let channel = 0; channel < 3; channel++) {
        const from = Math.min(channel, channels - 1);
        image.data[4 * at + channel] = ((first ? own[from * height * width + at] : own[at * channels + from]) - low) * scale;
      }
      image.data[4 * at + 3] = 255;
    }
    canvas.current.getContext("2d").putImageData(image, 0, 0);
  }, [values, shape]);
  return html`<canvas ref=${canvas} class="image pixels" width=${shape.width} height=${shape.height} role="img" aria-label=${t("The first row as a picture of {width} by {height}", { width: number(shape.width), height: number(shape.height) })}></canvas>`;
}

function Download({ name, value }) {
  const save = () => {
    const address = URL.createObjectURL(new Blob([JSON.stringify(value)], { type: "application/json" }));
    const link = document.createElement("a");
    Object.assign(link, { href: address, download: `${name.replace(/[^\w.-]+/g, "_") || "tensor"}.json` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(address), 1000);
  };
  return html`<button onClick=${save}>${t("Download")}</button>`;
}

// The names of an output's classes, where the model's settings have them.
export const labelsOf = (version, name) => version?.settings?.class_labels?.[name];

// The tensors of a native answer, whose outputs go by name or stand alone.
export function tensorsOf(answer, outputs) {
  const given = answer.outputs ?? answer.predictions;
  const isNamed = given !== null && typeof given === "object" && !Array.isArray(given) && !("b64" in given);
  const named = isNamed ? Object.entries(given) : [[outputs?.[0]?.name ?? "output", given]];
  return named.map(([name, data]) => {
    const spec = outputs?.find(output => output.name === name);
    return { name, datatype: spec?.datatype, shape: shapeOf(data), data };
  });
}

