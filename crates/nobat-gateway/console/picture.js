// A picture file as a tensor: drawn to the size that the input has, its channels where the
// input has them; or its bytes as they are, for an input that takes files.

import { html, useState } from "./vendor/preact.mjs";
import { t, number } from "./words.js";
import { Choice } from "./ui.js";

const USUAL = 224;

// How an input takes pictures, if it may: {bytes} or {height, width, channels, first}.
export function pictureInput(spec) {
  if (spec.datatype === "BYTES") return { bytes: true };
  const [, a, b, c] = spec.shape;
  if (spec.shape.length !== 4 || !/^(FP|BF|UINT8)/.test(spec.datatype)) return null;
  const size = value => (value < 0 ? USUAL : value);
  if (a === 1 || a === 3) return { height: size(b), width: size(c), channels: a, first: true };
  if (c === 1 || c === 3) return { height: size(a), width: size(b), channels: c, first: false };
  return null;
}

const RANGES = { unit: value => value / 255, byte: value => value, signed: value => value / 127.5 - 1, imagenet: (value, channel) => (value / 255 - [0.485, 0.456, 0.406][channel]) / [0.229, 0.224, 0.225][channel] };

export function PictureFile({ kind, spec, put }) {
  const [range, setRange] = useState(spec.datatype === "UINT8" ? "byte" : "unit");
  const [file, setFile] = useState(null);
  const [said, setSaid] = useState("");
  const read = async (chosen, by) => {
    if (!chosen) return;
    setFile(chosen);
    try {
      put(kind.bytes ? await asBytes(chosen, spec) : await asTensor(chosen, kind, by));
      setSaid(kind.bytes ? "" : t("{width} by {height}, {channels} channels", { width: number(kind.width), height: number(kind.height), channels: number(kind.channels) }));
    } catch {
      setSaid(t("This file is no picture that the browser can read."));
    }
  };
  return html`
    <p class="actions">
      <label>${kind.bytes ? t("From a file") : t("From a picture")} <input type="file" accept=${kind.bytes ? undefined : "image/*"} onChange=${event => read(event.target.files[0], range)} /></label>
      ${kind.bytes ? "" : html`<${Choice} label=${t("values")} value=${range} options=${[["unit", "0 … 1"], ["byte", "0 … 255"], ["signed", "−1 … 1"], ["imagenet", "ImageNet"]]} onChange=${value => { setRange(value); read(file, value); }} />`}
      <small role="status">${said}</small>
    </p>`;
}

// As text where it is text, else coded.
async function asBytes(file, spec) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  return JSON.stringify(spec.shape.reduceRight(inner => [inner], textOf(bytes) ?? { b64: coded(bytes) }));
}

function textOf(bytes) {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return undefined;
  }
}

function coded(bytes) {
  let text = "";
  for (let at = 0; at < bytes.length; at += 8192) text += String.fromCharCode(...bytes.subarray(at, at + 8192));
  return btoa(text);
}

async function asTensor(file, { height, width, channels, first }, range) {
  const bitmap = await createImageBitmap(file);
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0, width, height);
  const { data } = context.getImageData(0, 0, width, height);
  const value = (row, column, channel) => {
    const at = 4 * (row * width + column);
    const seen = channels === 1 ? 0.299 * data[at] + 0.587 * data[at + 1] + 0.114 * data[at + 2] : data[at + channel];
    const put = RANGES[range](seen, channel);
    return range === "byte" ? Math.round(put) : Number(put.toFixed(5));
  };
  const list = (length, of) => Array.from({ length }, (_, at) => of(at));
  const rows = first
    ? list(channels, channel => list(height, row => list(width, column => value(row, column, channel))))
    : list(height, row => list(width, column => list(channels, channel => value(row, column, channel))));
  return JSON.stringify([rows]);
}
