// A pad to draw a digit on, for models that take small pictures of one: by pen, mouse or
// finger, and by the arrow keys and space.

import { html, useRef, useEffect, useState } from "./vendor/preact.mjs";
import { t } from "./words.js";

const SIDES = [8, 28];
// A seven to begin with, as eight rows of eight.
const SEVEN = ["00000000", "01999910", "01556920", "00002910", "00019500", "00069000", "00095000", "00071000"];

// The side of the pad, where an input is a small square of numbers.
export function padOf(spec) {
  if (!/^(FP|BF|INT|UINT)/.test(spec.datatype)) return null;
  const inner = spec.shape.slice(1).filter(size => size !== 1);
  const side = inner.length === 1 ? Math.sqrt(inner[0]) : inner.length === 2 && inner[0] === inner[1] ? inner[0] : 0;
  return SIDES.includes(side) ? side : null;
}

export function Pad({ pad: side, spec, draw }) {
  const ink = useRef(starting(side));
  const [cell, setCell] = useState([side >> 1, side >> 1]);
  const canvas = useRef();
  const brush = side / 8;
  const isByte = spec.datatype.startsWith("UINT") || spec.datatype.startsWith("INT");
  const show = () => {
    const image = new ImageData(side, side);
    ink.current.forEach((value, at) => image.data.set([255 - 235 * value, 255 - 215 * value, 255 - 195 * value, 255], 4 * at));
    canvas.current.getContext("2d").putImageData(image, 0, 0);
  };
  const changed = () => {
    show();
    const values = Array.from(ink.current, value => (isByte ? Math.round(255 * value) : Number(value.toFixed(4))));
    let at = 0;
    const nest = depth => (depth === spec.shape.length ? values[at++] : Array.from({ length: depth === 0 ? 1 : spec.shape[depth] }, () => nest(depth + 1)));
    draw(JSON.stringify(nest(0)));
  };
  const dab = (x, y) => {
    for (let row = 0; row < side; row++) {
      for (let column = 0; column < side; column++) {
        const away = Math.hypot(column + 0.5 - x, row + 0.5 - y) / brush;
        const put = Math.max(0, Math.min(1, 1.35 - away));
        ink.current[row * side + column] = Math.max(ink.current[row * side + column], put);
      }
    }
    changed();
  };
  const pen = event => {
    if (event.buttons !== 1 && event.type !== "pointerdown") return;
    event.preventDefault();
    const box = canvas.current.getBoundingClientRect();
    dab(((event.clientX - box.left) / box.width) * side, ((event.clientY - box.top) / box.height) * side);
  };
  const keys = event => {
    const step = { ArrowLeft: [-brush, 0], ArrowRight: [brush, 0], ArrowUp: [0, -brush], ArrowDown: [0, brush] }[event.key];
    if (step) {
      event.preventDefault();
      const to = cell.map((value, axis) => Math.max(0.5, Math.min(side - 0.5, value + step[axis])));
      setCell(to);
      if (event.shiftKey) dab(...to);
    } else if (event.key === " ") {
      event.preventDefault();
      dab(...cell);
    }
  };
  const clear = () => {
    ink.current.fill(0);
    changed();
  };
  useEffect(changed, []);
  return html`
    <div class="pad">
      <canvas ref=${canvas} width=${side} height=${side} tabindex="0" role="application" aria-label=${t("Draw a digit: with the pointer, or with the arrow keys and space")} onPointerDown=${pen} onPointerMove=${pen} onKeyDown=${keys}></canvas>
      <p><button type="button" onClick=${clear}>${t("Clear")}</button></p>
    </div>`;
}

function starting(side) {
  const values = new Float64Array(side * side);
  const scale = side / 8;
  for (let row = 0; row < side; row++) {
    for (let column = 0; column < side; column++) values[row * side + column] = Number(SEVEN[Math.floor(row / scale)][Math.floor(column / scale)]) / 9;
  }
  return values;
}
