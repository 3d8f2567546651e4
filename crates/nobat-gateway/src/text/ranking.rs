//! Documents ranked by how well each answers a query: what the rerankers' APIs share.

use nobat_core::infer::InferRequest;
use nobat_core::parameters::Parameters;
use nobat_core::{Error, ErrorCode, Result};
use nobat_serving::{Predictor, RequestContext};

use super::answers::gather;
use super::model::TaskModel;
use super::outputs::{float_rows, floats, tokens};
use super::texts::{TEXT, TEXT_PAIR, Texts};

/// Most bytes that a query may take beside every document.
const QUERIES_MAX: usize = 16 << 20;

/// Documents by score, the best first: place in the request, and score; and the tokens read.
pub(crate) struct Ranking {
    pub(crate) ranked: Vec<(usize, f32)>,
    pub(crate) tokens: u64,
}

/// Ranks `documents` for `query`.
///
/// # Errors
/// As [`Predictor::predict`].
pub(crate) async fn rank(
    predictor: &Predictor,
    context: &RequestContext,
    model: &TaskModel,
    query: &str,
    documents: Texts,
    parameters: Parameters,
) -> Result<Ranking> {
    let rows = documents.rows;
    if query.len().saturating_mul(rows) > QUERIES_MAX {
        let message =
            format!("a query of {} bytes is too long for {rows} documents; shorten it, or send fewer", query.len());
        return Err(Error::new(ErrorCode::PayloadTooLarge, message));
    }
    let inputs = vec![Texts::repeated(query, rows).tensor(TEXT), documents.tensor(TEXT_PAIR)];
    let request = InferRequest { inputs, parameters, ..InferRequest::default() };
    let mut ranking = Ranking { ranked: Vec::with_capacity(rows), tokens: 0 };
    let take = |first: usize, prediction: &nobat_serving::Prediction| {
        let scores = float_rows(prediction, "score")?;
        ranking.ranked.extend(scores.enumerate().map(|(at, row)| (first + at, floats(row).next().unwrap_or(f32::NAN))));
        ranking.tokens += tokens(prediction);
        Ok(())
    };
    gather(predictor, context, model, request, rows, take).await?;
    if ranking.ranked.len() != rows {
        let message = format!("the worker scored {} of {rows} documents", ranking.ranked.len());
        return Err(Error::new(ErrorCode::InvalidWorkerResult, message));
    }
    ranking.ranked.sort_by(|(a, x), (b, y)| y.total_cmp(x).then(a.cmp(b)));
    Ok(ranking)
}
