// Pictures that a job was sent as files, and what a model found on them: boxes, and labels as
// bars.

import { html, useEffect, useRef, useState } from "./vendor/preact.mjs";
import { t, number } from "./words.js";
import { Bars } from "./ui.js";

// What a file of each kind begins with, in base64.
const KINDS = [["iVBORw0KGgo", "image/png"], ["/9j/", "image/jpeg"], ["R0lGOD", "image/gif"], ["UklGR", "image/webp"], ["Qk", "image/bmp"]];
const MOST = 16;
const LARGEST = 32 << 20;
const COLOURS = ["#e4572e", "#17bebb", "#ffc914", "#76b041", "#8f6bd1"];

// The pictures among the inputs of a job, as addresses that a page may show.
export function photosOf(input) {
  const coded = input.inputs.filter(tensor => tensor.datatype === "BYTES").flatMap(tensor => tensor.data ?? []);
  const texts = coded.map(value => (typeof value === "object" && value !== null ? value.b64 : undefined)).filter(text => text && text.length < LARGEST);
  return texts.flatMap(text => {
    const kind = KINDS.find(([begin]) => text.startsWith(begin));
    return kind ? [`data:${kind[1]};base64,${text}`] : [];
  }).slice(0, MOST);
}

// The same of a body that is about to be sent.
export function photosIn(body) {
  const texts = [...body.matchAll(/"b64":\s*"([^"]+)"/g)].map(found => ({ b64: found[1] }));
  return photosOf({ inputs: [{ datatype: "BYTES", data: texts }] });
}

// Lists of labels with scores, and of boxes, wherever an answer has them.
export function detectionsOf(answer) {
  const found = [];
  const walk = value => {
    if (Array.isArray(value)) {
      const named = value.filter(item => item && typeof item === "object" && typeof item.label === "string" && typeof item.score === "number");
      if (value.length > 0 && named.length === value.length) found.push(value);
      else value.slice(0, MOST).forEach(walk);
    } else if (typeof value === "string" && value.startsWith("[{")) {
      try {
        walk(JSON.parse(value));
      } catch {
        // Text that only begins so.
      }
    } else if (value && typeof value === "object") Object.values(value).forEach(walk);
  };
  walk(answer.outputs ?? answer.predictions);
  return found.slice(0, MOST);
}

export function Photo({ photo, boxes = [] }) {
  const image = useRef();
  const canvas = useRef();
  const [size, setSize] = useState(null);
  useEffect(() => {
    if (!size || !canvas.current) return;
    const context = canvas.current.getContext("2d");
    context.clearRect(0, 0, size.width, size.height);
    context.drawImage(image.current, 0, 0);
    context.lineWidth = Math.max(2, size.width / 200);
    context.font = `${Math.max(12, size.width / 40)}px sans-serif`;
    boxes.forEach((one, at) => {
      const { xmin, ymin, xmax, ymax } = one.box;
      context.strokeStyle = context.fillStyle = COLOURS[at % COLOURS.length];
      context.strokeRect(xmin, ymin, xmax - xmin, ymax - ymin);
      context.fillText(`${one.label} ${Math.round(one.score * 100)} %`, xmin + 4, Math.max(14, ymin - 4));
    });
  }, [photo, size, boxes]);
  const seen = () => setSize({ width: image.current.naturalWidth, height: image.current.naturalHeight });
  return html`
    <figure>
      <img ref=${image} class="image" src=${photo} onLoad=${seen} alt=${t("A picture of the input")} hidden=${boxes.length > 0} />
      ${size && boxes.length ? html`<canvas ref=${canvas} class="image" width=${size.width} height=${size.height} role="img" aria-label=${t("The picture with {count} boxes", { count: number(boxes.length) })}></canvas>` : ""}
    </figure>`;
}

// What was found, as bars; boxes are drawn on a picture where one is at hand.
export function Detections({ found, photos = [] }) {
  return found.map((list, at) => {
    const boxes = list.filter(one => one.box);
    return html`<div key=${at}>
      ${boxes.length && photos[at] ? html`<${Photo} photo=${photos[at]} boxes=${boxes} />` : ""}
      <${Bars} caption=${t("What was found")} bars=${list.slice(0, 20).map((one, place) => ({ label: list.some((other, before) => before < place && other.label === one.label) ? `${one.label} (${place + 1})` : one.label, value: one.score }))} unit=${value => `${number(value * 100, 2)} %`} />
    </div>`;
  });
}
