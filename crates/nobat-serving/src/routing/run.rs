//! Carries a plan out: children at once, answers joined; copies beside.
//!
//! A child that is dropped (its caller left, or another child's failure decided
//! the answer) cancels its job while that is still queued.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use nobat_core::infer::{InferRequest, InferResponse};
use nobat_core::job::{Idempotency, JobOptions, NewJob};
use nobat_core::timings::{StepTiming, Timings};
use nobat_core::{Error, ErrorCode, Result};
use nobat_queue::{Accepted, route_jobs};
use nobat_statistics::reading::{class_of_row, score_of_row};
use smol_str::{SmolStr, format_smolstr};
use tokio::sync::watch;

use super::evidence::PairSide;
use super::join;
use super::parent::RouteRequest;
use super::plan::Plan;
use super::route::{Join, OnFailure, Rule, Weighted};
use super::routes::{ShadowOutcome, no_route};
use super::table::split_version;
use crate::cache::CacheOutcome;
use crate::context::RequestContext;
use crate::metrics::is_ours;
use crate::model_calls::ModelCalls;
use crate::prediction::Prediction;
use crate::random_bits::random_bits;
use crate::registry::{ResolvedModel, Want};
use crate::state::ServingState;

/// A copy that takes longer counts as failed.
const SHADOW_DEADLINE: Duration = Duration::from_secs(60);

/// What a target that names a route means for this request.
///
/// # Errors
/// `route_not_found` when the route went away since it was resolved;
/// `model_not_ready`.
pub(crate) fn plan_for(state: &ServingState, context: &RequestContext, route: &str) -> Result<Plan> {
    state.routes.load().resolve(route, context.route_key()).unwrap_or_else(|| Err(no_route(route)))
}

/// The model a leaf of a plan names.
///
/// # Errors
/// As the registry's resolve.
pub(crate) fn leaf(
    state: &ServingState,
    context: &RequestContext,
    model: &str,
    version: &str,
) -> Result<ResolvedModel> {
    let registry = state.registry.load();
    let entry = registry.model_among(model, |name| context.covers(name))?;
    match version {
        "" => entry.resolve(Want::Default),
        version => entry.resolve(Want::Version(version)).or_else(|error| {
            // `model/stable` may be a label as well as a version.
            entry.resolve(Want::Label(version)).map_err(|_| error)
        }),
    }
}

/// Enqueues a job of the route, in which its plan's answers are joined, without waiting.
///
/// # Errors
/// As [`Predictor::enqueue`](crate::predictor::Predictor::enqueue).
pub(crate) async fn enqueue(
    calls: &ModelCalls,
    context: &RequestContext,
    route: &str,
    plan: &Plan,
    request: InferRequest,
    options: JobOptions,
) -> Result<Accepted> {
    let state = &calls.state;
    plan.models().into_iter().try_for_each(|model| context.require_model(model))?;
    state.admission.check_priority(context, &options)?;
    state.admission.charge(context, plan.models().len()).await?;
    let target = state.routes.target(route).unwrap_or_else(|| Err(no_route(route)))?;
    let rows = target.signature.validate(&request)?;
    state.routes.open_queue(route).await?;
    let job = NewJob {
        model: route_jobs::queue_of(route),
        owner: context.owner,
        options,
        payload: RouteRequest { route_key: context.route_key.clone(), request }.encode(),
        rows,
        trace: context.trace(),
    };
    calls.accept(context, job).await
}

/// Runs a plan and waits for its answer.
pub(crate) fn carry_out<'a>(
    calls: &'a ModelCalls,
    context: &'a RequestContext,
    plan: &'a Plan,
    request: InferRequest,
    options: JobOptions,
) -> BoxFuture<'a, Result<Prediction>> {
    Box::pin(async move {
        match plan {
            Plan::Model { model, version } => {
                let target = leaf(&calls.state, context, model, version)?;
                calls.predict(context, &target, request, options).await
            }
            Plan::Group { children, join, on_failure } => {
                let running = children.iter().filter_map(|(target, child)| {
                    let request = of_child(*join, target, &request)?;
                    let options = options_of_child(target, &options);
                    let answer = carry_out(calls, context, child, request, options);
                    Some(async move { (target, answer.await) })
                });
                collect(running.collect(), children, *join, *on_failure).await
            }
            Plan::Shadow { route, primary, copies, missing, tolerance } => {
                let shadows = &calls.state.routes.shadows;
                let started = Instant::now();
                missing.iter().for_each(|target| shadows.count(route, target, ShadowOutcome::Missing));
                let answered = send_copies(calls, context, route, copies, *tolerance, &request, &options);
                let prediction = carry_out(calls, context, primary, request, options).await?;
                let primary = Primary {
                    response: prediction.response.clone(),
                    took: started.elapsed(),
                    is_repetition: is_repetition(&prediction),
                };
                // Nobody listens when every copy was dropped.
                let _ = answered.send(Some(primary));
                Ok(prediction)
            }
        }
    })
}

/// The answer that goes to the caller, as copies see it.
struct Primary {
    response: InferResponse,
    took: Duration,
    is_repetition: bool,
}

/// Whether an answer came of no run of its own.
fn is_repetition(prediction: &Prediction) -> bool {
    matches!(prediction.cache, CacheOutcome::Hit | CacheOutcome::Coalesced)
}

/// Waits for a group's children and joins them as the route says.
async fn collect<'a>(
    mut running: FuturesUnordered<impl Future<Output = (&'a SmolStr, Result<Prediction>)>>,
    children: &'a [(SmolStr, Plan)],
    how: Join,
    on_failure: OnFailure,
) -> Result<Prediction> {
    let mut answers: Vec<(&SmolStr, Prediction)> = Vec::with_capacity(children.len());
    let mut failure = None;
    while let Some((target, answer)) = running.next().await {
        match answer {
            Ok(mut prediction) if how == Join::First => {
                prediction.timings.steps = told_of(target, &prediction);
                return Ok(Prediction { job: None, ..prediction });
            }
            Ok(prediction) => answers.push((target, prediction)),
            Err(error) => {
                let error = Error { message: format!("target `{target}`: {}", error.message), ..error };
                if how != Join::First && on_failure == OnFailure::Fail {
                    return Err(error);
                }
                failure.get_or_insert(error);
            }
        }
    }
    // The slowest child explains the answer's time.
    let Some((timings, cache)) = answers
        .iter()
        .map(|(_, answer)| (&answer.timings, answer.cache))
        .max_by_key(|(timings, _)| timings.total())
        .map(|(timings, cache)| (timings.clone(), cache))
    else {
        return Err(failure.unwrap_or_else(|| Error::invalid("no target has the outputs that were asked for")));
    };
    let place = |target: &SmolStr| children.iter().position(|(name, _)| name == target);
    answers.sort_by_key(|(target, _)| place(target));
    let steps = answers.iter().flat_map(|(target, answer)| told_of(target, answer)).collect();
    let timings = Timings { steps, ..timings };
    let answers = answers.into_iter().map(|(target, answer)| (target.clone(), answer.response)).collect();
    Ok(Prediction { job: None, cache, timings, response: join::join(how, answers)? })
}

/// A child as its route's answer explains it; of a child that is a group, its children. All
/// begin at once.
pub(super) fn told_of(target: &str, answer: &Prediction) -> Vec<StepTiming> {
    let timings = &answer.timings;
    if answer.job.is_none() && !timings.steps.is_empty() {
        let own = timings.steps.iter();
        return own
            .map(|step| StepTiming { name: format_smolstr!("{target}.{}", step.name), ..step.clone() })
            .collect();
    }
    vec![StepTiming {
        name: target.into(),
        start_us: 0,
        wait_us: timings.queue_us + timings.batch_wait_us,
        run_us: timings.input_us + timings.infer_us + timings.output_us,
        batch_size: timings.batch_size,
        worker: timings.worker.clone(),
        job: answer.job,
    }]
}

/// A child's request; under `all` it is asked only for its own outputs, and not
/// at all when none of them is wanted.
fn of_child(join: Join, target: &SmolStr, request: &InferRequest) -> Option<InferRequest> {
    let mut own = request.clone();
    if join == Join::All && !request.outputs.is_empty() {
        let prefix = format!("{target}.");
        own.outputs =
            request.outputs.iter().filter_map(|name| name.strip_prefix(&*prefix).map(SmolStr::from)).collect();
        if own.outputs.is_empty() {
            return None;
        }
    }
    Some(own)
}

/// A child's options: its own idempotency key, and no webhook of its own.
fn options_of_child(target: &SmolStr, options: &JobOptions) -> JobOptions {
    let idempotency = options
        .idempotency
        .as_ref()
        .map(|given| Idempotency { key: format_smolstr!("{}#{target}", given.key), fingerprint: given.fingerprint });
    JobOptions { idempotency, webhook: None, ..options.clone() }
}

/// Rows of a request to a route.
fn rows_of(state: &ServingState, route: &str, request: &InferRequest) -> usize {
    let routes = state.routes.load();
    let batched = routes.get(route).and_then(|route| route.signature.as_ref().ok()).is_some_and(|own| own.batched);
    let rows = request.inputs.first().and_then(|tensor| tensor.shape.first()).filter(|_| batched);
    rows.map_or(1, |&rows| rows.max(1) as usize)
}

/// One row of an answer, as a pair keeps it.
fn side(answer: Result<&InferResponse, &Error>, took: Duration, rows: usize, row: usize) -> PairSide {
    let ms = took.as_secs_f64() * 1e3;
    match answer {
        Err(error) => PairSide { ms, error: Some(error.code.as_str()), ..PairSide::default() },
        Ok(answer) => PairSide {
            class: class_of_row(&answer.outputs, rows, row),
            score: score_of_row(&answer.outputs, rows, row),
            ms,
            error: None,
            mark: answer.mark,
        },
    }
}

/// Counts what a weighted route's target made of a request, where the route names the model
/// itself and serves all its targets: a share that moved to others was thrown by no coin.
pub(crate) fn count_arm(
    state: &ServingState,
    context: &RequestContext,
    name: &str,
    target: &ResolvedModel,
    answer: Result<&InferResponse, &Error>,
) {
    let routes = state.routes.load();
    let (Some(route), Some(bound)) = (routes.table().get(name), routes.get(name)) else { return };
    let Ok(Rule::Weighted(shares)) = route.rule() else { return };
    let (model, version) = (&target.signature.name, &target.pinned);
    // A label in the route's words is a version by now.
    let is_arm = |own: &&Weighted| {
        let (named, wanted) = split_version(&own.target);
        named == model && (wanted == version || target.signature.labels.iter().any(|label| label == wanted))
    };
    let Some(arm) = shares.iter().find(is_arm).filter(|_| bound.missing.is_empty()) else { return };
    let counted = match answer {
        Ok(answer) => {
            let rows = answer.outputs.first().and_then(|tensor| tensor.shape.first());
            let rows = rows.filter(|_| target.signature.batched).map_or(1, |&rows| rows.max(1) as usize);
            Some((class_of_row(&answer.outputs, rows, (random_bits() % rows as u64) as usize), answer.mark))
        }
        // A caller's mistake is no version's.
        Err(error) if is_ours(error.code) => None,
        Err(_) => return,
    };
    state.routes.evidence.count_arm(&bound.scope, &arm.target, &context.route_key, counted);
}

/// Whether a failure may be the version's own.
fn is_of_version(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::InferenceFailed | ErrorCode::InvalidWorkerResult | ErrorCode::Internal)
}

/// Sends copies off, each in a task of its own; they wait for the answer that
/// goes to the caller, compare and count.
fn send_copies(
    calls: &ModelCalls,
    context: &RequestContext,
    route: &SmolStr,
    copies: &[(SmolStr, Plan)],
    tolerance: f64,
    request: &InferRequest,
    options: &JobOptions,
) -> watch::Sender<Option<Primary>> {
    let (answered, listen) = watch::channel(None::<Primary>);
    let shadows = &calls.state.routes.shadows;
    let rows = rows_of(&calls.state, route, request);
    for (target, plan) in copies {
        let Ok(slot) = shadows.slots.clone().try_acquire_owned() else {
            shadows.count(route, target, ShadowOutcome::Dropped);
            continue;
        };
        // The operator's wish, not the caller's: no grant of its, nothing in its log line.
        let context = RequestContext { grant: None, notes: Arc::default(), ..context.clone() };
        let (calls, plan) = (calls.clone(), plan.clone());
        let (request, route, target) = (request.clone(), route.clone(), target.clone());
        let options = JobOptions {
            priority: 0,
            deadline: Some(SHADOW_DEADLINE),
            idempotency: None,
            webhook: None,
            ..options.clone()
        };
        let mut listen = listen.clone();
        tokio::spawn(async move {
            let started = Instant::now();
            let copy =
                tokio::time::timeout(SHADOW_DEADLINE, carry_out(&calls, &context, &plan, request, options)).await;
            let took = started.elapsed();
            let copy = copy.unwrap_or_else(|_| Err(Error::new(ErrorCode::DeadlineExceeded, "the copy took too long")));
            // Its place in the air is free: what follows waits for the caller's answer alone.
            drop(slot);
            if let Err(error) = &copy {
                log::debug!(route = route.as_str(), target = target.as_str(); "shadow copy failed: {error}");
                calls.state.routes.shadows.count(&route, &target, ShadowOutcome::Failed);
            }
            // The answer itself failed: there is nothing to compare with.
            let Ok(primary) = listen.wait_for(Option::is_some).await else { return };
            let Some(primary) = primary.as_ref() else { return };
            let same = copy.as_ref().is_ok_and(|copy| join::same_answer(&primary.response, &copy.response, tolerance));
            if copy.is_ok() {
                let outcome = if same { ShadowOutcome::Same } else { ShadowOutcome::Different };
                calls.state.routes.shadows.count(&route, &target, outcome);
            }
            let routes = calls.state.routes.load();
            let (Some(bound), Some(Rule::Shadow(rule))) =
                (routes.get(&route), routes.table().get(&route).and_then(|route| route.rule().ok()))
            else {
                return;
            };
            if primary.is_repetition || copy.as_ref().is_ok_and(is_repetition) {
                return;
            }
            // That nothing took the copy, or had time for it, is no version's.
            if copy.as_ref().is_err_and(|error| !is_of_version(error.code)) {
                return;
            }
            let row = (random_bits() % rows as u64) as usize;
            let old = side(Ok(&primary.response), primary.took, rows, row);
            let new = side(copy.as_ref().map(|copy| &copy.response), took, rows, row);
            let (scope, primary) = (&bound.scope, &rule.primary);
            calls.state.routes.evidence.count_copy(scope, primary, &target, &context.request_id, (old, new), same);
        });
    }
    answered
}
