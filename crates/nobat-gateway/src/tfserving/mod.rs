//! TensorFlow Serving's REST API under `/v1/models`, which kserve's v1 protocol
//! shares: `:predict`, `:classify`, `:regress`, status, metadata.

mod describe;
mod path;
pub(crate) mod predict;
mod rank;
mod serve;

use utoipa_actix_web::service_config::ServiceConfig;

/// Adds `/v1/models` and everything under it.
pub(crate) fn configure(config: &mut ServiceConfig) {
    describe::configure(config);
    predict::configure(config);
    rank::configure(config);
    serve::configure(config);
}
