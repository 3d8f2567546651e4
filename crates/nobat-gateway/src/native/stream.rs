//! `GET /api/v1/events`: what a page shows, as server-sent events while it changes.
//!
//! A subscriber is asked for nothing and holds nothing: its next piece is made when it takes
//! the one before, of what the monitor keeps in memory. So a slow one gets fewer pieces, and
//! none costs the store a call. An event's id is the time of the newest point: one that
//! reconnects with `Last-Event-ID` misses no point that is still kept.

use std::time::{Duration, Instant};

use actix_web::http::header::{self, HeaderName};
use actix_web::web::{Bytes, Data};
use actix_web::{HttpRequest, HttpResponse};
use futures::stream;
use nobat_core::{Error, ErrorCode};
use nobat_runtime::now_ms;
use nobat_serving::limits::{Holder, NoPlace, Seat};
use nobat_serving::{Predictor, RequestContext, shown_model};
use serde_json::json;
use utoipa_actix_web::service_config::ServiceConfig;
use xxhash_rust::xxh3::xxh3_64;

use super::held::Held;
use super::job_objects::EventObject;
use super::model_objects::{QueueList, QueueObject};
use crate::access::Access;
use crate::endpoint::endpoint;
use crate::error::ApiResult;
use crate::health::status_of;
use crate::openapi::Refusals;
use crate::state::{HttpState, SUBSCRIBERS};
use crate::{context, query};

/// How often a subscriber is told what has changed.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A comment goes out when nothing else did for this long.
const HEARTBEAT: Duration = Duration::from_secs(15);
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// By what proxies that hold answers back are told not to.
const UNBUFFERED: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Adds the route.
pub(super) fn configure(config: &mut ServiceConfig) {
    config.service(endpoint!(Access::READ, events));
}

/// What changes, live
///
/// Events `status` (as `/api/v1/status`), `queues` (as `/api/v1/queues`, as the monitor saw
/// them) and `timeseries` (new points, for keys that cover every model), each with its JSON as
/// data and only when it has changed; a comment every 15 s. `Last-Event-ID` is honoured for
/// points. The stream ends with the key or session that it was asked for with, and when the
/// gateway stops; at most 256 of them are open at a time, and no caller has more of them than
/// are free for others.
#[utoipa::path(
    get, path = "/api/v1/events", tag = "health", operation_id = "events",
    params(("Last-Event-ID" = Option<String>, Header, description = "The last event seen before")),
    responses((status = 200, description = "The events", body = EventObject, content_type = "text/event-stream"), Refusals),
)]
pub(crate) async fn events(request: HttpRequest, predictor: Data<Predictor>, http: Data<HttpState>) -> ApiResult {
    query::none(&request)?;
    let context = context::of(&request);
    let holder = Holder::of(context.grant.as_deref(), request.peer_addr().map(|peer| peer.ip()));
    let seat = http.subscribers.take(holder).map_err(refused)?;
    let since_ms: u64 = request.headers().get(LAST_EVENT_ID).and_then(|id| id.to_str().ok()?.parse().ok()).unwrap_or(0);
    let subscriber = Subscriber {
        predictor,
        context,
        held: Held::of(&request),
        // Another gateway's clock may be ahead of this one's.
        since_ms: since_ms.min(now_ms()),
        told: [0; 2],
        begun: false,
        sent: Instant::now(),
        _seat: seat,
    };
    let pieces = stream::unfold(subscriber, |mut subscriber| async move {
        let piece = subscriber.next().await?;
        subscriber.sent = Instant::now();
        Some((Ok::<_, actix_web::Error>(Bytes::from(piece)), subscriber))
    });
    Ok(HttpResponse::Ok()
        .insert_header((header::CONTENT_TYPE, "text/event-stream"))
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .insert_header((UNBUFFERED, "no"))
        .streaming(pieces))
}

/// What a caller is told for whom there is no place.
fn refused(why: NoPlace) -> Error {
    let (code, message) = match why {
        NoPlace::Full => (ErrorCode::RateLimited, format!("{SUBSCRIBERS} callers follow events of this gateway")),
        NoPlace::Share(held) => (
            ErrorCode::QuotaExceeded,
            format!(
                "{held} of the {SUBSCRIBERS} streams of events that this gateway has are this caller's, and no more are free for others; close some"
            ),
        ),
    };
    let message = format!("{message}; ask for what you need now and then instead");
    Error::new(code, message).retry_after(Duration::from_secs(30))
}

struct Subscriber {
    predictor: Data<Predictor>,
    context: RequestContext,
    held: Held,
    /// Points up to here are told.
    since_ms: u64,
    /// Hashes of the status and the queues as they were told last.
    told: [u64; 2],
    begun: bool,
    sent: Instant,
    _seat: Seat,
}

impl Subscriber {
    /// What is to be sent next; `None` at the end.
    async fn next(&mut self) -> Option<String> {
        let mut piece = String::new();
        if !self.begun {
            self.begun = true;
            piece.push_str("retry: 2000\n\n");
        }
        loop {
            if self.predictor.state().is_draining() || !self.held.stands(&self.predictor) {
                return None;
            }
            self.look(&mut piece);
            if !piece.is_empty() {
                return Some(piece);
            }
            if self.sent.elapsed() >= HEARTBEAT {
                return Some(": still here\n\n".to_owned());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Prints what has changed.
    fn look(&mut self, piece: &mut String) {
        let shared = self.predictor.state();
        let status = status_of(shared, &self.context).to_string();
        let mut queues: Vec<_> = shared.status.queues().into_iter().collect();
        queues.retain(|(queue, _)| self.context.covers(shown_model(queue)));
        queues.sort_by(|a, b| a.0.cmp(&b.0));
        let queues = queues.into_iter().map(|(queue, counts)| QueueObject::new(&queue, counts)).collect();
        let queues = json!(QueueList { queues }).to_string();
        // Points first: the id of what follows is theirs.
        if self.context.covers_all() {
            let points = shared.series.since(self.since_ms);
            if let Some(last) = points.last() {
                self.since_ms = last.time_ms;
                self.print(piece, "timeseries", &json!({ "points": points }).to_string());
            }
        }
        for (at, (name, text)) in [("status", status), ("queues", queues)].into_iter().enumerate() {
            let hash = xxh3_64(text.as_bytes());
            if std::mem::replace(&mut self.told[at], hash) != hash {
                self.print(piece, name, &text);
            }
        }
    }

    fn print(&self, piece: &mut String, name: &str, data: &str) {
        use std::fmt::Write;
        // JSON has no line ends, and writing into a string does not fail.
        let _ = write!(piece, "id: {}\nevent: {name}\ndata: {data}\n\n", self.since_ms);
    }
}
