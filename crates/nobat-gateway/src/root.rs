//! `GET /`: a page for browsers, and for clients what kserve's ask for.

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse};
use utoipa_actix_web::service_config::ServiceConfig;

use crate::access::Access;
use crate::endpoint::endpoint;

/// The page: what is served, links, and a digit to draw. It asks the API that
/// everybody else uses and loads nothing from elsewhere.
const PAGE: &str = include_str!("root.html");

/// Adds `/`.
pub(crate) fn configure(config: &mut ServiceConfig) {
    config.service(endpoint!(Access::OPEN, root));
}

/// Whether the gateway lives
#[utoipa::path(
    get, path = "/", tag = "models", operation_id = "alive",
    responses((status = 200, description = "It does", body = Value)),
)]
async fn root(request: HttpRequest) -> HttpResponse {
    let accepts = request.headers().get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    let mut response = HttpResponse::Ok();
    response.insert_header((header::VARY, "accept"));
    match accepts {
        Some(accept) if accept.contains("text/html") => response.content_type("text/html; charset=utf-8").body(PAGE),
        _ => response.content_type("application/json").body(r#"{"status":"alive"}"#),
    }
}
