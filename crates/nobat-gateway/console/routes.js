// Routes as drawings: a name on one side, its targets on the other, and what goes to each.

import { html } from "./vendor/preact.mjs";
import { t, number } from "./words.js";
import { get, call, post, segment } from "./api.js";
import { useLive } from "./live.js";
import { Asked, State, Act, Table } from "./ui.js";
import { link } from "./router.js";

const HEIGHT = 44;
const WIDTH = 480;

// The targets of a route: {target, note, copy, share}.
export function targetsOf(route) {
  if (route.direct) return [{ target: route.direct, note: "" }];
  if (route.weighted) return route.weighted.map(one => ({ target: one.target, note: `${number(one.percent, 2)} %`, share: one.percent / 100 }));
  if (route.fanout) return route.fanout.targets.map(target => ({ target, note: "" }));
  if (route.topic) return (route.members ?? []).map(target => ({ target, note: "" }));
  if (route.shadow) return [{ target: route.shadow.primary, note: t("answers") }, ...route.shadow.copies.map(target => ({ target, note: t("copy"), copy: true }))];
  return [];
}

export function ruleOf(route) {
  if (route.direct) return t("another name");
  if (route.weighted) return t("by share");
  if (route.fanout) return t("all of a group, joined by {join}", { join: route.fanout.join ?? "all" });
  if (route.topic) return t("every model whose key matches {pattern}, joined by {join}", { pattern: route.topic.pattern, join: route.topic.join ?? "all" });
  if (route.shadow) return t("one answers, copies are compared with it");
  return "";
}

export function Routes() {
  const asked = useLive("routes", signal => get("api/v1/routes", {}, signal), 3000);
  return html`<div>
    <h1>${t("Routes")}</h1>
    <${Asked} asked=${asked}>${data => (data.routes.length === 0 ? html`<p class="empty">${t("There is no route. One is declared in the configuration, by nobat routes, or by PUT /api/v1/routes.")}</p>` : data.routes.map(route => html`<${Route} key=${route.name} route=${route} refresh=${asked.refresh} />`))}<//></div>`;
}

function Route({ route, refresh }) {
  const targets = targetsOf(route);
  const missing = new Map((route.missing ?? []).map(one => [String(one.target), one.reason]));
  const copies = Object.entries(route.copies_of_this_gateway ?? {});
  return html`
    <section class="group">
      <h2><bdi>${route.name}</bdi> <${State} value=${route.serves ? "ready" : "failing"} /></h2>
      <p>${ruleOf(route)}</p>
      ${route.reason ? html`<p class="problem"><bdi>${route.reason}</bdi></p>` : ""}
      <${Drawing} name=${route.name} targets=${targets} missing=${missing} />
      <ul class="unseen">${targets.map(one => html`<li key=${one.target}>${one.target} ${one.note}</li>`)}</ul>
      ${[...missing].map(([target, reason]) => html`<p key=${target} class="problem"><bdi>${target}: ${reason}</bdi></p>`)}
      ${copies.length ? html`<${Table} caption=${t("Copies of this gateway")} columns=${copyColumns(copies)} rows=${copies} of=${row => row[0]} empty="" />` : ""}
      <p class="actions"><a class="button" href=${link(["jobs"], { model: route.name })}>${t("Its jobs")}</a>
      ${route.weighted || route.shadow ? html`<${Promotion} route=${route} refresh=${refresh} />` : ""}
      <${Act} label=${t("Remove")} danger run=${() => call(`api/v1/routes/${segment(route.name)}`, { method: "DELETE" })} done=${refresh} question=${{ title: t("Remove the route {name}?", { name: route.name }), text: t("Callers of this name are refused from then on."), typed: route.name }} /></p>
    </section>`;
}

// Lets a canary or a copy take over where what all gateways have seen shows that it is safe; says why not.
function Promotion({ route, refresh }) {
  const path = `api/v1/routes/${segment(route.name)}/promote`;
  const ask = (body = {}) => async () => {
    const { outcome, gates } = await post(path, {}, JSON.stringify(body));
    const why = (gates ?? []).map(gate => gate.words).filter(Boolean).join("; ");
    return `${t(outcome)}${why ? `: ${why}` : ""}`;
  };
  return html`
    <${Act} key="promote" label=${t("Promote")} run=${ask()} done=${refresh} question=${{ title: t("Promote the new target of {name}?", { name: route.name }), text: t("It gets everything if what was seen so far shows that it is safe; else nothing changes.") }} />
    <${Act} key="back" label=${t("Roll back")} danger run=${ask({ roll_back: true })} done=${refresh} question=${{ title: t("Roll {name} back?", { name: route.name }), text: t("The old target gets everything if what was seen so far shows that the new one is unsafe.") }} />`;
}

function copyColumns(copies) {
  const names = [...new Set(copies.flatMap(([, counts]) => Object.keys(counts)))];
  return [
    { name: "target", label: t("copy"), cell: ([target]) => html`<bdi>${target}</bdi>` },
    ...names.map(name => ({ name, label: name.replaceAll("_", " "), numeric: true, cell: ([, counts]) => (typeof counts[name] === "number" ? number(counts[name], 6) : String(counts[name] ?? "")) })),
  ];
}

function Drawing({ name, targets, missing }) {
  const height = Math.max(1, targets.length) * HEIGHT;
  const middle = height / 2;
  return html`
    <svg class="drawing" viewBox=${`0 0 ${WIDTH} ${height}`} aria-hidden="true" direction="ltr">
      ${targets.map((one, at) => {
        const y = at * HEIGHT + HEIGHT / 2;
        return html`<g key=${one.target} class=${missing.has(String(one.target)) ? "missing" : ""}>
          <path d=${`M 180 ${middle} C 240 ${middle} 240 ${y} 300 ${y}`} class=${one.copy ? "copy" : ""} stroke-width=${one.share === undefined ? 2 : 1 + 7 * one.share} />
          <rect x="300" y=${y - 15} width="178" height="30" rx="6" /><text x="310" y=${y + 5}>${clipped(String(one.target))}</text>
          <text class="note" x="292" y=${y - 9} text-anchor="end">${one.note}</text>
        </g>`;
      })}
      <rect class="from" x="2" y=${middle - 15} width="178" height="30" rx="6" /><text x="12" y=${middle + 5}>${clipped(name)}</text>
    </svg>`;
}

const clipped = text => (text.length > 19 ? `${text.slice(0, 18)}…` : text);
