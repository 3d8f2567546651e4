//! Every path of the gateway. A module adds its own in its `configure`; what serves a
//! path, who may use it and what the OpenAPI document says of it stand together there.

use actix_web::body::BoxBody;
use actix_web::dev::{ServiceFactory, ServiceRequest, ServiceResponse};
use actix_web::{App, Error, web};
use utoipa::openapi::OpenApi;
use utoipa_actix_web::AppExt;
use utoipa_actix_web::service_config::ServiceConfig;

use crate::error::no_route;
use crate::{console, docs, health, native, openai, openapi, rerank, root, sagemaker, tei, tfserving, v2};

/// The application of one thread, without state and middleware, and the document of
/// its routes.
pub(crate) fn application() -> (
    App<
        impl ServiceFactory<ServiceRequest, Config = (), Response = ServiceResponse<BoxBody>, Error = Error, InitError = ()>
        + use<>,
    >,
    OpenApi,
) {
    App::new().into_utoipa_app().openapi(openapi::base()).configure(configure).split_for_parts()
}

/// The OpenAPI document of every route.
pub fn document() -> OpenApi {
    application().1
}

fn configure(config: &mut ServiceConfig) {
    // In order of heat: a request is held against each path until one matches.
    tfserving::configure(config);
    native::predict::configure(config);
    openai::configure(config);
    tei::configure(config);
    rerank::configure(config);
    v2::configure(config);
    native::configure(config);
    health::configure(config);
    sagemaker::configure(config);
    docs::configure(config);
    root::configure(config);
    console::configure(config);
    config.default_service(web::to(no_route));
}
