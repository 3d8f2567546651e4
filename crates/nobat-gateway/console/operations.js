// Many jobs changed at once: counted first, then done by the gateway in the background.

import { html, useEffect, useState } from "./vendor/preact.mjs";
import { t, number } from "./words.js";
import { call, get, may, post, segment } from "./api.js";
import { useLive } from "./live.js";
import { Act, State, Table, Time } from "./ui.js";

// From so many on, their number is typed in.
const TYPED_FROM = 100;
// How often changes are asked for: one at work is seen to go on.
const QUIET_MS = 2000;
const AT_WORK_MS = 500;
const ACTIONS = [["cancel", "Cancel all found"], ["retry", "Retry all found"], ["delete", "Delete all found"]];
const ASKED = { cancel: "Cancel what is found (jobs: {count})?", retry: "Retry what is found (jobs: {count})?", delete: "Delete what is found (jobs: {count})?" };

// Buttons for all that the filters find; `begun` is called when a change has begun.
export function Many({ given, begun }) {
  const [counted, setCounted] = useState(null);
  if (!may("predict") || !Object.values(given).some(Boolean)) return null;
  const path = "api/v1/jobs/operations";
  const query = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== ""));
  const count = action => async () => {
    const { count, more } = await post(path, { ...query, action, dry_run: true });
    if (count === 0 && !more) return t("nothing to change");
    setCounted({ action, count, more, shown: more ? t("at least {count}", { count: number(count) }) : number(count), typed: more || count > TYPED_FROM ? String(count) : "" });
    return "";
  };
  const begin = async () => {
    await post(path, { ...query, action: counted.action });
    setCounted(null);
    begun();
  };
  return html`
    <p class="actions">${ACTIONS.map(([action, label]) => html`<${Act} key=${action} label=${t(label)} needs="predict" danger=${action !== "retry"} run=${count(action)} />`)}</p>
    ${counted ? html`<${Sure} key=${counted.action} counted=${counted} yes=${begin} no=${() => setCounted(null)} />` : ""}`;
}

function Sure({ counted, yes, no }) {
  const [typed, setTyped] = useState("");
  const isSure = counted.typed === "" || typed === counted.typed;
  return html`
    <section class="group" role="alertdialog" aria-label=${t(ASKED[counted.action], { count: counted.shown })}>
      <h2>${t(ASKED[counted.action], { count: counted.shown })}</h2>
      ${counted.more ? html`<p>${counted.count ? t("They were not counted to the end: all that the filters find are changed, however many they are.") : t("None is among the first that were looked through; there may be some further on, and all that the filters find are changed.")}</p>` : ""}
      <p>${t("Jobs that are enqueued from now on are left alone.")}</p>
      ${counted.typed ? html`<label class="choice"><span>${t("Type the number to go on:")} <bdi class="id">${counted.typed}</bdi></span><input autocomplete="off" inputmode="numeric" dir="ltr" value=${typed} onInput=${event => setTyped(event.target.value)} /></label>` : ""}
      <p class="actions"><button onClick=${no}>${t("Cancel")}</button> <${Act} label=${t("Go on")} needs="predict" danger disabled=${!isSure} run=${yes} /></p>
    </section>`;
}

// Where a change stands. One that was stopped is not called as its jobs are: they may be cancelled, too.
const stateOf = row => (row.state === "cancelled" ? "stopped" : row.state);

// The changes of many jobs, at work and over.
export function Operations({ begun }) {
  const [isBusy, setBusy] = useState(false);
  const asked = useLive("operations", signal => get("api/v1/jobs/operations", {}, signal), isBusy ? AT_WORK_MS : QUIET_MS);
  const operations = asked.data?.operations ?? [];
  const isAtWork = operations.some(row => row.state === "running");
  useEffect(() => setBusy(isAtWork), [isAtWork]);
  useEffect(() => {
    if (begun) asked.refresh();
  }, [begun]);
  const stop = async row => {
    await call(`api/v1/jobs/operations/${segment(row.id)}`, { method: "DELETE" });
    return t("it stops");
  };
  const columns = [
    { name: "action", label: t("change"), value: row => row.action, cell: row => t(row.action) },
    { name: "filter", label: t("filter"), cell: row => html`<bdi class="clip" title=${row.filter}>${decodeURIComponent(row.filter.replaceAll("+", " ")) || t("all")}</bdi>` },
    { name: "state", label: t("state"), value: row => row.state, cell: row => html`<${State} value=${stateOf(row)} />${row.error ? html` <bdi class="clip" title=${row.error}>${row.error}</bdi>` : ""}` },
    { name: "done", label: t("changed"), numeric: true, value: row => row.done, cell: row => number(row.done) },
    { name: "failed", label: t("failed"), numeric: true, value: row => row.failed, cell: row => number(row.failed) },
    { name: "by", label: t("by"), cell: row => html`<bdi>${row.by ?? ""}</bdi>` },
    { name: "begun", label: t("begun"), value: row => row.started_at_ms, cell: row => html`<${Time} ms=${row.started_at_ms} />` },
    { name: "stop", label: t("stop"), cell: row => (row.state === "running" ? html`<${Act} label=${t("Stop")} needs="predict" danger run=${() => stop(row)} done=${asked.refresh} />` : "") },
  ];
  return html`<section hidden=${operations.length === 0}><h2>${t("Changes of many jobs")}</h2><${Table} caption=${t("Changes of many jobs")} columns=${columns} rows=${operations} of=${row => row.id} empty="" /></section>`;
}
