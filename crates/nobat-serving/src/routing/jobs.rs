//! Jobs of routes at work: whichever gateway leases one carries the route out
//! and settles it with the joined answer, as a worker settles a model's job.
//!
//! The parent is an ordinary job, so its state, deadline, webhook, cancelling,
//! dead letter and ttl are those of any other. Its children are enqueued by the
//! gateway that holds it and dropped with it.
//!
//! Invariants:
//! - A gateway killed while it holds a parent loses nothing: the lease expires,
//!   another one carries the route out again, children included (at-least-once).
//! - A parent that was cancelled drops its children at the next renewal; those
//!   still queued are cancelled.
//! - A queue of jobs is served from its first job on; see `nobat_queue::route_jobs`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::stream::{FuturesUnordered, StreamExt};
use nobat_core::job::{JobError, JobOptions, JobResult, LeaseToken, LeasedJob, Outcome, Settlement};
use nobat_core::tags::Tags;
use nobat_core::timings::Timings;
use nobat_core::{Error, ErrorCode, JobId, OwnerId, Result};
use nobat_queue::{Consumer, Renewal, Renewer, route_jobs};
use smol_str::SmolStr;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use super::parent::RouteRequest;
use super::run;
use crate::context::RequestContext;
use crate::model_calls::ModelCalls;
use crate::prediction::Prediction;
use crate::state::ServingState;

/// Parents of one route that one gateway carries out at once.
const AT_ONCE: usize = 64;
/// How often routes that came into use are looked for.
const LOOK: Duration = Duration::from_secs(1);
/// Pause after the store could not be reached, and before a route whose models
/// have no worker is tried again.
const AWAY: Duration = Duration::from_secs(1);
/// Longest a parent without a deadline is carried out.
const PATIENCE: Duration = Duration::from_secs(86_400);

/// This gateway's serving of the routes' queues.
pub struct RouteJobs {
    stop: watch::Sender<bool>,
    serving: JoinHandle<()>,
}

impl RouteJobs {
    /// Begins to serve. Call it inside the runtime that is to do it.
    pub fn start(state: Arc<ServingState>) -> RouteJobs {
        let (stop, stopped) = watch::channel(false);
        RouteJobs { stop, serving: tokio::spawn(serve_all(ModelCalls::new(state), stopped)) }
    }

    /// Gives back what is leased, in its old place, and ends.
    pub async fn stop(self) {
        let _ = self.stop.send(true);
        if let Err(error) = self.serving.await {
            log::warn!("routes: the serving of jobs ended early: {error}");
        }
    }
}

async fn serve_all(calls: ModelCalls, mut stop: watch::Receiver<bool>) {
    let mut served: HashMap<SmolStr, JoinHandle<()>> = HashMap::new();
    loop {
        for route in calls.state.routes.in_use().iter() {
            if !served.contains_key(route) {
                let serving = tokio::spawn(serve_route(calls.clone(), route.clone(), stop.clone()));
                served.insert(route.clone(), serving);
            }
        }
        tokio::select! {
            () = stopped(&mut stop) => break,
            () = tokio::time::sleep(LOOK) => {}
        }
    }
    for (_, serving) in served {
        let _ = serving.await;
    }
}

/// Resolves when this gateway stops, or forgot to say so.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Serves one route's queue until `stop`, whatever happens to the store.
async fn serve_route(calls: ModelCalls, route: SmolStr, mut stop: watch::Receiver<bool>) {
    let queue = calls.state.queue.clone();
    let name = route_jobs::queue_of(&route);
    let opened = async {
        loop {
            match futures::try_join!(queue.consumer(&name, "gateway"), queue.renewer()) {
                Ok(opened) => return opened,
                Err(error) => {
                    log::debug!(route = route.as_str(); "routes: waiting for the queue: {error}");
                    tokio::time::sleep(AWAY).await;
                }
            }
        }
    };
    let (consumer, renewer) = tokio::select! {
        () = stopped(&mut stop) => return,
        opened = opened => opened,
    };
    Serving { calls, route, queue: name, consumer, renewer, held: HashMap::new(), settle: Vec::new() }
        .until(stop)
        .await;
}

struct Serving {
    calls: ModelCalls,
    route: SmolStr,
    queue: SmolStr,
    consumer: Box<dyn Consumer>,
    renewer: Box<dyn Renewer>,
    /// What is leased; dropping the sender drops what runs for it.
    held: HashMap<JobId, (LeaseToken, oneshot::Sender<()>)>,
    settle: Vec<Settlement>,
}

impl Serving {
    async fn until(mut self, mut stop: watch::Receiver<bool>) {
        let lease = Duration::from_millis(u64::from(self.calls.state.queue.settings().lease_ms));
        let mut renewal = tokio::time::interval((lease / 3).max(Duration::from_millis(10)));
        let mut running = FuturesUnordered::new();
        let mut more = true;
        loop {
            let room = AT_ONCE - self.held.len();
            if !self.settle.is_empty() || (more && room > 0) {
                match self.consumer.settle_and_lease(std::mem::take(&mut self.settle), room).await {
                    Ok(step) => {
                        more = step.more;
                        for job in step.leased {
                            let (hold, lost) = oneshot::channel();
                            self.held.insert(job.id, (job.token, hold));
                            running.push(carry_out(self.calls.clone(), self.route.clone(), job, lost));
                        }
                    }
                    // What was to be settled is kept by the consumer and sent again.
                    Err(error) => {
                        log::debug!(route = self.route.as_str(); "routes: waiting for the queue: {error}");
                        more = true;
                        tokio::time::sleep(AWAY).await;
                    }
                }
            }
            tokio::select! {
                () = stopped(&mut stop) => break,
                Some((id, outcome)) = running.next() => {
                    if let (Some((token, _)), Some(outcome)) = (self.held.remove(&id), outcome) {
                        self.settle.push(Settlement { id, token, outcome });
                    }
                }
                () = self.consumer.idle(), if !more && self.held.len() < AT_ONCE => more = true,
                _ = renewal.tick(), if !self.held.is_empty() => self.renew().await,
                () = std::future::ready(()), if more && self.held.len() < AT_ONCE => {}
            }
        }
        drop(running);
        let released = self.held.into_iter();
        self.settle.extend(released.map(|(id, (token, _))| Settlement { id, token, outcome: Outcome::Released }));
        if !self.settle.is_empty()
            && let Err(error) = self.consumer.settle_and_lease(self.settle, 0).await
        {
            log::warn!(route = self.route.as_str(); "routes: leases are left to expire: {error}");
        }
    }

    /// Keeps the leases; what was lost or cancelled is dropped.
    async fn renew(&mut self) {
        let leases: Vec<(JobId, LeaseToken)> = self.held.iter().map(|(id, (token, _))| (*id, *token)).collect();
        match self.renewer.renew(&self.queue, &leases).await {
            Ok(renewals) => {
                for ((id, _), renewal) in leases.iter().zip(renewals) {
                    if renewal == Renewal::Lost {
                        self.held.remove(id);
                    }
                }
            }
            Err(error) => log::debug!(route = self.route.as_str(); "routes: leases are renewed later: {error}"),
        }
    }
}

/// Runs one parent; no outcome when its lease was lost meanwhile.
async fn carry_out(
    calls: ModelCalls,
    route: SmolStr,
    job: LeasedJob,
    lost: oneshot::Receiver<()>,
) -> (JobId, Option<Outcome>) {
    let outcome = tokio::select! {
        _ = lost => None,
        answer = answer(&calls, &route, &job) => Some(outcome(&job, answer)),
    };
    (job.id, outcome)
}

/// Carries the route out, waiting for workers where there are none.
async fn answer(calls: &ModelCalls, route: &str, job: &LeasedJob) -> Result<Prediction> {
    let started = Instant::now();
    let patience = job.time_left.unwrap_or(PATIENCE);
    let owner = calls.state.queue.get(job.id).await?.map_or(OwnerId::ANONYMOUS, |view| view.owner);
    let RouteRequest { route_key, request } = RouteRequest::decode(&job.payload)?;
    let context = RequestContext::of_job(owner, job.trace.clone(), route_key);
    loop {
        let left = patience.saturating_sub(started.elapsed());
        let options = JobOptions {
            priority: job.priority,
            retry: job.retry,
            deadline: Some(left),
            tags: Tags::of_parent(job.id),
            ..JobOptions::default()
        };
        let tried = async {
            let plan = run::plan_for(&calls.state, &context, route)?;
            let mut prediction = run::carry_out(calls, &context, &plan, request.clone(), options).await?;
            // Of one child, whose own steps stand in its own job.
            if prediction.job.is_some() {
                let model = plan.models().first().copied().cloned().unwrap_or_default();
                prediction.timings.steps = run::told_of(&model, &prediction);
            }
            Ok::<_, Error>(prediction)
        };
        match tried.await {
            Err(error) if passes(error.code) && started.elapsed() + AWAY < patience => {
                log::debug!(route, job = job.id.to_string().as_str(); "routes: tried again: {error}");
                tokio::time::sleep(AWAY).await;
            }
            done => return done,
        }
    }
}

/// Whether this is a state of the deployment rather than of the request: a job
/// waits for its end, as a model's job waits for a worker.
fn passes(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::NoWorker
            | ErrorCode::ModelNotReady
            | ErrorCode::ModelNotFound
            | ErrorCode::QueueFull
            | ErrorCode::QueueUnavailable
    )
}

fn outcome(job: &LeasedJob, answer: Result<Prediction>) -> Outcome {
    match answer {
        Ok(prediction) => {
            let mut outputs = Vec::new();
            prediction.response.encode(&mut outputs);
            let timings = Timings { attempts: job.attempt, ..prediction.timings };
            Outcome::Succeeded(JobResult { timings, outputs: outputs.into() }.encode())
        }
        Err(Error { code: code @ ErrorCode::DeadlineExceeded, message, .. }) => {
            Outcome::Expired(JobError { code, message })
        }
        // Children had their own retries.
        Err(Error { code, message, .. }) => Outcome::Failed { error: JobError { code, message }, retry_in: None },
    }
}
