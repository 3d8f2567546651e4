//! The native API under `/api/v1`: jobs first, waiting as an option.

mod answers;
mod audit;
mod events;
mod held;
mod inputs;
mod job_filter;
pub(crate) mod job_objects;
mod jobs;
mod keys;
mod model_objects;
mod models;
mod operations;
mod periodic;
pub(crate) mod predict;
mod queues;
mod routes;
mod session;
mod stream;
mod tensor_views;
mod webhooks;
mod workers;

use utoipa_actix_web::service_config::ServiceConfig;

/// Adds all of it but the predicting calls.
pub(crate) fn configure(config: &mut ServiceConfig) {
    // Before the jobs: its path would be a job's id.
    operations::configure(config);
    jobs::configure(config);
    keys::configure(config);
    audit::configure(config);
    stream::configure(config);
    models::configure(config);
    workers::configure(config);
    session::configure(config);
    queues::configure(config);
    routes::configure(config);
    webhooks::configure(config);
    periodic::configure(config);
}
