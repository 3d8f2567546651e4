//! Answers of any number of rows: one job's at once, or a large request's part by part
//! as they come in. What prints them does not know which.

use actix_web::HttpResponse;
use bytes::Bytes;
use futures::stream::{self, Stream, StreamExt};
use nobat_core::Result;
use nobat_core::infer::InferRequest;
use nobat_core::job::JobOptions;
use nobat_serving::bulk::{PartAnswer, is_bulk};
use nobat_serving::timing::server_timing;
use nobat_serving::{Prediction, Predictor, RequestContext};

use super::model::TaskModel;
use crate::context::SERVER_TIMING;

/// Prints a protocol's answer.
pub(crate) trait PrintRows: 'static {
    /// What comes before the first row.
    fn begin(&mut self, out: &mut Vec<u8>);

    /// The rows of a prediction; the first is row `first` of the request.
    ///
    /// # Errors
    /// `invalid_worker_result`.
    fn rows(&mut self, out: &mut Vec<u8>, first: usize, prediction: &Prediction) -> Result<()>;

    /// What comes after the last row.
    fn end(&mut self, out: &mut Vec<u8>);
}

/// Asks for all rows and answers with what `print` makes of them. A large request is
/// streamed: an error after its first rows breaks the answer off.
///
/// # Errors
/// As [`Predictor::predict`].
pub(crate) async fn answered(
    predictor: &Predictor,
    context: &RequestContext,
    model: TaskModel,
    request: InferRequest,
    rows: usize,
    mut print: impl PrintRows,
) -> Result<HttpResponse> {
    let mut out = Vec::new();
    let options = model.options();
    if !is_bulk(&model.target.signature, &request, rows) {
        let prediction = predictor.predict(context, &model.target, request, options).await?;
        let timing = server_timing(&prediction);
        print.begin(&mut out);
        print.rows(&mut out, 0, &prediction)?;
        print.end(&mut out);
        return Ok(HttpResponse::Ok()
            .content_type("application/json")
            .insert_header((SERVER_TIMING, timing))
            .body(out));
    }
    let parts = predictor.predict_parts(context.clone(), model.target, request, rows, options).boxed();
    streamed(context, parts, print).await
}

/// Answers with what `print` makes of each part as it comes in. An error after the first
/// breaks the answer off.
///
/// # Errors
/// The first part's: what is refused at once is refused with its status.
pub(crate) async fn streamed(
    context: &RequestContext,
    mut parts: impl Stream<Item = Result<PartAnswer>> + Unpin + 'static,
    mut print: impl PrintRows,
) -> Result<HttpResponse> {
    let mut out = Vec::new();
    print.begin(&mut out);
    if let Some(first) = parts.next().await.transpose()? {
        print.rows(&mut out, first.rows.start, &first.prediction)?;
    }
    let id = context.request_id.clone();
    let failed = move |error| {
        log::warn!(request = id.as_str(); "a streamed answer is broken off: {error}");
        actix_web::error::ErrorInternalServerError(error)
    };
    let pieces = pieces(parts, print).map(move |piece| piece.map_err(&failed));
    let head = stream::iter([Ok(Bytes::from(out))]);
    Ok(HttpResponse::Ok().content_type("application/json").streaming(head.chain(pieces)))
}

/// What is printed of each part after the first, and the end.
fn pieces(
    parts: impl Stream<Item = Result<PartAnswer>> + Unpin + 'static,
    print: impl PrintRows,
) -> impl Stream<Item = Result<Bytes>> {
    stream::unfold(Some((parts, print)), |state| async {
        let (mut parts, mut print) = state?;
        let mut out = Vec::new();
        let printed = match parts.next().await {
            None => {
                print.end(&mut out);
                return Some((Ok(Bytes::from(out)), None));
            }
            Some(part) => part.and_then(|part| print.rows(&mut out, part.rows.start, &part.prediction)),
        };
        match printed {
            Ok(()) => Some((Ok(Bytes::from(out)), Some((parts, print)))),
            Err(error) => Some((Err(error), None)),
        }
    })
}

/// Asks for all rows and gives each prediction, with its first row, to `take`: for answers
/// that are small, or need all of them.
///
/// # Errors
/// As [`Predictor::predict`], and those of `take`.
pub(crate) async fn gather(
    predictor: &Predictor,
    context: &RequestContext,
    model: &TaskModel,
    request: InferRequest,
    rows: usize,
    mut take: impl FnMut(usize, &Prediction) -> Result<()>,
) -> Result<()> {
    let options = model.options();
    if !is_bulk(&model.target.signature, &request, rows) {
        let prediction = predictor.predict(context, &model.target, request, options).await?;
        return take(0, &prediction);
    }
    gather_parts(predictor, context, model, request, rows, options, take).await
}

/// As [`gather`], always in the background and part by part.
///
/// # Errors
/// As [`gather`].
pub(crate) async fn gather_parts(
    predictor: &Predictor,
    context: &RequestContext,
    model: &TaskModel,
    request: InferRequest,
    rows: usize,
    options: JobOptions,
    mut take: impl FnMut(usize, &Prediction) -> Result<()>,
) -> Result<()> {
    let mut parts = predictor.predict_parts(context.clone(), model.target.clone(), request, rows, options).boxed();
    while let Some(part) = parts.next().await.transpose()? {
        take(part.rows.start, &part.prediction)?;
    }
    Ok(())
}
