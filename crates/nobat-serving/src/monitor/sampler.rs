//! What one look sees: workers, queues, errors, latency, store and disk.

use std::collections::{HashMap, HashSet, VecDeque};
use std::path::Path;
use std::time::{Duration, Instant};

use nobat_core::signature::ModelState;
use nobat_queue::{Counts, WorkerInfo, drained_workers};
use nobat_statistics::drift::DriftLimits;
use prometheus::core::Metric;
use smol_str::SmolStr;

use super::roster::{MissingWorker, Roster};
use super::series::{Standing, Totals};
use super::settings::MonitorConfig;
use crate::drift::DriftLooks;
use crate::limits::backlog::Pace;
use crate::state::ServingState;

/// Every known model has a live worker that serves it, or is loading it, and no worker
/// is missing. A model that never served and cannot be loaded is told in the detail,
/// and pages nobody.
pub const WORKERS: &str = "workers";
/// The store takes jobs.
pub const STORE: &str = "store";
/// No job waits too long.
pub const QUEUE_AGE: &str = "queue_age";
/// Few predictions fail on our side.
pub const ERRORS: &str = "errors";
/// p99 is within the slo of each model that has one.
pub const LATENCY: &str = "latency";
/// The rows of models with a profile still look like it.
pub const DRIFT: &str = "drift";
/// There is room to write.
pub const DISK: &str = "disk";

/// A store that takes longer has failed the look.
const STORE_TIMEOUT: Duration = Duration::from_secs(2);
/// Rates are taken over this much of the past.
const WINDOW: Duration = Duration::from_secs(60);
/// How much of a lower pace is believed at one look.
const PACE_FALL: f64 = 0.15;
/// Fewer predictions in the window say nothing about a rate or a p99.
const ENOUGH: u64 = 20;

/// One check, looked at once.
pub struct CheckResult {
    /// Which.
    pub check: &'static str,
    /// As it should be.
    pub good: bool,
    /// What was seen, for people.
    pub detail: String,
}

/// What has to be remembered between two results.
#[derive(Default)]
pub struct Sampler {
    queues: HashMap<SmolStr, Counts>,
    paces: HashMap<SmolStr, QueueSample>,
    past: VecDeque<Moment>,
    /// Models that some worker served at one look or another.
    served: HashSet<SmolStr>,
    roster: Roster,
    drift: DriftLooks,
}

/// One queue at one look.
#[derive(Clone, Copy)]
struct QueueSample {
    at: Instant,
    answered: u64,
    queued: u64,
    pace: Pace,
}

/// The counters at one moment.
struct Moment {
    at: Instant,
    models: HashMap<SmolStr, PredictionSample>,
}

#[derive(Clone, Default)]
struct PredictionSample {
    answered: u64,
    failed: u64,
    /// Cumulative counts by upper bound.
    buckets: Vec<(f64, u64)>,
}

impl Sampler {
    /// The queues as last seen.
    pub fn queues(&self) -> &HashMap<SmolStr, Counts> {
        &self.queues
    }

    /// The last look in numbers, all models and queues together.
    pub(super) fn seen(&self, state: &ServingState) -> (Totals, Standing) {
        let sum = |of: fn(&Counts) -> u64| self.queues.values().map(of).sum::<u64>();
        let is_store_there = state.condition.refusal().is_none();
        let of_queue =
            |(queue, counts): (&SmolStr, &Counts)| (queue.clone(), (counts.enqueued_total, counts.finished_total));
        let jobs = is_store_there.then(|| self.queues.iter().map(of_queue).collect());
        let mut totals = Totals { jobs, ..Totals::default() };
        for (_, model) in state.predictions.models() {
            totals.succeeded += model.succeeded.get();
            totals.failed += model.failed.get();
            totals.refused += model.refused.get();
            let metric = model.seconds.metric();
            for (at, bucket) in metric.get_histogram().get_bucket().iter().enumerate() {
                match totals.buckets.get_mut(at) {
                    Some(known) => known.1 += bucket.cumulative_count(),
                    None => totals.buckets.push((bucket.upper_bound(), bucket.cumulative_count())),
                }
            }
        }
        let waiting = self.queues.values().filter(|counts| counts.queued > 0);
        let standing = Standing {
            in_flight: state.admission.limits.in_flight(),
            queued: sum(|counts| counts.queued),
            scheduled: sum(|counts| counts.scheduled),
            leased: sum(|counts| counts.leased),
            dead: sum(|counts| counts.dead),
            oldest_ms: waiting.map(|counts| counts.oldest_ms).max().unwrap_or_default(),
            workers: state.registry.load().workers.len() as u64,
        };
        (totals, standing)
    }

    /// Looks at everything once.
    pub async fn sample(&mut self, state: &ServingState, config: &MonitorConfig) -> Vec<CheckResult> {
        let mut results = Vec::with_capacity(6);
        // A store that is away is another check's, and would only be waited for here.
        if state.condition.refusal().is_none()
            && let Ok(workers) = within(state.queue.workers()).await
        {
            results.push(self.check_workers(state, &workers).await);
            results.push(self.check_queues(state, config).await);
        }
        self.remember(state);
        results.push(self.check_errors(config));
        results.push(self.check_latency(state));
        results.push(check_disk(config, state.queue.folder()));
        results.extend(self.check_drift(state, config).await);
        results
    }

    async fn check_workers(&mut self, state: &ServingState, workers: &[WorkerInfo]) -> CheckResult {
        let registry = state.registry.load();
        let standings: Vec<ModelStanding> = registry.models().map(|entry| standing(&entry.name, workers)).collect();
        drop(registry);
        self.served.extend(standings.iter().filter(|model| model.ready).map(|model| model.name.clone()));
        let of_models = judge_workers(&standings, &self.served, workers.len());
        let live = workers.iter().map(|worker| (worker.id.clone(), SmolStr::new(&worker.host))).collect();
        let departed = match self.roster.has_lost(&live) {
            true => within(drained_workers::list(&*state.queue.metadata())).await,
            false => Ok(HashSet::new()),
        };
        // Who is gone is judged by the next look where it cannot be known why.
        let Ok(departed) = departed else { return of_models };
        let now = Instant::now();
        let missing = self.roster.look(live, &departed, now);
        let Some(most) = missing.iter().map(|missing| missing.of).max().filter(|_| of_models.good) else {
            return of_models;
        };
        let since = |missing: &MissingWorker| now.saturating_duration_since(missing.since).as_secs();
        let named = missing.iter().map(|missing| format!("{} ({} s)", missing.host, since(missing)));
        let named: Vec<String> = named.collect();
        bad(WORKERS, format!("{} of {most} workers live; missing without a word: {}", workers.len(), named.join(", ")))
    }

    async fn check_queues(&mut self, state: &ServingState, config: &MonitorConfig) -> CheckResult {
        let models: Vec<SmolStr> = state.registry.load().models().map(|entry| entry.name.clone()).collect();
        // All at once: a look takes as long with a hundred models as with one.
        let counted = futures::future::join_all(models.iter().map(|model| within(state.queue.counts(model)))).await;
        for (model, counts) in models.into_iter().zip(counted) {
            let Ok(counts) = counts else { continue };
            let now = Instant::now();
            let paced = pace(self.paces.get(&model).copied(), &counts, now);
            self.paces.insert(model.clone(), paced);
            self.queues.insert(model, counts);
        }
        let paces = self.paces.iter().map(|(model, paced)| (model.clone(), paced.pace));
        state.backlog.set(paces, Instant::now());
        let oldest = self.queues.iter().max_by_key(|(_, counts)| counts.oldest_ms);
        let limit_ms = u64::from(config.max_queue_age_s) * 1_000;
        match oldest {
            Some((model, counts)) if counts.oldest_ms > limit_ms && !counts.paused => bad(
                QUEUE_AGE,
                format!(
                    "the oldest job of `{model}` waits for {} s, {} jobs are queued",
                    counts.oldest_ms / 1_000,
                    counts.queued
                ),
            ),
            Some((model, counts)) => good(QUEUE_AGE, format!("oldest: {} ms, of `{model}`", counts.oldest_ms)),
            None => good(QUEUE_AGE, "no queue yet"),
        }
    }

    async fn check_drift(&mut self, state: &ServingState, config: &MonitorConfig) -> Option<CheckResult> {
        let counts = state.drift.counts().into_iter().chain(state.routes.counts()).collect();
        if state.condition.refusal().is_none()
            && let Err(why) = within(state.shared_counts.exchange(&counts)).await
        {
            log::debug!("drift and routes are judged by this gateway's own counts: {why}");
        }
        let limits = DriftLimits { level: config.drift_level, moved: config.drift_moved };
        let (good, detail) = self.drift.look(state, limits).await?;
        Some(CheckResult { check: DRIFT, good, detail })
    }

    fn remember(&mut self, state: &ServingState) {
        let sample = |meter: &crate::metrics::ModelMetrics| {
            let metric = meter.seconds.metric();
            let buckets = metric.get_histogram().get_bucket();
            PredictionSample {
                answered: meter.succeeded.get() + meter.failed.get(),
                failed: meter.failed.get(),
                buckets: buckets.iter().map(|bucket| (bucket.upper_bound(), bucket.cumulative_count())).collect(),
            }
        };
        let models = state.predictions.models().into_iter().map(|(model, meter)| (model, sample(&meter))).collect();
        let at = Instant::now();
        self.past.push_back(Moment { at, models });
        // The front stays as the last moment before the window.
        while self.past.get(1).is_some_and(|second| at - second.at >= WINDOW) {
            self.past.pop_front();
        }
    }

    /// What the window added, by model.
    fn window(&self) -> Vec<(&SmolStr, PredictionSample)> {
        let (Some(first), Some(last)) = (self.past.front(), self.past.back()) else { return Vec::new() };
        let none = PredictionSample::default();
        last.models
            .iter()
            .map(|(model, now)| {
                let before = first.models.get(model).unwrap_or(&none);
                let before_at = |at: usize| before.buckets.get(at).map_or(0, |&(_, count)| count);
                let buckets =
                    now.buckets.iter().enumerate().map(|(at, &(bound, count))| (bound, count - before_at(at)));
                let sample = PredictionSample {
                    answered: now.answered - before.answered,
                    failed: now.failed - before.failed,
                    buckets: buckets.collect(),
                };
                (model, sample)
            })
            .collect()
    }

    fn check_errors(&self, config: &MonitorConfig) -> CheckResult {
        let (answered, failed) = self
            .window()
            .iter()
            .fold((0, 0), |(answered, failed), (_, sample)| (answered + sample.answered, failed + sample.failed));
        let detail = format!("{failed} of {answered} predictions of the last minute failed on our side");
        let over = answered >= ENOUGH && failed as f64 > config.max_error_rate * answered as f64;
        if over { bad(ERRORS, detail) } else { good(ERRORS, detail) }
    }

    fn check_latency(&self, state: &ServingState) -> CheckResult {
        let registry = state.registry.load();
        let mut judged = 0;
        for (model, sample) in self.window() {
            let slo_ms = registry.model(model).ok().and_then(|entry| entry.default_version().signature.slo_ms());
            let Some(slo_ms) = slo_ms else { continue };
            judged += 1;
            if let Some(p99_s) = quantile(&sample.buckets, 0.99)
                && p99_s * 1e3 > slo_ms
            {
                return bad(LATENCY, format!("p99 of `{model}` is over {:.0} ms, its slo is {slo_ms} ms", p99_s * 1e3));
            }
        }
        good(LATENCY, format!("{judged} models with an slo are within it"))
    }
}

/// One model, as its live workers have it.
struct ModelStanding {
    name: SmolStr,
    /// Some worker serves it, or is loading it.
    up: bool,
    /// Some worker serves it.
    ready: bool,
    /// Some worker could not load it.
    failed: bool,
}

fn standing(name: &SmolStr, workers: &[WorkerInfo]) -> ModelStanding {
    let own = workers.iter().flat_map(|worker| &worker.models).filter(|signature| signature.name == *name);
    let any = |state: ModelState| own.clone().any(|signature| signature.state == state);
    let ready = any(ModelState::Ready);
    // A start is no alarm.
    ModelStanding { name: name.clone(), up: ready || any(ModelState::Loading), ready, failed: any(ModelState::Failed) }
}

/// Whether somebody has to come: a model that was served is not, or nothing is.
fn judge_workers(standings: &[ModelStanding], served: &HashSet<SmolStr>, workers: usize) -> CheckResult {
    let down = || standings.iter().filter(|model| !model.up);
    let never_loaded = |model: &&ModelStanding| model.failed && !served.contains(&model.name);
    let names = |models: Vec<&ModelStanding>| {
        let mut names: Vec<&str> = models.into_iter().map(|model| model.name.as_str()).collect();
        names.sort_unstable();
        names.join(", ")
    };
    let orphans = names(down().filter(|model| !never_loaded(model)).collect());
    let unloaded = names(down().filter(never_loaded).collect());
    let told = if unloaded.is_empty() { String::new() } else { format!("; not loaded, see the log: {unloaded}") };
    if !orphans.is_empty() {
        return bad(WORKERS, format!("{workers} live workers; none is ready for: {orphans}{told}"));
    }
    if !unloaded.is_empty() && standings.iter().all(|model| !model.up) {
        return bad(WORKERS, format!("{workers} live workers, and no model is served{told}"));
    }
    good(WORKERS, format!("{workers} live workers serve every model that was loaded{told}"))
}

fn check_disk(config: &MonitorConfig, store: Option<&Path>) -> CheckResult {
    let disk = watched_disk(config, store);
    match fs4::available_space(disk) {
        Ok(free) if free >= config.min_disk_bytes => {
            good(DISK, format!("{} MiB are free under `{}`", free >> 20, disk.display()))
        }
        Ok(free) => bad(DISK, format!("{} MiB are free under `{}`", free >> 20, disk.display())),
        Err(error) => bad(DISK, format!("cannot look at `{}`: {error}", disk.display())),
    }
}

fn watched_disk<'a>(config: &'a MonitorConfig, store: Option<&'a Path>) -> &'a Path {
    match (config.disk.as_str(), store) {
        ("", Some(store)) => store,
        ("", None) => Path::new("."),
        (named, _) => Path::new(named),
    }
}

/// Jobs that were answered per second while others waited. Those that were dropped
/// say nothing about what a job costs, and a queue that was empty at either look
/// says nothing about what it could do. More than was seen before is believed at
/// once, less only by and by: it may be that less was sent.
fn pace(before: Option<QueueSample>, counts: &Counts, now: Instant) -> QueueSample {
    let answered = counts.finished_total.saturating_sub(counts.dropped_total);
    let jobs = counts.queued + counts.leased;
    let per_s = before.map_or(0.0, |before| {
        let elapsed = now.saturating_duration_since(before.at).as_secs_f64();
        let last = before.pace.per_s;
        if counts.queued == 0 || before.queued == 0 || elapsed <= 0.0 {
            return last;
        }
        let seen = answered.saturating_sub(before.answered) as f64 / elapsed;
        if seen < last { last + PACE_FALL * (seen - last) } else { seen }
    });
    QueueSample { at: now, answered, queued: counts.queued, pace: Pace { jobs, per_s } }
}

/// The upper bound of the bucket that holds the quantile; `None` with too few
/// samples, or beyond the last bound.
fn quantile(buckets: &[(f64, u64)], q: f64) -> Option<f64> {
    let total = buckets.last()?.1;
    if total < ENOUGH {
        return None;
    }
    let rank = (total as f64 * q).ceil() as u64;
    // The bucket below the one that holds it is surely passed: no false alarm
    // for an slo that lies inside the bucket.
    let at = buckets.iter().position(|&(_, count)| count >= rank)?;
    at.checked_sub(1).map(|below| buckets[below].0)
}

async fn within<T>(call: impl Future<Output = nobat_core::Result<T>>) -> Result<T, String> {
    match tokio::time::timeout(STORE_TIMEOUT, call).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(error.message),
        Err(_) => Err(format!("it does not answer within {} s", STORE_TIMEOUT.as_secs())),
    }
}

fn good(check: &'static str, detail: impl Into<String>) -> CheckResult {
    CheckResult { check, good: true, detail: detail.into() }
}

fn bad(check: &'static str, detail: impl Into<String>) -> CheckResult {
    CheckResult { check, good: false, detail: detail.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_is_known_only_while_jobs_wait() {
        let start = Instant::now();
        let later = start + Duration::from_secs(2);
        let counts = |queued, finished_total, dropped_total| Counts {
            queued,
            leased: 3,
            finished_total,
            dropped_total,
            ..Counts::default()
        };
        let first = pace(None, &counts(5, 100, 0), start);
        assert_eq!((first.pace.per_s, first.pace.jobs), (0.0, 8));
        let busy = pace(Some(first), &counts(5, 700, 400), later);
        assert_eq!(busy.pace.per_s, 100.0, "the dropped ones do not count");
        let faster = pace(Some(QueueSample { at: start, ..busy }), &counts(5, 1_100, 400), later);
        assert_eq!(faster.pace.per_s, 200.0);
        let slower = pace(Some(QueueSample { at: start, ..faster }), &counts(5, 1_300, 400), later);
        assert_eq!(slower.pace.per_s, 185.0);
        let idle = pace(Some(QueueSample { at: start, ..slower }), &counts(0, 1_301, 400), later);
        assert_eq!((idle.pace.per_s, idle.pace.jobs), (185.0, 3), "an empty queue is no slower");
    }

    #[test]
    fn the_disk_that_is_watched_is_the_stores_unless_one_is_named() {
        let (mut config, store) = (MonitorConfig::default(), Path::new("/data"));
        assert_eq!(watched_disk(&config, Some(store)), store);
        assert_eq!(watched_disk(&config, None), Path::new("."));
        config.disk = "/var".into();
        assert_eq!(watched_disk(&config, Some(store)), Path::new("/var"));
    }

    #[test]
    fn a_model_that_never_loaded_pages_nobody_and_one_that_was_served_does() {
        let standing = |name: &str, up, failed| ModelStanding { name: name.into(), up, ready: up, failed };
        let served = HashSet::from(["good".into()]);
        let look = |standings: &[ModelStanding]| judge_workers(standings, &served, 1);
        let partly = look(&[standing("good", true, false), standing("bad", false, true)]);
        assert!(partly.good && partly.detail.ends_with("not loaded, see the log: bad"), "{}", partly.detail);
        let broken = look(&[standing("good", false, true), standing("other", true, false)]);
        assert!(!broken.good && broken.detail.ends_with("none is ready for: good"), "{}", broken.detail);
        let left = look(&[standing("other", false, false)]);
        assert!(!left.good, "its worker has gone");
        let nothing = look(&[standing("bad", false, true)]);
        assert!(!nothing.good && nothing.detail.contains("no model is served"), "{}", nothing.detail);
        assert!(look(&[]).good);
    }

    #[test]
    fn a_quantile_is_what_is_surely_passed() {
        let buckets = [(0.1, 0), (0.2, 90), (0.5, 99), (1.0, 100)];
        assert_eq!(quantile(&buckets, 0.99), Some(0.2));
        assert_eq!(quantile(&buckets, 0.995), Some(0.5));
        assert_eq!(quantile(&[(0.1, 19)], 0.99), None, "too few");
        assert_eq!(quantile(&[], 0.99), None);
    }
}
