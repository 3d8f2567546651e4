//! The batch queue: leased jobs on their way to a run, decoded, checked, bucketed and planned.
//!
//! The queue's backend hands jobs in and asks for batches ([`Batcher`]). A job
//! that cannot run (undecodable, misfit, unknown version, a deadline it cannot
//! make) is settled here, before it costs a run or a neighbour.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nobat_core::infer::InferRequest;
use nobat_core::job::{BACKGROUND, JobError, LeasedJob, Outcome, Settlement};
use nobat_core::tensor::{Datatype, Shape, Tensor};
use nobat_core::{Error, ErrorCode};
use nobat_queue::backend::{Batcher, Lease, LeaseTracker, Next};
use smallvec::SmallVec;
use smol_str::SmolStr;
use tokio::sync::Notify;

use super::held_rows::{RowBatch, Seat};
use super::judge::{judge, limits, too_late};
use super::planner::{Plan, PlannedBatch, Slot, plan};
use super::row_pool::{NewRowJob, RowPool};
use crate::chain::runner::ChainRunner;
use crate::chain::site::{ChainJob, Site};
use crate::chain::step_queue::{StepSeat, is_step};
use crate::model::{Model, Version};
use crate::run::answer::retry_delay;

/// Most jobs leased at once, whatever the cap: more puts all sessions in
/// lockstep and keeps jobs from idle workers.
const MAX_LEASE: usize = 64;
/// Rows of chains' steps taken at once for a model whose rows are held together.
const MAX_STEPS: u32 = 64;
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

/// What a session runs next.
#[derive(Debug)]
pub(crate) enum Work {
    /// Whole jobs.
    Jobs(Batch),
    /// Rows of jobs of a transformed model.
    Rows(RowBatch),
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
    /// What is shared with the model's other sessions, where a version is transformed.
    shared: Option<SharedRows>,
    /// Told by steps of chains, by the pool, and by chains that are done.
    wake: Arc<Notify>,
    /// This session's end of what chains ask of the model.
    seat: Arc<StepSeat>,
    /// Carries out jobs of versions that are chains.
    chains: Option<ChainRunner>,
}

struct SharedRows {
    pool: Arc<RowPool>,
    seat: Arc<Seat>,
}

impl BatchQueue {
    /// An empty batch queue for one session of `model`; `pool` holds the rows of its
    /// transformed versions, if it has any, under the same tracker.
    pub(crate) fn new(model: Arc<Model>, tracker: Arc<LeaseTracker>, pool: Option<Arc<RowPool>>) -> BatchQueue {
        let (held, buckets) = (VecDeque::new(), Vec::new());
        let shared = pool.map(|pool| SharedRows { seat: pool.seat(), pool });
        let wake: Arc<Notify> = shared.as_ref().map(|shared| Arc::clone(&shared.seat.wake)).unwrap_or_default();
        let seat = model.steps().seat(Arc::clone(&wake));
        BatchQueue { model, tracker, held, job_rows: 1.0, buckets, next_bucket: 0, shared, wake, seat, chains: None }
    }

    /// The same, which carries out chains by what `site` says.
    pub(crate) fn with_chains(mut self, site: Arc<Site>) -> BatchQueue {
        self.chains = Some(ChainRunner::new(site, Arc::clone(&self.tracker), Arc::clone(&self.wake)));
        self
    }

    fn take(&mut self, job: LeasedJob, request: Option<InferRequest>, now: Instant) {
        let deadline = job.time_left.map(|left| now + left);
        let (id, token, attempt, retry) = (job.id, job.token, job.attempt, job.retry);
        match self.prepare(job, request, now, deadline) {
            Ok(None) => {}
            Ok(Some((bucket, item))) => {
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

    /// A job ready to run, with its bucket; `None` where its rows are on their way into the pool.
    fn prepare(
        &mut self,
        job: LeasedJob,
        request: Option<InferRequest>,
        now: Instant,
        deadline: Option<Instant>,
    ) -> nobat_core::Result<Option<(u32, ReadyJob)>> {
        let mut request = match request {
            Some(request) => request,
            None => InferRequest::decode(job.payload.clone())?,
        };
        let version = self.model.resolve(&request.version)?;
        let background = request.parameters.take(BACKGROUND).is_some();
        let signature = &version.signature;
        // The gateway checked it against the signature of its time; a reload may have changed it since.
        let rows = signature.validate(&request)?;
        if let Some(chain) = version.chain.clone() {
            let Some(chains) = &self.chains else {
                return Err(Error::internal("a session has no runner for a chain"));
            };
            let steps = Default::default();
            let job = ChainJob { leased: job, version, request, rows, background, since: now, deadline, steps };
            chains.admit(job, &chain);
            return Ok(None);
        }
        let mut inputs: SmallVec<[Option<Tensor>; 2]> = SmallVec::new();
        inputs.resize(signature.inputs.len(), None);
        for tensor in std::mem::take(&mut request.inputs) {
            if let Some(at) = signature.inputs.iter().position(|spec| spec.name == tensor.name) {
                inputs[at] = Some(tensor);
            }
        }
        if version.transformed.is_some() {
            let Some(SharedRows { pool, .. }) = &self.shared else {
                return Err(Error::internal("a session has no pool for a transformed model"));
            };
            self.job_rows += (f64::from(rows.min(MAX_LEASE as u32)) - self.job_rows) * NEWEST;
            pool.admit(NewRowJob { leased: job, version, request, inputs, rows, background, since: now, deadline });
            return Ok(None);
        }
        // A job over the cap counts as one full run.
        self.job_rows += (f64::from(rows.min(signature.max_batch_size)) - self.job_rows) * NEWEST;
        let bucket = self.bucket(version, &inputs, job.deaths > 0);
        Ok(Some((bucket, ReadyJob { leased: job, inputs, outputs: request.outputs, rows, since: now, deadline })))
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
        let outcome = too_late(slot.deadline, run, now);
        self.tracker.settle(Settlement { id: item.leased.id, token: item.leased.token, outcome });
    }

    /// Takes what was picked of the held jobs.
    fn batch(&mut self, picked: PlannedBatch, slots: &[Slot]) -> Next<Work> {
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
        Next::Run(Work::Jobs(Batch { version, jobs, cap, fills: picked.fills }))
    }

    /// What of the jobs that are whole runs next.
    fn next_of_held(&mut self, now: Instant) -> Next<Work> {
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
            return Next::Run(Work::Jobs(Batch { version, jobs, cap: u32::MAX, fills: 0 }));
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

    /// Takes what chains ask of the model, beside what the queue gives: neither waits for the other.
    fn take_steps(&mut self, now: Instant) {
        let steps = Arc::clone(self.model.steps());
        let held = self.rows_held(true);
        for (job, request) in steps.take(&self.seat, self.step_room().saturating_sub(held), held == 0) {
            self.take(job, Some(request), now);
        }
    }

    /// Most rows of steps to hold.
    fn step_room(&self) -> u32 {
        let table = self.model.table();
        match table.versions.get(table.default) {
            Some(version) if version.chain.is_some() || version.transformed.is_some() => MAX_STEPS,
            Some(version) if version.batches() => version.controller.lock().cap(),
            _ => 1,
        }
    }

    /// Rows that are held of chains' steps, or of the queue's jobs.
    fn rows_held(&self, of_steps: bool) -> u32 {
        let own = self.held.iter().filter(|(_, item)| is_step(&item.lease()) == of_steps);
        own.fold(0, |rows, (slot, _)| rows.saturating_add(slot.rows))
    }

    /// Rows and bytes of all that is held.
    fn size(&self) -> (u32, u64) {
        let add = |(rows, bytes): (u32, u64), (slot, _): &(Slot, ReadyJob)| {
            (rows.saturating_add(slot.rows), bytes.saturating_add(slot.bytes))
        };
        self.held.iter().fold((0, 0), add)
    }

    fn drop_lost(&mut self) {
        let mut lost = self.tracker.take_lost();
        lost.extend(self.model.steps().cancelled(&self.seat));
        if !lost.is_empty() {
            if let Some(chains) = &self.chains {
                chains.drop_lost(&lost);
            }
            if let Some(SharedRows { pool, .. }) = &self.shared {
                pool.drop_lost(&lost);
            }
            self.held.retain(|(_, item)| !lost.contains(&item.lease()));
        }
    }
}

/// Most rows of a bucket's next run, where deadlines limit it.
type Allowed = SmallVec<[(u32, u32); 2]>;

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
    type Batch = Work;

    fn is_empty(&self) -> bool {
        let nothing_shared = self.shared.as_ref().is_none_or(|shared| shared.pool.is_empty());
        self.held.is_empty() && nothing_shared && self.model.steps().is_empty()
    }

    fn woken(&self) -> Option<Arc<Notify>> {
        Some(Arc::clone(&self.wake))
    }

    fn room(&self) -> usize {
        let table = self.model.table();
        let default = table.versions.get(table.default);
        if let Some(chain) = default.and_then(|own| own.chain.as_ref())
            && let Some(chains) = &self.chains
        {
            return chains.room(chain).min(MAX_LEASE);
        }
        // What is held of the other kind of versions takes its place too, or it would be leased without end.
        if let Some(pool) = self.default_pool() {
            return self.jobs_of(pool.room());
        }
        let cap = default.map_or(1, |version| match version.batches() {
            true => version.controller.lock().cap(),
            false => 1,
        });
        // Rounded up: that the next job does not fit shows that the cap is too small.
        let jobs = f64::from(cap.saturating_sub(self.rows_held(false))) / self.job_rows;
        let in_pool = self.shared.as_ref().map_or(0, |shared| shared.pool.jobs());
        (jobs.ceil() as usize).min(MAX_LEASE).saturating_sub(in_pool)
    }

    fn room_above(&self) -> Option<(usize, i16)> {
        // What is not held in a pool is in the next run or two anyway.
        let (rows, level) = self.default_pool()?.room_above()?;
        Some((self.jobs_of(rows), level)).filter(|&(jobs, _)| jobs > 0)
    }

    fn admit(&mut self, jobs: Vec<LeasedJob>, now: Instant) {
        self.held.reserve(jobs.len());
        for job in jobs {
            self.take(job, None, now);
        }
    }

    fn next(&mut self, now: Instant) -> Next<Work> {
        self.drop_lost();
        self.take_steps(now);
        let next = self.next_of_all(now);
        if let Next::Run(_) = next {
            self.model.steps().runs(&self.seat);
        }
        next
    }

    fn release(&mut self) -> Vec<Lease> {
        let shared = self.shared.as_ref().map(|shared| shared.pool.release());
        let chains = self.chains.as_ref().map(ChainRunner::release);
        let held = self.held.drain(..).map(|(_, item)| item.lease());
        let all = held.chain(shared.into_iter().flatten()).chain(chains.into_iter().flatten());
        let (steps, of_store): (Vec<Lease>, Vec<Lease>) = all.partition(is_step);
        // Their chains look for another session.
        for (id, token) in steps {
            self.tracker.settle(Settlement { id, token, outcome: Outcome::Released });
        }
        of_store
    }
}

impl BatchQueue {
    /// The pool, where the model's default version has its rows there.
    fn default_pool(&self) -> Option<&RowPool> {
        let table = self.model.table();
        let transformed = table.versions.get(table.default).is_some_and(|own| own.transformed.is_some());
        self.shared.as_ref().map(|shared| &*shared.pool).filter(|_| transformed)
    }

    /// Jobs of so many rows together.
    fn jobs_of(&self, rows: u32) -> usize {
        let jobs = f64::from(rows) / self.job_rows;
        (jobs.ceil() as usize).min(MAX_LEASE).saturating_sub(self.held.len())
    }

    /// What of all that is held runs next.
    fn next_of_all(&mut self, now: Instant) -> Next<Work> {
        let own = self.next_of_held(now);
        let Some(SharedRows { pool, seat }) = &self.shared else { return own };
        match own {
            // Versions of both kinds are a change from one to the other: the old one ends first.
            Next::Run(_) => own,
            _ => match (pool.next(seat, self.room() > 0, now), own) {
                (Next::Run(batch), _) => Next::Run(Work::Rows(batch)),
                (Next::Wait(wait), Next::Wait(other)) => Next::Wait(wait.min(other)),
                (Next::Wait(wait), _) | (Next::Empty, Next::Wait(wait)) => Next::Wait(wait),
                (Next::Empty, _) => Next::Empty,
            },
        }
    }
}
