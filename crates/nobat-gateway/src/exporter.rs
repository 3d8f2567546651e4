//! What the gateway shows beside its own counts, read when it is scraped:
//! caches, queues, workers, checks, and the workers' statistics under Triton's
//! names.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use nobat_core::statistics::{ModelStatistics, WorkerReport};
use nobat_runtime::snapshot::{Family, Kind};
use nobat_runtime::triton;
use nobat_serving::monitor::State;
use nobat_serving::state::ServingState;
use serde::Deserialize;

/// Shows `shared` in its own metrics, for as long as it lives.
pub fn show(shared: &Arc<ServingState>) {
    let weak: Weak<ServingState> = Arc::downgrade(shared);
    shared.metrics.snapshot("nobat_gateway", move || match weak.upgrade() {
        Some(shared) => families(&shared),
        None => Vec::new(),
    });
}

fn families(shared: &ServingState) -> Vec<Family> {
    let mut families = caches(shared);
    families.extend(queues(shared));
    families.extend(process(shared));
    families.extend(shared.drift.families());
    families.extend(triton::families(&statistics(shared)));
    families
}

fn process(shared: &ServingState) -> Vec<Family> {
    let one = |name, help, value| {
        let mut family = Family::new(name, help, Kind::Gauge);
        family.push(vec![], value);
        family
    };
    let registry = shared.registry.load();
    let sessions: u32 = registry.workers.iter().map(|worker| worker.sessions).sum();
    let mut checks = Family::new("nobat_check_failing", "Whether a check of the monitor is failing.", Kind::Gauge);
    for check in shared.status.checks() {
        let failing = check.state == State::Failing;
        checks.push(vec![("check", check.name.to_owned())], f64::from(u8::from(failing)));
    }
    let mut missing =
        Family::new("nobat_route_missing_targets", "Targets that a route goes on without for now.", Kind::Gauge);
    let bound = shared.routes.load();
    for route in bound.table().routes() {
        let count = bound.get(&route.name).map_or(0, |bound| bound.missing.len());
        missing.push(vec![("route", route.name.to_string())], count as f64);
    }
    vec![
        missing,
        one("nobat_in_flight_requests", "Predictions in flight.", shared.admission.limits.in_flight() as f64),
        one("nobat_workers", "Live workers.", registry.workers.len() as f64),
        one("nobat_worker_sessions", "Sessions of live workers.", f64::from(sessions)),
        one("nobat_ready", "Whether predictions are taken.", f64::from(u8::from(shared.is_ready()))),
        checks,
    ]
}

fn caches(shared: &ServingState) -> Vec<Family> {
    let mut requests =
        Family::new("nobat_cache_requests_total", "Cacheable requests: hit, miss or coalesced.", Kind::Counter);
    let mut removed = Family::new("nobat_cache_removed_total", "Answers evicted or expired.", Kind::Counter);
    let mut entries = Family::new("nobat_cache_entries", "Answers held.", Kind::Gauge);
    let mut bytes = Family::new("nobat_cache_bytes", "Bytes held.", Kind::Gauge);
    for (model, stats) in shared.caches.stats() {
        let model = || vec![("model", model.to_string())];
        for (outcome, count) in [("hit", stats.hits), ("miss", stats.misses), ("coalesced", stats.coalesced)] {
            requests.push([model(), vec![("outcome", outcome.to_owned())]].concat(), count as f64);
        }
        for (cause, count) in [("evicted", stats.evicted), ("expired", stats.expired)] {
            removed.push([model(), vec![("cause", cause.to_owned())]].concat(), count as f64);
        }
        entries.push(model(), stats.entries as f64);
        bytes.push(model(), stats.bytes as f64);
    }
    vec![requests, removed, entries, bytes]
}

fn queues(shared: &ServingState) -> Vec<Family> {
    let mut jobs = Family::new("nobat_queue_jobs", "Jobs by state.", Kind::Gauge);
    let mut pending = Family::new("nv_inference_pending_request_count", "Jobs waiting.", Kind::Gauge);
    let mut bytes = Family::new("nobat_queue_bytes", "Payload bytes waiting.", Kind::Gauge);
    let mut oldest = Family::new("nobat_queue_oldest_seconds", "Age of the oldest queued job.", Kind::Gauge);
    let mut enqueued = Family::new("nobat_jobs_enqueued_total", "Jobs enqueued.", Kind::Counter);
    let mut finished = Family::new("nobat_jobs_finished_total", "Jobs settled for good.", Kind::Counter);
    let mut dropped = Family::new("nobat_jobs_dropped_total", "Jobs that were cancelled or expired.", Kind::Counter);
    for (model, counts) in shared.status.queues() {
        let model = || vec![("model", model.to_string())];
        let states = [
            ("queued", counts.queued),
            ("scheduled", counts.scheduled),
            ("leased", counts.leased),
            ("dead", counts.dead),
        ];
        for (state, count) in states {
            jobs.push([model(), vec![("state", state.to_owned())]].concat(), count as f64);
        }
        pending.push(model(), counts.queued as f64);
        bytes.push(model(), counts.queued_bytes as f64);
        oldest.push(model(), counts.oldest_ms as f64 / 1e3);
        enqueued.push(model(), counts.enqueued_total as f64);
        finished.push(model(), counts.finished_total as f64);
        dropped.push(model(), counts.dropped_total as f64);
    }
    vec![jobs, pending, bytes, oldest, enqueued, finished, dropped]
}

/// The live workers' statistics, summed by model version.
fn statistics(shared: &ServingState) -> Vec<ModelStatistics> {
    let mut sums: BTreeMap<(String, String), ModelStatistics> = BTreeMap::new();
    for worker in &shared.registry.load().workers {
        let report = WorkerReport::deserialize(&worker.report).unwrap_or_default();
        for one in report.statistics {
            let key = (one.model.to_string(), one.version.to_string());
            sums.entry(key).or_insert_with(|| ModelStatistics::new(&one.model, &one.version)).merge(&one);
        }
    }
    sums.into_values().collect()
}
