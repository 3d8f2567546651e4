//! `GET /api/v1/jobs/{id}/events`: a job's changes as server-sent events.
//!
//! An event's id is made of the attempt and the state, not of a counter: a
//! client that reconnects with `Last-Event-ID` skips what it has seen, on any
//! gateway.

use std::time::{Duration, Instant};

use actix_web::http::header::{self, HeaderName};
use actix_web::web::{Bytes, Data, Path};
use actix_web::{HttpRequest, HttpResponse};
use futures::stream::{self, Stream};
use nobat_core::Result;
use nobat_core::job::{JobState, JobView};
use nobat_serving::Predictor;
use nobat_serving::RequestContext;

use super::held::Held;
use super::job_objects::{EventObject, JobObject};
use crate::context;
use crate::error::ApiResult;
use crate::openapi::Refusals;
use crate::query;

/// A comment goes out when nothing else did for this long.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// How often changes short of the end are looked for; the end itself is waited for.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// A job's events
///
/// One event per state, named by it, with the job as data; the stream ends
/// with the job, with the key or session that it was asked for with, and when the gateway stops. A heartbeat comment every 15 s. `Last-Event-ID` is honoured.
#[utoipa::path(
    get, path = "/api/v1/jobs/{id}/events", tag = "jobs", operation_id = "job_events",
    params(
        ("id" = String, Path, description = "The job's id"),
        ("Last-Event-ID" = Option<String>, Header, description = "The last event seen before"),
    ),
    responses((status = 200, description = "The events", body = EventObject, content_type = "text/event-stream"), Refusals),
)]
pub(crate) async fn events(request: HttpRequest, id: Path<String>, predictor: Data<Predictor>) -> ApiResult {
    query::none(&request)?;
    let context = context::of(&request);
    let view = predictor.job(&context, &id, Duration::ZERO).await?;
    let seen = request.headers().get(LAST_EVENT_ID).and_then(|id| id.to_str().ok()?.parse().ok());
    let held = Held::of(&request);
    let (id, sent) = (id.into_inner(), Instant::now());
    let follower = Follower { predictor, context, held, id, seen, sent, next: Some(view) };
    Ok(HttpResponse::Ok()
        .insert_header((header::CONTENT_TYPE, "text/event-stream"))
        .insert_header((header::CACHE_CONTROL, "no-cache"))
        .streaming(follower.stream()))
}

struct Follower {
    predictor: Data<Predictor>,
    context: RequestContext,
    held: Held,
    id: String,
    /// Id of the last event the client has.
    seen: Option<u64>,
    /// When anything was last sent.
    sent: Instant,
    /// The job as last read; `None` once the stream has ended.
    next: Option<JobView>,
}

impl Follower {
    fn stream(self) -> impl Stream<Item = Result<Bytes, actix_web::Error>> {
        stream::unfold(self, |mut follower| async move {
            let piece = follower.step().await?;
            follower.sent = Instant::now();
            Some((Ok(Bytes::from(piece)), follower))
        })
    }

    /// The next event or heartbeat; `None` at the end.
    async fn step(&mut self) -> Option<String> {
        loop {
            let view = self.next.take().filter(|_| self.held.stands(&self.predictor))?;
            let event = event_id(&view);
            if self.seen.is_none_or(|seen| is_news(seen, event)) {
                self.seen = Some(event);
                let text = print(&view, event);
                self.next = (!view.state.is_terminal()).then_some(view);
                return Some(text);
            }
            // A job's end may be far: the client goes on at another gateway.
            if view.state.is_terminal() || self.predictor.state().is_draining() {
                return None;
            }
            let idle = self.sent.elapsed();
            if idle >= HEARTBEAT {
                self.next = Some(view);
                return Some(": still here\n\n".into());
            }
            // A job that expired, or a store that is away, ends the stream; the
            // client reconnects and is told why.
            let wait = LOOK_EVERY.min(HEARTBEAT - idle);
            self.next = self.predictor.job(&self.context, &self.id, wait).await.ok();
        }
    }
}

/// Grows over a job's life: attempts first, then how far the state is. A dead letter that is
/// sent back begins anew, so its end is told from all others.
fn event_id(view: &JobView) -> u64 {
    let progress = match view.state {
        JobState::Scheduled => 0,
        JobState::Queued => 1,
        JobState::Leased => 2,
        JobState::Failed => 3,
        JobState::Dead => DEAD,
        JobState::Succeeded | JobState::Cancelled | JobState::Expired => 9,
    };
    u64::from(view.attempts) * 10 + progress
}

/// The last digit of a dead letter's event.
const DEAD: u64 = 8;

/// Whether a client that has seen one event has not seen the other. What follows a dead letter
/// is a life of its own.
fn is_news(seen: u64, event: u64) -> bool {
    seen < event || (seen % 10 == DEAD && seen != event)
}

fn print(view: &JobView, event: u64) -> String {
    // A struct of plain fields always serializes.
    let data = serde_json::to_string(&JobObject::from(view)).unwrap_or_default();
    format!("id: {event}\nevent: {}\ndata: {data}\n\n", view.state.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use nobat_core::{JobId, OwnerId};

    fn event(attempts: u32, state: JobState) -> u64 {
        event_id(&JobView {
            id: JobId { random: 1, tombstone_min: 1, mac: 1, locator: 1 },
            model: "m".into(),
            owner: OwnerId::ANONYMOUS,
            state,
            priority: 0,
            attempts,
            created_at_ms: 1,
            finished_at_ms: None,
            error: None,
            result: None,
            tags: Default::default(),
        })
    }

    #[test]
    fn who_saw_a_dead_letter_is_told_what_becomes_of_it_when_it_is_sent_back() {
        let dead = event(3, JobState::Dead);
        let life = [(0, JobState::Queued), (1, JobState::Leased), (1, JobState::Failed), (3, JobState::Succeeded)];
        let mut seen = dead;
        for (attempts, state) in life {
            let event = event(attempts, state);
            assert!(is_news(seen, event), "{state:?} after {seen}");
            assert!(!is_news(event, event));
            seen = event;
        }
        assert!(is_news(event(1, JobState::Dead), event(1, JobState::Succeeded)));
        assert!(!is_news(event(1, JobState::Leased), event(1, JobState::Queued)), "a lease that was given back");
    }
}
