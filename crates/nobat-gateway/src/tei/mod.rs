//! The API of Hugging Face's text-embeddings-inference. Where several models are served
//! the body may name one as `model`, which that API does not have.

mod classify;
mod embed;
mod info;
mod members;
mod rerank;
mod similarity;
mod tokens;

pub(crate) use classify::{is_call, predict};

use utoipa_actix_web::service_config::ServiceConfig;

/// Adds its paths, but for `/predict`, which [`crate::sagemaker`] serves too.
pub(crate) fn configure(config: &mut ServiceConfig) {
    embed::configure(config);
    rerank::configure(config);
    similarity::configure(config);
    tokens::configure(config);
    info::configure(config);
}
