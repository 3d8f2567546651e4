//! One step of one request: its model's run here or elsewhere, or its function's.

use std::sync::Arc;
use std::time::{Duration, Instant};

use nobat_core::chain::{Step, StepWork, Wire};
use nobat_core::infer::{InferRequest, InferResponse};
use nobat_core::job::{JobResult, Outcome};
use nobat_core::tensor::Tensor;
use nobat_core::timings::{StepTiming, Timings};
use nobat_core::{Error, ErrorCode, JobId};
use smol_str::SmolStr;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::loaded::LoadedChain;
use super::remote::{self, RemoteFailure, RemoteStep};
use super::rows;
use super::site::{ChainJob, Site};
use super::step_queue::NewStep;

/// How often a step that was given back is handed out again: each time its sessions were on
/// their way out.
const MOST_TRIES: u32 = 50;
/// Pause before the next try.
const TRY_AGAIN: Duration = Duration::from_millis(10);

/// Why a step has no answer.
#[derive(Debug)]
pub(super) struct StepFailure {
    pub(super) code: ErrorCode,
    pub(super) message: String,
    /// Whether another attempt may succeed.
    pub(super) again: bool,
}

impl StepFailure {
    pub(super) fn new(code: ErrorCode, again: bool, message: String) -> StepFailure {
        StepFailure { code, message, again }
    }

    fn of(error: Error) -> StepFailure {
        let again = matches!(error.code, ErrorCode::Internal | ErrorCode::QueueUnavailable | ErrorCode::QueueFull);
        StepFailure::new(error.code, again, error.message)
    }

    fn invalid(message: String) -> StepFailure {
        StepFailure::new(ErrorCode::InvalidTensor, false, message)
    }
}

/// What a step came to: its outputs by position, and where its time went.
pub(super) type StepAnswer = (Vec<Tensor>, StepTiming);
/// One request's outputs, where its time went, and its job if it was one of its own.
type Part = (Vec<Tensor>, Timings, Option<JobId>);

/// A step about to run.
pub(super) struct StepCall {
    pub(super) site: Arc<Site>,
    pub(super) job: Arc<ChainJob>,
    pub(super) chain: Arc<LoadedChain>,
    pub(super) at: usize,
    /// By position in the step's inputs.
    pub(super) inputs: Vec<Option<Tensor>>,
    pub(super) deadline: Option<Instant>,
}

impl StepCall {
    /// Runs it, in a chain that began at `began`. Dropping the future cancels what of it runs.
    pub(super) async fn run(self: Arc<Self>, began: Instant) -> Result<StepAnswer, StepFailure> {
        let started = Instant::now();
        let (tensors, timings, job) = match &self.step().work {
            StepWork::Function { .. } => self.function().await?,
            StepWork::Model { .. } => self.model().await?,
        };
        let micros = |duration: Duration| duration.as_micros() as u64;
        let run_us = timings.input_us + timings.infer_us + timings.output_us;
        let timing = StepTiming {
            name: self.step().name.clone(),
            start_us: micros(started.saturating_duration_since(began)),
            wait_us: micros(started.elapsed()).saturating_sub(run_us),
            run_us,
            batch_size: timings.batch_size,
            worker: timings.worker,
            job,
        };
        Ok((tensors, timing))
    }

    fn step(&self) -> &Step {
        &self.chain.plan.steps[self.at]
    }

    /// Rows of the inputs, which must agree; `None` of a step that knows no rows.
    fn rows(&self) -> Result<Option<u32>, StepFailure> {
        let step = self.step();
        if !step.by_rows {
            return Ok(None);
        }
        let mut there = step.inputs.iter().zip(&self.inputs).filter_map(|(wire, input)| Some((wire, input.as_ref()?)));
        let Some((first, input)) = there.next() else { return Ok(Some(1)) };
        let rows = rows::count(input);
        match there.find(|(_, input)| rows::count(input) != rows) {
            None => Ok(Some(rows)),
            Some((wire, input)) => Err(StepFailure::invalid(format!(
                "tensor `{}` has {} rows and tensor `{}` has {rows}; a step takes rows that belong together",
                wire.tensor,
                rows::count(input),
                first.tensor
            ))),
        }
    }

    async fn model(self: &Arc<Self>) -> Result<Part, StepFailure> {
        let Some(rows) = self.rows()? else { return self.part(self.inputs.clone(), 1).await };
        let most = self.step().max_rows.max(1);
        if rows == 0 {
            return Ok((self.no_rows(), Timings::default(), None));
        }
        if rows <= most {
            return self.part(self.inputs.clone(), rows).await;
        }
        let (mut running, mut parts) = (JoinSet::new(), Vec::new());
        for (number, from) in (0..rows).step_by(most as usize).enumerate() {
            let range = from..rows.min(from.saturating_add(most));
            let cut = |input: &Option<Tensor>| input.as_ref().map(|tensor| rows::part(tensor, range.clone()));
            let (call, inputs) = (Arc::clone(self), self.inputs.iter().map(cut).collect());
            let count = range.end - range.start;
            running.spawn(async move { (number, call.part(inputs, count).await) });
            parts.push(None);
        }
        while let Some(joined) = running.join_next().await {
            let (number, part) = joined.map_err(|error| {
                StepFailure::new(ErrorCode::Internal, true, format!("a part of its rows was lost: {error}"))
            })?;
            parts[number] = Some(part?);
        }
        self.joined(parts.into_iter().flatten().collect())
    }

    /// The outputs of a step that has nothing to run over.
    fn no_rows(&self) -> Vec<Tensor> {
        let none = |wire: &Wire| {
            let shape = wire.spec.shape.iter().enumerate().map(|(axis, &dim)| if axis == 0 { 0 } else { dim.max(0) });
            let (name, shape) = (wire.spec.name.clone(), shape.collect());
            Tensor { name, datatype: wire.spec.datatype, shape, data: Default::default() }
        };
        self.step().outputs.iter().map(none).collect()
    }

    fn joined(&self, parts: Vec<Part>) -> Result<Part, StepFailure> {
        let (mut longest, mut longest_job) = (Timings::default(), None);
        let mut columns: Vec<Vec<Tensor>> = self.step().outputs.iter().map(|_| Vec::new()).collect();
        for (tensors, timings, job) in parts {
            let run = |timings: &Timings| timings.input_us + timings.infer_us + timings.output_us;
            let batch_size = longest.batch_size.max(timings.batch_size);
            if run(&timings) >= run(&longest) {
                (longest, longest_job) = (timings, job);
            }
            longest.batch_size = batch_size;
            columns.iter_mut().zip(tensors).for_each(|(column, tensor)| column.push(tensor));
        }
        let mut tensors = Vec::new();
        for (wire, column) in self.step().outputs.iter().zip(columns) {
            tensors.push(rows::join(column).map_err(|(shape, other)| {
                StepFailure::invalid(format!(
                    "its output `{}` has shape {:?} for some rows and {:?} for others, which do not join",
                    wire.spec.name,
                    shape.as_slice(),
                    other.as_slice()
                ))
            })?);
        }
        Ok((tensors, longest, longest_job))
    }

    /// One request to the step's model.
    async fn part(&self, inputs: Vec<Option<Tensor>>, rows: u32) -> Result<Part, StepFailure> {
        let step = self.step();
        let StepWork::Model { name: model, version } = &step.work else {
            return Err(StepFailure::of(Error::internal("a function has no model")));
        };
        let named = |(wire, input): (&Wire, Option<Tensor>)| Some(Tensor { name: wire.spec.name.clone(), ..input? });
        let request = InferRequest {
            version: version.clone(),
            inputs: step.inputs.iter().zip(inputs).filter_map(named).collect(),
            outputs: step.outputs.iter().map(|wire| wire.spec.name.clone()).collect(),
            ..InferRequest::default()
        };
        for _ in 0..MOST_TRIES {
            let here = (self.site.find)(model).filter(|model| model.resolve(version).is_ok());
            let pending = here.and_then(|here| {
                let step = NewStep {
                    of: self.job.leased.clone(),
                    leased: self.job.since,
                    request: request.clone(),
                    rows,
                    deadline: self.deadline,
                };
                here.steps().submit(step, &self.site.watchdog)
            });
            let Some(pending) = pending else { return self.elsewhere(model, &request, rows).await };
            match pending.outcome().await {
                Outcome::Succeeded(packed) => {
                    let result = JobResult::decode(packed);
                    let malformed = || StepFailure::of(Error::internal("its result is malformed"));
                    return self.read(result.ok_or_else(malformed)?, None);
                }
                Outcome::Failed { error, retry_in } => {
                    return Err(StepFailure::new(error.code, retry_in.is_some(), error.message));
                }
                Outcome::Expired(error) => return Err(StepFailure::new(error.code, false, error.message)),
                Outcome::Released => tokio::time::sleep(TRY_AGAIN).await,
            }
        }
        let message = "its model comes and goes on this worker; the load's log says why".to_owned();
        Err(StepFailure::new(ErrorCode::ModelNotReady, true, message))
    }

    /// The same request as a job of its own.
    async fn elsewhere(&self, model: &SmolStr, request: &InferRequest, rows: u32) -> Result<Part, StepFailure> {
        let (site, job) = (&self.site, &self.job);
        let client = site.client.get_or_init(async || site.queue.client()).await;
        let owner = job.steps.owner.get_or_try_init(async || {
            let view = site.queue.get(job.leased.id).await?;
            Ok(view.map(|view| view.owner).unwrap_or_default())
        });
        let owner = *owner.await.map_err(StepFailure::of)?;
        let step = RemoteStep {
            model,
            request,
            rows,
            deadline: self.deadline,
            of: &job.leased,
            background: job.background,
            owner,
        };
        match remote::run(&site.queue, client, step).await {
            Ok((id, result)) => self.read(result, Some(id)),
            // It had its own retries.
            Err(RemoteFailure::Ended(error)) => Err(StepFailure::new(error.code, false, error.message)),
            Err(RemoteFailure::Queue(error)) => Err(StepFailure::of(error)),
        }
    }

    /// A result's outputs in the step's order.
    fn read(&self, result: JobResult, job: Option<JobId>) -> Result<Part, StepFailure> {
        let response = InferResponse::decode(&result.outputs).map_err(StepFailure::of)?;
        let mut tensors = Vec::new();
        for wire in &self.step().outputs {
            let found = response.outputs.iter().find(|tensor| tensor.name == wire.spec.name);
            let missing = || {
                let message = format!("its answer has no output `{}`; load the chain again", wire.spec.name);
                StepFailure::new(ErrorCode::InvalidWorkerResult, true, message)
            };
            tensors.push(found.cloned().ok_or_else(missing)?);
        }
        Ok((tensors, result.timings, job))
    }

    async fn function(&self) -> Result<Part, StepFailure> {
        let (Some(function), Some(threads)) = (self.chain.function(self.step()), &self.chain.threads) else {
            return Err(StepFailure::of(Error::internal("a chain has lost its function")));
        };
        let (tell, told) = oneshot::channel();
        let inputs = self.inputs.clone();
        threads.run(false, move || {
            let began = Instant::now();
            let outcome = function.run(&inputs);
            let _ = tell.send((outcome, began.elapsed()));
        });
        let lost = |_| StepFailure::new(ErrorCode::InferenceFailed, true, "the function panicked".to_owned());
        let (outcome, took) = told.await.map_err(lost)?;
        let tensors = outcome.map_err(StepFailure::of)?;
        if tensors.len() != self.step().outputs.len() {
            let message = format!("the function gave {} outputs", tensors.len());
            return Err(StepFailure::of(Error::internal(message)));
        }
        let timings = Timings {
            infer_us: took.as_micros() as u64,
            batch_size: 1,
            worker: self.site.worker.clone(),
            ..Timings::default()
        };
        Ok((tensors, timings, None))
    }
}
