// Pictures that a job was sent as files, and what a model found on them: boxes, areas, and
// labels as bars.

import { html, useEffect, useRef, useState } from "./vendor/preact.mjs";
import { t, number } from "./words.js";
import { Bars } from "./ui.js";

// What a file of each kind begins with, in base64.
const KINDS = [["iVBORw0KGgo", "image/png"], ["/9j/", "image/jpeg"], ["R0lGOD", "image/gif"], ["UklGR", "image/webp"], ["Qk", "image/bmp"]];
const MOST = 16;
const LARGEST = 32 << 20;
// Longer sides are drawn smaller, and shorter ones so many times larger that words fit in.
const WIDEST = 1280;
const SHORTEST = 320;
const COLOURS = ["#e4572e", "#17bebb", "#ffc914", "#76b041", "#8f6bd1", "#d1478f", "#3b7dd8", "#a0703c"];
const LISTED = 20;

const colourOf = at => COLOURS[at % COLOURS.length];

// An address that a page may show, of a file's bytes in base64.
function addressOf(coded) {
  if (typeof coded !== "string" || coded.length === 0 || coded.length > LARGEST) return null;
  const kind = KINDS.find(([begin]) => coded.startsWith(begin));
  return kind ? `data:${kind[1]};base64,${coded}` : null;
}

const codeOf = value => (typeof value === "object" && value !== null ? value.b64 : undefined);

// The pictures among the inputs of a job.
export function photosOf(input) {
  const values = input.inputs.filter(tensor => tensor.datatype === "BYTES").flatMap(tensor => tensor.data ?? []);
  return values.map(value => addressOf(codeOf(value))).filter(Boolean).slice(0, MOST);
}

// The same of a body that is about to be sent.
export function photosIn(body) {
  return [...body.matchAll(/"b64":\s*"([^"]+)"/g)].map(found => addressOf(found[1])).filter(Boolean).slice(0, MOST);
}

// Pictures of the jobs that this page has sent: the server lets go of a job's input with its end.
const sent = new Map();
const KEPT = 8;

export function remember(id, photos) {
  if (photos.length === 0) return;
  sent.set(id, photos);
  while (sent.size > KEPT) sent.delete(sent.keys().next().value);
}

export const remembered = id => sent.get(id) ?? [];

const isFinding = one => one !== null && typeof one === "object" && typeof one.label === "string" && (typeof one.score === "number" || typeof one.pixels === "number");
const isBox = box => box && ["xmin", "ymin", "xmax", "ymax"].every(side => Number.isFinite(box[side]));

// What a value lists, if it is a list of findings or the JSON of one.
function listOf(value) {
  let list = value;
  if (typeof value === "string" && value.startsWith("[")) {
    try {
      list = JSON.parse(value);
    } catch {
      return null;
    }
  }
  return Array.isArray(list) && list.length > 0 && list.every(isFinding) ? list : null;
}

// What each picture came to: {list, mask}, by its row, or null. `outputs` are tensors with their values.
export function findingsOf(outputs) {
  const rows = [];
  for (const { data } of outputs) {
    const values = Array.isArray(data) ? data.slice(0, MOST) : [data];
    const own = listOf(values) ? [values] : values.map(value => (Array.isArray(value) && value.length === 1 ? value[0] : value));
    own.forEach((value, at) => {
      const list = listOf(value);
      if (list) rows[at] = { ...rows[at], list: [...(rows[at]?.list ?? []), ...list] };
    });
  }
  // A mask is one beside segments: any other picture is only a picture.
  for (const { data } of outputs) {
    if (!Array.isArray(data)) continue;
    data.slice(0, rows.length).forEach((value, at) => {
      const mask = rows[at]?.list.some(one => one.pixels !== undefined) ? addressOf(codeOf(value)) : null;
      if (mask?.startsWith("data:image/png")) rows[at].mask = mask;
    });
  }
  return Array.from(rows, row => row ?? null);
}

async function load(address) {
  const image = new Image();
  image.src = address;
  await image.decode();
  return image;
}

// How large the picture was, as far as what was found tells without it.
function extent(list) {
  const boxes = list.filter(one => isBox(one.box)).map(one => one.box);
  const most = side => Math.max(...boxes.map(box => box[side]), 1);
  return { width: Math.ceil(most("xmax") * 1.05), height: Math.ceil(most("ymax") * 1.05) };
}

// Draws what was found over the picture, or over nothing where that is not there.
async function draw(canvas, { list = [], mask }, photo, bare) {
  const [picture, classes] = await Promise.all([photo ? load(photo) : null, mask ? load(mask) : null]);
  const seen = picture ?? classes;
  const size = seen ? { width: seen.naturalWidth, height: seen.naturalHeight } : extent(list);
  const longest = Math.max(size.width, size.height);
  const scale = longest < SHORTEST ? Math.ceil(SHORTEST / longest) : Math.min(1, WIDEST / longest);
  const width = Math.max(1, Math.round(size.width * scale));
  const height = Math.max(1, Math.round(size.height * scale));
  Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingEnabled = scale < 1;
  context.fillStyle = "#20262b";
  context.fillRect(0, 0, width, height);
  if (picture) context.drawImage(picture, 0, 0, width, height);
  if (bare) return;
  if (classes) shade(context, classesOf(classes, width, height), width, height);
  list.forEach((one, at) => {
    if (one.counts && !classes) shade(context, runsOf(one.counts, size, width, height, at + 1), width, height);
  });
  context.lineWidth = Math.max(2, width / 250);
  context.font = `600 ${Math.max(12, Math.round(width / 40))}px system-ui, sans-serif`;
  context.textBaseline = "top";
  list.forEach((one, at) => {
    if (!isBox(one.box)) return;
    const [left, top] = [one.box.xmin * scale, one.box.ymin * scale];
    context.strokeStyle = colourOf(at);
    context.strokeRect(left, top, one.box.xmax * scale - left, one.box.ymax * scale - top);
    const text = `${one.label} ${Math.round(one.score * 100)} %`;
    const high = parseInt(context.font.split(" ")[1], 10) * 1.25;
    const y = top >= high ? top - high : top;
    const wide = context.measureText(text).width + 8;
    const x = Math.max(0, Math.min(left - context.lineWidth / 2, width - wide));
    context.fillStyle = colourOf(at);
    context.fillRect(x, y, wide, high);
    context.fillStyle = "#10151a";
    context.fillText(text, x + 4, y + high * 0.12);
  });
}

// The class of each pixel of a grey picture, counted from 1.
function classesOf(image, width, height) {
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  // Between two classes there is none.
  context.imageSmoothingEnabled = false;
  context.drawImage(image, 0, 0, width, height);
  const { data } = context.getImageData(0, 0, width, height);
  return Uint16Array.from({ length: width * height }, (_, at) => data[4 * at] + 1);
}

// The same of run lengths over the picture: others first, row by row.
function runsOf(counts, size, width, height, mark) {
  const whole = new Uint8Array(size.width * size.height);
  let at = 0;
  counts.forEach((count, turn) => {
    if (turn % 2) whole.fill(1, at, at + count);
    at += count;
  });
  const out = new Uint16Array(width * height);
  for (let y = 0; y < height; y++) {
    const row = Math.floor((y * size.height) / height) * size.width;
    for (let x = 0; x < width; x++) out[y * width + x] = whole[row + Math.floor((x * size.width) / width)] ? mark : 0;
  }
  return out;
}

// Lays the colour of each marked pixel over it.
function shade(context, marks, width, height) {
  const image = context.getImageData(0, 0, width, height);
  const colours = COLOURS.map(text => [1, 3, 5].map(from => parseInt(text.slice(from, from + 2), 16)));
  for (let at = 0; at < marks.length; at++) {
    if (marks[at] === 0) continue;
    const colour = colours[(marks[at] - 1) % colours.length];
    for (let channel = 0; channel < 3; channel++) image.data[4 * at + channel] = 0.5 * image.data[4 * at + channel] + 0.5 * colour[channel];
  }
  context.putImageData(image, 0, 0);
}

export function Photo({ photo }) {
  return html`<figure><img class="image" src=${photo} alt=${t("A picture of the input")} /></figure>`;
}

function Marked({ found, photo }) {
  const canvas = useRef();
  const [bare, setBare] = useState(false);
  const [failed, setFailed] = useState(false);
  useEffect(() => {
    draw(canvas.current, found, photo, bare).then(() => setFailed(false), () => setFailed(true));
  }, [found, photo, bare]);
  const boxes = found.list.filter(one => isBox(one.box));
  const told = boxes.map(one => `${one.label} ${Math.round(one.score * 100)} %`).join(", ") || found.list.map(one => one.label).join(", ");
  return html`
    <figure>
      <canvas ref=${canvas} class="image" role="img" aria-label=${t("The picture with what was found: {what}", { what: told })}></canvas>
      ${photo ? html`<p class="actions"><button onClick=${() => setBare(!bare)} aria-pressed=${bare}>${t("Without marks")}</button></p>` : ""}
      ${failed ? html`<p class="problem">${t("This file is no picture that the browser can read.")}</p>` : ""}
    </figure>`;
}

// What was found, as bars, and drawn on the pictures. Where these are not at hand, whoever
// has one may show it; it stays in the browser.
export function Findings({ found, photos = [] }) {
  const [own, setOwn] = useState({});
  const choose = at => event => {
    const [file] = event.target.files;
    if (!file) return;
    const reader = new FileReader();
    reader.onload = () => setOwn({ ...own, [at]: reader.result });
    reader.readAsDataURL(file);
  };
  return found.map((row, at) => {
    if (!row) return "";
    const isDrawn = row.mask || row.list.some(one => isBox(one.box) || one.counts);
    const photo = photos[at] ?? own[at];
    const bySize = row.list.every(one => one.score === undefined);
    const pixels = row.list.reduce((sum, one) => sum + (one.pixels ?? 0), 0) || 1;
    const twice = (one, place) => row.list.slice(0, place).filter(other => other.label === one.label).length;
    const bars = row.list.slice(0, LISTED).map((one, place) => ({
      label: twice(one, place) ? `${one.label} (${number(twice(one, place) + 1)})` : one.label,
      value: one.score ?? one.pixels / pixels,
      colour: isDrawn ? colourOf(row.mask ? one.class ?? place : place) : undefined,
    }));
    return html`<section key=${at} class="found" aria-label=${t("What was found")}>
      ${isDrawn ? html`<${Marked} found=${row} photo=${photo} />` : photo ? html`<${Photo} photo=${photo} />` : ""}
      ${isDrawn && !photos[at] ? html`<p class="actions"><label>${t("Show it on a picture of yours")} <input type="file" accept="image/*" onChange=${choose(at)} /></label> <small>${t("It is not sent anywhere.")}</small></p>` : ""}
      <${Bars} caption=${bySize ? t("Share of the picture") : t("What was found")} bars=${bars} unit=${value => `${number(value * 100, 2)} %`} />
      ${row.list.length > LISTED ? html`<p><small>${t("{shown} of {count}", { shown: number(LISTED), count: number(row.list.length) })}</small></p>` : ""}
    </section>`;
  });
}
