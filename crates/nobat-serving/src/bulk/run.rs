//! The parts of a request at work: a window of them in flight, each tried again alone.

use std::ops::Range;
use std::time::{Duration, Instant};

use futures::stream::{self, Stream, StreamExt};
use nobat_core::infer::InferRequest;
use nobat_core::job::{Idempotency, JobOptions};
use nobat_core::signature::ModelSignature;
use nobat_core::{Error, ErrorCode, Result};

use super::parts::{PartSize, Parts};
use crate::context::RequestContext;
use crate::prediction::{Answer, Prediction};
use crate::predictor::Predictor;
use crate::registry::ResolvedModel;

/// Most rows and bytes of one job of a large request. What has no more is one job, like
/// any other request.
const MOST: PartSize = PartSize { rows: 64, bytes: 128 << 10 };
/// Most rows of a part: few, so that a worker that is full of parts has room for others
/// after each run, and not only after a part of several.
const PART_ROWS: usize = 16;
/// Parts of one request in flight: enough rows for a worker to choose runs of like
/// length from, and few enough answers to hold.
const WINDOW: usize = 64;
/// How long one part is waited for: as long as its caller stays.
const PATIENCE: Duration = Duration::from_secs(31 * 86_400);
/// How long the deployment may be unable to take a part, and the pause between two tries.
const AWAY: Duration = Duration::from_secs(600);
const PAUSE: Duration = Duration::from_millis(500);
/// Further jobs for a part whose job has failed, retries of its own included.
const MORE_JOBS: u32 = 2;

/// The answer to some of a request's rows.
#[derive(Clone, Debug)]
pub struct PartAnswer {
    /// Which rows of the whole.
    pub rows: Range<usize>,
    /// The answer to them.
    pub prediction: Prediction,
}

/// Whether a request of `rows` is to be cut: one job would hold others up. A model
/// without a batch axis has nothing to cut along.
pub fn is_bulk(signature: &ModelSignature, request: &InferRequest, rows: usize) -> bool {
    let bytes: usize = request.inputs.iter().map(|tensor| tensor.data.len()).sum();
    let most = MOST.rows.min(signature.max_rows as usize);
    signature.batched && rows > 1 && (rows > most || bytes > MOST.bytes)
}

impl Predictor {
    /// Answers a request of any number of `rows` in order, part by part; the parts rank
    /// below what others wait for. An idempotency key of `options` is each part's, with
    /// its place. The stream's first error is its last item.
    ///
    /// # Errors
    /// As [`Predictor::call`], of a part that stays refused, with the rows that it has.
    ///
    /// # Cancel safety
    /// Dropping the stream cancels what is still queued of it.
    pub fn predict_parts(
        &self,
        context: RequestContext,
        target: ResolvedModel,
        request: InferRequest,
        rows: usize,
        options: JobOptions,
    ) -> impl Stream<Item = Result<PartAnswer>> + Send + use<> {
        let size = PartSize { rows: PART_ROWS.min(target.signature.max_batch_size.max(1) as usize), ..MOST };
        let predictor = self.clone();
        let parts = Parts::of(request, rows, size).map(move |(rows, request)| {
            let (predictor, context, target) = (predictor.clone(), context.clone(), target.clone());
            let options = of_part(&options, rows.start);
            async move {
                let answered = predictor.part(&context, &target, &request, options).await;
                answered.map(|prediction| PartAnswer { rows: rows.clone(), prediction }).map_err(|e| of_rows(e, &rows))
            }
        });
        stream::iter(parts).buffered(WINDOW)
    }

    /// One part, tried until it is answered or stays refused.
    async fn part(
        &self,
        context: &RequestContext,
        target: &ResolvedModel,
        request: &InferRequest,
        options: JobOptions,
    ) -> Result<Prediction> {
        let started = Instant::now();
        let mut jobs = 0;
        loop {
            let asked = self.call(context, target, request.clone(), of_job(&options, jobs), PATIENCE);
            let error = match asked.await {
                Ok(Answer::Done(prediction)) => return Ok(prediction),
                Ok(Answer::Pending(view)) => {
                    return Err(Error::new(ErrorCode::DeadlineExceeded, "no answer within a month").for_job(view.id));
                }
                Err(error) => error,
            };
            match again(error.code) {
                Again::WhenItPasses if started.elapsed() < AWAY => {}
                // Its caller's tokens set the pace.
                Again::WhenEarned => {}
                Again::AsAnotherJob if jobs < MORE_JOBS => jobs += 1,
                _ => return Err(error),
            }
            log::debug!(request = context.request_id.as_str(); "a part is tried again: {error}");
            tokio::time::sleep(error.retry_after.unwrap_or(PAUSE).min(AWAY)).await;
        }
    }
}

/// What a part's refusal leaves to try.
enum Again {
    WhenItPasses,
    WhenEarned,
    AsAnotherJob,
    Never,
}

fn again(code: ErrorCode) -> Again {
    match code {
        ErrorCode::NoWorker | ErrorCode::ModelNotReady | ErrorCode::QueueFull | ErrorCode::QueueUnavailable => {
            Again::WhenItPasses
        }
        ErrorCode::RateLimited => Again::WhenEarned,
        ErrorCode::InferenceFailed | ErrorCode::InvalidWorkerResult | ErrorCode::ResultExpired => Again::AsAnotherJob,
        _ => Again::Never,
    }
}

fn of_part(options: &JobOptions, first: usize) -> JobOptions {
    let key = |own: &Idempotency| Idempotency { key: format!("{}/{first}", own.key).into(), ..own.clone() };
    JobOptions { background: true, idempotency: options.idempotency.as_ref().map(key), ..options.clone() }
}

/// A key names the job that it made, also when that failed: another job needs another.
fn of_job(options: &JobOptions, jobs: u32) -> JobOptions {
    let key = |own: &Idempotency| match jobs {
        0 => own.clone(),
        more => Idempotency { key: format!("{}#{more}", own.key).into(), ..own.clone() },
    };
    JobOptions { idempotency: options.idempotency.as_ref().map(key), ..options.clone() }
}

/// The worker counts the rows of its job.
fn of_rows(error: Error, rows: &Range<usize>) -> Error {
    let message = match rows.start {
        0 => error.message,
        start => format!("counted from row {start} of the request on: {}", error.message),
    };
    Error { message, ..error }
}
