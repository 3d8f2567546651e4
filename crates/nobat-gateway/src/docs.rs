//! The OpenAPI document, generated from the handlers, and Swagger UI over it.

use actix_web::HttpResponse;
use actix_web::http::{Method, header};
use actix_web::web::{self, Bytes, Data};
use utoipa_actix_web::service_config::ServiceConfig;
use utoipa_swagger_ui::{Config, SwaggerUi};

use crate::access::Access;
use crate::endpoint::Endpoint;
use crate::error::no_route;

const DOCUMENT: &str = "/api/openapi.json";

/// The document as it is sent; part of the application's state.
pub(crate) struct DocumentText(pub(crate) Bytes);

/// Adds the document and Swagger UI.
pub(crate) fn configure(config: &mut ServiceConfig) {
    config.service(Endpoint::hidden(Access::OPEN, DOCUMENT).route(Method::GET, || web::to(serve)));
    config.service(Endpoint::hidden(Access::OPEN, "/docs").route(Method::GET, || web::to(to_slash)));
    let settings = Config::new([DOCUMENT]).try_it_out_enabled(true).display_request_duration(true);
    config.map(|config| config.service(SwaggerUi::new("/docs/{_:.*}").config(settings)));
    // It has no say on other methods than GET.
    config.service(Endpoint::hidden(Access::OPEN, "/docs/{_:.*}").route(Method::GET, || web::to(no_route)));
}

async fn serve(document: Data<DocumentText>) -> HttpResponse {
    HttpResponse::Ok().content_type("application/json").body(document.0.clone())
}

/// Swagger UI's own links are relative to the folder.
async fn to_slash() -> HttpResponse {
    HttpResponse::PermanentRedirect().insert_header((header::LOCATION, "/docs/")).finish()
}
