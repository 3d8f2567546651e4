//! `GET /`: the console for browsers, and for clients what kserve's ask for.

use actix_web::http::header;
use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use utoipa_actix_web::service_config::ServiceConfig;

use crate::access::Access;
use crate::console;
use crate::endpoint::endpoint;
use crate::state::HttpState;

/// Adds `/`.
pub(crate) fn configure(config: &mut ServiceConfig) {
    config.service(endpoint!(Access::OPEN, root));
}

/// Whether the gateway lives
#[utoipa::path(
    get, path = "/", tag = "models", operation_id = "alive",
    responses((status = 200, description = "It does", body = Value)),
)]
async fn root(request: HttpRequest, state: Data<HttpState>) -> HttpResponse {
    let accepts = request.headers().get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    let page = accepts.filter(|accept| accept.contains("text/html")).and_then(|_| console::page(&request, &state));
    let mut response =
        page.unwrap_or_else(|| HttpResponse::Ok().content_type("application/json").body(r#"{"status":"alive"}"#));
    response.headers_mut().insert(header::VARY, header::HeaderValue::from_static("accept"));
    response
}
