//! Requests as they go out, right or wrong.

use bytes::Bytes;
use nobat_core::oip::ModelInferRequest;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, Url};

/// A request, ready to be sent again and again.
#[derive(Clone, Debug)]
pub struct Prepared {
    pub(super) kind: PreparedKind,
}

#[derive(Clone, Debug)]
pub(super) enum PreparedKind {
    Http(HttpCall),
    Job(HttpCall),
    Grpc(Box<ModelInferRequest>),
}

/// An HTTP request as it goes out, right or wrong.
#[derive(Clone, Debug)]
pub struct HttpCall {
    /// The method.
    pub method: Method,
    /// The whole address.
    pub url: Url,
    /// Headers beside those that every request of the target has.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl HttpCall {
    /// With one header in place of what it had of that name.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: &str) -> HttpCall {
        match HeaderValue::from_str(value) {
            Ok(value) => drop(self.headers.insert(HeaderName::from_static(name), value)),
            Err(_) => drop(self.headers.remove(name)),
        }
        self
    }

    /// With another body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Bytes>) -> HttpCall {
        self.body = body.into();
        self
    }

    /// With a parameter in its query.
    #[must_use]
    pub fn query(mut self, name: &str, value: &str) -> HttpCall {
        self.url.query_pairs_mut().append_pair(name, value);
        self
    }
}

impl Prepared {
    /// The HTTP request that it is, to be sent otherwise than right; `None` over gRPC.
    pub fn http(&self) -> Option<&HttpCall> {
        match &self.kind {
            PreparedKind::Http(call) | PreparedKind::Job(call) => Some(call),
            PreparedKind::Grpc(_) => None,
        }
    }

    /// The gRPC message that it is; `None` over HTTP.
    pub fn grpc(&self) -> Option<&ModelInferRequest> {
        match &self.kind {
            PreparedKind::Grpc(message) => Some(message),
            PreparedKind::Http(_) | PreparedKind::Job(_) => None,
        }
    }
}

impl From<HttpCall> for Prepared {
    fn from(call: HttpCall) -> Prepared {
        Prepared { kind: PreparedKind::Http(call) }
    }
}

impl From<ModelInferRequest> for Prepared {
    fn from(message: ModelInferRequest) -> Prepared {
        Prepared { kind: PreparedKind::Grpc(Box::new(message)) }
    }
}
