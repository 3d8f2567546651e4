//! The one way of a request, whatever its protocol: resolve -> validate ->
//! cache -> admit -> encode -> queue client.
//!
//! A protocol asks for a [`Target`] first (it may need the signature to decode
//! its body), builds an `InferRequest`, and hands both over. What comes back is
//! a [`Prediction`] to encode, a job to point at, or an [`Error`] to render.
//!
//! What few requests take (routes, the cache, webhooks) is boxed, so that the future
//! of the many stays small: it is moved several times on its way into the server.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use nobat_core::explain::Explain;
use nobat_core::infer::{InferRequest, InferResponse};
use nobat_core::job::{JobOptions, JobState, JobView, NewJob};
use nobat_core::{Error, ErrorCode, JobId, Result};
use nobat_queue::Accepted;
use nobat_queue::{QueueClient, route_jobs, watch};
use smol_str::SmolStr;

use crate::cache::{CacheKey, CacheOutcome, CacheSlot, Join};
use crate::context::RequestContext;
use crate::limits::backlog::{Caller, Place};
use crate::registry::{ModelEntry, Target, Want};
use crate::routing::{Plan, run};
use crate::state::ServingState;

/// One thread's way into the queue, over the shared state. Make one on each
/// thread, inside its runtime; clone it freely there.
#[derive(Clone)]
pub struct Predictor {
    state: Arc<ServingState>,
    queue_client: Arc<dyn QueueClient>,
}

/// An answered prediction.
#[derive(Clone, Debug)]
pub struct Prediction {
    /// The job that produced it; `None` when no job was needed.
    pub job: Option<JobId>,
    /// What the model's cache had to do with it.
    pub cache: CacheOutcome,
    /// Where its time went.
    pub explain: Explain,
    /// The outputs.
    pub response: InferResponse,
}

/// What a bounded wait ended with.
#[derive(Clone, Debug)]
pub enum Answer {
    /// The prediction.
    Done(Prediction),
    /// The wait ended first; the job goes on.
    Pending(Box<JobView>),
}

impl Predictor {
    /// Opens this thread's queue client. Call it on the thread that will use it, inside
    /// its tokio runtime.
    pub fn new(state: Arc<ServingState>) -> Predictor {
        let queue_client = state.queue.client();
        Predictor { state, queue_client }
    }

    /// The state all threads share.
    pub fn state(&self) -> &Arc<ServingState> {
        &self.state
    }

    /// This thread's queue client: for waiting on a job that is known already.
    pub fn queue_client(&self) -> &dyn QueueClient {
        &*self.queue_client
    }

    /// Finds the model version a caller asks for; `None` for the model means
    /// the default one.
    ///
    /// # Errors
    /// `model_not_found`, `version_not_found`, `model_not_ready`, `draining`.
    pub fn resolve(&self, model: Option<&str>, want: Want<'_>) -> Result<Target> {
        if self.state.is_draining() {
            return Err(Error::new(ErrorCode::Draining, "this gateway is shutting down; send to another one"));
        }
        if let Some(target) = model.and_then(|model| self.route(model, want)) {
            return target;
        }
        self.ask(model, |entry| entry.resolve(want))
    }

    /// As [`Predictor::resolve`], for a request that is to be answered: waits up to
    /// `patience` for a model that is loading.
    ///
    /// # Errors
    /// As [`Predictor::resolve`].
    pub async fn resolve_loaded(&self, model: Option<&str>, want: Want<'_>, patience: Duration) -> Result<Target> {
        match self.resolve_served(model, want) {
            Err(error) if self.is_coming(model, want, &error) => {
                Box::pin(self.when_loaded(model, want, patience, Predictor::resolve_served)).await
            }
            resolved => resolved,
        }
    }

    /// As [`Predictor::resolve_loaded`], for a job that is only put into the queue: it
    /// waits no longer than for what the model takes and gives.
    ///
    /// # Errors
    /// As [`Predictor::resolve`].
    pub async fn resolve_known(&self, model: Option<&str>, want: Want<'_>, patience: Duration) -> Result<Target> {
        match self.resolve_for_queue(model, want) {
            Err(error) if self.is_coming(model, want, &error) => {
                Box::pin(self.when_loaded(model, want, patience, Predictor::resolve_for_queue)).await
            }
            resolved => resolved,
        }
    }

    /// A route's models may be known before they are loaded.
    fn resolve_served(&self, model: Option<&str>, want: Want<'_>) -> Result<Target> {
        let target = self.resolve(model, want)?;
        if !target.live && target.route.is_some() && !self.state.readiness.is_started() {
            let message = format!("the models of route `{}` are loading", target.signature.name);
            return Err(Error::new(ErrorCode::ModelNotReady, message));
        }
        Ok(target)
    }

    fn resolve_for_queue(&self, model: Option<&str>, want: Want<'_>) -> Result<Target> {
        match self.resolve(model, want) {
            Err(error) if error.code == ErrorCode::ModelNotReady && !self.is_route(model, want) => {
                self.ask(model, |entry| entry.resolve_for_queue(want))
            }
            resolved => resolved,
        }
    }

    async fn when_loaded(
        &self,
        model: Option<&str>,
        want: Want<'_>,
        patience: Duration,
        resolve: impl Fn(&Predictor, Option<&str>, Want<'_>) -> Result<Target>,
    ) -> Result<Target> {
        let started = Instant::now();
        let over = tokio::time::sleep(patience);
        tokio::pin!(over);
        let mut views = self.state.registry.changes();
        loop {
            views.borrow_and_update();
            let last = match resolve(self, model, want) {
                Err(error) if self.is_coming(model, want, &error) => error,
                Err(error) => return Err(error),
                Ok(target) => return Ok(Target { waited: started.elapsed(), ..target }),
            };
            tokio::select! {
                () = &mut over => return Err(last),
                _ = views.changed() => {}
            }
        }
    }

    /// Whether what could not be resolved will be, or will have failed, without
    /// anybody doing anything: it is loading, or this gateway has just been started.
    pub fn is_coming(&self, model: Option<&str>, want: Want<'_>, error: &Error) -> bool {
        let starting = !self.state.readiness.is_started();
        match error.code {
            ErrorCode::ModelNotFound => starting,
            ErrorCode::ModelNotReady if self.is_route(model, want) => starting,
            ErrorCode::ModelNotReady => self.ask(model, |entry| Ok(entry.is_loading(want))).unwrap_or(starting),
            _ => false,
        }
    }

    fn is_route(&self, model: Option<&str>, want: Want<'_>) -> bool {
        want == Want::Default && model.is_some_and(|model| self.state.routes.load().get(model).is_some())
    }

    /// Asks a model, or the default one, of the registry.
    fn ask<T>(&self, model: Option<&str>, ask: impl FnOnce(&ModelEntry) -> Result<T>) -> Result<T> {
        let registry = self.state.registry.load();
        match model {
            Some(model) => ask(registry.model(model)?),
            None => ask(registry.default_model(&self.state.settings.default_model)?),
        }
    }

    /// The route that answers in a model's place: for who names no version.
    ///
    /// # Errors
    /// `model_not_ready` for a route that cannot serve.
    pub fn route(&self, model: &str, want: Want<'_>) -> Option<Result<Target>> {
        if want == Want::Default { self.state.routes.target(model) } else { None }
    }

    /// A model as it is described: with its own versions also where a route has its
    /// name. A route of another name is a model of one version.
    ///
    /// # Errors
    /// `model_not_found`; `model_not_ready` for a route that cannot serve.
    pub fn entry(&self, model: &str) -> Result<ModelEntry> {
        match self.state.registry.load().model(model) {
            Ok(entry) => Ok(entry.clone()),
            Err(error) => match self.state.routes.target(model) {
                Some(target) => target.map(ModelEntry::of_route),
                None => Err(error),
            },
        }
    }

    /// A model as it is described, and what answers `want` there.
    ///
    /// # Errors
    /// As [`Predictor::entry`] and [`ModelEntry::resolve`].
    pub fn describe(&self, model: &str, want: Want<'_>) -> Result<(ModelEntry, Target)> {
        let entry = self.entry(model)?;
        let target = self.route(model, want).unwrap_or_else(|| entry.resolve(want))?;
        Ok((entry, target))
    }

    /// The queue that `name` means: a model's, a route's, or one by its own name
    /// (`route:…`, for a route in the place of a model).
    ///
    /// # Errors
    /// `model_not_found`.
    pub fn queue_named(&self, name: &str) -> Result<SmolStr> {
        let registry = self.state.registry.load();
        let routes = self.state.routes.load();
        match (registry.model(name), route_jobs::route_of(name)) {
            (_, Some(route)) if routes.get(route).is_some() => Ok(name.into()),
            (Err(_), None) if routes.get(name).is_some() => Ok(route_jobs::queue_of(name)),
            (model, _) => model.map(|_| name.into()),
        }
    }

    /// Enqueues without waiting: returns when the store has the job durably. A
    /// model without a live worker accepts: the job waits for one.
    ///
    /// # Errors
    /// `invalid_tensor` and the like from validation; refusals of admission;
    /// `queue_full`, `queue_unavailable`, `idempotency_mismatch`.
    pub async fn enqueue(
        &self,
        context: &RequestContext,
        target: &Target,
        request: InferRequest,
        options: JobOptions,
    ) -> Result<Accepted> {
        if let Some(route) = &target.route {
            return Box::pin(run::enqueue(self, context, route, request, options)).await;
        }
        let rows = self.check(context, target, &request, &options)?;
        self.admit(&target.signature.name, &options, Caller::Leaves)?;
        self.accept(context, job(context, target, request, rows, options)).await
    }

    /// Enqueues and waits up to `wait`; the job goes on when the wait ends.
    ///
    /// # Errors
    /// As [`Predictor::enqueue`]; `no_worker`; the job's own error when it
    /// ended without a result.
    ///
    /// # Cancel safety
    /// Dropping the future (a client that left) cancels the job if it is still
    /// queued and has no idempotency key.
    pub async fn call(
        &self,
        context: &RequestContext,
        target: &Target,
        request: InferRequest,
        options: JobOptions,
        wait: Duration,
    ) -> Result<Answer> {
        if let Some(route) = &target.route {
            return Box::pin(self.call_route(context, route, request, options, wait)).await;
        }
        let started = Instant::now();
        let model = &target.signature.name;
        let answer = self.answer(context, target, request, options, wait).await;
        let outcome = match &answer {
            Ok(Answer::Done(_)) => Ok(()),
            // Its worker counts it when it ends.
            Ok(Answer::Pending(_)) => return answer,
            Err(error) => Err(error),
        };
        self.state.predictions.model(model).record(outcome, started.elapsed());
        answer
    }

    async fn call_route(
        &self,
        context: &RequestContext,
        route: &str,
        request: InferRequest,
        options: JobOptions,
        wait: Duration,
    ) -> Result<Answer> {
        match run::plan_for(self, context, route)? {
            Plan::Model { model, version } => {
                let leaf = run::leaf(self, &model, &version)?;
                self.call(context, &leaf, request, options, wait).await
            }
            // Who is told of a job's end, or may ask for it again by its key, wants a job:
            // children's would end with this wait, and their keys name that end.
            _ if options.webhook.is_some() || options.idempotency.is_some() => {
                let accepted = run::enqueue(self, context, route, request, options).await?;
                Answer::of(self.wait_for(accepted.id, wait).await?)
            }
            plan => {
                self.charge(context, &plan).await?;
                let deadline = options.deadline.map_or(wait, |deadline| deadline.min(wait));
                let options = JobOptions { deadline: Some(deadline), ..options };
                run::carry_out(self, context, &plan, request, options).await.map(Answer::Done)
            }
        }
    }

    async fn answer(
        &self,
        context: &RequestContext,
        target: &Target,
        request: InferRequest,
        options: JobOptions,
        wait: Duration,
    ) -> Result<Answer> {
        let rows = self.check(context, target, &request, &options)?;
        // Who is told of a job's end wants a job of its own.
        let place = match options.webhook {
            None => self.state.caches.place(&self.state.registry, &target.signature, &request, &options),
            Some(_) => None,
        };
        match place {
            None => self.run(context, target, job(context, target, request, rows, options), wait).await,
            Some(place) => {
                let make = || job(context, target, request.clone(), rows, options.clone());
                Box::pin(self.cached(context, target, place, make, wait)).await
            }
        }
    }

    /// Answers from the cache, from an identical request's run, or by a run of
    /// its own that others may follow.
    async fn cached(
        &self,
        context: &RequestContext,
        target: &Target,
        place: CacheSlot,
        job: impl Fn() -> NewJob,
        wait: Duration,
    ) -> Result<Answer> {
        let CacheSlot { cache, key, .. } = &place;
        let until = Instant::now() + wait;
        let kept = |packed: &Bytes, outcome: CacheOutcome| {
            context.notes.set_cache(outcome);
            Prediction::of_packed(packed, outcome).map(Answer::Done)
        };
        let hit = |packed: Bytes| kept(&packed, CacheOutcome::Hit);
        if context.fresh {
            context.notes.set_cache(CacheOutcome::Bypass);
            let mut answer = self.run(context, target, job(), wait).await?;
            if let Answer::Done(prediction) = &mut answer {
                prediction.cache = CacheOutcome::Bypass;
                if let Some(kept) = place.kept(&prediction.response) {
                    cache.put(kept, prediction.packed(), Instant::now());
                }
            }
            return Ok(answer);
        }
        if let Some(packed) = cache.get(*key, Instant::now()) {
            return hit(packed);
        }
        loop {
            match cache.join(*key, Instant::now()) {
                Join::Hit(packed) => return hit(packed),
                Join::Follow(follower) => {
                    let left = until.saturating_duration_since(Instant::now());
                    match tokio::time::timeout(left, follower.wait()).await {
                        Ok(Some(landed)) => {
                            let answer = kept(&landed?, CacheOutcome::Coalesced)?;
                            // The leader may have left the choice of the version to the worker.
                            if answer.is_of(&target.pinned) {
                                return Ok(answer);
                            }
                            return self.run(context, target, job(), left).await;
                        }
                        // The leader gave up; perhaps this one leads.
                        Ok(None) => {}
                        // Its wait is over; like any other, it goes on as a job.
                        Err(_) => return self.run(context, target, job(), Duration::ZERO).await,
                    }
                }
                Join::Lead(flight) => {
                    if let Some(packed) = self.shared_answer(&place).await {
                        flight.land(Ok(packed.clone()), Some(*key), Instant::now());
                        return hit(packed);
                    }
                    context.notes.set_cache(CacheOutcome::Miss);
                    let left = until.saturating_duration_since(Instant::now());
                    let mut answer = self.run(context, target, job(), left).await;
                    match &mut answer {
                        Ok(Answer::Done(prediction)) => {
                            prediction.cache = CacheOutcome::Miss;
                            let (packed, kept) = (prediction.packed(), place.kept(&prediction.response));
                            flight.land(Ok(packed.clone()), kept, Instant::now());
                            self.share_answer(&place, kept, &packed).await;
                        }
                        Ok(Answer::Pending(_)) => drop(flight),
                        Err(error) => flight.land(Err(error.clone()), None, Instant::now()),
                    }
                    return answer;
                }
            }
        }
    }

    /// An answer that another gateway kept. A second tier that is away is a miss.
    async fn shared_answer(&self, place: &CacheSlot) -> Option<Bytes> {
        if !place.config.shared {
            return None;
        }
        let packed = self.state.queue.cache_get(place.key.flat()).await.ok()??;
        let answer = InferResponse::decode(&packed).ok()?;
        (place.kept(&answer) == Some(place.key)).then_some(packed)
    }

    async fn share_answer(&self, place: &CacheSlot, kept: Option<CacheKey>, packed: &[u8]) {
        if let Some(kept) = kept.filter(|_| place.config.shared)
            && let Err(error) = self.state.queue.cache_put(kept.flat(), packed, place.config.shared_ttl()).await
        {
            log::debug!("could not share a cached answer: {error}");
        }
    }

    /// Enqueues and waits.
    async fn run(&self, context: &RequestContext, target: &Target, job: NewJob, wait: Duration) -> Result<Answer> {
        target.require_live()?;
        let _place = self.admit(&job.model, &job.options, Caller::Waits)?;
        let view = match job.options.webhook {
            None => self.queue_client.call(job, wait).await?,
            Some(_) => Box::pin(self.run_watched(context, job, wait)).await?,
        };
        context.notes.set_job(view.id);
        Answer::of(view)
    }

    /// Enqueues a job that has a webhook, and waits: the watch needs the id first.
    async fn run_watched(&self, context: &RequestContext, job: NewJob, wait: Duration) -> Result<JobView> {
        let id = self.accept(context, job).await?.id;
        self.wait_for(id, wait).await
    }

    /// Waits for a job of ours that may end meanwhile.
    async fn wait_for(&self, id: JobId, wait: Duration) -> Result<JobView> {
        let gone = || Error::new(ErrorCode::ResultExpired, "the job's record is gone").for_job(id);
        self.queue_client.wait(id, wait).await?.ok_or_else(gone)
    }

    /// Enqueues and waits for the prediction: for protocols without jobs. The
    /// deadline of `options`, else the configured timeout, bounds it; a job
    /// that misses it is cancelled.
    ///
    /// # Errors
    /// As [`Predictor::call`]; `deadline_exceeded` with the job's id.
    ///
    /// # Cancel safety
    /// As [`Predictor::call`].
    pub async fn predict(
        &self,
        context: &RequestContext,
        target: &Target,
        request: InferRequest,
        options: JobOptions,
    ) -> Result<Prediction> {
        if let Some(route) = &target.route {
            let plan = run::plan_for(self, context, route)?;
            Box::pin(self.charge(context, &plan)).await?;
            return Box::pin(run::carry_out(self, context, &plan, request, options)).await;
        }
        let wait = options.deadline.unwrap_or_else(|| self.state.settings.sync_timeout.saturating_sub(target.waited));
        let keyed = options.idempotency.is_some();
        let answer = self.call(context, target, request, options, wait).await.map_err(|error| match error.code {
            ErrorCode::DeadlineExceeded => {
                Error { message: format!("no answer within {} ms: {}", wait.as_millis(), error.message), ..error }
            }
            _ => error,
        });
        match answer? {
            Answer::Done(prediction) => Ok(prediction),
            // Its key promises the answer to whoever repeats the request.
            Answer::Pending(view) if keyed => Err(Error::new(
                ErrorCode::DeadlineExceeded,
                format!("no answer within {} ms; the job goes on: repeat the request to wait for it", wait.as_millis()),
            )
            .for_job(view.id)),
            Answer::Pending(view) => {
                // Nobody will read the result. It may have settled just now.
                if let Err(error) = self.state.queue.cancel(view.id).await
                    && error.code != ErrorCode::JobAlreadyFinished
                {
                    log::debug!(job = view.id.to_string().as_str(); "could not cancel a late job: {error}");
                }
                Err(Error::new(
                    ErrorCode::DeadlineExceeded,
                    format!(
                        "no answer within {} ms; the job was {} and is now cancelled",
                        wait.as_millis(),
                        view.state.as_str()
                    ),
                )
                .for_job(view.id))
            }
        }
    }

    /// Enqueues a job that was checked. Who is to be told of its end (the job's
    /// webhook, else its API key's) is written down before this returns, so that
    /// no answered job goes untold.
    pub(crate) async fn accept(&self, context: &RequestContext, mut job: NewJob) -> Result<Accepted> {
        let of_key = || context.grant.as_ref().and_then(|grant| grant.webhook.clone());
        let url = job.options.webhook.clone().or_else(of_key);
        if let Some(url) = &url {
            self.state.webhooks.check(url)?;
            job.options.result_ttl = watch::kept(job.options.result_ttl);
        }
        let owner = job.owner;
        let accepted = self.queue_client.enqueue(job).await?;
        context.notes.set_job(accepted.id);
        if let Some(url) = url {
            Box::pin(self.state.webhooks.watch(accepted.id, owner, &url)).await?;
        }
        Ok(accepted)
    }

    /// Whether a job of these options can still make its deadline; `limits` says
    /// whether that is asked. The place counts for those that come after.
    fn admit(&self, model: &str, options: &JobOptions, caller: Caller) -> Result<Option<Place>> {
        let deadline = options.deadline.filter(|_| self.state.settings.limits.predict_deadline);
        self.state.backlog.admit(model, options.priority, deadline, caller, Instant::now())
    }

    /// Whether this caller may ask for its job's priority.
    pub(crate) fn check_priority(&self, context: &RequestContext, options: &JobOptions) -> Result<()> {
        self.state.admission.limits.check_priority(context.grant.as_deref(), options.priority)
    }

    /// Counts what a plan makes of one call. The first job was counted at the door.
    pub(crate) async fn charge(&self, context: &RequestContext, plan: &Plan) -> Result<()> {
        let jobs = plan.models().len();
        self.state.admission.limits.charge(context, jobs, &*self.state.queue).await
    }

    /// Whether this caller may use this model for this request now. Returns its
    /// rows. Rate and in-flight limits were taken at the door.
    fn check(
        &self,
        context: &RequestContext,
        target: &Target,
        request: &InferRequest,
        options: &JobOptions,
    ) -> Result<u32> {
        let model = &target.signature.name;
        context.notes.set_model(model);
        if let Some(grant) = &context.grant {
            grant.require_model(model)?;
        }
        self.check_priority(context, options)?;
        let rows = target.signature.validate(request)?;
        Ok(rows)
    }
}

/// Encodes a request that was checked.
fn job(context: &RequestContext, target: &Target, mut request: InferRequest, rows: u32, options: JobOptions) -> NewJob {
    request.version = target.pinned.clone();
    NewJob {
        model: target.signature.name.clone(),
        owner: context.owner,
        options,
        payload: Bytes::from(request.encode()),
        rows,
        trace: context.trace(),
    }
}

impl Answer {
    /// Reads a job after a wait.
    ///
    /// # Errors
    /// The job's own error when it ended without a result.
    pub fn of(view: JobView) -> Result<Answer> {
        if view.state == JobState::Succeeded {
            Prediction::of(view).map(Answer::Done)
        } else if view.state.is_terminal() {
            Err(failure(&view))
        } else {
            Ok(Answer::Pending(Box::new(view)))
        }
    }

    /// Whether it is of the `pinned` version; where none is pinned any will do.
    fn is_of(&self, pinned: &str) -> bool {
        pinned.is_empty() || matches!(self, Answer::Done(prediction) if prediction.response.version == pinned)
    }
}

impl Prediction {
    /// The outputs as a cache keeps them.
    fn packed(&self) -> Bytes {
        let mut packed = Vec::new();
        self.response.encode(&mut packed);
        packed.into()
    }

    /// Reads kept outputs; no job ran.
    fn of_packed(packed: &Bytes, cache: CacheOutcome) -> Result<Prediction> {
        let response = InferResponse::decode(packed)?;
        Ok(Prediction { job: None, cache, explain: Explain::default(), response })
    }

    /// Reads a succeeded job's outputs; they stay slices of the stored result.
    ///
    /// # Errors
    /// `invalid_worker_result`; `result_expired` when the store kept none.
    pub fn of(view: JobView) -> Result<Prediction> {
        let id = view.id;
        let result = view
            .result
            .ok_or_else(|| Error::new(ErrorCode::ResultExpired, "the job's result has outlived its ttl").for_job(id))?;
        let response = InferResponse::decode(&result.outputs).map_err(|error| error.for_job(id))?;
        Ok(Prediction { job: Some(id), cache: CacheOutcome::None, explain: result.explain, response })
    }
}

/// Why a job ended without a result, as an error to render.
pub fn failure(view: &JobView) -> Error {
    let (code, message) = match (&view.error, view.state) {
        (_, JobState::Cancelled) => (ErrorCode::JobCancelled, "the job was cancelled".to_owned()),
        (Some(error), _) => (error.code, error.message.clone()),
        (None, JobState::Expired) => {
            (ErrorCode::DeadlineExceeded, "the job's deadline passed before it finished".to_owned())
        }
        (None, state) => (ErrorCode::InferenceFailed, format!("the job ended {} without a reason", state.as_str())),
    };
    Error::new(code, message).for_job(view.id)
}

/// Version text of a prediction, for protocols that repeat it: the worker's
/// word, else the signature's.
pub fn answered_version(prediction: &Prediction, target: &Target) -> SmolStr {
    match prediction.response.version.as_str() {
        "" => target.signature.version.clone(),
        _ => prediction.response.version.clone(),
    }
}
