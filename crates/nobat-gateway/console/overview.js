// What goes on, and what is ill.

import { html } from "./vendor/preact.mjs";
import { t, number, duration } from "./words.js";
import { get } from "./api.js";
import { useLive } from "./live.js";
import { Asked, Figure, State, Facts } from "./ui.js";
import { Chart } from "./chart.js";
import { addSeries, readSeries } from "./series.js";
import { link } from "./router.js";

// What each check of the monitor is about, and what helps when it fails.
export const CHECKS = {
  store: ["The store takes jobs", "Look at Redis or at the disk of the embedded store; jobs that were accepted are safe, new ones are refused until it is back."],
  workers: ["Every model has a worker", "Start a worker, or look at the log of the one that is missing: it ended without a word or cannot load its model."],
  queue_age: ["No job waits too long", "Add workers or sessions, or let callers send fewer requests; a paused queue does not count."],
  errors: ["Few predictions fail on our side", "Look at the dead letters: they are grouped by error."],
  latency: ["p99 is within the slo", "Lower max_queue_delay, set policy aimd, or add workers."],
  drift: ["The rows of models are like their profiles", "The page of the model says what has moved; acknowledge it there once it is seen."],
  disk: ["There is room to write", "Free space where the store and the logs are."],
};

export function Overview() {
  const asked = useLive("status", signal => get("api/v1/status", {}, signal), 2000, ["status", data => data]);
  const series = useLive("series", readSeries, 2000, ["timeseries", addSeries]);
  return html`<div>
    <h1>${t("Overview")}</h1>
    <${Asked} asked=${asked}>${status => html`<${Known} status=${status} past=${series.data} refusal=${series.error?.status === 403 ? series.error : null} />`}<//></div>`;
}

function Known({ status, past, refusal }) {
  const queues = Object.values(status.queues);
  const sum = name => queues.reduce((total, queue) => total + queue[name], 0);
  const oldest = queues.reduce((most, queue) => Math.max(most, queue.oldest_ms), 0);
  const last = name => past?.[name]?.at(-1);
  return html`
    <${Checks} checks=${status.checks} status=${status} />
    <dl class="figures">
      <${Figure} label=${t("queued")} value=${number(sum("queued"))} note=${t("oldest: {time}", { time: sum("queued") ? duration(oldest) : "–" })} />
      <${Figure} label=${t("running")} value=${number(sum("leased"))} note=${t("{count} requests wait for an answer", { count: number(status.in_flight) })} />
      <${Figure} label=${t("in, per second")} value=${number(last("enqueued_per_s"), 1)} />
      <${Figure} label=${t("out, per second")} value=${number(last("finished_per_s"), 1)} />
      <${Figure} label=${t("p99 of an answer")} value=${duration(last("p99_ms"))} />
      <${Figure} label=${t("dead letters")} value=${number(sum("dead"))} tone=${sum("dead") ? "warn" : ""} note=${sum("dead") ? html`<a href=${link(["dead"])}>${t("Look at them")}</a>` : ""} />
      <${Figure} label=${t("workers")} value=${number(status.workers)} tone=${status.workers ? "" : "bad"} />
    </dl>
    ${refusal ? html`<p class="empty"><bdi>${refusal.message}</bdi></p>` : past?.times.length ? html`<${Charts} past=${past} />` : html`<p class="empty" role="status">${t("The charts begin with the monitor's second look.")}</p>`}
    <${Facts} facts=${[[t("version"), html`<bdi>${status.version}</bdi>`], [t("takes predictions"), status.ready ? t("yes") : status.draining ? t("no, it is draining") : status.starting ? t("no, it is starting") : t("no")]]} />`;
}

function Charts({ past }) {
  const lines = (...pairs) => pairs.map(([label, name]) => ({ label, values: past[name] }));
  return html`
    <div class="charts">
      <${Chart} title=${t("Jobs per second")} times=${past.times} format=${value => number(value, 1)} series=${lines([t("in"), "enqueued_per_s"], [t("out"), "finished_per_s"])} />
      <${Chart} title=${t("Answers per second")} times=${past.times} format=${value => number(value, 1)} series=${lines([t("answered"), "succeeded_per_s"], [t("refused"), "refused_per_s"], [t("failed"), "failed_per_s"])} />
      <${Chart} title=${t("Time to an answer")} times=${past.times} format=${value => duration(value)} series=${lines(["p50", "p50_ms"], ["p99", "p99_ms"])} />
      <${Chart} whole title=${t("Waiting and running jobs")} times=${past.times} format=${value => number(value)} series=${lines([t("queued"), "queued"], [t("leased"), "leased"])} />
      <${Chart} title=${t("Oldest job")} times=${past.times} format=${value => duration(value)} series=${lines([t("age"), "oldest_ms"])} />
      <${Chart} whole title=${t("Requests in flight")} times=${past.times} format=${value => number(value)} series=${lines([t("this gateway"), "in_flight"])} />
    </div>
    <p><small>${t("Jobs are those of all gateways; answers and requests are this gateway's.")}</small></p>`;
}

function Checks({ checks, status }) {
  const failing = checks.filter(check => check.state === "failing");
  if (checks.length === 0) return html`<p class="empty">${t("Nothing has been checked yet.")}</p>`;
  return html`
    <section class=${failing.length ? "verdict bad" : "verdict good"} aria-label=${t("Health")}>
      <p><${State} value=${status.state} /> – ${failing.length ? t("{count} of {all} checks fail", { count: number(failing.length), all: number(checks.length) }) : t("All {all} checks are good", { all: number(checks.length) })}</p>
      ${failing.map(check => html`
        <div key=${check.name}>
          <h2>${t(CHECKS[check.name]?.[0] ?? check.name)} – ${t("not for {time}", { time: duration(check.for_s * 1000) })}</h2>
          <p><bdi>${check.detail ?? ""}</bdi></p>
          <p>${t(CHECKS[check.name]?.[1] ?? "")}</p>
        </div>`)}
      <details><summary>${t("What was checked")}</summary><ul>${checks.map(check => html`<li key=${check.name}><${State} value=${check.state} /> ${t(CHECKS[check.name]?.[0] ?? check.name)}${check.detail ? html`: <bdi>${check.detail}</bdi>` : ""}</li>`)}</ul></details>
    </section>`;
}
