// Calls to the gateway, and what they tell of it: whether it can be reached, how its clock
// differs from this one, whether it asks for a key.

import { parse } from "./json.js";

// The folder that this page was loaded from: the gateway may stand under any path of a proxy.
export const base = new URL(".", location.href);

export const server = { reachable: true, needsKey: false, offsetMs: 0, listeners: new Set() };
const KEY = "nobat-key";

export class Refusal extends Error {
  constructor(status, body) {
    super(body.detail || body.error || `HTTP ${status}`);
    this.status = status;
    this.code = body.code || "";
    this.requestId = body.request_id || "";
  }
}

function changed(values) {
  if (Object.entries(values).every(([name, value]) => server[name] === value)) return;
  Object.assign(server, values);
  server.listeners.forEach(listener => listener());
}

export const serverNow = () => Date.now() + server.offsetMs;

export function url(path, query = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== undefined && value !== null && value !== "");
  const text = new URLSearchParams(given).toString();
  return new URL(path + (text ? `?${text}` : ""), base);
}

export async function call(path, { query, method = "GET", body, signal } = {}) {
  const headers = { accept: "application/json" };
  const key = sessionStorage.getItem(KEY);
  if (key) headers.authorization = `Bearer ${key}`;
  if (body !== undefined) headers["content-type"] = "application/json";
  let response;
  let text;
  try {
    response = await fetch(url(path, query), { method, headers, body, signal, cache: "no-store", credentials: "same-origin" });
    text = await response.text();
  } catch (error) {
    if (error.name !== "AbortError") changed({ reachable: false });
    throw error;
  }
  const date = Date.parse(response.headers.get("date"));
  const isFar = Math.abs(date - Date.now() - server.offsetMs) > 2000;
  changed({ reachable: true, needsKey: response.status === 401, ...(isFar ? { offsetMs: date - Date.now() } : {}) });
  const isJson = (response.headers.get("content-type") || "").includes("json");
  const read = isJson && text ? parse(text) : {};
  if (!response.ok) throw new Refusal(response.status, read);
  return read;
}

export const get = (path, query, signal) => call(path, { query, signal });
export const post = (path, query, body) => call(path, { method: "POST", query, body });

export const segment = encodeURIComponent;

export function signIn(key) {
  sessionStorage.setItem(KEY, key);
}

export function signOut() {
  sessionStorage.removeItem(KEY);
}

export const hasKey = () => sessionStorage.getItem(KEY) !== null;
