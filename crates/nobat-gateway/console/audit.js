// Who changed what, the newest first.

import { html } from "./vendor/preact.mjs";
import { t, number } from "./words.js";
import { get } from "./api.js";
import { useLive } from "./live.js";
import { Asked, Table, Time } from "./ui.js";

export function Audit() {
  const asked = useLive("audit", signal => get("api/v1/audit", { limit: 200 }, signal), 5000);
  const columns = [
    { name: "at", label: t("when"), value: row => row.at_ms, cell: row => html`<${Time} ms=${row.at_ms} />` },
    { name: "who", label: t("who"), value: row => row.name ?? "", cell: row => html`<bdi title=${row.key ?? ""}>${row.name ?? t("anybody")}</bdi>` },
    { name: "by", label: t("by way of"), value: row => row.by, cell: row => t(row.by) },
    { name: "action", label: t("change"), value: row => row.action, cell: row => html`<code dir="ltr">${row.action}</code>` },
    { name: "target", label: t("of what"), value: row => row.target, cell: row => html`<bdi dir="ltr" class="clip" title=${row.target}>${row.target}</bdi>` },
    { name: "status", label: t("answer"), numeric: true, value: row => row.status, cell: row => number(row.status) },
    { name: "request", label: t("request"), cell: row => html`<bdi class="id">${row.request_id}</bdi>` },
  ];
  return html`<div>
    <h1>${t("Audit")}</h1>
    <${Asked} asked=${asked}>${data => html`
      ${data.lost ? html`<p class="problem">${t("{count} changes could not be written down by this gateway.", { count: number(data.lost) })}</p>` : ""}
      <${Table} caption=${t("Audit")} columns=${columns} rows=${data.entries} of=${row => `${row.at_ms} ${row.request_id} ${row.action}`} empty=${t("Nothing was changed yet, or nobody writes it down.")} />`}<//></div>`;
}
