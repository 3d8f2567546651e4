//! The HTTP protocols. Each module decodes its bodies into `InferRequest`,
//! encodes `InferResponse`, and knows neither the queue nor its neighbours.
//! A module adds its paths in its own `configure`; [`configure`] lists them.

use actix_web::web::{self, ServiceConfig};

use crate::error::no_route;

pub(crate) mod docs;
pub mod native;
pub(crate) mod path;
pub mod prefer;
pub mod query;
mod root;
mod sagemaker;
mod tfserving;

pub use docs::document;

/// Adds every route of the gateway.
pub fn configure(config: &mut ServiceConfig) {
    // In order of heat: a request is held against each path until one matches.
    tfserving::configure(config);
    native::configure_predict(config);
    crate::v2::configure(config);
    // Before the native scope, which would answer 404 for their paths.
    native::routes::configure(config);
    native::webhooks::configure(config);
    native::periodic::configure(config);
    crate::health::configure(config);
    native::configure(config);
    sagemaker::configure(config);
    docs::configure(config);
    root::configure(config);
    config.default_service(web::to(no_route));
}
