// The workers that live: where, since when, with how many sessions, with which models.

import { html } from "./vendor/preact.mjs";
import { t, number, bytes } from "./words.js";
import { get } from "./api.js";
import { useLive } from "./live.js";
import { Asked, Table, State } from "./ui.js";
import { workerColumns } from "./models.js";
import { link } from "./router.js";

export function Workers() {
  const asked = useLive("workers", signal => get("api/v1/workers", {}, signal), 3000);
  const columns = () => [
    ...workerColumns(),
    { name: "leases", label: t("leases"), numeric: true, value: worker => worker.leases ?? -1, cell: worker => number(worker.leases) },
    { name: "memory", label: t("memory"), numeric: true, value: worker => worker.resident_bytes ?? -1, cell: worker => (worker.resident_bytes ? bytes(worker.resident_bytes) : "–") },
    { name: "models", label: t("models"), cell: worker => worker.models.map(model => html`<span key=${`${model.name} ${model.version}`} class="tag"><a href=${link(["models", model.name])}><bdi>${model.name} ${model.version}</bdi></a> <${State} value=${model.state} /></span> `) },
  ];
  return html`<div>
    <h1>${t("Workers")}</h1>
    <${Asked} asked=${asked}>${data => html`<${Table} caption=${t("Workers")} columns=${columns()} rows=${data.workers} of=${worker => worker.id} empty=${t("No worker lives. Jobs are kept until one does: nobat worker.")} />`}<//></div>`;
}
