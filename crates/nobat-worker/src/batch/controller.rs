//! The controllers: how many rows a run may have, and how long it may wait.
//!
//! Pure: a controller observes each run's rows, latency and end and sets the cap. Two
//! adapt to an objective, both after Clipper (Crankshaw et al., NSDI 2017,
//! section 4.3): additive increase with a back-off of 10 %, and a quantile
//! regression of the 99th percentile of latency on batch size.
//!
//! The objective is the answer's p99 from enqueue; a job may arrive just after
//! a run began, so a run may use half of it.

use std::time::{Duration, Instant};

use serde_json::json;

use super::latency::{LatencySamples, P99, Run};
use crate::config::{BatchingConfig, PolicyKind};

/// Share of the slo that one run may take.
const RUN_SHARE: f64 = 0.5;
/// Most that the cap grows at one fit: a line says little far outside its points, least
/// of all one through runs of nearly one size.
const GROWTH: f64 = 1.2;
#[derive(Clone, Debug)]
pub(crate) struct Controller {
    kind: PolicyKind,
    max: u32,
    delay: Duration,
    target: Option<Duration>,
    cap: f64,
    latency: LatencySamples,
    runs: u32,
    /// Which fit the cap of the quantile policy was set by.
    capped_by: u32,
    last_back_off: Option<BackOff>,
}

#[derive(Clone, Copy, Debug)]
struct BackOff {
    at_run: u32,
    rows: u32,
    latency_s: f64,
    cap_before: u32,
    cap_after: u32,
}

impl Controller {
    /// A controller for a model whose runs take at most `max` rows.
    pub(crate) fn new(config: &BatchingConfig, max: u32) -> Controller {
        let slo = (config.slo_ms > 0.0).then(|| Duration::from_secs_f64(config.slo_ms / 1e3));
        let kind = match (config.policy, slo) {
            (PolicyKind::Auto, Some(_)) => PolicyKind::Aimd,
            (PolicyKind::Auto | PolicyKind::Aimd | PolicyKind::Quantile, None) => PolicyKind::Fixed,
            (kind, _) => kind,
        };
        let max = max.max(1);
        let cap = match kind {
            PolicyKind::None | PolicyKind::Aimd | PolicyKind::Quantile => 1.0,
            PolicyKind::Auto | PolicyKind::Fixed | PolicyKind::Delayed => f64::from(max),
        };
        let delay = match kind {
            PolicyKind::None => Duration::ZERO,
            _ => Duration::from_secs_f64(config.max_queue_delay_ms.max(0.0) / 1e3),
        };
        Controller {
            kind,
            max,
            delay,
            target: slo.map(|slo| slo.mul_f64(RUN_SHARE)),
            cap,
            latency: LatencySamples::new(),
            runs: 0,
            capped_by: 0,
            last_back_off: None,
        }
    }

    /// Whether jobs may share a run at all.
    pub(crate) fn batches(&self) -> bool {
        self.kind != PolicyKind::None
    }

    /// Most rows in the next run.
    pub(crate) fn cap(&self) -> u32 {
        (self.cap as u32).clamp(1, self.max)
    }

    /// How long a job may wait for others.
    pub(crate) fn delay(&self) -> Duration {
        self.delay
    }

    pub(crate) fn latency(&mut self) -> &mut LatencySamples {
        &mut self.latency
    }

    /// How long a run of `rows` is expected to take, where a wait must leave room for it: the
    /// 99th percentile for policies that heed deadlines, else the 75th. `None` before there
    /// are samples.
    pub(crate) fn run(&mut self, rows: u32, now: Instant) -> Option<Duration> {
        let line = match self.kind {
            PolicyKind::Delayed | PolicyKind::Aimd | PolicyKind::Quantile => self.latency.p99(now),
            PolicyKind::Auto | PolicyKind::None | PolicyKind::Fixed => self.latency.p75(now),
        };
        Some(line?.run(rows))
    }

    /// Learns from one run. Returns whether the cap backs off from it.
    pub(crate) fn observe(&mut self, run: Run) -> bool {
        if !self.latency.add(run) {
            return false;
        }
        self.runs = self.runs.wrapping_add(1);
        let Some(target) = self.target.map(|target| target.as_secs_f64()) else { return false };
        match self.kind {
            PolicyKind::Aimd => self.additive_increase(run, target),
            PolicyKind::Quantile => self.largest_within(target),
            PolicyKind::Auto | PolicyKind::None | PolicyKind::Fixed | PolicyKind::Delayed => {}
        }
        self.last_back_off.is_some_and(|off| off.at_run == self.runs)
    }

    /// One row more after a full run within the target, a tenth less after a miss.
    fn additive_increase(&mut self, run: Run, target: f64) {
        let before = self.cap();
        let latency_s = run.took.as_secs_f64();
        if latency_s > target {
            self.cap = (self.cap * 0.9).max(1.0);
            self.back_off(run.rows, latency_s, before);
        } else if run.fills >= before {
            // Only a run that fills the cap says something about larger ones.
            self.cap = (self.cap + 1.0).min(f64::from(self.max));
        }
    }

    /// The largest batch that the fitted line keeps within the target. Moves once
    /// a fit, and grows only when runs filled the cap: a line without such runs says nothing
    /// about larger ones.
    fn largest_within(&mut self, target: f64) {
        let Some((line, fit)) = self.latency.fitted() else { return };
        if std::mem::replace(&mut self.capped_by, fit) == fit {
            return;
        }
        let before = self.cap();
        let seen = f64::from(self.latency.filled().clamp(1, before));
        let allowed = match line.per_row > 0.0 {
            true => ((target - line.base) / line.per_row).floor(),
            false if line.base <= target => f64::from(self.max),
            // The slope is unknown: assume that all of it is per row.
            false => (seen * target / line.base).floor(),
        };
        // Few callers do not shrink it, only the line does.
        let most = (seen * GROWTH).floor().max(seen + 1.0).max(f64::from(before));
        self.cap = allowed.min(most).clamp(1.0, f64::from(self.max));
        if self.cap() < before {
            self.back_off(before, line.at(before), before);
        }
    }

    fn back_off(&mut self, rows: u32, latency_s: f64, cap_before: u32) {
        let cap_after = self.cap();
        self.last_back_off = Some(BackOff { at_run: self.runs, rows, latency_s, cap_before, cap_after });
    }

    /// The controller's state for people and gateways.
    pub(crate) fn report(&mut self, now: Instant) -> serde_json::Value {
        let fit = self.latency.p99(now);
        let name = serde_json::to_value(self.kind).unwrap_or_default();
        json!({
            "policy": name,
            "cap": self.cap(),
            "max_batch_size": self.max,
            "max_queue_delay_ms": self.delay.as_secs_f64() * 1e3,
            "run_target_ms": self.target.map(|target| target.as_secs_f64() * 1e3),
            "fit": fit.map(|line| json!({"base_ms": line.base * 1e3, "per_row_ms": line.per_row * 1e3, "quantile": P99})),
            "last_back_off": self.last_back_off.map(|off| json!({
                "at_run": off.at_run,
                "why": format!("a run of {} rows took {:.2} ms", off.rows, off.latency_s * 1e3),
                "cap_before": off.cap_before,
                "cap_after": off.cap_after,
            })),
            "runs": self.runs,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn config(policy: PolicyKind, slo_ms: f64) -> BatchingConfig {
        BatchingConfig { policy, slo_ms, ..BatchingConfig::default() }
    }

    fn full(rows: u32, took: Duration) -> Run {
        Run { rows, fills: rows, took, ended: Instant::now() }
    }

    #[test]
    fn policies_without_an_objective_keep_their_cap() {
        for (policy, cap) in
            [(PolicyKind::None, 1), (PolicyKind::Fixed, 32), (PolicyKind::Delayed, 32), (PolicyKind::Auto, 32)]
        {
            let mut controller = Controller::new(&config(policy, 0.0), 32);
            for rows in 1..100 {
                controller.observe(full(rows, Duration::from_millis(500)));
            }
            assert_eq!(controller.cap(), cap, "{policy:?}");
        }
    }

    #[test]
    fn aimd_climbs_by_one_and_backs_off_by_a_tenth() {
        let mut controller = Controller::new(&config(PolicyKind::Auto, 50.0), 64);
        for step in 1..=30 {
            assert_eq!(controller.cap(), step);
            controller.observe(full(controller.cap(), Duration::from_millis(5)));
        }
        assert_eq!(controller.cap(), 31);
        controller.observe(full(31, Duration::from_millis(26)));
        assert_eq!(controller.cap(), 27);
        assert!(
            controller.report(Instant::now())["last_back_off"]["why"].to_string().contains("31 rows took 26.00 ms")
        );
    }

    #[test]
    fn aimd_does_not_climb_on_runs_below_the_cap() {
        let mut controller = Controller::new(&config(PolicyKind::Aimd, 50.0), 64);
        controller.observe(full(1, Duration::from_millis(1)));
        controller.observe(full(1, Duration::from_millis(1)));
        controller.observe(full(1, Duration::from_millis(1)));
        assert_eq!(controller.cap(), 2);
    }

    #[test]
    fn the_cap_grows_where_requests_of_several_rows_fill_it_as_far_as_they_can() {
        for policy in [PolicyKind::Aimd, PolicyKind::Quantile] {
            let mut controller = Controller::new(&config(policy, 50.0), 64);
            for _ in 0..600 {
                let cap = controller.cap();
                // Requests of three rows, more of them than fit.
                let rows = (cap / 3 * 3).max(cap.min(3));
                let took = Duration::from_micros(1_000 + 100 * u64::from(rows));
                controller.observe(Run { fills: cap, ..full(rows, took) });
            }
            assert_eq!(controller.cap(), 64, "{policy:?}");
        }
    }

    #[test]
    fn few_callers_do_not_shrink_the_cap_and_a_run_that_was_ended_does_not_grow_it() {
        for policy in [PolicyKind::Aimd, PolicyKind::Quantile] {
            let mut controller = Controller::new(&config(policy, 50.0), 64);
            while controller.cap() < 20 {
                controller.observe(full(controller.cap(), Duration::from_millis(5)));
            }
            let grown = controller.cap();
            let later = Instant::now() + Duration::from_secs(60);
            for _ in 0..100 {
                controller.observe(Run { ended: later, ..full(1, Duration::from_millis(2)) });
            }
            assert_eq!(controller.cap(), grown, "{policy:?}");
        }
        let mut controller = Controller::new(&config(PolicyKind::Aimd, 50.0), 64);
        controller.observe(Run { fills: 0, ..full(1, Duration::from_millis(1)) });
        assert_eq!(controller.cap(), 1);
    }

    /// A model whose run takes `base + per_row * rows`, with some noise upwards.
    fn settle(policy: PolicyKind, base_ms: f64, per_row_ms: f64, noise: &[f64]) -> (u32, f64) {
        let mut controller = Controller::new(&config(policy, 50.0), 128);
        for step in 0..600 {
            let rows = controller.cap();
            let latency = (base_ms + per_row_ms * f64::from(rows)) * (1.0 + noise[step % noise.len()]);
            controller.observe(full(rows, Duration::from_secs_f64(latency / 1e3)));
        }
        (controller.cap(), base_ms + per_row_ms * f64::from(controller.cap()))
    }

    #[test]
    fn a_window_of_one_size_and_a_little_noise_lets_no_run_far_beyond_the_objective() {
        let noise: Vec<f64> = (0..17).map(|at| if at == 15 { 0.097 } else { 0.0 }).collect();
        let mut controller = Controller::new(&config(PolicyKind::Quantile, 50.0), 128);
        for step in 0..5_000 {
            let rows = controller.cap();
            let latency = (3.44 + 1.76 * f64::from(rows)) * (1.0 + noise[step % noise.len()]);
            assert!(latency <= 25.0 * 1.2 * 1.1 + 1.76, "run {step} of {rows} rows took {latency} ms");
            controller.observe(full(rows, Duration::from_secs_f64(latency / 1e3)));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn both_controllers_settle_near_the_largest_size_within_the_objective(
            base in 0.1f64..8.0, per_row in 0.1f64..4.0, noise in prop::collection::vec(0.0f64..0.1, 1..20),
        ) {
            // Half the slo of 50 ms is the run's.
            let best = ((25.0 - base) / per_row).floor().clamp(1.0, 128.0);
            for policy in [PolicyKind::Aimd, PolicyKind::Quantile] {
                let (cap, latency) = settle(policy, base, per_row, &noise);
                prop_assert!(latency <= 25.0 * 1.2 + per_row, "{policy:?} ends at {latency} ms");
                prop_assert!(f64::from(cap) >= best * 0.7 - 1.0, "{policy:?} ends at {cap} of {best}");
            }
        }

        #[test]
        fn the_cap_stays_within_one_and_the_maximum(
            runs in prop::collection::vec((1u32..200, 0u64..500), 0..300), max in 1u32..64, quantile: bool,
        ) {
            let policy = if quantile { PolicyKind::Quantile } else { PolicyKind::Aimd };
            let mut controller = Controller::new(&config(policy, 50.0), max);
            for (rows, ms) in runs {
                controller.observe(full(rows, Duration::from_millis(ms)));
                prop_assert!((1..=max).contains(&controller.cap()));
            }
        }
    }
}
