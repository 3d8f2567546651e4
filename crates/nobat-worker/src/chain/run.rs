//! One request of a chain: each step begins as soon as its inputs are there.
//!
//! Before a step begins, a request that can no longer be in time at the chain's end is
//! given up, by what the steps that remain took lately and what waits before them
//! (proactive request dropping, PARD). A step's own deadline is earlier than the chain's by
//! what comes after it, so that the batch it is to join judges it the same way.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use nobat_core::ErrorCode;
use nobat_core::chain::StepWork;
use nobat_core::tensor::Tensor;
use nobat_core::timings::StepTiming;
use smol_str::SmolStr;
use tokio::task::JoinSet;

use super::loaded::LoadedChain;
use super::site::{ChainJob, Site};
use super::step_call::{StepAnswer, StepCall, StepFailure};

/// What a chain came to.
pub(super) struct ChainAnswer {
    /// Its outputs, by the chain's names; those that nobody asked for may be missing.
    pub(super) outputs: Vec<Tensor>,
    pub(super) steps: Vec<StepTiming>,
}

pub(super) struct ChainRun {
    site: Arc<Site>,
    job: Arc<ChainJob>,
    chain: Arc<LoadedChain>,
    began: Instant,
    /// By step: whether an output that is wanted needs it.
    needed: Vec<bool>,
    waiting: Vec<usize>,
    /// Tensors that are there, for as long as a step or the caller wants them.
    tensors: BTreeMap<SmolStr, Option<Tensor>>,
    running: JoinSet<(usize, Result<StepAnswer, StepFailure>)>,
    steps: Vec<StepTiming>,
    /// It runs without hope, to find out what steps take now.
    is_test: bool,
}

impl ChainRun {
    pub(super) fn new(site: Arc<Site>, job: Arc<ChainJob>, chain: Arc<LoadedChain>, began: Instant) -> ChainRun {
        let needed = chain.needed(&job.request.outputs);
        let waiting = (0..needed.len()).filter(|&at| needed[at]).collect();
        let given = |name: &SmolStr| job.request.inputs.iter().find(|tensor| tensor.name == *name).cloned();
        let inputs = chain.plan.inputs.iter().map(|spec| (spec.name.clone(), given(&spec.name)));
        let (tensors, running, steps) = (inputs.collect(), JoinSet::new(), Vec::new());
        ChainRun { site, job, chain, began, needed, waiting, tensors, running, steps, is_test: false }
    }

    /// Runs it to its end. Dropping the future cancels every step that runs.
    pub(super) async fn run(mut self) -> Result<ChainAnswer, StepFailure> {
        loop {
            self.start_ready()?;
            let Some(joined) = self.running.join_next().await else { break };
            let (at, outcome) = joined.map_err(|error| {
                StepFailure::new(ErrorCode::Internal, true, format!("a step of the chain was lost: {error}"))
            })?;
            self.ended(at, outcome)?;
        }
        self.steps.sort_by_key(|step| step.start_us);
        let output = |name: &SmolStr| self.tensors.get(name).cloned().flatten();
        let outputs = self.chain.plan.outputs.iter().filter_map(|spec| output(&spec.name)).collect();
        Ok(ChainAnswer { outputs, steps: self.steps })
    }

    fn start_ready(&mut self) -> Result<(), StepFailure> {
        let chain = Arc::clone(&self.chain);
        let is_ready =
            |at: usize| chain.plan.steps[at].inputs.iter().all(|wire| self.tensors.contains_key(&wire.tensor));
        let (ready, waiting) = std::mem::take(&mut self.waiting).into_iter().partition(|&at| is_ready(at));
        self.waiting = waiting;
        let ready: Vec<usize> = ready;
        for at in ready {
            let deadline = self.deadline(at)?;
            let inputs =
                chain.plan.steps[at].inputs.iter().map(|wire| self.tensors.get(&wire.tensor).cloned().flatten());
            let call = StepCall {
                inputs: inputs.collect(),
                site: Arc::clone(&self.site),
                job: Arc::clone(&self.job),
                chain: Arc::clone(&chain),
                at,
                deadline,
            };
            self.job.steps.running.lock().push(chain.plan.steps[at].title());
            let began = self.began;
            self.running.spawn(async move { (at, Arc::new(call).run(began).await) });
        }
        self.forget();
        Ok(())
    }

    /// Until when a step must be done for the chain to be in time.
    fn deadline(&mut self, at: usize) -> Result<Option<Instant>, StepFailure> {
        let Some(deadline) = self.job.deadline.filter(|_| !self.is_test) else { return Ok(self.job.deadline) };
        let now = Instant::now();
        let (run, after) = self.chain.estimate(at, &self.needed, |at| self.ahead(at), now);
        let left = deadline.saturating_duration_since(now);
        if run + after > left {
            if !left.is_zero() && self.steps.is_empty() && self.chain.allow_test_run(now) {
                self.is_test = true;
                return Ok(Some(deadline));
            }
            self.chain.ended(at, true);
            let ms = |duration: std::time::Duration| duration.as_secs_f64() * 1e3;
            let message = format!(
                "{} would begin with {:.1} ms left, and it and what follows take {:.1} ms; allow more time or send less",
                self.chain.plan.steps[at].title(),
                ms(left),
                ms(run + after)
            );
            return Err(StepFailure::new(ErrorCode::DeadlineExceeded, false, message));
        }
        Ok(deadline.checked_sub(after))
    }

    /// Runs of a step's model before those of a step that comes now; `None` of another worker's.
    fn ahead(&self, at: usize) -> Option<u32> {
        let StepWork::Model { name, version } = &self.chain.plan.steps[at].work else { return Some(0) };
        let model = (self.site.find)(name)?;
        let version = model.resolve(version).ok()?;
        let (waiting, sessions) = model.steps().ahead();
        let rows = if version.batches() { version.controller.lock().cap().max(1) as usize } else { 1 };
        Some(u32::try_from(waiting.div_ceil(rows * sessions.max(1))).unwrap_or(u32::MAX))
    }

    fn ended(&mut self, at: usize, outcome: Result<StepAnswer, StepFailure>) -> Result<(), StepFailure> {
        let step = &self.chain.plan.steps[at];
        let title = step.title();
        self.job.steps.running.lock().retain(|other| *other != title);
        let (tensors, timing) = outcome.map_err(|failure| {
            self.chain.ended(at, failure.code == ErrorCode::DeadlineExceeded);
            StepFailure { message: format!("{title}: {}", failure.message), ..failure }
        })?;
        if timing.batch_size > 0 {
            self.chain.took(at, &timing, Instant::now());
        }
        for (wire, tensor) in step.outputs.iter().zip(tensors) {
            self.tensors.insert(wire.tensor.clone(), Some(Tensor { name: wire.tensor.clone(), ..tensor }));
        }
        self.steps.push(timing);
        Ok(())
    }

    /// Lets go of tensors that neither a step to come nor the caller wants.
    fn forget(&mut self) {
        let plan = &self.chain.plan;
        let wanted = |name: &SmolStr| {
            plan.outputs.iter().any(|spec| spec.name == *name)
                || self.waiting.iter().any(|&at| plan.steps[at].inputs.iter().any(|wire| wire.tensor == *name))
        };
        self.tensors.retain(|name, _| wanted(name));
    }
}
