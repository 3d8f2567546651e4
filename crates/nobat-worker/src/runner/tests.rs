//! The runner over a scripted engine that fails, panics and drops its batch
//! axis on cue.

use nobat_core::JobId;
use nobat_core::infer::{InferRequest, InferResponse};
use nobat_core::job::{JobResult, LeaseToken, LeasedJob};
use nobat_core::retry::RetryPolicy;
use nobat_core::signature::{ModelSignature, ModelState, TensorSpec};
use nobat_core::statistics::ModelStatistics;
use nobat_core::tensor::{Datatype, Tensor};
use nobat_queue::backend::{Form, Next};
use parking_lot::Mutex;

use super::*;
use crate::batch::controller::Controller;
use crate::batch::intake::Intake;
use crate::config::BatchingConfig;
use crate::engine::{InputData, OutputData};
use crate::model::{Model, Table};
use crate::stats::Stats;

const FAILS: f32 = -1.0;
const PANICS: f32 = -2.0;

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
        let doubled: Vec<u8> = values.iter().flat_map(|value| (value * 2.0).to_le_bytes()).collect();
        let (whole, sum) = ([values.len() as i64, 1], [1i64]);
        let (shape, data) = if self.batch_axis { (&whole[..], &doubled[..]) } else { (&sum[..], &doubled[..4]) };
        take(&[OutputView { datatype: Datatype::Fp32, shape, data: OutputData::Raw(data) }]);
        Ok(())
    }
}

struct Bench {
    runner: Runner,
    intake: Intake,
    desk: Arc<Desk>,
    version: Arc<Version>,
    runs: Arc<Mutex<Vec<usize>>>,
}

fn bench(max_batch_size: u32, batch_axis: bool) -> Bench {
    let spec =
        |name: &str| TensorSpec { name: name.into(), datatype: Datatype::Fp32, shape: vec![-1, 1], optional: false };
    let signature = ModelSignature {
        name: "scripted".into(),
        version: "1".into(),
        digest: String::new(),
        state: ModelState::Ready,
        reason: String::new(),
        inputs: vec![spec("x")],
        outputs: vec![spec("y")],
        batched: true,
        max_batch_size,
        max_rows: 1024,
        finite: false,
        labels: vec![],
        settings: serde_json::Map::new(),
    };
    let controller = Controller::new(&BatchingConfig::default(), max_batch_size);
    let version =
        Arc::new(Version::new(signature, controller, Stats::new(ModelStatistics::new("scripted", "1")), 1 << 20));
    let model = Arc::new(Model::new("scripted".into()));
    model.replace(Table { versions: vec![Arc::clone(&version)], ..Table::default() });
    let desk = Arc::new(Desk::default());
    let mut runner = Runner::new("w1".into(), Arc::clone(&desk), Watchdog::start().expect("a thread"));
    let runs = Arc::new(Mutex::new(Vec::new()));
    runner.put(Arc::clone(&version), Box::new(Scripted { runs: Arc::clone(&runs), batch_axis }));
    Bench { runner, intake: Intake::new(model, Arc::clone(&desk)), desk, version, runs }
}

fn job(number: u64, values: &[f32], deaths: u32) -> LeasedJob {
    let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let shape = [values.len() as i64, 1].as_slice().into();
    let input = Tensor { name: "x".into(), datatype: Datatype::Fp32, shape, data: data.into() };
    let request = InferRequest { inputs: vec![input], ..InferRequest::default() };
    LeasedJob {
        id: JobId { random: u128::from(number), horizon_min: 0, mac: 0, locator: 0 },
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
        let now = Instant::now();
        self.intake.admit(jobs, now);
        while let Next::Run(batch) = self.intake.next(Instant::now()) {
            self.runner.run(batch);
        }
        let settled = self.desk.take_outbox();
        let mut outcomes: Vec<_> = settled.into_iter().map(|one| (one.token.0, one.outcome)).collect();
        outcomes.sort_by_key(|(number, _)| *number);
        outcomes
    }
}

fn answer(outcome: &Outcome) -> Option<Vec<f32>> {
    let Outcome::Succeeded(packed) = outcome else { return None };
    let result = JobResult::decode(packed.clone()).expect("a packed result");
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
    assert_eq!(bench.version.stats.counted().fail.count, 2);
    assert_eq!(bench.version.stats.counted().success.count, 30);
}

#[test]
fn a_job_of_many_rows_is_split_into_runs_within_the_cap_and_joined() {
    let mut bench = bench(4, true);
    let many: Vec<f32> = (0..10).map(|at| at as f32).collect();
    let outcomes = bench.run(vec![job(1, &many, 0), job(2, &[7.0], 0)]);
    assert_eq!(answer(&outcomes[0].1), Some(many.iter().map(|value| value * 2.0).collect()));
    assert_eq!(answer(&outcomes[1].1), Some(vec![14.0]));
    assert!(bench.runs.lock().iter().all(|&rows| rows <= 4));
    assert_eq!(bench.version.stats.counted().success.count, 2);
}

#[test]
fn an_output_without_the_batch_axis_stops_batching_and_answers_single_rows() {
    let mut bench = bench(8, false);
    let outcomes = bench.run((1..=4).map(|number| job(number, &[number as f32], 0)).collect());
    for (number, outcome) in &outcomes {
        assert_eq!(answer(outcome), Some(vec![*number as f32 * 2.0]));
    }
    assert!(!bench.version.batches());
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
    bench.intake.admit(vec![job(1, &[1.0], 0)], Instant::now());
    let mut lost = job(2, &[2.0], 0);
    lost.token = LeaseToken(2);
    bench.desk.add(std::slice::from_ref(&lost));
    bench.desk.mark_lost(&[(lost.id, lost.token)]);
    let outcomes = bench.run(vec![lost]);
    assert_eq!(outcomes.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [1]);
}

#[test]
fn a_deadline_that_passed_is_settled_without_a_run() {
    let mut bench = bench(8, true);
    let late = LeasedJob { time_left: Some(Duration::ZERO), ..job(1, &[1.0], 0) };
    let outcomes = bench.run(vec![late]);
    assert!(matches!(&outcomes[0].1, Outcome::Expired(error) if error.code == ErrorCode::DeadlineExceeded));
    assert!(bench.runs.lock().is_empty());
}
