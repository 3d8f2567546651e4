//! The HTTP protocols. Each module decodes its bodies into `InferRequest`,
//! encodes `InferResponse`, and knows neither the queue nor its neighbours.
//! A module adds its paths in its own `configure`; [`configure`] lists them.

use actix_web::web::{self, ServiceConfig};

use crate::error::no_route;

mod root;

/// Adds every route of the gateway.
pub fn configure(config: &mut ServiceConfig) {
    root::configure(config);
    config.default_service(web::to(no_route));
}
