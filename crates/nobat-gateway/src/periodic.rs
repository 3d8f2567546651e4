//! `/api/v1/periodic`: periodic tasks shown, run, paused and resumed. Scheduling
//! itself is `nobat_scheduler`, in whichever processes it lives; these calls
//! speak to its board in the ledger.

use std::time::{SystemTime, UNIX_EPOCH};

use actix_web::web::{self, Data, Path, Query, ServiceConfig};
use actix_web::{HttpRequest, HttpResponse};
use nobat_scheduler::board;
use serde::Deserialize;
use serde_json::json;

use crate::error::{Shape, finish, not_allowed};
use crate::predict::Predictor;

const PAGE: usize = 20;

/// Adds the paths.
pub(crate) fn configure(config: &mut ServiceConfig) {
    let post = || not_allowed("POST");
    config
        .service(web::resource("/api/v1/periodic").get(list).default_service(not_allowed("GET")))
        .service(web::resource("/api/v1/periodic/{name}/history").get(history).default_service(not_allowed("GET")))
        .service(web::resource("/api/v1/periodic/{name}/run").post(run).default_service(post()))
        .service(web::resource("/api/v1/periodic/{name}/pause").post(pause).default_service(post()))
        .service(web::resource("/api/v1/periodic/{name}/resume").post(resume).default_service(post()));
}

#[derive(Deserialize)]
struct Page {
    limit: Option<usize>,
}

async fn list(request: HttpRequest, predictor: Data<Predictor>) -> HttpResponse {
    let tasks = board::list(&*predictor.shared().queue.ledger(), now()).await;
    finish(&request, Shape::Problem, tasks.map(|tasks| HttpResponse::Ok().json(json!({ "tasks": tasks }))))
}

async fn history(
    request: HttpRequest,
    predictor: Data<Predictor>,
    name: Path<String>,
    page: Query<Page>,
) -> HttpResponse {
    let ledger = predictor.shared().queue.ledger();
    let runs = board::history_of_known(&*ledger, &name, page.limit.unwrap_or(PAGE)).await;
    finish(&request, Shape::Problem, runs.map(|runs| HttpResponse::Ok().json(json!({ "runs": runs }))))
}

async fn run(request: HttpRequest, predictor: Data<Predictor>, name: Path<String>) -> HttpResponse {
    let asked = board::run_now(&*predictor.shared().queue.ledger(), &name).await;
    finish(&request, Shape::Problem, asked.map(|id| HttpResponse::Accepted().json(json!({ "run": id }))))
}

async fn pause(request: HttpRequest, predictor: Data<Predictor>, name: Path<String>) -> HttpResponse {
    set_paused(request, predictor, name, true).await
}

async fn resume(request: HttpRequest, predictor: Data<Predictor>, name: Path<String>) -> HttpResponse {
    set_paused(request, predictor, name, false).await
}

async fn set_paused(
    request: HttpRequest,
    predictor: Data<Predictor>,
    name: Path<String>,
    paused: bool,
) -> HttpResponse {
    let done = board::set_paused(&*predictor.shared().queue.ledger(), &name, paused, now()).await;
    finish(&request, Shape::Problem, done.map(|()| HttpResponse::Ok().json(json!({ "paused": paused }))))
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}
