// The last 15 minutes as the gateway tells them, asked for once and then only what is new.

import { get } from "./api.js";

const KEPT_MS = 15 * 60_000;
let points = [];

// Columns of all points: `times` in seconds, and each member of a point by its name.
export async function readSeries(signal) {
  const last = points.at(-1)?.time_ms ?? 0;
  return addSeries(await get("api/v1/timeseries", { since_ms: last || undefined }, signal));
}

// The same with points that were told.
export function addSeries({ points: more }) {
  const last = points.at(-1)?.time_ms ?? 0;
  // Another gateway behind the same address, or one that was started anew, has its own past.
  const newest = more.at(-1)?.time_ms ?? last;
  points = [...points, ...more.filter(point => point.time_ms > last)].filter(point => point.time_ms > newest - KEPT_MS);
  return columns();
}

function columns() {
  const names = Object.keys(points[0] ?? {});
  return { times: points.map(point => point.time_ms / 1000), ...Object.fromEntries(names.map(name => [name, points.map(point => point[name])])) };
}
