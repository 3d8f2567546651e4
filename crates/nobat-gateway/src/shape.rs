//! What an error looks like in the protocol that was spoken: the path decides. Pure.
//!
//! Every shape carries `code` and `request_id`, whatever else its clients look for.

use actix_web::http::StatusCode;
use nobat_core::{Error, ErrorCode};
use serde::Serialize;
use serde_json::json;

/// A protocol's shape of an error body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// RFC 9457 `application/problem+json`: the native API.
    Problem,
    /// The same with the message as `error` too: TensorFlow Serving, Open Inference Protocol v2.
    Plain,
    /// `{"error": {"message", "type", "param", "code"}}`.
    OpenAi,
    /// `{"error", "error_type"}`: text-embeddings-inference.
    Tei,
    /// `{"message"}`: Cohere. Jina's clients look for `detail`, which it has too.
    Rerank,
}

/// Paths, and what is below them, whose errors have a shape of their own.
const SHAPES: [(&str, Shape); 18] = [
    ("/v1/embeddings", Shape::OpenAi),
    ("/v1/files", Shape::OpenAi),
    ("/v1/batches", Shape::OpenAi),
    ("/v1/rerank", Shape::Rerank),
    ("/v2/rerank", Shape::Rerank),
    ("/embed", Shape::Tei),
    ("/embed_all", Shape::Tei),
    ("/embed_sparse", Shape::Tei),
    ("/rerank", Shape::Tei),
    ("/similarity", Shape::Tei),
    ("/tokenize", Shape::Tei),
    ("/decode", Shape::Tei),
    ("/info", Shape::Tei),
    ("/v1", Shape::Plain),
    ("/v2", Shape::Plain),
    ("/predict", Shape::Plain),
    ("/invocations", Shape::Plain),
    ("/ping", Shape::Plain),
];

/// The body of an error: `detail` says it in every shape; `error` too where a protocol's
/// clients look for that.
#[derive(Serialize)]
struct Body<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_type: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
    #[serde(rename = "type")]
    kind: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    code: ErrorCode,
    request_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    job: Option<String>,
}

impl Shape {
    /// The shape that clients of this path expect.
    pub(crate) fn of_path(path: &str) -> Shape {
        let under =
            |prefix: &str| path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        SHAPES.into_iter().find(|(prefix, _)| under(prefix)).map_or(Shape::Problem, |(_, shape)| shape)
    }

    /// The status of an error in this shape, where it is `usual` in the others.
    pub(crate) fn status(self, code: ErrorCode, usual: StatusCode) -> StatusCode {
        match (self, error_type(code)) {
            (Shape::Tei, "Validation") if code != ErrorCode::InvalidJson => StatusCode::UNPROCESSABLE_ENTITY,
            (Shape::Tei, "Backend") if code != ErrorCode::InvalidWorkerResult => StatusCode::FAILED_DEPENDENCY,
            (Shape::Tei, "Overloaded") => StatusCode::TOO_MANY_REQUESTS,
            _ => usual,
        }
    }

    pub(crate) fn content_type(self) -> &'static str {
        if self == Shape::Problem { "application/problem+json" } else { "application/json" }
    }

    /// The body of an error that has this status.
    pub(crate) fn body(self, error: &Error, status: StatusCode, request_id: &str) -> Vec<u8> {
        let message = error.message.as_str();
        let job = error.job.map(|job| job.to_string());
        if self == Shape::OpenAi {
            let kind = openai_type(status);
            let body = json!({
                "error": { "message": message, "type": kind, "param": null, "code": error.code.as_str() },
                "code": error.code.as_str(), "request_id": request_id,
            });
            return serde_json::to_vec(&body).unwrap_or_default();
        }
        let body = Body {
            error: matches!(self, Shape::Plain | Shape::Tei).then_some(message),
            error_type: (self == Shape::Tei).then(|| error_type(error.code)),
            message: (self == Shape::Rerank).then_some(message),
            kind: format!("urn:nobat:error:{}", error.code),
            title: status.canonical_reason().unwrap_or("Error"),
            status: status.as_u16(),
            detail: message,
            code: error.code,
            request_id,
            job,
        };
        serde_json::to_vec(&body).unwrap_or_default()
    }
}

/// OpenAI's kinds of errors.
fn openai_type(status: StatusCode) -> &'static str {
    match status {
        StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
        StatusCode::UNAUTHORIZED => "authentication_error",
        StatusCode::FORBIDDEN => "permission_error",
        status if status.is_server_error() => "server_error",
        _ => "invalid_request_error",
    }
}

/// text-embeddings-inference's kinds of errors.
fn error_type(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::InvalidJson | ErrorCode::InvalidParameter | ErrorCode::InvalidTensor => "Validation",
        ErrorCode::Unsupported | ErrorCode::InferenceFailed | ErrorCode::InvalidWorkerResult | ErrorCode::Internal => {
            "Backend"
        }
        ErrorCode::QueueFull | ErrorCode::RateLimited | ErrorCode::QuotaExceeded => "Overloaded",
        ErrorCode::ModelNotReady | ErrorCode::NoWorker | ErrorCode::QueueUnavailable | ErrorCode::Draining => {
            "Unhealthy"
        }
        _ => "Request",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_path_has_its_protocol_s_shape() {
        for (path, shape) in [
            ("/api/v1/jobs", Shape::Problem),
            ("/v1/embeddings", Shape::OpenAi),
            ("/v1/files/file-1/content", Shape::OpenAi),
            ("/v1/models/m:predict", Shape::Plain),
            ("/v1/rerank", Shape::Rerank),
            ("/v2/rerank", Shape::Rerank),
            ("/v2/models/m/infer", Shape::Plain),
            ("/embed", Shape::Tei),
            ("/embeddings", Shape::Problem),
            ("/predict", Shape::Plain),
        ] {
            assert_eq!(Shape::of_path(path), shape, "{path}");
        }
    }

    #[test]
    fn clients_find_the_message_where_they_look() {
        let error = Error::new(ErrorCode::InvalidTensor, "text 3 is too long");
        let body = |shape: Shape| -> serde_json::Value {
            serde_json::from_slice(&shape.body(&error, StatusCode::BAD_REQUEST, "r")).expect("JSON")
        };
        let openai = body(Shape::OpenAi);
        assert_eq!(openai["error"]["message"], "text 3 is too long");
        assert_eq!(
            (&openai["error"]["type"], &openai["error"]["code"]),
            (&json!("invalid_request_error"), &json!("invalid_tensor"))
        );
        let tei = body(Shape::Tei);
        assert_eq!((&tei["error"], &tei["error_type"]), (&json!("text 3 is too long"), &json!("Validation")));
        assert_eq!(Shape::Tei.status(error.code, StatusCode::BAD_REQUEST).as_u16(), 422);
        let rerank = body(Shape::Rerank);
        assert_eq!(
            (&rerank["message"], &rerank["detail"]),
            (&json!("text 3 is too long"), &json!("text 3 is too long"))
        );
        for shape in [Shape::Problem, Shape::Plain, Shape::OpenAi, Shape::Tei, Shape::Rerank] {
            assert_eq!(
                (&body(shape)["code"], &body(shape)["request_id"]),
                (&json!("invalid_tensor"), &json!("r")),
                "{shape:?}"
            );
        }
    }
}
