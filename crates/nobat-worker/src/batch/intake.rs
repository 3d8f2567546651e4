//! Leased jobs on their way to a run: decoded, checked, bucketed and planned.
//!
//! The queue's backend hands jobs in and asks for batches ([`Form`]). A job
//! that cannot run (undecodable, misfit, unknown version, a deadline it cannot
//! make) is settled here, before it costs a run or a neighbour.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nobat_core::ErrorCode;
use nobat_core::infer::InferRequest;
use nobat_core::job::{JobError, LeasedJob, Outcome, Settlement};
use nobat_core::tensor::{Datatype, Shape, Tensor};
use nobat_queue::backend::{Desk, Form, Lease, Next};
use smallvec::SmallVec;
use smol_str::SmolStr;

use super::planner::{Limits, Plan, Slot, plan};
use super::triage::triage;
use crate::model::{Model, Version};

/// Most jobs leased at once, whatever the cap: more puts all sessions in
/// lockstep and keeps jobs from idle workers.
const MAX_LEASE: usize = 64;

/// A job ready to run.
#[derive(Debug)]
pub struct Item {
    /// The lease.
    pub job: LeasedJob,
    /// Inputs by position in the signature; `None` where an optional one is left out.
    pub inputs: SmallVec<[Option<Tensor>; 2]>,
    /// Outputs asked for; empty for all.
    pub outputs: Vec<SmolStr>,
    /// Rows along the batch axis; 1 for a model without one.
    pub rows: u32,
    /// When it was leased.
    pub since: Instant,
    /// When its answer is due.
    pub deadline: Option<Instant>,
}

impl Item {
    /// The lease it runs under.
    pub fn lease(&self) -> Lease {
        (self.job.id, self.job.token)
    }
}

/// Jobs to run together.
#[derive(Debug)]
pub struct Batch {
    /// The version they run on.
    pub version: Arc<Version>,
    /// At least one.
    pub items: Vec<Item>,
    /// Most rows in one run, by the controller.
    pub cap: u32,
}

/// What must agree for two jobs to share a run.
#[derive(PartialEq)]
struct Bucket {
    version: Arc<Version>,
    // Per input: absent, or its dimensions after the batch axis.
    shapes: SmallVec<[Option<Shape>; 2]>,
}

impl PartialEq for Version {
    fn eq(&self, other: &Version) -> bool {
        std::ptr::eq(self, other)
    }
}

/// One session's leased jobs.
pub struct Intake {
    model: Arc<Model>,
    desk: Arc<Desk>,
    held: VecDeque<(Slot, Item)>,
    rows: u32,
    buckets: Vec<(u32, Bucket)>,
    next_bucket: u32,
}

impl Intake {
    /// An empty intake for one session of `model`.
    pub fn new(model: Arc<Model>, desk: Arc<Desk>) -> Intake {
        Intake { model, desk, held: VecDeque::new(), rows: 0, buckets: Vec::new(), next_bucket: 0 }
    }

    fn take(&mut self, job: LeasedJob, now: Instant) {
        let deadline = job.time_left.map(|left| now + left);
        let (id, token, attempt, retry) = (job.id, job.token, job.attempt, job.retry);
        match self.prepare(job, now, deadline) {
            Ok((bucket, item)) => {
                let slot = Slot { bucket, rows: item.rows, since: now, deadline };
                self.rows = self.rows.saturating_add(item.rows);
                self.held.push_back((slot, item));
            }
            Err(error) => {
                // A version that is loading here or ready elsewhere deserves its retries; a misfit does not.
                let again = matches!(error.code, ErrorCode::ModelNotReady | ErrorCode::VersionNotFound);
                let retry_in = again.then(|| retry.next_delay(attempt, crate::runner::random())).flatten();
                let error = JobError { code: error.code, message: error.message };
                self.desk.settle(Settlement { id, token, outcome: Outcome::Failed { error, retry_in } });
            }
        }
    }

    fn prepare(&mut self, job: LeasedJob, now: Instant, deadline: Option<Instant>) -> nobat_core::Result<(u32, Item)> {
        let request = InferRequest::decode(job.payload.clone())?;
        let version = self.model.resolve(&request.version)?;
        let signature = &version.signature;
        // The gateway checked it against the signature of its time; a reload may have changed it since.
        let rows = signature.validate(&request)?;
        let mut inputs: SmallVec<[Option<Tensor>; 2]> = SmallVec::new();
        inputs.resize(signature.inputs.len(), None);
        for tensor in request.inputs {
            if let Some(at) = signature.inputs.iter().position(|spec| spec.name == tensor.name) {
                inputs[at] = Some(tensor);
            }
        }
        let bucket = self.bucket(version, &inputs, job.deaths > 0);
        Ok((bucket, Item { job, inputs, outputs: request.outputs, rows, since: now, deadline }))
    }

    fn bucket(&mut self, version: Arc<Version>, inputs: &[Option<Tensor>], alone: bool) -> u32 {
        if alone || !version.batches() {
            return self.new_bucket(version, SmallVec::new());
        }
        let same = |bucket: &Bucket| {
            Arc::ptr_eq(&bucket.version, &version)
                && bucket.shapes.len() == inputs.len()
                && bucket.shapes.iter().zip(inputs).all(|(shape, input)| match (shape, input) {
                    (Some(shape), Some(tensor)) => shape[..] == tensor.shape[1..],
                    (None, None) => true,
                    _ => false,
                })
        };
        match self.buckets.iter().find(|(_, bucket)| same(bucket)) {
            Some(&(number, _)) => number,
            None => {
                let shapes = inputs.iter().map(|input| input.as_ref().map(|tensor| tensor.shape[1..].into())).collect();
                self.new_bucket(version, shapes)
            }
        }
    }

    fn new_bucket(&mut self, version: Arc<Version>, shapes: SmallVec<[Option<Shape>; 2]>) -> u32 {
        self.next_bucket = self.next_bucket.wrapping_add(1);
        self.buckets.push((self.next_bucket, Bucket { version, shapes }));
        self.next_bucket
    }

    fn version_of(&self, bucket: u32) -> Option<&Arc<Version>> {
        self.buckets.iter().find(|(number, _)| *number == bucket).map(|(_, bucket)| &bucket.version)
    }

    /// Settles jobs that cannot make their deadlines, before they cost a run.
    /// Returns the most rows that the next run of the front bucket may have for
    /// the others to make theirs.
    fn drop_hopeless(&mut self, now: Instant) -> u32 {
        let Some((front, _)) = self.held.front() else { return u32::MAX };
        if self.held.iter().all(|(slot, _)| slot.deadline.is_none()) {
            return u32::MAX;
        }
        let bucket = front.bucket;
        let slots: Vec<Slot> = self.held.iter().map(|(slot, _)| *slot).collect();
        let Some(version) = self.version_of(bucket).cloned() else { return u32::MAX };
        let (verdict, run) = {
            let mut controller = version.controller.lock();
            let cap = if version.batches() { controller.cap() } else { 1 };
            let likely = controller.likely();
            let run = |rows| likely.map(|line| line.run(rows));
            let verdict = triage(&slots, bucket, cap, run, controller.fastest(1), now);
            let run = run(verdict.rows);
            (verdict, run)
        };
        let mut hopeless = verdict.hopeless.into_iter().peekable();
        let held = std::mem::take(&mut self.held);
        self.held.reserve(held.len());
        for (at, (slot, item)) in held.into_iter().enumerate() {
            let left = slot.deadline.map(|deadline| deadline.saturating_duration_since(now));
            match left {
                Some(left) if hopeless.next_if_eq(&at).is_some() || left.is_zero() => {
                    self.give_up(slot, &item, left, run);
                }
                _ => self.held.push_back((slot, item)),
            }
        }
        verdict.rows
    }

    fn give_up(&mut self, slot: Slot, item: &Item, left: Duration, run: Option<Duration>) {
        if let Some(version) = self.version_of(slot.bucket) {
            version.stats.expired();
        }
        self.rows = self.rows.saturating_sub(slot.rows);
        let message = match run {
            Some(run) if !left.is_zero() => format!(
                "the deadline is in {:.1} ms and a run takes {:.1} ms; allow more time or send less",
                left.as_secs_f64() * 1e3,
                run.as_secs_f64() * 1e3
            ),
            _ => "the deadline passed while the job waited; allow more time or send less".to_owned(),
        };
        let error = JobError { code: ErrorCode::DeadlineExceeded, message };
        self.desk.settle(Settlement { id: item.job.id, token: item.job.token, outcome: Outcome::Expired(error) });
    }

    fn drop_lost(&mut self) {
        if !self.desk.any_lost() {
            return;
        }
        let lost = self.desk.lost();
        self.held.retain(|(_, item)| !lost.contains(&item.lease()));
        self.rows = self.held.iter().map(|(slot, _)| slot.rows).sum();
    }
}

/// Most rows of this item's shape that fit the byte bound.
fn rows_within(bytes: u64, item: &Item) -> u32 {
    let size: usize = item
        .inputs
        .iter()
        .flatten()
        .map(|tensor| if tensor.datatype == Datatype::Bytes { tensor.data.len() * 2 } else { tensor.data.len() })
        .sum();
    let per_row = (size as u64 / u64::from(item.rows.max(1))).max(1);
    u32::try_from(bytes / per_row).unwrap_or(u32::MAX).max(1)
}

impl Form for Intake {
    type Batch = Batch;

    fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    fn room(&self) -> usize {
        let table = self.model.table();
        let cap = table.versions.get(table.default).map_or(1, |version| match version.batches() {
            true => version.controller.lock().cap(),
            false => 1,
        });
        (cap.saturating_sub(self.rows) as usize).min(MAX_LEASE)
    }

    fn admit(&mut self, jobs: Vec<LeasedJob>, now: Instant) {
        self.held.reserve(jobs.len());
        for job in jobs {
            self.take(job, now);
        }
    }

    fn next(&mut self, now: Instant) -> Next<Batch> {
        self.drop_lost();
        let most = self.drop_hopeless(now);
        let Some((front, first)) = self.held.front() else {
            self.buckets.clear();
            return Next::Empty;
        };
        let Some(version) = self.version_of(front.bucket).cloned() else { return Next::Empty };
        let (cap, limits) = {
            let mut controller = version.controller.lock();
            let cap = controller.cap().min(most).min(rows_within(version.max_batch_bytes, first));
            let delay = if version.batches() { controller.delay() } else { Duration::ZERO };
            let waits = !delay.is_zero() && controller.heeds_deadlines();
            let run = if waits { controller.predict(cap) } else { None };
            (cap, Limits { rows: cap, delay, run })
        };
        let one_bucket = self.held.iter().all(|(slot, _)| slot.bucket == front.bucket);
        if one_bucket && self.rows <= cap && limits.delay.is_zero() {
            // The common case needs no plan: everything held is one batch.
            self.rows = 0;
            let number = front.bucket;
            self.buckets.retain(|(own, _)| *own == number);
            let items = self.held.drain(..).map(|(_, item)| item).collect();
            return Next::Run(Batch { version, items, cap });
        }
        let slots: Vec<Slot> = self.held.iter().map(|(slot, _)| *slot).collect();
        match plan(&slots, &limits, now) {
            Plan::Wait(wait) => Next::Wait(wait),
            Plan::Run(picked) => {
                let mut items = Vec::with_capacity(picked.len());
                let mut picked = picked.into_iter().peekable();
                let mut kept = VecDeque::with_capacity(self.held.len());
                for (at, (slot, item)) in std::mem::take(&mut self.held).into_iter().enumerate() {
                    if picked.next_if_eq(&at).is_some() {
                        self.rows = self.rows.saturating_sub(slot.rows);
                        items.push(item);
                    } else {
                        kept.push_back((slot, item));
                    }
                }
                self.held = kept;
                // Stale buckets would keep a replaced version in memory.
                let held = &self.held;
                self.buckets.retain(|(own, _)| held.iter().any(|(slot, _)| slot.bucket == *own));
                Next::Run(Batch { version, items, cap })
            }
        }
    }

    fn release(&mut self) -> Vec<Lease> {
        self.rows = 0;
        self.held.drain(..).map(|(_, item)| item.lease()).collect()
    }
}
