//! Rows of unlike length through pool, planner and executor, over a scripted engine and a
//! transformation of its own: words in, how many letters each has out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use nobat_core::infer::{InferRequest, InferResponse};
use nobat_core::job::{BACKGROUND, JobResult, LeasedJob, Outcome};
use nobat_core::parameters::{Parameter, Parameters};
use nobat_core::score::Aging;
use nobat_core::signature::TensorSpec;
use nobat_core::statistics::ModelStatistics;
use nobat_core::task::{Task, TaskKind};
use nobat_core::tensor::{Datatype, Tensor, put_bytes_element, take_bytes_element};
use nobat_core::{Error, ErrorCode, Result};
use nobat_queue::backend::{Batcher, LeaseTracker, Next};
use nobat_testkit::signatures;
use nobat_transform::{CallerSignature, Finished, JobState, Prepared, Row, SessionOutput, Transform};
use parking_lot::Mutex;

use super::executor::Executor;
use super::tests::job;
use crate::batch::controller::Controller;
use crate::batch::latency::Run;
use crate::batch::queue::{BatchQueue, Work};
use crate::batch::row_pool::RowPool;
use crate::batch::run_cost::RunCost;
use crate::config::BatchingConfig;
use crate::engine::api::InputData;
use crate::engine::{Engine, InputView, OutputData, OutputView, RunError, RunLimit};
use crate::model::{Model, Table, Transformed, Version};
use crate::stats::Stats;
use crate::transform_threads::TransformThreads;
use crate::watchdog::Watchdog;

/// Its rows are one byte a letter, padded with zeros; a run gives each row's sum.
#[derive(Debug)]
struct Letters {
    signature: CallerSignature,
}

impl Letters {
    fn new() -> Letters {
        let spec = |name: &str, datatype| TensorSpec { name: name.into(), datatype, shape: vec![-1], optional: false };
        let task = Task { parameters: vec!["count".into()], ..Task::new(TaskKind::Embed) };
        let (inputs, outputs) = (vec![spec("text", Datatype::Bytes)], vec![spec("letters", Datatype::Int64)]);
        Letters { signature: CallerSignature { inputs, outputs, task } }
    }
}

/// Of a panic whose own end panics: outside of whatever contained the first.
struct PanicsWhenDropped;

impl Drop for PanicsWhenDropped {
    fn drop(&mut self) {
        panic!("dropped");
    }
}

impl Transform for Letters {
    fn signature(&self) -> &CallerSignature {
        &self.signature
    }

    fn max_cost(&self) -> u32 {
        64
    }

    fn prepare(&self, inputs: &[Option<Tensor>], parameters: &Parameters) -> Result<Prepared> {
        let text = inputs[0].as_ref().expect("checked against the signature");
        let (mut rest, mut words) = (&text.data[..], Vec::new());
        while let Some(word) = take_bytes_element(&mut rest) {
            assert_ne!(word, b"panics in prepare");
            if word == b"panics twice" {
                std::panic::panic_any(PanicsWhenDropped);
            }
            if word == b"refused" {
                return Err(Error::new(ErrorCode::InvalidTensor, "text 0 is `refused`; send another"));
            }
            words.push(word.to_vec());
        }
        let job = JobState::new(words.len());
        // Asked only for how many there are, no session is needed.
        let wanted = if parameters.truth("count")? == Some(true) { Vec::new() } else { words };
        Ok(Prepared { rows: wanted.into_iter().map(|word| Row::new(word.len() as u32, word)).collect(), job })
    }

    fn example(&self, cost: u32) -> Row {
        Row::new(cost, vec![b'a'; cost as usize])
    }

    fn collate(&self, rows: &[&Row]) -> Result<Vec<Tensor>> {
        let longest = rows.iter().map(|row| row.cost as usize).max().unwrap_or(0);
        let mut data = Vec::new();
        for row in rows {
            let word = row.state::<Vec<u8>>()?;
            data.extend(word.iter().copied().chain(std::iter::repeat(0)).take(longest));
        }
        let shape = [rows.len() as i64, longest as i64].as_slice().into();
        Ok(vec![Tensor { name: "ids".into(), datatype: Datatype::Uint8, shape, data: data.into() }])
    }

    fn finish(&self, rows: &[&Row], outputs: &[SessionOutput<'_>]) -> Result<Vec<Finished>> {
        assert_eq!(outputs[0].shape, [rows.len() as i64]);
        let finished = |&bytes: &[u8; 8]| Finished::new(i64::from_le_bytes(bytes)).of_bytes(8);
        Ok(outputs[0].data.as_chunks().0.iter().map(finished).collect())
    }

    fn answer(&self, job: &JobState, rows: Vec<Finished>) -> Result<Vec<Tensor>> {
        let count = *job.state::<usize>()?;
        let mut data = Vec::new();
        if rows.is_empty() {
            data.extend((count as i64).to_le_bytes());
        }
        for row in rows {
            data.extend(row.take::<i64>()?.to_le_bytes());
        }
        let shape = [data.len() as i64 / 8].as_slice().into();
        Ok(vec![Tensor { name: "letters".into(), datatype: Datatype::Int64, shape, data: data.into() }])
    }
}

/// Counts the letters of each row; fails a run with a `!`, panics at a `?`.
struct Counting {
    /// Rows and length of each run.
    runs: Arc<Mutex<Vec<(usize, usize)>>>,
}

impl Engine for Counting {
    fn run(
        &mut self,
        inputs: &[InputView<'_>],
        _: Option<RunLimit<'_>>,
        take: &mut dyn FnMut(&[OutputView<'_>]),
    ) -> Result<(), RunError> {
        let (InputData::Raw(raw), &[rows, longest]) = (&inputs[0].data, inputs[0].shape) else { panic!("bytes") };
        self.runs.lock().push((rows as usize, longest as usize));
        assert!(!raw.contains(&b'?'), "a marked row");
        if raw.contains(&b'!') {
            return Err(RunError::Failed("a marked row".into()));
        }
        let count = |row: &[u8]| row.iter().filter(|&&letter| letter != 0).count() as i64;
        let counted: Vec<u8> = raw.chunks(longest as usize).flat_map(|row| count(row).to_le_bytes()).collect();
        take(&[OutputView { datatype: Datatype::Int64, shape: &[rows], data: OutputData::Raw(&counted) }]);
        Ok(())
    }
}

struct TextBench {
    executor: Executor,
    /// Two sessions of one model.
    sessions: [BatchQueue; 2],
    pool: Arc<RowPool>,
    tracker: Arc<LeaseTracker>,
    version: Arc<Version>,
    runs: Arc<Mutex<Vec<(usize, usize)>>>,
}

fn text_bench(batched: bool) -> TextBench {
    let transform = Letters::new();
    let CallerSignature { inputs, outputs, task } = transform.signature().clone();
    let mut signature = signatures::ready("letters", inputs, outputs);
    (signature.task, signature.max_rows) = (Some(task), 4096);
    let config = BatchingConfig::default();
    let cost = RunCost::fit(&[(1, 8, 4e-3), (8, 8, 11e-3), (1, 64, 11e-3), (4, 64, 35e-3)], 64).expect("fits");
    let transformed = Transformed { transform: Arc::new(transform), batched, cost, padded: 256, max_rows: 32 };
    let controller = Controller::new(&config, cost.units_of(256));
    let stats = Stats::new(ModelStatistics::new("letters", "1"));
    let version = Arc::new(Version::new(signature, controller, stats, 1 << 20).transformed(Some(transformed)));
    let model = Arc::new(Model::new("letters".into()));
    model.replace(Table { versions: vec![Arc::clone(&version)], ..Table::default() });
    let tracker = Arc::new(LeaseTracker::default());
    let threads = TransformThreads::start(2).expect("threads");
    let pool = Arc::new(RowPool::new(Arc::clone(&tracker), threads, "w1".into(), usize::MAX, Aging::default()));
    let watchdog = Watchdog::start().expect("a thread");
    let mut executor = Executor::new("w1".into(), Arc::clone(&tracker), watchdog, usize::MAX);
    let runs = Arc::new(Mutex::new(Vec::new()));
    executor.put(Arc::clone(&version), Box::new(Counting { runs: Arc::clone(&runs) }));
    let session = || BatchQueue::new(Arc::clone(&model), Arc::clone(&tracker), Some(Arc::clone(&pool)));
    TextBench { executor, sessions: [session(), session()], pool, tracker, version, runs }
}

fn words(number: u64, words: &[&str]) -> LeasedJob {
    asking(number, words, Parameters::default())
}

fn asking(number: u64, words: &[&str], parameters: Parameters) -> LeasedJob {
    let mut data = Vec::new();
    words.iter().for_each(|word| put_bytes_element(&mut data, word.as_bytes()));
    let shape = [words.len() as i64].as_slice().into();
    let input = Tensor { name: "text".into(), datatype: Datatype::Bytes, shape, data: data.into() };
    let request = InferRequest { inputs: vec![input], parameters, ..InferRequest::default() };
    LeasedJob { payload: request.encode().into(), rows: words.len() as u32, ..job(number, &[], 0) }
}

fn background(number: u64, texts: &[&str]) -> LeasedJob {
    let mut parameters = Parameters::default();
    parameters.set(BACKGROUND, Parameter::Bool(true));
    asking(number, texts, parameters)
}

impl TextBench {
    /// Waits until nothing is being prepared; leases are noted as the backend does.
    fn admit(&mut self, jobs: Vec<LeasedJob>, now: Instant) {
        self.tracker.add(&jobs);
        self.sessions[0].admit(jobs, now);
        let give_up = Instant::now() + Duration::from_secs(30);
        while self.pool.is_preparing() {
            assert!(Instant::now() < give_up, "a job is never prepared");
            std::thread::yield_now();
        }
    }

    /// Runs everything, the sessions in turn; returns outcomes by job number.
    fn run(&mut self, jobs: Vec<LeasedJob>) -> Vec<(u64, Outcome)> {
        let now = Instant::now();
        self.admit(jobs, now);
        let mut turn = 0;
        while let Next::Run(work) = self.sessions[turn % 2].next(now) {
            self.executor.run(work);
            turn += 1;
        }
        self.outcomes()
    }

    fn outcomes(&self) -> Vec<(u64, Outcome)> {
        let settled = self.tracker.take_outbox();
        let mut outcomes: Vec<_> = settled.into_iter().map(|one| (one.token.0, one.outcome)).collect();
        outcomes.sort_by_key(|(number, _)| *number);
        outcomes
    }
}

fn answer(outcome: &Outcome) -> Option<Vec<i64>> {
    let Outcome::Succeeded(packed) = outcome else { return None };
    let result = JobResult::decode(packed.clone()).expect("a packed result");
    let response = InferResponse::decode(&result.outputs).expect("a packed response");
    Some(response.outputs[0].data.as_chunks().0.iter().map(|&bytes| i64::from_le_bytes(bytes)).collect())
}

fn code(outcome: &Outcome) -> Option<ErrorCode> {
    match outcome {
        Outcome::Failed { error, .. } => Some(error.code),
        _ => None,
    }
}

#[test]
fn each_job_gets_its_own_rows_back_and_like_lengths_ran_together() {
    let mut bench = text_bench(true);
    let long = "a".repeat(60);
    let jobs: Vec<LeasedJob> = (0..24u64)
        .map(|number| match number % 3 {
            0 => words(number, &["ab", "abc"]),
            1 => words(number, &[&long[..50 + number as usize % 10]]),
            _ => words(number, &[&long, "x", ""]),
        })
        .collect();
    let outcomes = bench.run(jobs);
    assert_eq!(outcomes.len(), 24);
    for (number, outcome) in &outcomes {
        let wanted = match number % 3 {
            0 => vec![2, 3],
            1 => vec![50 + *number as i64 % 10],
            _ => vec![60, 1, 0],
        };
        assert_eq!(answer(outcome), Some(wanted), "job {number}");
    }
    let runs = bench.runs.lock();
    let rows: usize = runs.iter().map(|(rows, _)| rows).sum();
    assert_eq!(rows, 16 + 8 + 24, "each row once");
    assert!(runs.len() < 16, "{runs:?}");
    assert!(runs.iter().all(|&(rows, longest)| longest < 10 || rows * longest <= 256), "{runs:?}");
    let counted = bench.version.stats.counted();
    assert_eq!(counted.statistics.success.count, 24);
    assert!(counted.padding * 4 < counted.tokens, "{} padding for {} letters", counted.padding, counted.tokens);
}

#[test]
fn a_bad_text_a_failing_row_and_a_panic_cost_only_their_own_jobs() {
    let mut bench = text_bench(true);
    let bad = [(3, "refused"), (7, "panics in prepare"), (9, "panics twice"), (11, "fails!"), (15, "panics?")];
    let jobs = (0..20u64).map(|number| {
        let own = bad.iter().find(|(at, _)| *at == number).map_or("fine", |(_, word)| word);
        words(number, &["ok", own])
    });
    let outcomes = bench.run(jobs.collect());
    assert_eq!(outcomes.len(), 20);
    for (number, outcome) in &outcomes {
        let wanted = match number {
            3 => Some(ErrorCode::InvalidTensor),
            7 | 9 | 11 | 15 => Some(ErrorCode::InferenceFailed),
            _ => None,
        };
        assert_eq!(code(outcome), wanted, "job {number}");
        assert_eq!(answer(outcome).is_some(), wanted.is_none());
    }
    let Outcome::Failed { error, retry_in } = &outcomes[3].1 else { panic!("refused") };
    assert_eq!((error.message.as_str(), retry_in), ("text 0 is `refused`; send another", &None));
    let Outcome::Failed { retry_in, .. } = &outcomes[7].1 else { panic!("failed") };
    assert!(retry_in.is_some(), "a panic may pass at another attempt");
}

#[test]
fn a_job_of_a_thousand_rows_runs_in_many_runs_and_beside_others() {
    let mut bench = text_bench(true);
    let many: Vec<String> = (0..1_000).map(|at| "a".repeat(1 + at * 7 % 40)).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let mut urgent = words(2, &["now"]);
    urgent.priority = 9;
    let now = Instant::now();
    bench.admit(vec![words(1, &many)], now);
    let Next::Run(first) = bench.sessions[0].next(now) else { panic!("a free session waited") };
    bench.executor.run(first);
    bench.admit(vec![urgent], now);
    let Next::Run(second) = bench.sessions[1].next(now) else { panic!("a free session waited") };
    bench.executor.run(second);
    let outcomes = bench.outcomes();
    assert_eq!(outcomes.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [2], "the next run has the urgent one");
    let outcomes = bench.run(vec![]);
    let wanted: Vec<i64> = many.iter().map(|word| word.len() as i64).collect();
    assert_eq!(answer(&outcomes[0].1), Some(wanted));
    assert!(bench.runs.lock().len() > 40);
    assert_eq!(bench.version.stats.counted().statistics.success.count, 2);
}

#[test]
fn work_in_the_background_lets_others_of_its_priority_pass() {
    let mut bench = text_bench(true);
    let now = Instant::now();
    bench.admit(vec![background(1, &["abcdef"; 400])], now);
    let later = LeasedJob { queued_at_us: 900_000, ..words(2, &["now"]) };
    bench.admit(vec![later], now);
    let Next::Run(Work::Rows(batch)) = bench.sessions[0].next(now) else { panic!("a free session waited") };
    let jobs: Vec<u64> = batch.rows.iter().map(|(job, _)| job.leased.token.0).collect();
    assert_eq!(jobs, [2], "it goes first, and nothing makes its run longer");
    let Next::Run(Work::Rows(batch)) = bench.sessions[1].next(now) else { panic!("a free session waited") };
    assert!(batch.rows.len() > 1, "a run in the background is as large as any");
}

#[test]
fn beside_a_pool_full_of_background_work_there_is_room_for_what_ranks_above_it_and_not_without_end() {
    let mut bench = text_bench(true);
    let now = Instant::now();
    assert_eq!(bench.sessions[0].room_above(), None, "nothing is held");
    bench.admit(vec![background(1, &["abcdef"; 400])], now);
    assert_eq!(bench.sessions[0].room(), 0);
    let (jobs, level) = bench.sessions[0].room_above().expect("it is full");
    assert!(jobs > 0 && level == -1, "{jobs} above {level}");
    bench.admit(vec![words(2, &["abcdef"; 400])], now);
    assert_eq!(bench.sessions[0].room_above(), None, "full of that too");
}

#[test]
fn where_the_graph_mixes_rows_each_runs_by_itself() {
    let mut bench = text_bench(false);
    let outcomes = bench.run((0..6).map(|number| words(number, &["ab", "cd"])).collect());
    assert!(outcomes.iter().all(|(_, outcome)| answer(outcome) == Some(vec![2, 2])));
    assert_eq!(*bench.runs.lock(), vec![(1, 2); 12]);
}

#[test]
fn what_needs_no_session_is_answered_without_one() {
    let mut bench = text_bench(true);
    let mut parameters = Parameters::default();
    parameters.set("count", Parameter::Bool(true));
    let outcomes = bench.run(vec![asking(1, &["a", "b", "c"], parameters)]);
    assert_eq!(answer(&outcomes[0].1), Some(vec![3]));
    assert!(bench.runs.lock().is_empty());
}

#[test]
fn a_drain_gives_back_what_did_not_run_once_and_a_lost_lease_is_let_go() {
    let mut bench = text_bench(true);
    let now = Instant::now();
    bench.admit((0..8).map(|number| words(number, &["abc", "de"])).collect(), now);
    let lost = bench.tracker.leases()[2];
    assert_eq!(bench.tracker.mark_lost(&[lost]), [lost]);
    let Next::Run(work) = bench.sessions[0].next(now) else { panic!("a free session waited") };
    let released = [bench.sessions[0].release(), bench.sessions[1].release()].concat();
    bench.executor.run(work);
    let settled = bench.outcomes();
    assert!(!released.contains(&lost) && settled.iter().all(|(number, _)| *number != lost.1.0));
    let mut all: Vec<u64> = released.iter().map(|lease| lease.1.0).chain(settled.iter().map(|one| one.0)).collect();
    all.sort_unstable();
    assert_eq!(all, [0, 1, 3, 4, 5, 6, 7], "each once");
    assert!(bench.sessions.iter().all(Batcher::is_empty));
}

#[test]
fn deadlines_are_judged_by_the_length_of_the_text() {
    let mut bench = text_bench(true);
    let (short, long) = ("ab", "a".repeat(64));
    // 64 letters take 11 ms, two take 3.
    let cost = bench.version.transformed.as_ref().expect("it is transformed").cost;
    for (rows, longest) in [(1, 2), (1, 64), (8, 8), (4, 64)].repeat(20) {
        let (units, took) = (cost.units(rows, longest), Duration::from_secs_f64(cost.seconds(rows, longest)));
        let run = Run { rows: units, fills: units, took, ended: Instant::now() };
        bench.version.controller.lock().observe(run);
    }
    let hurried =
        |number, word: &str| LeasedJob { time_left: Some(Duration::from_millis(7)), ..words(number, &[word]) };
    let outcomes = bench.run(vec![hurried(1, &long), hurried(2, short)]);
    assert!(matches!(&outcomes[0].1, Outcome::Expired(error) if error.message.contains("a run takes")), "{outcomes:?}");
    assert_eq!(answer(&outcomes[1].1), Some(vec![2]));
}

#[test]
fn a_job_that_a_worker_died_with_runs_by_itself() {
    let mut bench = text_bench(true);
    let suspect = LeasedJob { deaths: 1, ..words(1, &["ab", "cd"]) };
    let outcomes = bench.run(vec![words(0, &["ef"]), suspect, words(2, &["gh"])]);
    assert!(outcomes.iter().all(|(_, outcome)| answer(outcome).is_some()));
    assert!(bench.runs.lock().contains(&(2, 2)), "{:?}", bench.runs.lock());
    assert_eq!(bench.runs.lock().iter().map(|(rows, _)| rows).sum::<usize>(), 4);
}

#[test]
fn one_session_leaves_half_of_what_waits_to_an_idle_one() {
    let mut bench = text_bench(true);
    let now = Instant::now();
    assert!(bench.sessions.iter_mut().all(|session| matches!(session.next(now), Next::Empty)));
    bench.admit((0..8).map(|number| words(number, &["abcd"])).collect(), now);
    for session in &mut bench.sessions {
        let Next::Run(Work::Rows(batch)) = session.next(now) else { panic!("rows for both") };
        assert_eq!(batch.rows.len(), 4);
    }
}

#[test]
fn a_result_that_grows_over_its_limit_ends_before_all_rows_have_run() {
    let mut bench = text_bench(true);
    bench.executor.max_bytes = 200;
    let outcomes = bench.run(vec![words(1, &["abcd"; 1_000]), words(2, &["fine"])]);
    assert_eq!((code(&outcomes[0].1), answer(&outcomes[1].1)), (Some(ErrorCode::PayloadTooLarge), Some(vec![4])));
    let rows: usize = bench.runs.lock().iter().map(|(rows, _)| rows).sum();
    assert!(rows < 100, "{rows} rows ran");
}

#[test]
fn what_is_held_of_a_version_of_the_other_kind_leaves_less_room() {
    let number = |version: &str| LeasedJob {
        payload: {
            let mut data = Vec::new();
            put_bytes_element(&mut data, b"abc");
            let shape = [1].as_slice().into();
            let input = Tensor { name: "text".into(), datatype: Datatype::Bytes, shape, data: data.into() };
            InferRequest { version: version.into(), inputs: vec![input], ..InferRequest::default() }.encode().into()
        },
        ..job(0, &[], 0)
    };
    for transformed_first in [true, false] {
        let bench = text_bench(true);
        let mut signature = bench.version.signature.clone();
        signature.version = "2".into();
        let stats = Stats::new(ModelStatistics::new("letters", "2"));
        let controller = Controller::new(&BatchingConfig::default(), 8);
        let plain = Arc::new(Version::new(signature, controller, stats, 1 << 20));
        let model = Arc::new(Model::new("letters".into()));
        let versions = vec![Arc::clone(&bench.version), plain];
        model.replace(Table { versions, default: usize::from(!transformed_first), ..Table::default() });
        let mut session = BatchQueue::new(model, Arc::clone(&bench.tracker), Some(Arc::clone(&bench.pool)));
        assert!(session.room() > 0);
        // The requests name the version that is not the default.
        let other = if transformed_first { "2" } else { "1" };
        session.admit((0..100).map(|_| number(other)).collect(), Instant::now());
        assert_eq!(session.room(), 0, "default transformed: {transformed_first}");
    }
}
