//! The statistics of model versions as the protocol's messages.

use nobat_core::Result;
use nobat_core::statistics::{ModelStatistics, Tally};
use nobat_serving::Predictor;
use nobat_serving::RequestContext;

use crate::proto;

/// Fresh statistics of what `model` and `version` name; see
/// [`nobat_serving::statistics::Statistics::collect`].
///
/// # Errors
/// As there.
pub(crate) async fn collect(
    predictor: &Predictor,
    context: &RequestContext,
    model: &str,
    version: &str,
) -> Result<proto::ModelStatisticsResponse> {
    let state = predictor.state();
    let sums = state.statistics.collect(&state.registry, &*state.queue, context, model, version).await?;
    Ok(proto::ModelStatisticsResponse { model_stats: sums.iter().map(message).collect() })
}

fn message(sum: &ModelStatistics) -> proto::ModelStatistics {
    proto::ModelStatistics {
        name: sum.model.to_string(),
        version: sum.version.to_string(),
        last_inference: sum.last_inference_ms,
        inference_count: sum.inference_count,
        execution_count: sum.execution_count,
        inference_stats: Some(proto::InferStatistics {
            success: duration(sum.success),
            fail: duration(sum.fail),
            queue: duration(sum.queue),
            compute_input: duration(sum.input),
            compute_infer: duration(sum.infer),
            compute_output: duration(sum.output),
            cache_hit: duration(Tally::default()),
            cache_miss: duration(Tally::default()),
        }),
        batch_stats: sum
            .batches
            .iter()
            .map(|batch| proto::InferBatchStatistics {
                batch_size: u64::from(batch.rows),
                compute_input: duration(batch.input),
                compute_infer: duration(batch.infer),
                compute_output: duration(batch.output),
            })
            .collect(),
    }
}

fn duration(tally: Tally) -> Option<proto::StatisticDuration> {
    Some(proto::StatisticDuration { count: tally.count, ns: tally.ns })
}
