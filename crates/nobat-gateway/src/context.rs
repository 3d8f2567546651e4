//! A request's context over HTTP: made when its head is there, found again by every
//! handler, told to its caller by `x-request-id`.

use actix_web::dev::{Service, ServiceRequest, ServiceResponse};
use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::{HttpMessage, HttpRequest};
use nobat_core::Result;
use nobat_serving::RequestContext;

use crate::path::without_slash;

/// Header that carries the request id both ways.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Header that says where an answer's time went; see [`nobat_serving::timing`].
pub(crate) const SERVER_TIMING: HeaderName = HeaderName::from_static(nobat_serving::timing::NAME);

/// The context that [`attach`] made for this request.
pub fn of(request: &HttpRequest) -> RequestContext {
    request.extensions().get::<RequestContext>().cloned().unwrap_or_else(RequestContext::anonymous)
}

/// Refuses a model that the caller may not use, and so not look at.
///
/// # Errors
/// As [`RequestContext::require_model`].
pub fn require(request: &HttpRequest, model: &str) -> Result<()> {
    request.extensions().get::<RequestContext>().map_or(Ok(()), |context| context.require_model(model))
}

/// Middleware body: gives the request its context and the response its id.
pub fn attach<S, B>(
    mut request: ServiceRequest,
    next: &S,
) -> impl Future<Output = std::result::Result<ServiceResponse<B>, actix_web::Error>> + use<S, B>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = actix_web::Error>,
{
    // Before anything looks at the path.
    without_slash(&mut request);
    let context = RequestContext::from_text(|name| request.headers().get(name)?.to_str().ok());
    let id = HeaderValue::from_str(&context.request_id);
    request.extensions_mut().insert(context);
    let answer = next.call(request);
    async move {
        let mut response = answer.await?;
        if let Ok(id) = id {
            response.headers_mut().insert(REQUEST_ID, id);
        }
        Ok(response)
    }
}
