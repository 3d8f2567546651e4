// Pages by the part of the address after `#`, so that they can be shared and no proxy has
// to know them: `#/jobs?state=dead`.

import { useState, useLayoutEffect } from "./vendor/preact.mjs";

export function parts() {
  const [path, query = ""] = location.hash.replace(/^#/, "").split("?");
  const names = path.split("/").filter(part => part !== "");
  return { names: names.map(decoded), query: Object.fromEntries(new URLSearchParams(query)) };
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

export function link(names, query = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== "" && value !== undefined && value !== null);
  const text = new URLSearchParams(given).toString();
  return `#/${names.map(encodeURIComponent).join("/")}${text ? `?${text}` : ""}`;
}

export function go(names, query) {
  location.hash = link(names, query);
}

// Changes the filters of this page without a step in the history.
export function refine(query) {
  history.replaceState(null, "", link(parts().names, query));
  dispatchEvent(new HashChangeEvent("hashchange"));
}

export function useRoute() {
  const [route, setRoute] = useState(parts);
  useLayoutEffect(() => {
    const read = () => setRoute(parts());
    addEventListener("hashchange", read);
    return () => removeEventListener("hashchange", read);
  }, []);
  return route;
}
