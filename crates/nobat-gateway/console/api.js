// Calls to the gateway, and what they tell of it: whether it can be reached, how its clock
// differs from this one, who is signed in.

import { parse } from "./json.js";

// The folder that this page was loaded from: the gateway may stand under any path of a proxy.
export const base = new URL(".", location.href);

// `scope` is null until somebody is signed in, and undefined until that is known.
export const server = { reachable: true, offsetMs: 0, keys: false, scope: undefined, name: null, listeners: new Set() };
const SCOPES = ["read", "predict", "admin"];
const RENEW_MS = 5 * 60_000;
const SESSION = "api/v1/session";

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
  // The session's cookie counts for changes only together with this header.
  const headers = { accept: "application/json", "nobat-console": "1" };
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
  changed({ reachable: true, ...(response.status === 401 ? { keys: true, scope: null } : {}), ...(isFar ? { offsetMs: date - Date.now() } : {}) });
  const isJson = (response.headers.get("content-type") || "").includes("json");
  const read = isJson && text ? parse(text) : {};
  if (!response.ok) throw new Refusal(response.status, read);
  return read;
}

export const get = (path, query, signal) => call(path, { query, signal });
export const post = (path, query, body) => call(path, { method: "POST", query, body });

export const segment = encodeURIComponent;

// Whether who is signed in may do what needs this scope.
export const may = scope => SCOPES.indexOf(server.scope) >= SCOPES.indexOf(scope);

const take = ({ keys, scope, name }) => changed({ keys, scope, name });

export const look = async () => take(await get(SESSION));

// The key goes to the server once; from then on a cookie that no script can read stands in for it.
export const signIn = async key => take(await post(SESSION, {}, JSON.stringify({ key, path: base.pathname })));

export async function signOut() {
  await call(SESSION, { method: "DELETE", query: { path: base.pathname } });
  changed({ scope: null, name: null });
}

setInterval(() => {
  if (server.keys && server.scope && !document.hidden) post(SESSION, {}, JSON.stringify({ path: base.pathname })).then(take, () => {});
}, RENEW_MS);
