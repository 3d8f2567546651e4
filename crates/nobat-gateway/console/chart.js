// A small chart over time, with its newest values in words and all of them as a table for
// whoever does not see it.

import { html, useRef, useEffect, useState } from "./vendor/preact.mjs";
import { choice, clock, t, time } from "./words.js";

const HEIGHT = 120;
const SHORTEST_S = 60;
const WHOLE = [1, 2, 5].flatMap(step => Array.from({ length: 12 }, (_, power) => step * 10 ** power)).sort((a, b) => a - b);
const COLOURS = ["--line-1", "--line-2", "--line-3"];

// A colour of the style sheet as the canvas takes it: resolved for light or dark.
function colour(name, place) {
  place.style.color = `var(${name})`;
  const resolved = getComputedStyle(place).color;
  place.style.color = "";
  return resolved;
}

// `times` in seconds since 1970, one list of values a series: {label, values}.
// `whole` where only whole numbers make sense.
export function Chart({ title, times, series, format, whole }) {
  const place = useRef();
  const plot = useRef();
  const [open, setOpen] = useState(false);
  const look = `${choice.theme} ${matchMedia("(prefers-color-scheme: dark)").matches} ${series.length}`;
  useEffect(() => {
    const axis = { stroke: colour("--dim", place.current), grid: { stroke: colour("--line", place.current), width: 1 }, ticks: { show: false }, font: "11px system-ui" };
    const options = {
      width: place.current.clientWidth || 300,
      height: HEIGHT,
      legend: { show: false },
      cursor: { show: false },
      padding: [8, 8, 0, 0],
      scales: { x: { range: ({ data: [all] }) => [Math.min(all[0], all.at(-1) - SHORTEST_S), all.at(-1)] }, y: { range: (_, low, high) => [0, high > 0 ? high * 1.1 : 1] } },
      axes: [{ ...axis, space: 90, size: 24, values: (_, ticks) => ticks.map(clock) }, { ...axis, size: 56, ...(whole ? { incrs: WHOLE } : {}), values: (_, ticks) => ticks.map(tick => format(tick)) }],
      series: [{}, ...series.map((line, at) => ({ label: line.label, stroke: colour(COLOURS[at], place.current), width: 1.5, points: { show: false } }))],
    };
    plot.current = new uPlot(options, [times, ...series.map(line => line.values)], place.current);
    const resized = new ResizeObserver(() => plot.current?.setSize({ width: place.current.clientWidth, height: HEIGHT }));
    resized.observe(place.current);
    return () => {
      resized.disconnect();
      plot.current.destroy();
      plot.current = null;
    };
  }, [look]);
  useEffect(() => plot.current?.setData([times, ...series.map(line => line.values)]), [times, series]);
  const last = line => line.values.findLast(value => value !== null && value !== undefined);
  return html`
    <figure class="chart">
      <figcaption>${title} ${series.map((line, at) => html`<span key=${line.label} class=${`key key-${at + 1}`}>${line.label} <strong>${last(line) === undefined ? "–" : format(last(line))}</strong></span>`)}</figcaption>
      <div ref=${place} dir="ltr" aria-hidden="true"></div>
      <details onToggle=${event => setOpen(event.target.open)}><summary>${t("As a table")}</summary>
        ${open ? html`<${Values} title=${title} times=${times} series=${series} format=${format} />` : ""}
      </details>
    </figure>`;
}

function Values({ title, times, series, format }) {
  const rows = times.map((at, row) => [at, row]).slice(-60).reverse();
  return html`
    <div class="scroll short" tabindex="0" role="region" aria-label=${title}><table>
      <caption class="unseen">${title}</caption>
      <thead><tr><th scope="col">${t("time")}</th>${series.map(line => html`<th key=${line.label} scope="col" class="numeric">${line.label}</th>`)}</tr></thead>
      <tbody>${rows.map(([at, row]) => html`<tr key=${at}><td>${time(at * 1000)}</td>${series.map(line => html`<td key=${line.label} class="numeric">${line.values[row] == null ? "–" : format(line.values[row])}</td>`)}</tr>`)}</tbody>
    </table></div>`;
}
