//! Admission of gRPC calls: each is judged by its head, before a byte of
//! its messages is read or inflated.
//!
//! The method that the path names decides the scope; the generated service compares
//! the same text. What it lets in is noted in the call's extensions ([`AdmittedCall`]),
//! without which no method answers. Bytes of messages are counted as they arrive.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::{Either, Ready, ready as at_once};
use http_body::{Frame, SizeHint};
use nobat_core::{Error, ErrorCode, Result};
use nobat_serving::RequestContext;
use nobat_serving::auth::{Credential, Scope};
use nobat_serving::limits::AdmissionPermit;
use nobat_serving::notes::Notes;
use nobat_serving::state::ServingState;
use parking_lot::Mutex;
use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;
use tower_service::Service;

use super::status::{refused, status};
use crate::error::http_status;
use crate::metrics::Protocol;
use crate::state::HttpState;

/// A service that only admitted calls reach.
#[derive(Clone)]
pub(super) struct AdmissionService<S> {
    inner: S,
    serving: Arc<ServingState>,
    http: Arc<HttpState>,
}

impl<S> AdmissionService<S> {
    pub(super) fn new(inner: S, serving: Arc<ServingState>, http: Arc<HttpState>) -> AdmissionService<S> {
        AdmissionService { inner, serving, http }
    }
}

/// A call that was let in.
#[derive(Clone)]
pub(super) struct AdmittedCall {
    /// Who it is from. Of a stream's messages each has a context of its own.
    pub(super) context: RequestContext,
    /// When its caller stops waiting, by its `grpc-timeout`. The transport counts from
    /// the head too, and answers CANCELLED at its end: a deadline taken when the message
    /// has arrived would come after that.
    pub(super) deadline: Option<Instant>,
    /// Its place among those in flight, taken by the method that predicts.
    permit: Arc<Mutex<Option<AdmissionPermit>>>,
}

impl AdmittedCall {
    /// What [`AdmissionService`] noted about a call.
    ///
    /// # Errors
    /// `internal` for a call that came by another way.
    pub(super) fn of(extensions: &http::Extensions) -> Result<AdmittedCall> {
        let missing = || Error::new(ErrorCode::Internal, "the call was not admitted");
        extensions.get::<AdmittedCall>().cloned().ok_or_else(missing)
    }

    /// The call's permit, held from now on by who takes it.
    pub(super) fn permit(&self) -> Option<AdmissionPermit> {
        self.permit.lock().take()
    }
}

/// What a method needs; `None` is open to everybody. Unknown methods need most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    Nothing,
    /// The scope alone.
    Key(Scope),
    /// A prediction: it is counted.
    Prediction,
}

fn need(method: &str) -> Need {
    match method {
        "ServerLive" | "ServerReady" => Need::Nothing,
        "ModelInfer" => Need::Prediction,
        // Each of its messages is counted.
        "ModelStreamInfer" => Need::Key(Scope::Predict),
        "ModelReady"
        | "ServerMetadata"
        | "ModelMetadata"
        | "ModelConfig"
        | "ModelStatistics"
        | "RepositoryIndex"
        | "TraceSetting"
        | "LogSettings"
        // Clients unregister what may be left of an earlier run before they begin.
        | "SystemSharedMemoryStatus"
        | "SystemSharedMemoryRegister"
        | "SystemSharedMemoryUnregister"
        | "CudaSharedMemoryStatus"
        | "CudaSharedMemoryRegister"
        | "CudaSharedMemoryUnregister" => Need::Key(Scope::Read),
        _ => Need::Key(Scope::Admin),
    }
}

impl<S> AdmissionService<S> {
    /// Lets a call in, or says why not.
    fn enter(&self, request: &http::Request<Body>) -> std::result::Result<AdmittedCall, Status> {
        let headers = request.headers();
        // Credentials that are not text are malformed, not absent.
        let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or_default());
        let mut context = RequestContext::from_text(|name| text(name).filter(|text| !text.is_empty()));
        let admission = &self.serving.admission;
        let credential = Credential::from(text("authorization"));
        let method = request.uri().path().rsplit('/').next().unwrap_or_default();
        let needed = need(method);
        let judged = match needed {
            Need::Nothing => Ok(None),
            Need::Key(scope) => admission.identify(&mut context, credential, scope).map(|()| None),
            Need::Prediction => admission.admit(&mut context, credential, Scope::Predict, Instant::now()),
        };
        match judged {
            Ok(permit) => {
                let deadline = deadline(text("grpc-timeout"), context.started).map_err(status)?;
                Ok(AdmittedCall { context, deadline, permit: Arc::new(Mutex::new(permit)) })
            }
            Err(refusal) => {
                if needed == Need::Prediction {
                    let status = http_status(refusal.code).as_u16();
                    self.http.requests.record(Protocol::Grpc, status, context.started.elapsed());
                    context.end_span(status);
                }
                Err(refused(refusal, context.notes.quota.get()))
            }
        }
    }
}

/// The instant at which a caller stops waiting.
///
/// # Errors
/// `invalid_parameter` when the header is malformed.
fn deadline(timeout: Option<&str>, now: Instant) -> Result<Option<Instant>> {
    let Some(text) = timeout else { return Ok(None) };
    let timeout = parse_timeout(text).ok_or_else(|| {
        Error::new(
            ErrorCode::InvalidParameter,
            "grpc-timeout is not up to eight digits and one of the units H M S m u n",
        )
    })?;
    Ok(now.checked_add(timeout))
}

/// Reads a `grpc-timeout`: up to eight digits and a unit (gRPC over HTTP/2,
/// "Requests").
fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let fits = (1..=8).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
    let count: u64 = digits.parse().ok().filter(|_| fits)?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

impl<S: NamedService> NamedService for AdmissionService<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<http::Request<Body>> for AdmissionService<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Either<Ready<std::result::Result<http::Response<Body>, Infallible>>, S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<std::result::Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        match self.enter(&request) {
            Err(refusal) => Either::Left(at_once(Ok(refusal.into_http()))),
            Ok(entered) => {
                let notes = entered.context.notes.clone();
                self.serving.admission.held_bytes(&entered.context);
                request.extensions_mut().insert(entered);
                Either::Right(self.inner.call(request.map(|body| Body::new(Counted { body, notes }))))
            }
        }
    }
}

/// A call's messages on their way in, counted.
struct Counted {
    body: Body,
    notes: Arc<Notes>,
}

impl http_body::Body for Counted {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, Status>>> {
        let frame = ready!(http_body::Body::poll_frame(Pin::new(&mut self.body), context));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
            && let Some(held) = self.notes.held_bytes()
            && let Err(refusal) = held.grow(data.len() as u64, &self.notes.quota)
        {
            return Poll::Ready(Some(Err(status(refusal))));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        http_body::Body::is_end_stream(&self.body)
    }

    fn size_hint(&self) -> SizeHint {
        http_body::Body::size_hint(&self.body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_in_every_unit_and_rubbish_is_refused() {
        assert_eq!(parse_timeout("2H"), Some(Duration::from_secs(7200)));
        assert_eq!(parse_timeout("99999999m"), Some(Duration::from_millis(99_999_999)));
        assert_eq!(parse_timeout("5n"), Some(Duration::from_nanos(5)));
        for bad in ["", "S", "1", "1x", "-1S", "+1S", "999999999S", "1.5S", "１S"] {
            assert_eq!(parse_timeout(bad), None, "{bad}");
        }
    }

    #[test]
    fn every_method_of_the_service_has_its_scope_and_others_need_most() {
        for (method, needed) in [
            ("ServerLive", Need::Nothing),
            ("ServerReady", Need::Nothing),
            ("ModelInfer", Need::Prediction),
            ("ModelStreamInfer", Need::Key(Scope::Predict)),
            ("ModelMetadata", Need::Key(Scope::Read)),
            ("RepositoryModelLoad", Need::Key(Scope::Admin)),
            ("RepositoryModelUnload", Need::Key(Scope::Admin)),
            ("CudaSharedMemoryUnregister", Need::Key(Scope::Read)),
            ("serverlive", Need::Key(Scope::Admin)),
            ("Server%4Cive", Need::Key(Scope::Admin)),
            ("", Need::Key(Scope::Admin)),
        ] {
            assert_eq!(need(method), needed, "{method}");
        }
    }
}
