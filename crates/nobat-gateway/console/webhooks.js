// Webhook deliveries and the endpoints that are left alone.

import { html } from "./vendor/preact.mjs";
import { t, number, duration } from "./words.js";
import { get, post, segment } from "./api.js";
import { useLive } from "./live.js";
import { Asked, Act, State, Time, Table, Id } from "./ui.js";
import { link } from "./router.js";

// What of one job was told, for who may see that.
export function DeliveriesOf({ job }) {
  const asked = useLive(`deliveries of ${job.id}`, signal => get("api/v1/webhooks/deliveries", { job: job.id }, signal), 5000);
  const rows = asked.data?.deliveries ?? [];
  return rows.length ? html`<section><h2>${t("Webhooks")}</h2><${Deliveries} rows=${rows} refresh=${asked.refresh} /></section>` : "";
}

function Deliveries({ rows, refresh, named }) {
  const columns = [
    { name: "event", label: t("event"), value: row => row.event, cell: row => html`<code>${row.event}</code>` },
    ...(named ? [{ name: "job", label: t("job"), cell: row => html`<${Id} id=${row.job} href=${link(["jobs", row.job])} />` }] : []),
    { name: "endpoint", label: t("endpoint"), value: row => row.endpoint, cell: row => html`<bdi>${row.endpoint}</bdi>` },
    { name: "outcome", label: t("outcome"), value: row => row.outcome, cell: row => html`<${State} value=${row.outcome} />${row.due_in_s !== null ? html` <small>${t("in {time}", { time: duration(row.due_in_s * 1000) })}</small>` : ""}` },
    { name: "attempts", label: t("attempts"), numeric: true, value: row => row.attempts, cell: row => number(row.attempts) },
    { name: "last", label: t("last answer"), cell: row => html`<bdi class="clip" title=${row.last}>${row.last}</bdi>` },
    { name: "created", label: t("made"), value: row => row.created_at, cell: row => html`<${Time} ms=${Date.parse(row.created_at)} />` },
    { name: "again", label: t("change"), cell: row => html`<${Act} label=${t("Deliver again")} run=${async () => { await post(`api/v1/webhooks/deliveries/${segment(row.id)}/redeliver`); return t("asked for"); }} done=${refresh} />` },
  ];
  return html`<${Table} caption=${t("Deliveries")} columns=${columns} rows=${rows} of=${row => `${row.id} ${row.outcome}`} empty=${t("No job has asked for a webhook yet.")} />`;
}

export function Webhooks() {
  const asked = useLive("deliveries", signal => get("api/v1/webhooks/deliveries", {}, signal), 3000);
  const endpoints = useLive("endpoints", signal => get("api/v1/webhooks/endpoints", {}, signal), 5000);
  return html`<div>
    <h1>${t("Webhooks")}</h1>
    <${Asked} asked=${endpoints}>${data => html`
      ${data.left_alone_by_this_gateway.map(one => html`<p key=${one.endpoint} class="problem"><bdi>${one.endpoint}</bdi> ${t("is left alone for {time}: it failed too often", { time: duration(one.seconds * 1000) })}</p>`)}
      ${data.disabled.map(address => html`<p key=${address} class="problem"><bdi>${address}</bdi> ${t("answered 410 and is sent to no more")} <${Act} label=${t("Enable")} run=${() => post("api/v1/webhooks/endpoints/enable", {}, JSON.stringify({ url: address }))} done=${endpoints.refresh} /></p>`)}`}<//>
    <${Asked} asked=${asked}>${data => html`<${Deliveries} named rows=${data.deliveries} refresh=${asked.refresh} />`}<//></div>`;
}
