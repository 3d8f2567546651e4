//! The one way of a request, whatever its protocol: resolve -> route -> model.
//!
//! A protocol asks for a [`ResolvedModel`] first (it may need the signature to decode
//! its body), builds an `InferRequest`, and hands both over. What comes back is
//! a [`Prediction`] to encode, a job to point at, or an [`Error`] to render.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nobat_core::infer::InferRequest;
use nobat_core::job::JobOptions;
use nobat_core::{Error, ErrorCode, Result};
use nobat_queue::{Accepted, QueueClient, route_jobs};
use smol_str::SmolStr;

use crate::context::RequestContext;
use crate::model_calls::{ModelCalls, goes_on};
use crate::pictures;
use crate::prediction::{Answer, Prediction};
use crate::registry::{ModelEntry, ResolvedModel, Want};
use crate::routing::{Plan, run};
use crate::state::ServingState;

/// One thread's way into the queue, over the shared state. Make one on each
/// thread, inside its runtime; clone it freely there.
#[derive(Clone)]
pub struct Predictor {
    calls: ModelCalls,
}

/// What answers a request.
enum Answerer<'a> {
    /// One model's version.
    Model(Cow<'a, ResolvedModel>),
    /// Several, by this route's plan.
    Route(&'a str, Plan),
}

impl Predictor {
    /// Opens this thread's queue client. Call it on the thread that will use it, inside
    /// its tokio runtime.
    pub fn new(state: Arc<ServingState>) -> Predictor {
        Predictor { calls: ModelCalls::new(state) }
    }

    /// The state all threads share.
    pub fn state(&self) -> &Arc<ServingState> {
        &self.calls.state
    }

    /// This thread's queue client: for waiting on a job that is known already.
    pub(crate) fn queue_client(&self) -> &dyn QueueClient {
        &*self.calls.queue_client
    }

    /// Finds the model version a caller asks for; `None` for the model means
    /// the default one. Who may not use a model learns nothing of it here: neither its
    /// signature, by which a body is read, nor whether there is one.
    ///
    /// # Errors
    /// `permission_denied`, `model_not_found`, `version_not_found`, `model_not_ready`, `draining`.
    pub fn resolve(&self, context: &RequestContext, model: Option<&str>, want: Want<'_>) -> Result<ResolvedModel> {
        if self.state().is_draining() {
            return Err(Error::new(ErrorCode::Draining, "this gateway is shutting down; send to another one"));
        }
        if let Some(model) = model {
            context.require_model(model)?;
        }
        if let Some(target) = model.and_then(|model| self.route(model, want)) {
            return target;
        }
        self.ask(context, model, |entry| entry.resolve(want))
    }

    /// As [`Predictor::resolve`], for a request that is to be answered: waits up to
    /// `patience` for a model that is loading.
    ///
    /// # Errors
    /// As [`Predictor::resolve`].
    pub async fn resolve_loaded(
        &self,
        context: &RequestContext,
        model: Option<&str>,
        want: Want<'_>,
        patience: Duration,
    ) -> Result<ResolvedModel> {
        self.patiently(context, model, want, patience, Predictor::resolve_served).await
    }

    /// As [`Predictor::resolve_loaded`], for a job that is only put into the queue: it
    /// waits no longer than for what the model takes and gives.
    ///
    /// # Errors
    /// As [`Predictor::resolve`].
    pub async fn resolve_known(
        &self,
        context: &RequestContext,
        model: Option<&str>,
        want: Want<'_>,
        patience: Duration,
    ) -> Result<ResolvedModel> {
        self.patiently(context, model, want, patience, Predictor::resolve_for_queue).await
    }

    /// A route's models may be known before they are loaded.
    fn resolve_served(&self, context: &RequestContext, model: Option<&str>, want: Want<'_>) -> Result<ResolvedModel> {
        let target = self.resolve(context, model, want)?;
        if !target.live && target.route.is_some() && !self.state().readiness.is_started() {
            let message = format!("the models of route `{}` are loading", target.signature.name);
            return Err(Error::new(ErrorCode::ModelNotReady, message));
        }
        Ok(target)
    }

    fn resolve_for_queue(
        &self,
        context: &RequestContext,
        model: Option<&str>,
        want: Want<'_>,
    ) -> Result<ResolvedModel> {
        match self.resolve(context, model, want) {
            Err(error) if error.code == ErrorCode::ModelNotReady && !self.is_route(model, want) => {
                self.ask(context, model, |entry| entry.resolve_for_queue(want))
            }
            resolved => resolved,
        }
    }

    /// Resolves at once, or boxed while what is asked for is on its way.
    async fn patiently(
        &self,
        context: &RequestContext,
        model: Option<&str>,
        want: Want<'_>,
        patience: Duration,
        resolve: impl Fn(&Predictor, &RequestContext, Option<&str>, Want<'_>) -> Result<ResolvedModel>,
    ) -> Result<ResolvedModel> {
        let is_coming = |error: &Error| self.is_coming(context, model, want, error);
        match resolve(self, context, model, want) {
            Err(error) if is_coming(&error) => {}
            resolved => return resolved,
        }
        let waiting = async {
            let started = Instant::now();
            let over = tokio::time::sleep(patience);
            tokio::pin!(over);
            let mut views = self.state().registry.changes();
            loop {
                views.borrow_and_update();
                let last = match resolve(self, context, model, want) {
                    Err(error) if is_coming(&error) => error,
                    resolved => return Ok(ResolvedModel { waited: started.elapsed(), ..resolved? }),
                };
                tokio::select! {
                    () = &mut over => return Err(last),
                    _ = views.changed() => {}
                }
            }
        };
        Box::pin(waiting).await
    }

    /// Whether what could not be resolved will be, or will have failed, without
    /// anybody doing anything: it is loading, or this gateway has just been started.
    pub fn is_coming(&self, context: &RequestContext, model: Option<&str>, want: Want<'_>, error: &Error) -> bool {
        let starting = !self.state().readiness.is_started();
        match error.code {
            ErrorCode::ModelNotFound => starting,
            ErrorCode::ModelNotReady if self.is_route(model, want) => starting,
            ErrorCode::ModelNotReady => {
                self.ask(context, model, |entry| Ok(entry.is_loading(want))).unwrap_or(starting)
            }
            _ => false,
        }
    }

    fn is_route(&self, model: Option<&str>, want: Want<'_>) -> bool {
        want == Want::Default && model.is_some_and(|model| self.state().routes.load().get(model).is_some())
    }

    /// Asks a model, or the default one, of the registry.
    fn ask<T>(
        &self,
        context: &RequestContext,
        model: Option<&str>,
        ask: impl FnOnce(&ModelEntry) -> Result<T>,
    ) -> Result<T> {
        let registry = self.state().registry.load();
        let covers = |name: &str| context.covers(name);
        match model {
            Some(model) => ask(registry.model_among(model, covers)?),
            None => {
                let entry = registry.default_model(&self.state().settings.default_model, covers)?;
                if !covers(&entry.name) {
                    let message = "the API key does not cover the default model; name another in the path";
                    return Err(Error::new(ErrorCode::PermissionDenied, message));
                }
                ask(entry)
            }
        }
    }

    /// The route that answers in a model's place: for who names no version.
    ///
    /// # Errors
    /// `model_not_ready` for a route that cannot serve.
    pub fn route(&self, model: &str, want: Want<'_>) -> Option<Result<ResolvedModel>> {
        if want == Want::Default { self.state().routes.target(model) } else { None }
    }

    /// A model as it is described: with its own versions also where a route has its
    /// name. A route of another name is a model of one version.
    ///
    /// # Errors
    /// `model_not_found`; `model_not_ready` for a route that cannot serve.
    pub fn entry(&self, context: &RequestContext, model: &str) -> Result<ModelEntry> {
        match self.state().registry.load().model_among(model, |name| context.covers(name)) {
            Ok(entry) => Ok(entry.clone()),
            Err(error) => match self.state().routes.target(model) {
                Some(target) => target.map(ModelEntry::of_route),
                None => Err(error),
            },
        }
    }

    /// A model as it is described, and what answers `want` there.
    ///
    /// # Errors
    /// As [`Predictor::entry`] and [`ModelEntry::resolve`].
    pub fn describe(
        &self,
        context: &RequestContext,
        model: &str,
        want: Want<'_>,
    ) -> Result<(ModelEntry, ResolvedModel)> {
        let entry = self.entry(context, model)?;
        let target = self.route(model, want).unwrap_or_else(|| entry.resolve(want))?;
        Ok((entry, target))
    }

    /// The queue that `name` means: a model's, a route's, or one by its own name
    /// (`route:…`, for a route in the place of a model).
    ///
    /// # Errors
    /// `model_not_found`.
    pub fn queue_named(&self, context: &RequestContext, name: &str) -> Result<SmolStr> {
        let registry = self.state().registry.load();
        let routes = self.state().routes.load();
        match (registry.model_among(name, |name| context.covers(name)), route_jobs::route_of(name)) {
            // The queue of one that was removed is still there, with the jobs that it had.
            (_, Some(route)) if routes.get(route).is_some() || self.has_queue(route) => Ok(name.into()),
            (Err(_), None) if routes.get(name).is_some() => Ok(route_jobs::queue_of(name)),
            (model, _) => model.map(|_| name.into()),
        }
    }

    fn has_queue(&self, route: &str) -> bool {
        self.state().routes.in_use().iter().any(|own| own == route)
    }

    /// What a target means for this request.
    fn answerer<'a>(&self, context: &RequestContext, target: &'a ResolvedModel) -> Result<Answerer<'a>> {
        let Some(route) = &target.route else { return Ok(Answerer::Model(Cow::Borrowed(target))) };
        Ok(match run::plan_for(self.state(), context, route)? {
            Plan::Model { model, version } => {
                Answerer::Model(Cow::Owned(run::leaf(self.state(), context, &model, &version)?))
            }
            plan => Answerer::Route(route, plan),
        })
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
        target: &ResolvedModel,
        request: InferRequest,
        options: JobOptions,
    ) -> Result<Accepted> {
        let (request, options, _) = self.prepared(context, target, request, options).await?;
        match self.answerer(context, target)? {
            Answerer::Model(target) => self.calls.enqueue(context, &target, request, options).await,
            Answerer::Route(route, plan) => {
                Box::pin(run::enqueue(&self.calls, context, route, &plan, request, options)).await
            }
        }
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
        target: &ResolvedModel,
        request: InferRequest,
        options: JobOptions,
        wait: Duration,
    ) -> Result<Answer> {
        let (request, options, fetching) = self.prepared(context, target, request, options).await?;
        let wait = wait.saturating_sub(fetching);
        match self.answerer(context, target)? {
            Answerer::Model(own) => {
                let repeated = options.idempotency.is_some();
                let answer = self.calls.call(context, &own, request, options, wait).await;
                match &answer {
                    // Of a job that goes on nobody knows the end.
                    Ok(Answer::Pending(_)) => {}
                    Ok(Answer::Done(prediction)) => self.count_arm(context, target, &own, repeated, Ok(prediction)),
                    Err(error) => self.count_arm(context, target, &own, repeated, Err(error)),
                }
                answer
            }
            Answerer::Route(route, plan) if options.webhook.is_some() || options.idempotency.is_some() => {
                self.call_by_job(context, route, &plan, request, options, wait).await
            }
            Answerer::Route(_, plan) => {
                let deadline = options.deadline.map_or(wait, |deadline| deadline.min(wait));
                let options = JobOptions { deadline: Some(deadline), ..options };
                Box::pin(self.carry_out(context, &plan, request, options)).await.map(Answer::Done)
            }
        }
    }

    /// Enqueues and waits for the prediction: for protocols without jobs. The
    /// deadline of `options`, else the configured timeout, bounds it; a job
    /// that misses it is cancelled, unless it has an idempotency key.
    ///
    /// # Errors
    /// As [`Predictor::call`]; `deadline_exceeded` with the job's id.
    ///
    /// # Cancel safety
    /// As [`Predictor::call`].
    pub async fn predict(
        &self,
        context: &RequestContext,
        target: &ResolvedModel,
        request: InferRequest,
        options: JobOptions,
    ) -> Result<Prediction> {
        let (request, options, _) = self.prepared(context, target, request, options).await?;
        match self.answerer(context, target)? {
            Answerer::Model(own) => {
                let repeated = options.idempotency.is_some();
                let answer = self.calls.predict(context, &own, request, options).await;
                self.count_arm(context, target, &own, repeated, answer.as_ref());
                answer
            }
            Answerer::Route(route, plan) if options.idempotency.is_some() => {
                let wait = self.calls.patience(target, &options);
                match self.call_by_job(context, route, &plan, request, options, wait).await? {
                    Answer::Done(prediction) => Ok(prediction),
                    Answer::Pending(view) => Err(goes_on(wait, view.id)),
                }
            }
            Answerer::Route(_, plan) => Box::pin(self.carry_out(context, &plan, request, options)).await,
        }
    }

    /// The request and its options as they go on, with the tags of its header and its pictures, and
    /// how long these took to fetch; the recording has had its turn.
    async fn prepared(
        &self,
        context: &RequestContext,
        target: &ResolvedModel,
        request: InferRequest,
        options: JobOptions,
    ) -> Result<(InferRequest, JobOptions, Duration)> {
        let options = context.tagged(options)?;
        let prepared = match pictures::are_urls(&target.signature, &request) {
            false => (request, options, Duration::ZERO),
            true => Box::pin(self.with_pictures(context, target, request, options)).await?,
        };
        self.state().recorder.take(context, target, &prepared.0);
        Ok(prepared)
    }

    /// The request with its pictures in place of their URLs; what they took of its deadline, and
    /// how long that was. Nothing is fetched for a model that the caller may not use, and what
    /// is counts among the bodies in memory.
    async fn with_pictures(
        &self,
        context: &RequestContext,
        target: &ResolvedModel,
        request: InferRequest,
        options: JobOptions,
    ) -> Result<(InferRequest, JobOptions, Duration)> {
        match &target.route {
            None => context.require_model(&target.signature.name)?,
            Some(route) => {
                let plan = run::plan_for(self.state(), context, route)?;
                plan.models().into_iter().try_for_each(|model| context.require_model(model))?;
            }
        }
        let bytes = |request: &InferRequest| request.inputs.iter().map(|tensor| tensor.data.len() as u64).sum::<u64>();
        let (started, sent) = (Instant::now(), bytes(&request));
        let fetching = pictures::replace(&self.state().fetcher, &target.signature, request);
        let request = match options.deadline {
            None => fetching.await?,
            Some(deadline) => tokio::time::timeout(deadline, fetching).await.map_err(|_| {
                let message = "the pictures did not come within the deadline; give more time, or send the bytes";
                Error::new(ErrorCode::DeadlineExceeded, message)
            })??,
        };
        let more = bytes(&request).saturating_sub(sent);
        self.state().admission.held_bytes(context).add(more, &context.notes.quota)?;
        let took = started.elapsed();
        let deadline = options.deadline.map(|deadline| deadline.saturating_sub(took));
        Ok((request, JobOptions { deadline, ..options }, took))
    }

    /// Counts for a canary what the model that a route chose made of a request. A request with
    /// an idempotency key may be a repetition.
    fn count_arm(
        &self,
        context: &RequestContext,
        asked: &ResolvedModel,
        chosen: &ResolvedModel,
        repeated: bool,
        answer: std::result::Result<&Prediction, &Error>,
    ) {
        if let Some(route) = asked.route.as_ref().filter(|_| !repeated) {
            run::count_arm(self.state(), context, route, chosen, answer.map(|prediction| &prediction.response));
        }
    }

    /// A route's call for one who is told of a job's end, or may ask for it again by its key:
    /// children's would end with this wait, and their keys name that end.
    async fn call_by_job(
        &self,
        context: &RequestContext,
        route: &str,
        plan: &Plan,
        request: InferRequest,
        options: JobOptions,
        wait: Duration,
    ) -> Result<Answer> {
        let accepted = Box::pin(run::enqueue(&self.calls, context, route, plan, request, options)).await?;
        Answer::of(self.calls.wait_for(accepted.id, wait).await?)
    }

    /// Counts what a plan makes of one call, and carries it out.
    async fn carry_out(
        &self,
        context: &RequestContext,
        plan: &Plan,
        request: InferRequest,
        options: JobOptions,
    ) -> Result<Prediction> {
        self.state().admission.charge(context, plan.models().len()).await?;
        run::carry_out(&self.calls, context, plan, request, options).await
    }
}
