//! The native API under `/api/v1`: jobs first, waiting as an option.

mod answers;
mod events;
mod inputs;
pub(crate) mod job_objects;
mod jobs;
mod model_objects;
mod models;
mod periodic;
pub(crate) mod predict;
mod queues;
mod routes;
mod session;
mod webhooks;
mod workers;

use utoipa_actix_web::service_config::ServiceConfig;

/// Adds all of it but the predicting calls.
pub(crate) fn configure(config: &mut ServiceConfig) {
    jobs::configure(config);
    models::configure(config);
    workers::configure(config);
    session::configure(config);
    queues::configure(config);
    routes::configure(config);
    webhooks::configure(config);
    periodic::configure(config);
}
