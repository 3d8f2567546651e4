//! What a refusal is on the wire: one exhaustive match from code to HTTP status and
//! one to gRPC status. How its body looks is [`crate::shape`]'s.
//!
//! Handlers return an [`ApiResult`]; the access check of their resource ([`crate::access`])
//! renders the error in the shape of the path. `nobat_core::Error` is the only error
//! type that reaches a client.

use std::time::Duration;

use actix_web::http::header::{self, HeaderValue};
use actix_web::http::{Method, StatusCode};
use actix_web::{HttpRequest, HttpResponse, ResponseError, Route, web};
use nobat_core::{Error, ErrorCode};

use crate::context;
use crate::shape::Shape;

/// What a handler returns.
pub(crate) type ApiResult = Result<HttpResponse, ApiError>;

/// An error on its way through the framework to where it is rendered.
#[derive(Debug)]
pub(crate) struct ApiError(pub(crate) Error);

impl From<Error> for ApiError {
    fn from(error: Error) -> ApiError {
        ApiError(error)
    }
}

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        http_status(self.0.code)
    }

    fn error_response(&self) -> HttpResponse {
        HttpResponse::new(self.status_code())
    }
}

/// The HTTP status of a code.
pub fn http_status(code: ErrorCode) -> StatusCode {
    match code {
        ErrorCode::InvalidJson | ErrorCode::InvalidParameter | ErrorCode::InvalidTensor => StatusCode::BAD_REQUEST,
        ErrorCode::Unauthenticated => StatusCode::UNAUTHORIZED,
        ErrorCode::PermissionDenied => StatusCode::FORBIDDEN,
        ErrorCode::ModelNotFound | ErrorCode::VersionNotFound | ErrorCode::JobNotFound | ErrorCode::RouteNotFound => {
            StatusCode::NOT_FOUND
        }
        ErrorCode::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
        ErrorCode::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
        ErrorCode::IdempotencyInProgress | ErrorCode::JobAlreadyFinished | ErrorCode::JobCancelled => {
            StatusCode::CONFLICT
        }
        ErrorCode::ResultExpired => StatusCode::GONE,
        ErrorCode::PayloadTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorCode::UnsupportedEncoding | ErrorCode::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        ErrorCode::IdempotencyMismatch => StatusCode::UNPROCESSABLE_ENTITY,
        ErrorCode::RateLimited | ErrorCode::QuotaExceeded => StatusCode::TOO_MANY_REQUESTS,
        ErrorCode::Internal | ErrorCode::InferenceFailed => StatusCode::INTERNAL_SERVER_ERROR,
        ErrorCode::Unsupported => StatusCode::NOT_IMPLEMENTED,
        ErrorCode::InvalidWorkerResult => StatusCode::BAD_GATEWAY,
        ErrorCode::QueueFull
        | ErrorCode::QueueUnavailable
        | ErrorCode::ModelNotReady
        | ErrorCode::NoWorker
        | ErrorCode::Draining => StatusCode::SERVICE_UNAVAILABLE,
        ErrorCode::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
    }
}

/// The gRPC status of a code.
pub fn grpc_code(code: ErrorCode) -> tonic::Code {
    match code {
        ErrorCode::InvalidJson
        | ErrorCode::InvalidParameter
        | ErrorCode::InvalidTensor
        | ErrorCode::UnsupportedEncoding
        | ErrorCode::UnsupportedMediaType
        | ErrorCode::IdempotencyMismatch => tonic::Code::InvalidArgument,
        ErrorCode::Unauthenticated => tonic::Code::Unauthenticated,
        ErrorCode::PermissionDenied => tonic::Code::PermissionDenied,
        ErrorCode::ModelNotFound
        | ErrorCode::VersionNotFound
        | ErrorCode::JobNotFound
        | ErrorCode::RouteNotFound
        | ErrorCode::ResultExpired => tonic::Code::NotFound,
        ErrorCode::MethodNotAllowed | ErrorCode::Unsupported => tonic::Code::Unimplemented,
        ErrorCode::IdempotencyInProgress => tonic::Code::Aborted,
        ErrorCode::JobAlreadyFinished => tonic::Code::FailedPrecondition,
        ErrorCode::JobCancelled => tonic::Code::Cancelled,
        ErrorCode::PayloadTooLarge | ErrorCode::RateLimited | ErrorCode::QuotaExceeded | ErrorCode::QueueFull => {
            tonic::Code::ResourceExhausted
        }
        ErrorCode::Internal | ErrorCode::InferenceFailed | ErrorCode::InvalidWorkerResult => tonic::Code::Internal,
        ErrorCode::QueueUnavailable | ErrorCode::ModelNotReady | ErrorCode::NoWorker | ErrorCode::Draining => {
            tonic::Code::Unavailable
        }
        ErrorCode::RequestTimeout | ErrorCode::DeadlineExceeded => tonic::Code::DeadlineExceeded,
    }
}

/// Renders an error: status, body in the shape of the request's path, `Retry-After` for
/// what may pass, `WWW-Authenticate` for what lacks credentials.
pub(crate) fn render(error: &Error, request: &HttpRequest) -> HttpResponse {
    let (context, shape) = (context::of(request), Shape::of_path(request.path()));
    let status = shape.status(error.code, http_status(error.code));
    if http_status(error.code).is_server_error() {
        // Saturation is told to who can slow down, and counted; a line for each
        // would cost more than the refusal.
        let level = match error.code {
            ErrorCode::QueueFull | ErrorCode::DeadlineExceeded => log::Level::Debug,
            _ => log::Level::Warn,
        };
        log::log!(level, code = error.code.as_str(), request = context.request_id.as_str(); "refused: {error}");
    }
    let mut response = HttpResponse::build(status);
    response.content_type(shape.content_type());
    if let Some(after) = retry_after(error) {
        response.insert_header((header::RETRY_AFTER, after.as_secs_f64().ceil().max(1.0) as u64));
    }
    if error.code == ErrorCode::Unauthenticated {
        response.insert_header((header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"nobat\"")));
    }
    response.body(shape.body(error, status, &context.request_id))
}

/// What an error says about trying again; saturation always says something.
fn retry_after(error: &Error) -> Option<Duration> {
    let passing = matches!(http_status(error.code), StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS);
    error.retry_after.or_else(|| passing.then_some(Duration::from_secs(1)))
}

/// The route for the methods that a resource does not have: 405 with `Allow`, and
/// 204 with it for OPTIONS.
/// Register it as the resource's default service.
pub(crate) fn not_allowed(allow: String) -> Route {
    web::route().to(move |request: HttpRequest| {
        let answer = method_not_allowed(&request, &allow);
        async { answer }
    })
}

/// 405 with `Allow`, in the shape of the request's path; to OPTIONS that is the
/// answer, 204.
pub(crate) fn method_not_allowed(request: &HttpRequest, allow: &str) -> HttpResponse {
    let methods = format!("{allow}, OPTIONS");
    if request.method() == Method::OPTIONS {
        return HttpResponse::NoContent().insert_header((header::ALLOW, methods)).finish();
    }
    let error = Error::new(
        ErrorCode::MethodNotAllowed,
        format!("{} is not allowed on {}; use {allow}", request.method(), request.path()),
    );
    let mut response = render(&error, request);
    if let Ok(methods) = HeaderValue::from_str(&methods) {
        response.headers_mut().insert(header::ALLOW, methods);
    }
    response
}

/// The handler of paths nobody serves: 404 in the shape of the path.
pub(crate) async fn no_route(request: HttpRequest) -> HttpResponse {
    nothing_at(&request)
}

/// 404 in the shape of the path.
pub(crate) fn nothing_at(request: &HttpRequest) -> HttpResponse {
    // The server as a whole is asked (RFC 9110, section 9.3.7).
    if request.method() == Method::OPTIONS && request.path() == "*" {
        return method_not_allowed(request, "GET, HEAD, POST, PUT, DELETE");
    }
    let error =
        Error::new(ErrorCode::RouteNotFound, format!("nothing is served at {}; see /docs for what is", request.path()));
    render(&error, request)
}
