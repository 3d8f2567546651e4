// API keys: made, given new secrets, revoked. A secret is shown once.

import { html, useState } from "./vendor/preact.mjs";
import { t } from "./words.js";
import { call, get, post, segment } from "./api.js";
import { useLive } from "./live.js";
import { Act, Asked, Choice, Copy, State, Table, Time } from "./ui.js";

const SCOPES = ["read", "predict", "admin"];

export function Keys() {
  const asked = useLive("keys", signal => get("api/v1/keys", {}, signal), 5000);
  const [made, setMade] = useState(null);
  const columns = refresh => [
    { name: "name", label: t("name"), value: key => key.name, cell: key => html`<bdi>${key.name}</bdi>${key.own ? html` <small>${t("yours")}</small>` : ""}` },
    { name: "id", label: t("id"), cell: key => html`<bdi class="id">${key.id}</bdi>` },
    { name: "scope", label: t("scope"), value: key => SCOPES.indexOf(key.scope), cell: key => t(key.scope) },
    { name: "models", label: t("models"), cell: key => html`<bdi dir="ltr" class="clip" title=${key.models.join(", ")}>${key.models.join(", ")}</bdi>` },
    { name: "state", label: t("state"), value: key => key.state, cell: key => html`<${State} value=${key.state} />` },
    { name: "made", label: t("made"), value: key => key.created_at_ms, cell: key => html`<${Time} ms=${key.created_at_ms} />` },
    { name: "expires", label: t("expires"), value: key => key.expires_at_ms ?? Infinity, cell: key => (key.expires_at_ms ? html`<${Time} ms=${key.expires_at_ms} />` : t("never")) },
    { name: "change", label: t("change"), cell: key => (key.state === "revoked" ? "" : html`<span class="actions">
      <${Act} label=${t("New secret")} run=${async () => setMade(await post(`api/v1/keys/${segment(key.id)}/rotate`))} done=${refresh} question=${{ title: t("Give {name} a new secret?", { name: key.name }), text: t("The secret before stays valid for a day.") }} />
      ${key.own ? "" : html`<${Act} label=${t("Revoke")} danger run=${() => call(`api/v1/keys/${segment(key.id)}`, { method: "DELETE" })} done=${refresh} question=${{ title: t("Revoke {name}?", { name: key.name }), text: t("Whoever uses it is refused from then on."), typed: key.name }} />`}</span>`) },
  ];
  return html`<div>
    <h1>${t("Keys")}</h1>
    ${made ? html`<${Secret} made=${made} done=${() => setMade(null)} />` : ""}
    <${Asked} asked=${asked}>${data => (data.on ? html`
      <${Make} made=${key => { setMade(key); asked.refresh(); }} />
      <${Table} caption=${t("Keys")} columns=${columns(asked.refresh)} rows=${data.keys} of=${key => key.id} empty=${t("There is no key.")} />` : html`<p class="empty">${t("This server asks for no keys. Make one with `nobat keys new`, and name the file in auth.keys.")}</p>`)}<//></div>`;
}

function Secret({ made, done }) {
  return html`
    <section class="verdict good" aria-label=${t("The new key")}>
      <h2>${t("The new key")}: <bdi>${made.key.name}</bdi></h2>
      <p>${t("This is the only time it is shown.")}</p>
      <pre dir="ltr" class="wrap" tabindex="0">${made.secret}</pre>
      <p class="actions"><${Copy} label=${t("Copy the key")} text=${made.secret} /> <button onClick=${done}>${t("Hide it")}</button></p>
    </section>`;
}

function Make({ made }) {
  const [name, setName] = useState("");
  const [scope, setScope] = useState("predict");
  const [models, setModels] = useState("");
  const [days, setDays] = useState("");
  const run = async () => {
    const asked = { name, scope, models: models.split(",").map(one => one.trim()).filter(Boolean), ...(days ? { days: Number(days) } : {}) };
    made(await post("api/v1/keys", {}, JSON.stringify(asked)));
    setName("");
  };
  return html`
    <section class="group" aria-label=${t("Make a key")}>
      <h2>${t("Make a key")}</h2>
      <p class="filters">
        <label class="choice"><span>${t("name")}</span><input autocomplete="off" maxlength="100" value=${name} onInput=${event => setName(event.target.value)} /></label>
        <${Choice} label=${t("scope")} value=${scope} options=${SCOPES.map(one => [one, t(one)])} onChange=${setScope} />
        <label class="choice"><span>${t("models")}</span><input autocomplete="off" dir="ltr" placeholder="*" value=${models} onInput=${event => setModels(event.target.value)} /></label>
        <label class="choice"><span>${t("valid for days")}</span><input type="number" min="1" max="36500" value=${days} onInput=${event => setDays(event.target.value)} /></label>
        <${Act} label=${t("Make")} disabled=${!name.trim()} run=${run} />
      </p>
      <p><small>${t("read looks, predict sends jobs too, admin does everything.")}</small></p>
    </section>`;
}
