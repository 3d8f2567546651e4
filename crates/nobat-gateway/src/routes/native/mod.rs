//! The native API under `/api/v1`: jobs first, waiting as an option.

use actix_web::web::{self, ServiceConfig};

use crate::access::{Access, resource};
use crate::error::{no_route, not_allowed};

pub mod events;
pub mod jobs;
pub mod models;
pub mod objects;
pub mod periodic;
pub mod predict;
pub mod queues;
pub mod routes;
pub mod webhooks;

/// Adds what is asked most.
pub(super) fn configure_predict(config: &mut ServiceConfig) {
    let post = || not_allowed("POST");
    config.service(resource("/api/v1/predict/{model}", Access::PREDICT).post(predict::predict).default_service(post()));
    config.service(
        resource("/api/v1/predict/{model}/many", Access::PREDICT).post(predict::predict_many).default_service(post()),
    );
}

/// Adds the rest of `/api/v1`.
pub(super) fn configure(config: &mut ServiceConfig) {
    let post = || not_allowed("POST");
    let get = || not_allowed("GET, HEAD");
    config.service(
        web::scope("/api/v1")
            .service(resource("/jobs", Access::PREDICT).get(jobs::list).default_service(get()))
            .service(
                resource("/jobs/{id}", Access::PREDICT)
                    .get(jobs::get)
                    .delete(jobs::delete)
                    .default_service(not_allowed("GET, HEAD, DELETE")),
            )
            .service(resource("/jobs/{id}/result", Access::PREDICT).get(jobs::result).default_service(get()))
            .service(resource("/jobs/{id}/input", Access::PREDICT).get(jobs::input).default_service(get()))
            .service(resource("/jobs/{id}/events", Access::PREDICT).get(events::events).default_service(get()))
            .service(resource("/jobs/{id}/cancel", Access::PREDICT).post(jobs::cancel).default_service(post()))
            .service(resource("/jobs/{id}/retry", Access::PREDICT).post(jobs::retry).default_service(post()))
            .service(resource("/models", Access::READ).get(models::list).default_service(get()))
            .service(resource("/models/{model}", Access::READ).get(models::get).default_service(get()))
            .service(resource("/queues", Access::READ).get(queues::list).default_service(get()))
            .service(resource("/queues/{model}", Access::READ).get(queues::get).default_service(get()))
            .service(resource("/queues/{model}/pause", Access::READ).post(queues::pause).default_service(post()))
            .service(resource("/queues/{model}/resume", Access::READ).post(queues::resume).default_service(post()))
            .service(
                resource("/queues/{model}/dead", Access::READ)
                    .get(queues::dead)
                    .delete(queues::purge)
                    .default_service(not_allowed("GET, HEAD, DELETE")),
            )
            .service(
                resource("/queues/{model}/dead/redrive", Access::READ).post(queues::redrive).default_service(post()),
            )
            .default_service(web::to(no_route)),
    );
}
