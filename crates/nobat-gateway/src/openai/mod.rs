//! OpenAI's API: embeddings, files and batches. The list of models is
//! [`crate::tfserving`]'s, whose members do not collide with it.

mod batches;
mod embeddings;
mod file_upload;
mod files;
mod lines;
mod pages;

use utoipa_actix_web::service_config::ServiceConfig;

pub(crate) use lines::EmbeddingLines;

/// Adds its paths.
pub(crate) fn configure(config: &mut ServiceConfig) {
    embeddings::configure(config);
    files::configure(config);
    batches::configure(config);
}
