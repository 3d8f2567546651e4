//! The native API under `/api/v1`: jobs first, waiting as an option.

use actix_web::web::{self, ServiceConfig};

use crate::error::{no_route, not_allowed};

pub mod events;
pub mod jobs;
pub mod lookup;
pub mod models;
pub mod objects;
pub mod predict;
pub mod queues;

/// Adds what is asked most.
pub(super) fn configure_predict(config: &mut ServiceConfig) {
    let post = || not_allowed("POST");
    config.service(web::resource("/api/v1/predict/{model}").post(predict::predict).default_service(post()));
    config.service(web::resource("/api/v1/predict/{model}/many").post(predict::predict_many).default_service(post()));
}

/// Adds the rest of `/api/v1`.
pub(super) fn configure(config: &mut ServiceConfig) {
    let post = || not_allowed("POST");
    let get = || not_allowed("GET, HEAD");
    config.service(
        web::scope("/api/v1")
            .service(web::resource("/jobs").get(jobs::list).default_service(get()))
            .service(
                web::resource("/jobs/{id}")
                    .get(jobs::get)
                    .delete(jobs::delete)
                    .default_service(not_allowed("GET, HEAD, DELETE")),
            )
            .service(web::resource("/jobs/{id}/result").get(jobs::result).default_service(get()))
            .service(web::resource("/jobs/{id}/events").get(events::events).default_service(get()))
            .service(web::resource("/jobs/{id}/cancel").post(jobs::cancel).default_service(post()))
            .service(web::resource("/jobs/{id}/retry").post(jobs::retry).default_service(post()))
            .service(web::resource("/models").get(models::list).default_service(get()))
            .service(web::resource("/models/{model}").get(models::get).default_service(get()))
            .service(web::resource("/queues").get(queues::list).default_service(get()))
            .service(web::resource("/queues/{model}").get(queues::get).default_service(get()))
            .service(web::resource("/queues/{model}/pause").post(queues::pause).default_service(post()))
            .service(web::resource("/queues/{model}/resume").post(queues::resume).default_service(post()))
            .service(
                web::resource("/queues/{model}/dead")
                    .get(queues::dead)
                    .delete(queues::purge)
                    .default_service(not_allowed("GET, HEAD, DELETE")),
            )
            .service(web::resource("/queues/{model}/dead/redrive").post(queues::redrive).default_service(post()))
            .default_service(web::to(no_route)),
    );
}
