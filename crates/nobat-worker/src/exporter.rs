//! What a worker shows on its own metrics listener, read when it is scraped: its
//! statistics under Triton's names, and its jobs and the state of its batching under ours.

use std::sync::Arc;
use std::time::Instant;

use nobat_core::statistics::ModelStatistics;
use nobat_runtime::snapshot::{Family, Kind, Latencies};
use nobat_runtime::triton;

use crate::batch::regression::Line;
use crate::chain::loaded::StepTimes;
use crate::model::Version;
use crate::stats::{Counted, JobTimes};

/// What is exported of a version.
struct ExportedVersion {
    labels: Vec<(&'static str, String)>,
    counted: Counted,
    transformed: bool,
    cap: u32,
    fit: Option<Line>,
}

/// A series' name, its help, its kind and how it is read.
type Series = (&'static str, &'static str, Kind, fn(&ExportedVersion) -> Option<f64>);

const SERIES: &[Series] = &[
    ("nobat_batch_wait_seconds_total", "Leased to the start of the run, all jobs that ran.", Kind::Counter, |shown| {
        Some(shown.counted.batch_wait.ns as f64 / 1e9)
    }),
    ("nobat_jobs_expired_total", "Jobs that the worker gave up for their deadline.", Kind::Counter, |shown| {
        Some(shown.counted.expired as f64)
    }),
    ("nobat_batch_back_offs_total", "Times that the batch cap backed off from a slow run.", Kind::Counter, |shown| {
        Some(shown.counted.back_offs as f64)
    }),
    (
        "nobat_tokens_total",
        "Tokens that ran, of models that take texts; of pictures, pixels.",
        Kind::Counter,
        |shown| shown.transformed.then_some(shown.counted.tokens as f64),
    ),
    ("nobat_padding_tokens_total", "What rows were padded with to run beside longer ones.", Kind::Counter, |shown| {
        shown.transformed.then_some(shown.counted.padding as f64)
    }),
    ("nobat_batch_cap_rows", "Most rows in the next run.", Kind::Gauge, |shown| Some(f64::from(shown.cap))),
    ("nobat_batch_fit_base_seconds", "A run's p99 at no rows, by the fitted line.", Kind::Gauge, |shown| {
        Some(shown.fit?.base)
    }),
    ("nobat_batch_fit_row_seconds", "What a row adds to a run's p99, by the fitted line.", Kind::Gauge, |shown| {
        Some(shown.fit?.per_row)
    }),
];

/// The statistics of these versions under Triton's names.
pub(crate) fn statistics(versions: &[Arc<Version>]) -> Vec<Family> {
    let statistics: Vec<ModelStatistics> = versions.iter().map(|version| version.stats.counted().statistics).collect();
    triton::families(&statistics)
}

/// What only a worker knows of these versions: their batching.
pub(crate) fn batching(versions: &[Arc<Version>]) -> Vec<Family> {
    let shown: Vec<ExportedVersion> = versions.iter().map(|version| ExportedVersion::of(version)).collect();
    let numbers = SERIES.iter().map(|&(name, help, kind, value)| {
        let mut family = Family::new(name, help, kind);
        for shown in &shown {
            if let Some(value) = value(shown) {
                family.push(shown.labels.clone(), value);
            }
        }
        family
    });
    numbers.chain(jobs(&shown)).chain(steps(versions)).collect()
}

/// How every job ended and what it took, whether somebody waited for it or not: only
/// workers see them all.
fn jobs(shown: &[ExportedVersion]) -> Vec<Family> {
    let mut ended = Family::new(
        "nobat_jobs_ended_total",
        "Jobs by how they ended: failed (ours) or refused (theirs).",
        Kind::Counter,
    );
    for one in shown {
        let Counted { statistics, dead, refused, expired, .. } = &one.counted;
        let outcomes =
            [("succeeded", statistics.success.count), ("failed", *dead), ("refused", *refused), ("expired", *expired)];
        for (outcome, count) in outcomes {
            ended.push([one.labels.clone(), vec![("outcome", outcome.to_owned())]].concat(), count as f64);
        }
    }
    let of = |name, help, part: fn(&JobTimes) -> &Latencies| {
        let mut family = Family::new(name, help, Kind::Histogram);
        shown.iter().for_each(|one| family.push_latencies(one.labels.clone(), part(&one.counted.took)));
        family
    };
    vec![
        ended,
        of("nobat_job_seconds", "Enqueued to answered, every job that succeeded.", |took| &took.total),
        of("nobat_job_queue_seconds", "Enqueued to leased, every job that succeeded.", |took| &took.queue),
        of("nobat_job_infer_seconds", "The batch's run, every job that succeeded.", |took| &took.infer),
    ]
}

/// The steps of chains: what each took, whoever ran it.
fn steps(versions: &[Arc<Version>]) -> Vec<Family> {
    let mut shown: Vec<(Vec<(&'static str, String)>, StepTimes)> = Vec::new();
    for version in versions {
        let (name, number) = (&version.signature.name, &version.signature.version);
        for (step, times) in version.chain.iter().flat_map(|chain| chain.times()) {
            let labels = vec![("model", name.to_string()), ("version", number.to_string()), ("step", step.to_string())];
            shown.push((labels, times));
        }
    }
    if shown.is_empty() {
        return Vec::new();
    }
    let of = |name, help, part: fn(&StepTimes) -> &Latencies| {
        let mut family = Family::new(name, help, Kind::Histogram);
        shown.iter().for_each(|(labels, times)| family.push_latencies(labels.clone(), part(times)));
        family
    };
    let help = "Steps of chains by how they ended; expired: given up for the chain's deadline.";
    let mut ended = Family::new("nobat_chain_steps_ended_total", help, Kind::Counter);
    for (labels, times) in &shown {
        let outcomes = [("succeeded", times.run.count()), ("failed", times.failed), ("expired", times.expired)];
        for (outcome, count) in outcomes {
            ended.push([labels.clone(), vec![("outcome", outcome.to_owned())]].concat(), count as f64);
        }
    }
    vec![
        ended,
        of("nobat_chain_step_run_seconds", "The run of a chain's step, that of its batch.", |times| &times.run),
        of("nobat_chain_step_wait_seconds", "From the start of a chain's step to its run.", |times| &times.wait),
    ]
}

impl ExportedVersion {
    fn of(version: &Version) -> ExportedVersion {
        let signature = &version.signature;
        let (cap, fit) = {
            let mut controller = version.controller.lock();
            (controller.cap(), controller.latency().p99(Instant::now()))
        };
        ExportedVersion {
            labels: vec![("model", signature.name.to_string()), ("version", signature.version.to_string())],
            counted: version.stats.counted(),
            transformed: version.transformed.is_some(),
            cap,
            fit,
        }
    }
}
