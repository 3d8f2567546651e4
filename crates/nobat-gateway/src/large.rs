//! Requests of more texts than one job may have, in the forms that are answered row by row:
//! cut into parts, and answered as one as these come in.
//!
//! Where rows are no texts a request is bounded by its model, as it is there that memory is
//! taken; and an answer that has its outputs one after the other cannot begin before all is known.

use std::sync::Arc;
use std::time::Instant;

use actix_web::HttpResponse;
use futures::StreamExt;
use nobat_core::infer::InferRequest;
use nobat_core::job::JobOptions;
use nobat_core::signature::ModelSignature;
use nobat_core::{Error, ErrorCode, Result};
use nobat_serving::registry::ResolvedModel;
use nobat_serving::{Prediction, Predictor, RequestContext};

use crate::rows::{self, Format};
use crate::text::answers::{PrintRows, streamed};

/// What comes before the list of rows, by the first part's prediction.
pub(crate) type Head = fn(&mut Vec<u8>, &ModelSignature, &Prediction);

/// Whether a request has more rows than one job of a model of texts may have.
pub(crate) fn is_large(signature: &ModelSignature, request: &InferRequest) -> bool {
    let rows = request.inputs.first().and_then(|input| input.shape.first()).copied().unwrap_or(0);
    let reads_texts = signature.task.as_ref().is_some_and(|task| task.kind.reads_texts());
    reads_texts && signature.batched && rows > i64::from(signature.max_rows)
}

/// Answers a request that [`is_large`], with `head` and then `"predictions":[…]}`.
///
/// # Errors
/// `payload_too_large` for a form that is not answered row by row, `invalid_parameter` for
/// options of a single job; else those of the first part.
pub(crate) async fn answered(
    predictor: &Predictor,
    context: &RequestContext,
    target: &ResolvedModel,
    request: InferRequest,
    form: Format,
    options: JobOptions,
    head: Head,
) -> Result<HttpResponse> {
    let signature = &target.signature;
    let rows = signature.rows_of(&request)?;
    if form == Format::Column {
        return Err(Error::new(
            ErrorCode::PayloadTooLarge,
            format!(
                "{rows} rows are over the limit of {} in column form for model `{}`; send them as `instances`, of which \
                 there may be any number, or split the request",
                signature.max_rows, signature.name
            ),
        ));
    }
    if options.webhook.is_some() {
        let message = "a webhook tells of one job, and this request is many; leave it out, or make a batch of it";
        return Err(Error::invalid(message));
    }
    let until = options.deadline.map(|deadline| Instant::now() + deadline);
    let options = JobOptions { deadline: None, ..options };
    let parts = predictor.predict_parts(context.clone(), target.clone(), request, rows as usize, options).boxed();
    let parts = futures::stream::unfold(Some(parts), move |parts| async move {
        let mut parts = parts?;
        let Some(until) = until else { return parts.next().await.map(|part| (part, Some(parts))) };
        match tokio::time::timeout_at(until.into(), parts.next()).await {
            Ok(part) => part.map(|part| (part, Some(parts))),
            Err(_) => {
                let message = "not all rows were answered within the deadline; give more time, or send fewer";
                Some((Err(Error::new(ErrorCode::DeadlineExceeded, message)), None))
            }
        }
    });
    let print = Predictions { signature: target.signature.clone(), form, head };
    streamed(context, parts.boxed(), print).await
}

/// Prints `HEAD"predictions":[…]}`.
struct Predictions {
    signature: Arc<ModelSignature>,
    form: Format,
    head: Head,
}

impl PrintRows for Predictions {
    fn begin(&mut self, _: &mut Vec<u8>) {}

    fn rows(&mut self, out: &mut Vec<u8>, first: usize, prediction: &Prediction) -> Result<()> {
        if first == 0 {
            (self.head)(out, &self.signature, prediction);
            out.extend_from_slice(b"\"predictions\":[");
        }
        rows::entries(out, &prediction.response.outputs, self.form, &self.signature, first == 0);
        Ok(())
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"]}");
    }
}
