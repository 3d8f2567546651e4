//! The batch queue: leased jobs on their way to a run, decoded, checked, bucketed and planned.
//!
//! The queue's backend hands jobs in and asks for batches ([`Batcher`]). A job
//! that cannot run (undecodable, misfit, unknown version, a deadline it cannot
//! make) is settled here, before it costs a run or a neighbour.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nobat_core::ErrorCode;
use nobat_core::infer::InferRequest;
use nobat_core::job::{JobError, LeasedJob, Outcome, Settlement};
use nobat_core::retry::RetryPolicy;
use nobat_core::tensor::{Datatype, Shape, Tensor};
use nobat_queue::backend::{Batcher, Lease, LeaseTracker, Next};
use smallvec::SmallVec;
use smol_str::SmolStr;

use super::planner::{Limits, Plan, PlannedBatch, Slot, plan};
use super::triage::{Triage, triage};
use crate::model::{Model, Version};

/// Most jobs leased at once, whatever the cap: more puts all sessions in
/// lockstep and keeps jobs from idle workers.
const MAX_LEASE: usize = 64;
/// Weight of a job in the average of rows.
const NEWEST: f64 = 0.125;

/// A job ready to run.
#[derive(Debug)]
pub(crate) struct ReadyJob {
    pub(crate) leased: LeasedJob,
    /// Inputs by position in the signature; `None` where an optional one is left out.
    pub(crate) inputs: SmallVec<[Option<Tensor>; 2]>,
    /// Outputs asked for; empty for all.
    pub(crate) outputs: Vec<SmolStr>,
    /// Rows along the batch axis; 1 for a model without one.
    pub(crate) rows: u32,
    pub(crate) since: Instant,
    pub(crate) deadline: Option<Instant>,
}

impl ReadyJob {
    pub(crate) fn lease(&self) -> Lease {
        (self.leased.id, self.leased.token)
    }
}

#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) version: Arc<Version>,
    pub(crate) jobs: Vec<ReadyJob>,
    /// Most rows in one run: a job of more is split.
    pub(crate) cap: u32,
    /// The controller's cap, where these jobs fill it as far as the next one
    /// allowed; else 0.
    pub(crate) fills: u32,
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
pub(crate) struct BatchQueue {
    model: Arc<Model>,
    tracker: Arc<LeaseTracker>,
    held: VecDeque<(Slot, ReadyJob)>,
    /// Rows of a job, on average: jobs are leased, rows are run.
    job_rows: f64,
    buckets: Vec<(u32, Bucket)>,
    next_bucket: u32,
}

impl BatchQueue {
    /// An empty batch queue for one session of `model`.
    pub(crate) fn new(model: Arc<Model>, tracker: Arc<LeaseTracker>) -> BatchQueue {
        let (held, buckets) = (VecDeque::new(), Vec::new());
        BatchQueue { model, tracker, held, job_rows: 1.0, buckets, next_bucket: 0 }
    }

    fn take(&mut self, job: LeasedJob, now: Instant) {
        let deadline = job.time_left.map(|left| now + left);
        let (id, token, attempt, retry) = (job.id, job.token, job.attempt, job.retry);
        match self.prepare(job, now, deadline) {
            Ok((bucket, item)) => {
                let slot = Slot { bucket, rows: item.rows, bytes: input_bytes(&item.inputs), since: now, deadline };
                self.held.push_back((slot, item));
            }
            Err(error) => {
                // A version that is loading here or ready elsewhere is worth a retry; a misfit is not.
                let again = matches!(error.code, ErrorCode::ModelNotReady | ErrorCode::VersionNotFound);
                let retry_in = again.then(|| retry_delay(retry, attempt)).flatten();
                let error = JobError { code: error.code, message: error.message };
                self.tracker.settle(Settlement { id, token, outcome: Outcome::Failed { error, retry_in } });
            }
        }
    }

    fn prepare(
        &mut self,
        job: LeasedJob,
        now: Instant,
        deadline: Option<Instant>,
    ) -> nobat_core::Result<(u32, ReadyJob)> {
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
        // A job over the cap counts as one full run.
        self.job_rows += (f64::from(rows.min(signature.max_batch_size)) - self.job_rows) * NEWEST;
        let bucket = self.bucket(version, &inputs, job.deaths > 0);
        Ok((bucket, ReadyJob { leased: job, inputs, outputs: request.outputs, rows, since: now, deadline }))
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
    /// Returns the most rows that the next run of a bucket may have for the
    /// others in it to make theirs; buckets without deadlines are not in it.
    fn drop_hopeless(&mut self, now: Instant) -> Allowed {
        let mut allowed = Allowed::new();
        if self.held.iter().all(|(slot, _)| slot.deadline.is_none()) {
            return allowed;
        }
        let slots: Vec<Slot> = self.held.iter().map(|(slot, _)| *slot).collect();
        let mut hopeless: Vec<(usize, Option<Duration>)> = Vec::new();
        for (bucket, Bucket { version, .. }) in &self.buckets {
            if slots.iter().any(|slot| slot.bucket == *bucket && slot.deadline.is_some()) {
                let (verdict, run) = judge(version, &slots, *bucket, now);
                allowed.push((*bucket, verdict.rows));
                hopeless.extend(verdict.hopeless.into_iter().map(|at| (at, run)));
            }
        }
        if hopeless.is_empty() {
            return allowed;
        }
        hopeless.sort_unstable_by_key(|&(at, _)| at);
        let mut hopeless = hopeless.into_iter().peekable();
        let held = std::mem::take(&mut self.held);
        self.held.reserve(held.len());
        for (at, (slot, item)) in held.into_iter().enumerate() {
            match hopeless.next_if(|&(own, _)| own == at) {
                Some((_, run)) => self.give_up(slot, &item, run, now),
                None => self.held.push_back((slot, item)),
            }
        }
        allowed
    }

    fn give_up(&mut self, slot: Slot, item: &ReadyJob, run: Option<Duration>, now: Instant) {
        if let Some(version) = self.version_of(slot.bucket) {
            version.stats.expired();
        }
        let left = slot.deadline.map_or(Duration::ZERO, |deadline| deadline.saturating_duration_since(now));
        let message = match run {
            Some(run) if !left.is_zero() => format!(
                "the deadline is in {:.1} ms and a run takes {:.1} ms; allow more time or send less",
                left.as_secs_f64() * 1e3,
                run.as_secs_f64() * 1e3
            ),
            _ => "the deadline passed while the job waited; allow more time or send less".to_owned(),
        };
        let error = JobError { code: ErrorCode::DeadlineExceeded, message };
        self.tracker.settle(Settlement {
            id: item.leased.id,
            token: item.leased.token,
            outcome: Outcome::Expired(error),
        });
    }

    /// Takes what was picked of the held jobs.
    fn batch(&mut self, picked: PlannedBatch, slots: &[Slot]) -> Next<Batch> {
        let first = &slots[picked.slots[0]];
        let Some(version) = self.version_of(first.bucket).cloned() else { return Next::Empty };
        let cap = if picked.slots.len() == 1 { piece(&version, first) } else { u32::MAX };
        let mut jobs = Vec::with_capacity(picked.slots.len());
        let mut at_picked = picked.slots.into_iter().peekable();
        let mut kept = VecDeque::with_capacity(self.held.len());
        for (at, (slot, item)) in std::mem::take(&mut self.held).into_iter().enumerate() {
            if at_picked.next_if_eq(&at).is_some() {
                jobs.push(item);
            } else {
                kept.push_back((slot, item));
            }
        }
        self.held = kept;
        // Stale buckets would keep a replaced version in memory.
        let held = &self.held;
        self.buckets.retain(|(own, _)| held.iter().any(|(slot, _)| slot.bucket == *own));
        Next::Run(Batch { version, jobs, cap, fills: picked.fills })
    }

    /// Rows and bytes of all that is held.
    fn size(&self) -> (u32, u64) {
        let add = |(rows, bytes): (u32, u64), (slot, _): &(Slot, ReadyJob)| {
            (rows.saturating_add(slot.rows), bytes.saturating_add(slot.bytes))
        };
        self.held.iter().fold((0, 0), add)
    }

    fn drop_lost(&mut self) {
        let lost = self.tracker.take_lost();
        if !lost.is_empty() {
            self.held.retain(|(_, item)| !lost.contains(&item.lease()));
        }
    }
}

/// When a failed attempt runs again, with jitter; `None` where it was the last.
pub(crate) fn retry_delay(retry: RetryPolicy, attempt: u32) -> Option<Duration> {
    // Without entropy the schedule has no jitter, which only spreads retries less.
    retry.next_delay(attempt, getrandom::u32().unwrap_or(0))
}

/// Most rows of a bucket's next run, where deadlines limit it.
type Allowed = SmallVec<[(u32, u32); 2]>;

/// Triage of a bucket, and how long a run of the size that it allows takes.
fn judge(version: &Version, slots: &[Slot], bucket: u32, now: Instant) -> (Triage, Option<Duration>) {
    let mut controller = version.controller.lock();
    let cap = if version.batches() { controller.cap() } else { 1 };
    let line = controller.latency().p75(now);
    let run = |rows| line.map(|line| line.run(rows));
    let own = || slots.iter().filter(|slot| slot.bucket == bucket);
    let least = own().map(|slot| slot.rows).min().unwrap_or(1);
    let mut verdict = triage(slots, bucket, cap, run, controller.latency().fastest(least, now), now);
    if verdict.hopeless.len() == own().count() {
        // Nothing of the bucket would run, so nothing new would be measured.
        let passed = |&at: &usize| slots[at].deadline.is_some_and(|deadline| deadline <= now);
        if !verdict.hopeless.iter().all(passed) && controller.latency().allow_test_run(now) {
            verdict.hopeless.retain(passed);
            verdict.rows = cap;
        }
    }
    let run = run(verdict.rows);
    (verdict, run)
}

/// What the version's controller allows a run now, of `most` rows at most.
fn limits(version: &Version, most: u32, now: Instant) -> Limits {
    let mut controller = version.controller.lock();
    let (cap, delay) = match version.batches() {
        true => (controller.cap(), controller.delay()),
        // One job, however large: the first one is always picked.
        false => (1, Duration::ZERO),
    };
    let rows = cap.min(most);
    let run = if delay.is_zero() { None } else { controller.run(rows, now) };
    Limits { rows, bytes: version.max_batch_bytes, delay, run }
}

/// Most rows of a job in one run: all of them where jobs run alone, if the bytes allow it.
fn piece(version: &Version, slot: &Slot) -> u32 {
    let cap = if version.batches() { version.controller.lock().cap() } else { u32::MAX };
    let per_row = (slot.bytes / u64::from(slot.rows.max(1))).max(1);
    let within = u32::try_from(version.max_batch_bytes / per_row).unwrap_or(u32::MAX);
    cap.min(within).max(1)
}

/// Bytes of a job's inputs in a run; texts are copied out of their frames.
fn input_bytes(inputs: &[Option<Tensor>]) -> u64 {
    let bytes = |tensor: &Tensor| tensor.data.len() as u64 * if tensor.datatype == Datatype::Bytes { 2 } else { 1 };
    inputs.iter().flatten().map(bytes).sum()
}

impl Batcher for BatchQueue {
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
        // Rounded up: that the next job does not fit shows that the cap is too small.
        let jobs = f64::from(cap.saturating_sub(self.size().0)) / self.job_rows;
        (jobs.ceil() as usize).min(MAX_LEASE)
    }

    fn admit(&mut self, jobs: Vec<LeasedJob>, now: Instant) {
        self.held.reserve(jobs.len());
        for job in jobs {
            self.take(job, now);
        }
    }

    fn next(&mut self, now: Instant) -> Next<Batch> {
        self.drop_lost();
        let allowed = self.drop_hopeless(now);
        let Some((front, _)) = self.held.front() else {
            self.buckets.clear();
            return Next::Empty;
        };
        let Some(version) = self.version_of(front.bucket) else { return Next::Empty };
        let most = |bucket| allowed.iter().find(|(own, _)| *own == bucket).map_or(u32::MAX, |&(_, rows)| rows);
        let of_front = limits(version, most(front.bucket), now);
        let one_bucket = self.held.iter().all(|(slot, _)| slot.bucket == front.bucket);
        let (rows, bytes) = self.size();
        let fits = rows <= of_front.rows && bytes <= of_front.bytes;
        if one_bucket && fits && of_front.delay.is_zero() {
            // The common case needs no plan: all jobs are one batch.
            let (version, number) = (Arc::clone(version), front.bucket);
            self.buckets.retain(|(own, _)| *own == number);
            let jobs = self.held.drain(..).map(|(_, item)| item).collect();
            return Next::Run(Batch { version, jobs, cap: u32::MAX, fills: 0 });
        }
        let slots: Vec<Slot> = self.held.iter().map(|(slot, _)| *slot).collect();
        let limits_of = |bucket| match self.version_of(bucket) {
            Some(version) if bucket != front.bucket => limits(version, most(bucket), now),
            _ => of_front,
        };
        match plan(&slots, limits_of, self.room() > 0, now) {
            Plan::Wait(wait) => Next::Wait(wait),
            Plan::Run(picked) => self.batch(picked, &slots),
        }
    }

    fn release(&mut self) -> Vec<Lease> {
        self.held.drain(..).map(|(_, item)| item.lease()).collect()
    }
}
