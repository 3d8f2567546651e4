// What a job is made of: the steps of a chain, the targets of a route, and the jobs that were
// made for it, as a tree. A branch is asked for when it is opened.

import { html, useState } from "./vendor/preact.mjs";
import { t, number, duration } from "./words.js";
import { get, segment } from "./api.js";
import { useLive } from "./live.js";
import { Asked, Id, State } from "./ui.js";
import { link } from "./router.js";

const ENDED = ["succeeded", "dead", "cancelled", "expired"];
const MOST = 200;
const DEEPEST = 5;

// Jobs that were made for one; none where jobs are not indexed.
const childrenOf = (id, signal) => get("api/v1/jobs", { parent: id, limit: MOST }, signal).then(page => page.jobs, error => {
  if (error.code === "unsupported") return [];
  throw error;
});

// Steps in the order in which they began, then the jobs that no step tells of: they run,
// or ended otherwise.
function branchesOf(steps, children) {
  const jobs = new Map(children.map(job => [job.id, job]));
  const told = [...steps].sort((a, b) => a.start_us - b.start_us).map(step => ({ key: `${step.name} ${step.start_us}`, name: step.name, step, id: step.job, state: jobs.get(step.job)?.state }));
  const named = new Set(steps.map(step => step.job));
  const others = children.filter(job => !named.has(job.id)).reverse().map(job => ({ key: job.id, name: job.model, id: job.id, state: job.state, error: job.error }));
  return [...told, ...others];
}

export function Family({ job, depth = 0 }) {
  const isOver = ENDED.includes(job.state);
  const children = useLive(`children ${job.id} ${job.state}`, signal => childrenOf(job.id, signal), isOver ? 0 : 3000);
  const branches = branchesOf(job.explain?.steps ?? [], children.data ?? []);
  if (branches.length === 0) return depth > 0 ? html`<p class="empty">${t("It is made of nothing else.")}</p>` : "";
  const whole = Math.max(...branches.map(({ step }) => (step ? step.start_us + step.wait_us + step.run_us : 0)), 1);
  const tree = html`<ul class="tree" aria-label=${t("What it is made of")}>${branches.map(branch => html`<${Branch} key=${branch.key} branch=${branch} whole=${whole} depth=${depth} />`)}</ul>`;
  return depth > 0 ? tree : html`<section><h2>${t("What it is made of")}</h2>${tree}</section>`;
}

function Branch({ branch: { name, step, id, state, error }, whole, depth }) {
  const [open, setOpen] = useState(false);
  const facts = step ? [
    t("begun after {time}", { time: duration(step.start_us / 1000) }),
    t("waited {time}", { time: duration(step.wait_us / 1000) }),
    t("ran {time}", { time: duration(step.run_us / 1000) }),
    ...(step.batch_size ? [t("in a {rows}-row batch", { rows: number(step.batch_size) })] : []),
    ...(step.worker ? [t("on worker {worker}", { worker: step.worker })] : []),
  ] : [];
  return html`
    <li>
      <div class="branch">
        <span><bdi>${name}</bdi> ${state ? html`<${State} value=${state} />` : ""}</span>
        ${step ? html`<${Span} step=${step} whole=${whole} />` : ""}
        ${id ? html`<${Id} id=${id} href=${link(["jobs", id])} />` : ""}
        ${facts.length ? html`<small>${facts.join(" · ")}</small>` : ""}
        ${error ? html`<small class="problem"><code>${error.code}</code> <bdi>${error.detail}</bdi></small>` : ""}
      </div>
      ${id && depth < DEEPEST ? html`<details onToggle=${event => setOpen(event.target.open)}><summary>${t("What {name} is made of", { name })}</summary>${open ? html`<${Below} id=${id} depth=${depth + 1} />` : ""}</details>` : ""}
    </li>`;
}

// When it waited and ran, of the time of all.
function Span({ step, whole }) {
  const part = us => (100 * us) / whole;
  return html`
    <svg class="span" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">
      <rect class="all" width="100" height="10" />
      <rect class="wait" x=${part(step.start_us)} width=${part(step.wait_us)} height="10" />
      <rect class="run" x=${part(step.start_us + step.wait_us)} width=${Math.max(part(step.run_us), 0.5)} height="10" />
    </svg>`;
}

function Below({ id, depth }) {
  const asked = useLive(`branch ${id}`, signal => get(`api/v1/jobs/${segment(id)}`, {}, signal), 0);
  return html`<${Asked} asked=${asked}>${job => html`<${Family} job=${job} depth=${depth} />`}<//>`;
}
