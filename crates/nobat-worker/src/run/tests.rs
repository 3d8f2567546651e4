//! The executor over a scripted engine that fails, panics and drops its batch
//! axis on cue.

use nobat_testkit::signatures::{ready, spec};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nobat_core::infer::{InferRequest, InferResponse};
use nobat_core::job::{JobResult, LeaseToken, LeasedJob, Outcome};
use nobat_core::retry::RetryPolicy;
use nobat_core::signature::ModelSignature;
use nobat_core::statistics::ModelStatistics;
use nobat_core::tensor::{Datatype, Tensor};
use nobat_core::{ErrorCode, JobId};
use nobat_queue::backend::{Batcher, LeaseTracker, Next};
use parking_lot::Mutex;

use super::executor::Executor;
use crate::batch::controller::Controller;
use crate::batch::latency::Run;
use crate::batch::queue::{BatchQueue, Work};
use crate::config::{BatchingConfig, PolicyKind};
use crate::engine::api::InputData;
use crate::engine::{Engine, InputView, OutputData, OutputView, RunError, RunLimit};
use crate::model::{Model, Table, Version};
use crate::stats::Stats;
use crate::watchdog::Watchdog;

const FAILS: f32 = -1.0;
const PANICS: f32 = -2.0;
const INVALID: f32 = -3.0;

/// Doubles its input; counts its runs.
struct Scripted {
    runs: Arc<Mutex<Vec<usize>>>,
    batch_axis: bool,
}

impl Engine for Scripted {
    fn run(
        &mut self,
        inputs: &[InputView<'_>],
        _: Option<RunLimit<'_>>,
        take: &mut dyn FnMut(&[OutputView<'_>]),
    ) -> Result<(), RunError> {
        let InputData::Raw(raw) = inputs[0].data else { panic!("a float input") };
        let values: Vec<f32> = raw.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
        self.runs.lock().push(values.len());
        assert!(!values.contains(&PANICS), "a marked row");
        if values.contains(&FAILS) {
            return Err(RunError::Failed("a marked row".into()));
        }
        if values.contains(&INVALID) {
            return Err(RunError::Invalid("indices element out of data bounds, idx=99".into()));
        }
        let doubled: Vec<u8> = values.iter().flat_map(|value| (value * 2.0).to_le_bytes()).collect();
        let (whole, sum) = ([values.len() as i64, 1], [1i64]);
        let (shape, data) = if self.batch_axis { (&whole[..], &doubled[..]) } else { (&sum[..], &doubled[..4]) };
        take(&[OutputView { datatype: Datatype::Fp32, shape, data: OutputData::Raw(data) }]);
        Ok(())
    }
}

pub(super) struct Bench {
    executor: Executor,
    pub(super) batches: BatchQueue,
    pub(super) tracker: Arc<LeaseTracker>,
    pub(super) version: Arc<Version>,
    runs: Arc<Mutex<Vec<usize>>>,
}

fn bench(max_batch_size: u32, batch_axis: bool) -> Bench {
    bench_of(BatchingConfig { max_batch_bytes: 1 << 20, ..BatchingConfig::default() }, max_batch_size, batch_axis)
}

pub(super) fn bench_of(config: BatchingConfig, max_batch_size: u32, batch_axis: bool) -> Bench {
    let [x, y] = ["x", "y"].map(|name| spec(name, Datatype::Fp32, &[-1, 1]));
    let signature = ModelSignature { max_batch_size, max_rows: 1024, ..ready("scripted", vec![x], vec![y]) };
    let controller = Controller::new(&config, max_batch_size);
    let stats = Stats::new(ModelStatistics::new("scripted", "1"));
    let version = Arc::new(Version::new(signature, controller, stats, config.max_batch_bytes));
    let model = Arc::new(Model::new("scripted".into()));
    model.replace(Table { versions: vec![Arc::clone(&version)], ..Table::default() });
    let tracker = Arc::new(LeaseTracker::default());
    let mut executor =
        Executor::new("w1".into(), Arc::clone(&tracker), Watchdog::start().expect("a thread"), usize::MAX);
    let runs = Arc::new(Mutex::new(Vec::new()));
    executor.put(Arc::clone(&version), Box::new(Scripted { runs: Arc::clone(&runs), batch_axis }));
    Bench { executor, batches: BatchQueue::new(model, Arc::clone(&tracker), None), tracker, version, runs }
}

pub(super) fn job(number: u64, values: &[f32], deaths: u32) -> LeasedJob {
    let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let shape = [values.len() as i64, 1].as_slice().into();
    let input = Tensor { name: "x".into(), datatype: Datatype::Fp32, shape, data: data.into() };
    let request = InferRequest { inputs: vec![input], ..InferRequest::default() };
    LeasedJob {
        id: JobId { random: u128::from(number), tombstone_min: 0, mac: 0, locator: 0 },
        token: LeaseToken(number),
        attempt: 1,
        deaths,
        priority: 0,
        rows: values.len() as u32,
        queued_at_us: 1_000,
        leased_at_us: 1_500,
        time_left: None,
        retry: RetryPolicy::default(),
        payload: request.encode().into(),
        trace: "".into(),
    }
}

impl Bench {
    /// Runs everything leased; returns outcomes by job number.
    fn run(&mut self, jobs: Vec<LeasedJob>) -> Vec<(u64, Outcome)> {
        self.run_at(Instant::now(), jobs)
    }

    /// The same, as if it were `now`.
    fn run_at(&mut self, now: Instant, jobs: Vec<LeasedJob>) -> Vec<(u64, Outcome)> {
        self.batches.admit(jobs, now);
        while let Next::Run(batch) = self.batches.next(now) {
            self.executor.run(batch);
        }
        let settled = self.tracker.take_outbox();
        let mut outcomes: Vec<_> = settled.into_iter().map(|one| (one.token.0, one.outcome)).collect();
        outcomes.sort_by_key(|(number, _)| *number);
        outcomes
    }
}

fn result(outcome: &Outcome) -> Option<JobResult> {
    let Outcome::Succeeded(packed) = outcome else { return None };
    Some(JobResult::decode(packed.clone()).expect("a packed result"))
}

fn answer(outcome: &Outcome) -> Option<Vec<f32>> {
    let result = result(outcome)?;
    let response = InferResponse::decode(&result.outputs).expect("a packed response");
    Some(response.outputs[0].data.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect())
}

#[test]
fn a_failing_and_a_panicking_row_cost_only_their_own_jobs_an_attempt() {
    let mut bench = bench(32, true);
    let values: Vec<f32> = (0..32)
        .map(|at| {
            if at == 5 {
                FAILS
            } else if at == 20 {
                PANICS
            } else {
                at as f32
            }
        })
        .collect();
    let jobs = values.iter().enumerate().map(|(at, &value)| job(at as u64, &[value], 0)).collect();
    let outcomes = bench.run(jobs);
    assert_eq!(outcomes.len(), 32, "each job is settled once");
    for (number, outcome) in &outcomes {
        match number {
            5 | 20 => {
                let Outcome::Failed { error, retry_in } = outcome else { panic!("{outcome:?}") };
                assert!(error.message.contains("a marked row"), "{}", error.message);
                assert_eq!(*retry_in, Some(Duration::from_secs(1)));
            }
            _ => assert_eq!(answer(outcome), Some(vec![*number as f32 * 2.0])),
        }
    }
    assert!(bench.runs.lock().len() <= 2 * 2 * 5 + 1, "halving, not one by one: {:?}", bench.runs.lock());
    assert_eq!(bench.version.stats.counted().statistics.fail.count, 2);
    assert_eq!(bench.version.stats.counted().statistics.success.count, 30);
}

#[test]
fn a_job_of_many_rows_is_split_into_runs_within_the_cap_and_joined() {
    let mut bench = bench(4, true);
    let many: Vec<f32> = (0..10).map(|at| at as f32).collect();
    let outcomes = bench.run(vec![job(1, &many, 0), job(2, &[7.0], 0)]);
    assert_eq!(answer(&outcomes[0].1), Some(many.iter().map(|value| value * 2.0).collect()));
    assert_eq!(answer(&outcomes[1].1), Some(vec![14.0]));
    assert!(bench.runs.lock().iter().all(|&rows| rows <= 4));
    assert_eq!(bench.version.stats.counted().statistics.success.count, 2);
}

#[test]
fn an_output_without_the_batch_axis_stops_batching_and_answers_single_rows() {
    let mut bench = bench(8, false);
    let outcomes = bench.run((1..=4).map(|number| job(number, &[number as f32], 0)).collect());
    for (number, outcome) in &outcomes {
        assert_eq!(answer(outcome), Some(vec![*number as f32 * 2.0]));
    }
    assert!(!bench.version.batches());
    // Rows that one request brings cannot be told apart either.
    let mut bench = self::bench(4, false);
    let outcomes = bench.run(vec![job(1, &[1.0; 10], 0)]);
    let Outcome::Failed { error, retry_in: None } = &outcomes[0].1 else { panic!("{outcomes:?}") };
    assert_eq!(
        error.message,
        "model `scripted` version 1: output `y` has shape [1] for 4 rows; its first axis is not the batch axis, \
         send one row per request"
    );
}

#[test]
fn a_job_that_killed_a_worker_runs_alone() {
    let mut bench = bench(8, true);
    bench.run(vec![job(1, &[1.0], 0), job(2, &[2.0], 1), job(3, &[3.0], 0)]);
    let mut runs = bench.runs.lock().clone();
    runs.sort_unstable();
    assert_eq!(runs, [1, 2]);
}

#[test]
fn a_lost_lease_is_neither_run_nor_settled() {
    let mut bench = bench(8, true);
    bench.batches.admit(vec![job(1, &[1.0], 0)], Instant::now());
    let mut lost = job(2, &[2.0], 0);
    lost.token = LeaseToken(2);
    bench.tracker.add(std::slice::from_ref(&lost));
    bench.tracker.mark_lost(&[(lost.id, lost.token)]);
    let outcomes = bench.run(vec![lost]);
    assert_eq!(outcomes.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [1]);
}

#[test]
fn what_an_input_causes_is_its_callers_mistake_at_once_and_costs_its_neighbours_nothing() {
    let mut bench = bench(8, true);
    let jobs = (1..=8).map(|number| job(number, &[if number == 5 { INVALID } else { number as f32 }], 0));
    let outcomes = bench.run(jobs.collect());
    assert_eq!(outcomes.len(), 8);
    for (number, outcome) in &outcomes {
        match outcome {
            Outcome::Failed { error, retry_in } => {
                assert_eq!((*number, error.code, *retry_in), (5, ErrorCode::InvalidTensor, None));
                assert!(error.message.contains("cannot compute this input"), "{}", error.message);
                assert!(error.message.ends_with("send indices within the model's range"), "{}", error.message);
            }
            _ => assert_eq!(answer(outcome), Some(vec![*number as f32 * 2.0])),
        }
    }
    assert!(outcomes.iter().any(|(_, outcome)| answer(outcome).is_none()));
}

#[test]
fn every_job_is_shown_by_its_end_and_by_what_it_took() {
    let mut bench = bench(8, true);
    bench.run(vec![job(1, &[1.0], 0), job(2, &[2.0], 0), job(3, &[INVALID], 0)]);
    let metrics = nobat_runtime::Metrics::new();
    let versions = vec![bench.version.clone()];
    metrics.snapshot("test_jobs", move || crate::exporter::batching(&versions));
    let text = metrics.render();
    for line in [
        "nobat_jobs_ended_total{model=\"scripted\",outcome=\"succeeded\",version=\"1\"} 2",
        "nobat_jobs_ended_total{model=\"scripted\",outcome=\"refused\",version=\"1\"} 1",
        "nobat_job_seconds_count{model=\"scripted\",version=\"1\"} 2",
        "nobat_job_queue_seconds_bucket{model=\"scripted\",version=\"1\",le=\"+Inf\"} 2",
        "nobat_job_infer_seconds_bucket{model=\"scripted\",version=\"1\",le=\"60\"} 2",
    ] {
        assert!(text.lines().any(|shown| shown == line), "{line} is not in\n{text}");
    }
}

#[test]
fn a_deadline_that_passed_is_settled_without_a_run() {
    let mut bench = bench(8, true);
    let late = LeasedJob { time_left: Some(Duration::ZERO), ..job(1, &[1.0], 0) };
    let outcomes = bench.run(vec![late]);
    assert!(matches!(&outcomes[0].1, Outcome::Expired(error) if error.code == ErrorCode::DeadlineExceeded));
    assert!(bench.runs.lock().is_empty());
}

#[test]
fn a_slow_spell_does_not_condemn_the_jobs_that_come_after_it() {
    let mut bench = bench(8, true);
    let began = Instant::now();
    let ms = Duration::from_millis;
    let slow = |rows| Run { rows, fills: rows, took: ms(400), ended: began };
    for _ in 0..16 {
        bench.version.controller.lock().observe(slow(1));
    }
    let mut made_at = |after: u64| {
        let jobs = (1..=4).map(|number| LeasedJob { time_left: Some(ms(400)), ..job(number, &[1.0], 0) });
        let outcomes = bench.run_at(began + ms(after), jobs.collect());
        assert_eq!(outcomes.len(), 4, "each is settled");
        outcomes.iter().filter(|(_, outcome)| answer(outcome).is_some()).count()
    };
    assert_eq!(made_at(500), 0, "by the samples a run takes as long as they have");
    assert_eq!(made_at(1_700), 4, "after a quiet while they are tried");
    assert_eq!(made_at(1_800), 4, "and show that runs are fast again");
}

#[test]
fn old_samples_drop_nobody() {
    let mut bench = bench(8, true);
    let began = Instant::now();
    let slow = Run { rows: 1, fills: 1, took: Duration::from_secs(1), ended: began };
    for _ in 0..16 {
        bench.version.controller.lock().observe(slow);
    }
    let jobs =
        (1..=4).map(|number| LeasedJob { time_left: Some(Duration::from_millis(400)), ..job(number, &[1.0], 0) });
    let outcomes = bench.run_at(began + Duration::from_secs(31), jobs.collect());
    assert!(outcomes.iter().all(|(_, outcome)| answer(outcome).is_some()));
}

#[test]
fn a_policy_without_batches_runs_a_request_whole_as_far_as_the_bytes_allow() {
    let none = BatchingConfig { policy: PolicyKind::None, ..BatchingConfig::default() };
    let many: Vec<f32> = (0..10).map(|at| at as f32).collect();
    let doubled: Vec<f32> = many.iter().map(|value| value * 2.0).collect();
    for (max_batch_bytes, runs) in [(1 << 20, vec![10, 1]), (16, vec![4, 4, 2, 1])] {
        let mut bench = bench_of(BatchingConfig { max_batch_bytes, ..none }, 1, true);
        let outcomes = bench.run(vec![job(1, &many, 0), job(2, &[7.0], 0)]);
        assert_eq!(answer(&outcomes[0].1).as_ref(), Some(&doubled));
        assert_eq!(answer(&outcomes[1].1), Some(vec![14.0]));
        assert_eq!(*bench.runs.lock(), runs);
    }
}

#[test]
fn a_lease_counts_the_rows_of_its_jobs() {
    let mut bench = bench(32, true);
    assert_eq!(bench.batches.room(), 32);
    for number in 0..64 {
        bench.run(vec![job(number, &[1.0; 4], 0)]);
    }
    assert_eq!(bench.batches.room(), 8 + 1, "32 rows of about 4 a job, rounded up");
    bench.batches.admit(vec![job(1, &[1.0; 4], 0); 7], Instant::now());
    assert_eq!(bench.batches.room(), 1 + 1);
    // One job of very many rows fills a run like any over the cap.
    bench.run(vec![job(2, &[1.0; 1000], 0)]);
    assert!(bench.batches.room() >= 4, "{}", bench.batches.room());
}

#[test]
fn the_cap_grows_with_requests_of_several_rows() {
    for policy in [PolicyKind::Aimd, PolicyKind::Quantile] {
        let config = BatchingConfig { policy, slo_ms: 60_000.0, ..BatchingConfig::default() };
        let mut bench = bench_of(config, 16, true);
        let mut number = 0;
        for _ in 0..400 {
            // As many as are leased at once while more wait.
            let jobs = (0..bench.batches.room()).map(|at| job(number + at as u64, &[1.0; 3], 0)).collect();
            number += 100;
            bench.batches.admit(jobs, Instant::now());
            let Next::Run(batch) = bench.batches.next(Instant::now()) else { panic!("a free session waited") };
            bench.executor.run(batch);
        }
        assert_eq!(bench.version.controller.lock().cap(), 16, "{policy:?}");
    }
}

#[test]
fn each_answer_tells_its_own_wait() {
    let mut bench = bench(8, true);
    let later = Instant::now();
    let earlier = later - Duration::from_millis(20);
    bench.batches.admit(vec![job(1, &[1.0], 0)], earlier);
    bench.batches.admit(vec![job(2, &[2.0], 0)], later);
    let outcomes = bench.run(vec![]);
    let waits: Vec<u64> =
        outcomes.iter().map(|(_, outcome)| result(outcome).expect("answered").timings.batch_wait_us).collect();
    assert!(waits[0] - waits[1] == 20_000, "{waits:?}");
}

#[test]
fn a_split_job_counts_once_with_the_times_of_all_its_runs() {
    let mut bench = bench(4, true);
    let outcomes = bench.run(vec![job(1, &[1.0; 10], 0)]);
    let seen = bench.version.stats.counted().statistics;
    assert_eq!((seen.execution_count, seen.inference_count, seen.success.count, seen.infer.count), (3, 10, 1, 1));
    assert_eq!(seen.infer.ns, seen.batches.iter().map(|batch| batch.infer.ns).sum::<u64>());
    assert_eq!(seen.output.ns, seen.batches.iter().map(|batch| batch.output.ns).sum::<u64>());
    let timings = result(&outcomes[0].1).expect("answered").timings;
    assert_eq!((timings.infer_us, timings.output_us), (seen.infer.ns / 1_000, seen.output.ns / 1_000));
}

#[test]
fn a_delay_never_makes_a_held_job_miss_its_deadline() {
    let ms = Duration::from_millis;
    for policy in [PolicyKind::Fixed, PolicyKind::Delayed] {
        let config = BatchingConfig { policy, max_queue_delay_ms: 10_000.0, ..BatchingConfig::default() };
        let mut bench = bench_of(config, 8, true);
        let due = |number| LeasedJob { time_left: Some(ms(200)), ..job(number, &[1.0], 0) };
        let now = Instant::now();
        bench.batches.admit(vec![due(1)], now);
        assert!(matches!(bench.batches.next(now), Next::Run(_)), "{policy:?}: nothing is known of runs yet");

        for _ in 0..16 {
            let run = Run { rows: 1, fills: 1, took: ms(20), ended: now };
            bench.version.controller.lock().observe(run);
        }
        // First in line is a job without a deadline, alone in its bucket because it killed a worker.
        bench.batches.admit(vec![job(2, &[1.0], 1), due(3)], now);
        let Next::Wait(wait) = bench.batches.next(now) else { panic!("{policy:?}: no wait") };
        assert!(wait > ms(100) && wait < ms(180), "{policy:?}: {wait:?}");
        // A timer that is a little late.
        let Next::Run(Work::Jobs(batch)) = bench.batches.next(now + wait + ms(1)) else { panic!("{policy:?}: no run") };
        assert_eq!(batch.jobs[0].leased.token, LeaseToken(3), "{policy:?}: neither dropped nor passed over");
    }
}

#[test]
fn outputs_over_the_limit_fail_their_job_alone() {
    let mut bench = bench(8, true);
    bench.executor.max_bytes = 100;
    let wide = [1.0; 40];
    let outcomes = bench.run(vec![job(1, &[1.0], 0), job(2, &wide[..6], 0), job(3, &wide[..30], 0), job(4, &[2.0], 0)]);
    for (number, outcome) in outcomes {
        match (number, &outcome) {
            (3, Outcome::Failed { error, retry_in: None }) => {
                assert_eq!(error.code, ErrorCode::PayloadTooLarge);
                assert!(error.message.contains("worker.max_result_bytes"), "{}", error.message);
            }
            (1 | 2 | 4, Outcome::Succeeded(_)) => {}
            other => panic!("{other:?}"),
        }
    }
}
