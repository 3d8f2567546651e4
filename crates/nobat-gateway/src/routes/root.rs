//! `GET /`: what kserve's clients ask for, and a page for people.

use actix_web::http::header;
use actix_web::web::{self, ServiceConfig};
use actix_web::{HttpRequest, HttpResponse};

use crate::error::not_allowed;

/// Adds `/`.
pub(super) fn configure(config: &mut ServiceConfig) {
    config.service(web::resource("/").get(alive).head(alive).default_service(not_allowed("GET, HEAD")));
}

async fn alive(_request: HttpRequest) -> HttpResponse {
    HttpResponse::Ok().insert_header((header::CONTENT_TYPE, "application/json")).body(r#"{"status":"alive"}"#)
}
