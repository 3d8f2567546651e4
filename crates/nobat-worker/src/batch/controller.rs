//! The controllers: how many rows a run may have, and how long it may wait.
//!
//! Pure: a controller is told each run's rows and latency and says the cap. Two
//! adapt to an objective, both after Clipper (Crankshaw et al., NSDI 2017,
//! section 4.3): additive increase with a back-off of 10 %, and a quantile
//! regression of the 99th percentile of latency on batch size.
//!
//! The objective is the answer's p99 from enqueue; a job may arrive just after
//! a run began, so a run may use half of it.

use std::collections::VecDeque;
use std::time::Duration;

use serde_json::json;

use crate::config::{BatchingConfig, PolicyKind};

/// Share of the slo that one run may take.
const RUN_SHARE: f64 = 0.5;
/// Runs looked back on.
const WINDOW: usize = 512;
/// Runs between two fits of the regression once there are many; also the share
/// of the runs, one in so many, that must be new for a fit while there are few.
const REFIT_EVERY: u32 = 16;
/// Most that the cap grows at one fit: no line is evidence far outside its points,
/// least of all one through runs of nearly one size.
const GROWTH: f64 = 1.2;
/// Runs before a job may be dropped on their word.
const EVIDENCE: usize = 8;
/// The percentile held against the slo.
const QUANTILE: f64 = 0.99;
/// The percentile that decides whether a job is worth running: giving one up that
/// would have made it costs as much as running one too late.
const LIKELY: f64 = 0.75;

/// A model version's controller.
#[derive(Clone, Debug)]
pub struct Controller {
    kind: PolicyKind,
    max: u32,
    delay: Duration,
    target: Option<Duration>,
    cap: f64,
    samples: VecDeque<(u32, f64)>,
    sure: Fit,
    likely: Fit,
    runs: u32,
    /// The fit, by its run, that the cap of the quantile policy stands on.
    capped_by: u32,
    last_back_off: Option<BackOff>,
}

/// A line that is fitted anew when somebody asks and enough has happened.
#[derive(Clone, Copy, Debug)]
struct Fit {
    quantile: f64,
    line: Option<Line>,
    at_run: u32,
}

impl Fit {
    fn new(quantile: f64) -> Fit {
        Fit { quantile, line: None, at_run: 0 }
    }

    fn line(&mut self, samples: &VecDeque<(u32, f64)>, runs: u32) -> Option<Line> {
        // The first runs teach the most and are the cheapest to fit.
        let rest = (samples.len() as u32 / REFIT_EVERY).clamp(1, REFIT_EVERY);
        if self.line.is_none() || runs.wrapping_sub(self.at_run) >= rest {
            (self.line, self.at_run) = (fit_quantile(samples, self.quantile), runs);
        }
        self.line
    }
}

/// A fitted line: `latency_s = base + per_row * rows`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Line {
    /// Seconds at zero rows.
    pub base: f64,
    /// Seconds per row.
    pub per_row: f64,
}

impl Line {
    fn at(self, rows: u32) -> f64 {
        self.base + self.per_row * f64::from(rows)
    }

    /// How long a run of `rows` takes by this line.
    pub fn run(self, rows: u32) -> Duration {
        Duration::from_secs_f64(self.at(rows).max(0.0))
    }
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
    pub fn new(config: &BatchingConfig, max: u32) -> Controller {
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
            samples: VecDeque::new(),
            sure: Fit::new(QUANTILE),
            likely: Fit::new(LIKELY),
            runs: 0,
            capped_by: 0,
            last_back_off: None,
        }
    }

    /// Most rows in the next run.
    pub fn cap(&self) -> u32 {
        (self.cap as u32).clamp(1, self.max)
    }

    /// How long a job may wait for others.
    pub fn delay(&self) -> Duration {
        self.delay
    }

    /// Whether the wait must leave room for the run before the earliest deadline.
    pub fn heeds_deadlines(&self) -> bool {
        matches!(self.kind, PolicyKind::Delayed | PolicyKind::Aimd | PolicyKind::Quantile)
    }

    /// How long a run of `rows` is expected to take at the 99th percentile;
    /// `None` before there is evidence.
    pub fn predict(&mut self, rows: u32) -> Option<Duration> {
        Some(self.sure.line(&self.samples, self.runs)?.run(rows))
    }

    /// How long runs are likely to take, by their rows: three of four are no
    /// longer. `None` before there is evidence.
    pub fn likely(&mut self) -> Option<Line> {
        self.likely.line(&self.samples, self.runs)
    }

    /// The fastest of the remembered runs of at most `rows` rows: what not even
    /// a lucky run stays below. `None` before there is evidence.
    pub fn fastest(&self, rows: u32) -> Option<Duration> {
        if self.samples.len() < EVIDENCE {
            return None;
        }
        let runs = self.samples.iter().filter(|&&(own, _)| own <= rows).map(|&(_, latency)| latency);
        runs.min_by(f64::total_cmp).map(Duration::from_secs_f64)
    }

    /// Learns from one run.
    pub fn observe(&mut self, rows: u32, latency: Duration) {
        let latency_s = latency.as_secs_f64();
        if self.samples.len() == WINDOW {
            self.samples.pop_front();
        }
        self.samples.push_back((rows, latency_s));
        self.runs = self.runs.wrapping_add(1);
        let Some(target) = self.target.map(|target| target.as_secs_f64()) else { return };
        match self.kind {
            PolicyKind::Aimd => self.additive_increase(rows, latency_s, target),
            PolicyKind::Quantile => self.largest_within(target),
            PolicyKind::Auto | PolicyKind::None | PolicyKind::Fixed | PolicyKind::Delayed => {}
        }
    }

    /// One row more after a full run within the target, a tenth less after a miss.
    fn additive_increase(&mut self, rows: u32, latency_s: f64, target: f64) {
        let before = self.cap();
        if latency_s > target {
            self.cap = (self.cap * 0.9).max(1.0);
            self.last_back_off =
                Some(BackOff { at_run: self.runs, rows, latency_s, cap_before: before, cap_after: self.cap() });
        } else if rows >= before {
            // A run below the cap says nothing about a larger one.
            self.cap = (self.cap + 1.0).min(f64::from(self.max));
        }
    }

    /// The largest batch that the fitted line keeps within the target. Moves once
    /// a fit: a line that has not seen the runs at the cap says nothing of them.
    fn largest_within(&mut self, target: f64) {
        let Some(line) = self.sure.line(&self.samples, self.runs) else { return };
        if std::mem::replace(&mut self.capped_by, self.sure.at_run) == self.sure.at_run {
            return;
        }
        let largest = self.samples.iter().map(|&(rows, _)| rows).max().unwrap_or(1);
        let before = self.cap();
        let seen = f64::from(largest.min(before));
        let allowed = match line.per_row > 0.0 {
            true => ((target - line.base) / line.per_row).floor(),
            false if line.base <= target => f64::from(self.max),
            // No slope is known: as if all of it were per row.
            false => (seen * target / line.base).floor(),
        };
        self.cap = allowed.min((seen * GROWTH).floor().max(seen + 1.0)).clamp(1.0, f64::from(self.max));
        if self.cap() < before {
            let latency_s = line.at(before);
            self.last_back_off =
                Some(BackOff { at_run: self.runs, rows: before, latency_s, cap_before: before, cap_after: self.cap() });
        }
    }

    /// The controller's state for people and gateways.
    pub fn report(&mut self) -> serde_json::Value {
        let fit = self.sure.line(&self.samples, self.runs);
        let name = serde_json::to_value(self.kind).unwrap_or_default();
        json!({
            "policy": name,
            "cap": self.cap(),
            "max_batch_size": self.max,
            "max_queue_delay_ms": self.delay.as_secs_f64() * 1e3,
            "run_target_ms": self.target.map(|target| target.as_secs_f64() * 1e3),
            "fit": fit.map(|line| json!({"base_ms": line.base * 1e3, "per_row_ms": line.per_row * 1e3, "quantile": QUANTILE})),
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

/// Linear quantile regression by iteratively reweighted least squares on the
/// pinball loss (Koenker and Bassett, Econometrica 1978; the reweighting after
/// Schlossmacher, JASA 1973). `None` without samples.
pub fn fit_quantile(samples: &VecDeque<(u32, f64)>, quantile: f64) -> Option<Line> {
    let &(first_rows, first) = samples.front()?;
    let one_size = samples.iter().all(|&(rows, _)| rows == first_rows);
    if one_size {
        // No slope to fit: the quantile itself, as if all of it were per row
        // would promise too much for larger runs, so it is all base.
        let mut sorted: Vec<f64> = samples.iter().map(|&(_, latency)| latency).collect();
        sorted.sort_by(f64::total_cmp);
        let at = ((sorted.len() as f64 * quantile).ceil() as usize).clamp(1, sorted.len()) - 1;
        return Some(Line { base: sorted[at], per_row: 0.0 });
    }
    let scale = samples.iter().map(|&(_, latency)| latency).fold(first, f64::max).max(1e-9);
    let floor = scale * 1e-4;
    let mut line = weighted_line(samples, |_, _| 1.0);
    for _ in 0..30 {
        let previous = line;
        line = weighted_line(samples, |rows, latency| {
            let residual = latency - previous.at(rows);
            let side = if residual >= 0.0 { quantile } else { 1.0 - quantile };
            side / residual.abs().max(floor)
        });
        // A run never gets cheaper with more rows; noise may say so.
        line.per_row = line.per_row.max(0.0);
        if (line.base - previous.base).abs() + (line.per_row - previous.per_row).abs() < scale * 1e-6 {
            break;
        }
    }
    Some(line)
}

fn weighted_line(samples: &VecDeque<(u32, f64)>, weight: impl Fn(u32, f64) -> f64) -> Line {
    let (mut w, mut wx, mut wy, mut wxx, mut wxy) = (0.0, 0.0, 0.0, 0.0, 0.0);
    for &(rows, y) in samples {
        let x = f64::from(rows);
        let k = weight(rows, y);
        w += k;
        wx += k * x;
        wy += k * y;
        wxx += k * x * x;
        wxy += k * x * y;
    }
    let spread = w * wxx - wx * wx;
    if spread.abs() <= f64::EPSILON * w * wxx {
        return Line { base: wy / w, per_row: 0.0 };
    }
    let per_row = ((w * wxy - wx * wy) / spread).max(0.0);
    Line { base: (wy - per_row * wx) / w, per_row }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn config(policy: PolicyKind, slo_ms: f64) -> BatchingConfig {
        BatchingConfig { policy, slo_ms, ..BatchingConfig::default() }
    }

    #[test]
    fn policies_without_an_objective_keep_their_cap() {
        for (policy, cap) in
            [(PolicyKind::None, 1), (PolicyKind::Fixed, 32), (PolicyKind::Delayed, 32), (PolicyKind::Auto, 32)]
        {
            let mut controller = Controller::new(&config(policy, 0.0), 32);
            for rows in 1..100 {
                controller.observe(rows, Duration::from_millis(500));
            }
            assert_eq!(controller.cap(), cap, "{policy:?}");
        }
    }

    #[test]
    fn aimd_climbs_by_one_and_backs_off_by_a_tenth() {
        let mut controller = Controller::new(&config(PolicyKind::Auto, 50.0), 64);
        for step in 1..=30 {
            assert_eq!(controller.cap(), step);
            controller.observe(controller.cap(), Duration::from_millis(5));
        }
        assert_eq!(controller.cap(), 31);
        controller.observe(31, Duration::from_millis(26));
        assert_eq!(controller.cap(), 27);
        assert!(controller.report()["last_back_off"]["why"].to_string().contains("31 rows took 26.00 ms"));
    }

    #[test]
    fn aimd_does_not_climb_on_runs_below_the_cap() {
        let mut controller = Controller::new(&config(PolicyKind::Aimd, 50.0), 64);
        controller.observe(1, Duration::from_millis(1));
        controller.observe(1, Duration::from_millis(1));
        controller.observe(1, Duration::from_millis(1));
        assert_eq!(controller.cap(), 2);
    }

    /// A model whose run takes `base + per_row * rows`, with some noise upwards.
    fn settle(policy: PolicyKind, base_ms: f64, per_row_ms: f64, noise: &[f64]) -> (u32, f64) {
        let mut controller = Controller::new(&config(policy, 50.0), 128);
        for step in 0..600 {
            let rows = controller.cap();
            let latency = (base_ms + per_row_ms * f64::from(rows)) * (1.0 + noise[step % noise.len()]);
            controller.observe(rows, Duration::from_secs_f64(latency / 1e3));
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
            controller.observe(rows, Duration::from_secs_f64(latency / 1e3));
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
                controller.observe(rows, Duration::from_millis(ms));
                prop_assert!((1..=max).contains(&controller.cap()));
            }
        }

        #[test]
        fn about_a_hundredth_of_the_runs_lies_above_the_fitted_line(
            base in 0.001f64..0.01, per_row in 0.0001f64..0.01, seed in any::<u64>(),
        ) {
            let mut state = seed | 1;
            let mut samples = VecDeque::new();
            for at in 0..WINDOW {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                let noise = (state >> 11) as f64 / (1u64 << 53) as f64;
                let rows = 1 + (at % 16) as u32;
                samples.push_back((rows, (base + per_row * f64::from(rows)) * (1.0 + 0.2 * noise)));
            }
            let line = fit_quantile(&samples, QUANTILE).expect("samples");
            let above = samples.iter().filter(|&&(rows, latency)| latency > line.at(rows) * 1.0005).count();
            prop_assert!(above <= WINDOW * 4 / 100, "{above} of {WINDOW} above");
        }
    }
}
