//! One prediction on one model: check -> cache -> admit -> enqueue -> wait.
//!
//! What few requests take (the cache, webhooks) is boxed, so that the future of the
//! many stays small: it is moved several times on its way into the server.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use nobat_core::infer::{InferRequest, InferResponse};
use nobat_core::job::{BACKGROUND, JobOptions, JobView, NewJob};
use nobat_core::parameters::Parameter;
use nobat_core::{Error, ErrorCode, JobId, Result};
use nobat_queue::{Accepted, QueueClient};
use nobat_webhooks::subscription;

use crate::cache::{CacheKey, CacheOutcome, CacheSlot, Join};
use crate::context::RequestContext;
use crate::limits::backlog::{BacklogPermit, Caller};
use crate::prediction::{Answer, Prediction};
use crate::registry::ResolvedModel;
use crate::state::ServingState;
use crate::tokens;

/// One thread's calls of models, over the shared state.
#[derive(Clone)]
pub(crate) struct ModelCalls {
    pub(crate) state: Arc<ServingState>,
    pub(crate) queue_client: Arc<dyn QueueClient>,
}

impl ModelCalls {
    /// Opens this thread's queue client.
    pub(crate) fn new(state: Arc<ServingState>) -> ModelCalls {
        let queue_client = state.queue.client();
        ModelCalls { state, queue_client }
    }

    /// See [`Predictor::enqueue`](crate::predictor::Predictor::enqueue).
    pub(crate) async fn enqueue(
        &self,
        context: &RequestContext,
        target: &ResolvedModel,
        mut request: InferRequest,
        options: JobOptions,
    ) -> Result<Accepted> {
        let rows = self.check(context, target, &mut request, &options).await?;
        self.admit(&target.signature.name, &options, Caller::Leaves)?;
        self.accept(context, job(context, target, request, rows, options)).await
    }

    /// See [`Predictor::call`](crate::predictor::Predictor::call).
    pub(crate) async fn call(
        &self,
        context: &RequestContext,
        target: &ResolvedModel,
        request: InferRequest,
        options: JobOptions,
        wait: Duration,
    ) -> Result<Answer> {
        let started = Instant::now();
        let answer = self.answer(context, target, request, options, wait).await;
        // Of a job that goes on its worker counts the end.
        if !matches!(answer, Ok(Answer::Pending(_))) {
            let outcome = answer.as_ref().map(drop);
            self.state.predictions.model(&target.signature.name).record(outcome, started.elapsed());
        }
        if let (Ok(Answer::Done(prediction)), Some(_)) = (&answer, &target.signature.task) {
            self.count_tokens(context, target, prediction).await;
        }
        answer
    }

    /// See [`Predictor::predict`](crate::predictor::Predictor::predict).
    pub(crate) async fn predict(
        &self,
        context: &RequestContext,
        target: &ResolvedModel,
        request: InferRequest,
        options: JobOptions,
    ) -> Result<Prediction> {
        let wait = self.patience(target, &options);
        let keyed = options.idempotency.is_some();
        let view = match self.call(context, target, request, options, wait).await {
            Ok(Answer::Done(prediction)) => return Ok(prediction),
            Ok(Answer::Pending(view)) => view,
            Err(error) if error.code == ErrorCode::DeadlineExceeded => {
                return Err(Error { message: late(wait, &format!(": {}", error.message)).message, ..error });
            }
            Err(error) => return Err(error),
        };
        // Its key promises the answer to whoever repeats the request.
        if keyed {
            return Err(goes_on(wait, view.id));
        }
        // Nobody will read the result. It may have settled just now.
        if let Err(error) = self.state.queue.cancel(view.id).await
            && error.code != ErrorCode::JobAlreadyFinished
        {
            log::debug!(job = view.id.to_string().as_str(); "could not cancel a late job: {error}");
        }
        Err(late(wait, &format!("; the job was {} and is now cancelled", view.state.as_str())).for_job(view.id))
    }

    /// How long a caller waits that does not say.
    pub(crate) fn patience(&self, target: &ResolvedModel, options: &JobOptions) -> Duration {
        options.deadline.unwrap_or_else(|| self.state.settings.sync_timeout.saturating_sub(target.waited))
    }

    /// Counts the tokens of an answer's texts, of its caller and its model.
    async fn count_tokens(&self, context: &RequestContext, target: &ResolvedModel, prediction: &Prediction) {
        let tokens = tokens::of(&prediction.response);
        if tokens > 0 {
            let grant = context.grant.as_deref();
            self.state.admission.limits.have_read(grant, tokens, &*self.state.queue).await;
            let key = grant.map_or("", |grant| &grant.name);
            self.state.predictions.have_read(&target.signature.name, key, tokens);
        }
    }

    async fn answer(
        &self,
        context: &RequestContext,
        target: &ResolvedModel,
        mut request: InferRequest,
        options: JobOptions,
        wait: Duration,
    ) -> Result<Answer> {
        let rows = self.check(context, target, &mut request, &options).await?;
        match self.state.caches.slot(&self.state.registry, &target.signature, &request, &options) {
            None => self.run(context, target, job(context, target, request, rows, options), wait).await,
            Some(slot) => {
                let make = || job(context, target, request.clone(), rows, options.clone());
                Box::pin(self.cached(context, target, slot, make, wait)).await
            }
        }
    }

    /// Answers from the cache, from an identical request's run, or by a run of
    /// its own that others may follow.
    async fn cached(
        &self,
        context: &RequestContext,
        target: &ResolvedModel,
        slot: CacheSlot,
        job: impl Fn() -> NewJob,
        wait: Duration,
    ) -> Result<Answer> {
        let (cache, key) = (&slot.cache, slot.key);
        let until = Instant::now() + wait;
        let left = || until.saturating_duration_since(Instant::now());
        let kept = |packed: Bytes, outcome: CacheOutcome| {
            context.notes.set_cache(outcome);
            Prediction::of_packed(&packed, outcome).map(Answer::Done)
        };
        if context.fresh {
            let (answer, keep) = self.run_to_keep(context, target, &slot, job(), wait, CacheOutcome::Bypass).await?;
            if let Some((packed, Some(key))) = keep {
                cache.put(key, packed, Instant::now());
            }
            return Ok(answer);
        }
        if let Some(packed) = cache.get(key, Instant::now()) {
            return kept(packed, CacheOutcome::Hit);
        }
        loop {
            match cache.join(key, Instant::now()) {
                Join::Hit(packed) => return kept(packed, CacheOutcome::Hit),
                Join::Follow(follower) => match tokio::time::timeout(left(), follower.wait()).await {
                    Ok(Some(landed)) => {
                        let answer = kept(landed?, CacheOutcome::Coalesced)?;
                        // The leader may have left the choice of the version to the worker.
                        if answer.is_of(&target.pinned) {
                            return Ok(answer);
                        }
                        return self.run(context, target, job(), left()).await;
                    }
                    // The leader gave up; perhaps this one leads.
                    Ok(None) => {}
                    // Its wait is over; like any other, it goes on as a job.
                    Err(_) => return self.run(context, target, job(), Duration::ZERO).await,
                },
                Join::Lead(flight) => {
                    if let Some(packed) = self.shared_answer(&slot).await {
                        cache.land(flight, Ok(packed.clone()), Some(key), Instant::now());
                        return kept(packed, CacheOutcome::Hit);
                    }
                    let ran = self.run_to_keep(context, target, &slot, job(), left(), CacheOutcome::Miss).await;
                    return match ran {
                        // A job that goes on is no answer: dropped, the flight lets a follower lead.
                        Ok((answer, keep)) => {
                            if let Some((packed, key)) = keep {
                                cache.land(flight, Ok(packed.clone()), key, Instant::now());
                                self.share_answer(&slot, key, &packed).await;
                            }
                            Ok(answer)
                        }
                        Err(error) => {
                            cache.land(flight, Err(error.clone()), None, Instant::now());
                            Err(error)
                        }
                    };
                }
            }
        }
    }

    /// Runs a job whose answer a cache may keep: its outputs, packed, and the key of the
    /// version that gave them, where it is known.
    async fn run_to_keep(
        &self,
        context: &RequestContext,
        target: &ResolvedModel,
        slot: &CacheSlot,
        job: NewJob,
        wait: Duration,
        outcome: CacheOutcome,
    ) -> Result<(Answer, Option<(Bytes, Option<CacheKey>)>)> {
        context.notes.set_cache(outcome);
        let mut answer = self.run(context, target, job, wait).await?;
        let keep = match &mut answer {
            Answer::Pending(_) => None,
            Answer::Done(prediction) => {
                prediction.cache = outcome;
                Some((prediction.packed(), slot.key_of(&prediction.response)))
            }
        };
        Ok((answer, keep))
    }

    /// An answer that another gateway kept. A second tier that is away is a miss.
    async fn shared_answer(&self, slot: &CacheSlot) -> Option<Bytes> {
        if !slot.config.shared {
            return None;
        }
        let packed = self.state.queue.cache_get(slot.key.flat()).await.ok()??;
        let answer = InferResponse::decode(&packed).ok()?;
        (slot.key_of(&answer) == Some(slot.key)).then_some(packed)
    }

    async fn share_answer(&self, slot: &CacheSlot, key: Option<CacheKey>, packed: &[u8]) {
        if let Some(key) = key.filter(|_| slot.config.shared)
            && let Err(error) = self.state.queue.cache_put(key.flat(), packed, slot.config.shared_ttl()).await
        {
            log::debug!("could not share a cached answer: {error}");
        }
    }

    /// Enqueues and waits.
    async fn run(
        &self,
        context: &RequestContext,
        target: &ResolvedModel,
        job: NewJob,
        wait: Duration,
    ) -> Result<Answer> {
        target.require_live()?;
        let _permit = self.admit(&job.model, &job.options, Caller::Waits)?;
        // A request with a key may be a repetition, which is no new row.
        let followed = self.state.drift.of(&job.model).filter(|_| job.options.idempotency.is_none());
        let followed = followed.map(|model| Box::new((model, job.payload.clone(), job.rows)));
        let view = match job.options.webhook {
            None => self.queue_client.call(job, wait).await?,
            Some(_) => Box::pin(self.run_watched(context, job, wait)).await?,
        };
        context.notes.set_job(view.id);
        let answer = Answer::of(view)?;
        if let (Some(followed), Answer::Done(prediction)) = (followed, &answer) {
            let (model, payload, rows) = *followed;
            model.count(payload, rows, &prediction.response);
        }
        Ok(answer)
    }

    /// Enqueues a job that has a webhook, and waits: the subscription needs the id first.
    async fn run_watched(&self, context: &RequestContext, job: NewJob, wait: Duration) -> Result<JobView> {
        let id = self.accept(context, job).await?.id;
        self.wait_for(id, wait).await
    }

    /// Waits for a job of ours that may end meanwhile.
    pub(crate) async fn wait_for(&self, id: JobId, wait: Duration) -> Result<JobView> {
        let gone = || Error::new(ErrorCode::ResultExpired, "the job's record is gone").for_job(id);
        self.queue_client.wait(id, wait).await?.ok_or_else(gone)
    }

    /// Enqueues a job that was checked. Who is to be told of its end (the job's
    /// webhook, else its API key's) is written down before this returns, so that
    /// no answered job goes untold.
    pub(crate) async fn accept(&self, context: &RequestContext, mut job: NewJob) -> Result<Accepted> {
        let of_key = || context.grant.as_ref().and_then(|grant| grant.webhook.clone());
        let url = job.options.webhook.clone().or_else(of_key);
        if let Some(url) = &url {
            self.state.webhooks.check(url)?;
            job.options.result_ttl = subscription::result_ttl(job.options.result_ttl);
        }
        let owner = job.owner;
        let accepted = self.queue_client.enqueue(job).await?;
        context.notes.set_job(accepted.id);
        if let Some(url) = url {
            Box::pin(self.state.webhooks.subscribe(accepted.id, owner, &url)).await?;
        }
        Ok(accepted)
    }

    /// Whether a job of these options can still make its deadline; `limits` says
    /// whether that is asked. The permit counts for those that come after.
    fn admit(&self, model: &str, options: &JobOptions, caller: Caller) -> Result<Option<BacklogPermit>> {
        let deadline = options.deadline.filter(|_| self.state.settings.limits.predict_deadline);
        self.state.backlog.admit(model, options.priority, deadline, caller, Instant::now())
    }

    /// Whether this caller may use this model for this request now. Returns its
    /// rows. Rate and in-flight limits were taken at admission. Parameters that the
    /// model knows nothing of are dropped: they neither travel nor part cached answers.
    async fn check(
        &self,
        context: &RequestContext,
        target: &ResolvedModel,
        request: &mut InferRequest,
        options: &JobOptions,
    ) -> Result<u32> {
        let model = &target.signature.name;
        context.notes.set_model(model);
        context.require_model(model)?;
        self.state.admission.check_priority(context, options)?;
        if target.signature.task.is_some() {
            self.state.admission.limits.may_read(context.grant.as_deref(), &*self.state.queue).await?;
        }
        if target.signature.task.is_none() {
            request.parameters.clear();
        }
        target.signature.validate(request)
    }
}

/// Encodes a request that was checked.
fn job(
    context: &RequestContext,
    target: &ResolvedModel,
    mut request: InferRequest,
    rows: u32,
    options: JobOptions,
) -> NewJob {
    request.version = target.pinned.clone();
    // Models without a task run jobs in the order of their leases, and read no parameters.
    if options.background && target.signature.task.is_some() {
        request.parameters.set(BACKGROUND, Parameter::Bool(true));
    }
    NewJob {
        model: target.signature.name.clone(),
        owner: context.owner,
        options,
        payload: Bytes::from(request.encode()),
        rows,
        trace: context.trace(),
    }
}

/// The wait is over, and what was waited for is not there.
fn late(wait: Duration, what: &str) -> Error {
    Error::new(ErrorCode::DeadlineExceeded, format!("no answer within {} ms{what}", wait.as_millis()))
}

/// The wait is over, and the job goes on under its key.
pub(crate) fn goes_on(wait: Duration, job: JobId) -> Error {
    late(wait, "; the job goes on: repeat the request to wait for it").for_job(job)
}
