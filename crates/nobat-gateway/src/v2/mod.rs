//! The Open Inference Protocol v2: over HTTP here, and what HTTP and gRPC share.
//!
//! A thin translation to `InferRequest` and back. [`json`] and [`binary`] are
//! the two forms of a body, [`parameters`] and [`outputs`] what a request may
//! ask for besides; [`metadata`], [`config`], [`statistics`] and [`repository`]
//! answer about models, as messages that gRPC sends and HTTP writes as JSON.
//!
//! Invariants:
//! - Bodies are read raw: these clients send no content type.
//! - An answer is one buffer with a length, written once.
//! - Every refusal is `{"error": message, …}` with the status of its code.

pub(crate) mod binary;
mod classification;
pub(crate) mod config;
mod infer;
pub(crate) mod json;
pub(crate) mod metadata;
mod models;
mod names;
mod objects;
pub(crate) mod outputs;
pub(crate) mod parameters;
pub(crate) mod raw;
pub(crate) mod repository;
mod server;
pub(crate) mod settings;
pub(crate) mod statistics;

use utoipa_actix_web::service_config::ServiceConfig;

/// Adds every route under `/v2`.
pub(crate) fn configure(config: &mut ServiceConfig) {
    // What is asked most comes first.
    infer::configure(config);
    // `stats` is a reserved name: before the models.
    server::configure(config);
    models::configure(config);
}
