//! Who asks, under which request id: what every step of a request's way may
//! want to know about it, made once by the protocol that it speaks.

use std::sync::Arc;
use std::time::Instant;

use nobat_core::job::JobOptions;
use nobat_core::request_trace::RequestTrace;
use nobat_core::{OwnerId, Result};
use nobat_runtime::traces::{self, Span};
use smol_str::SmolStr;

use crate::auth::Scope;
use crate::auth::keyring::Grant;
use crate::notes::Notes;
use crate::random_bits::random_bits;

/// Header of the key by which a weighted route chooses, in lower case: the same
/// key, the same target. In gRPC it is a metadata key.
pub const ROUTE_KEY_NAME: &str = "nobat-route-key";
/// Header of the tags of what the request enqueues, in lower case, with commas between
/// them: for protocols whose calls have no place for them. In gRPC it is a metadata key.
pub const TAGS_NAME: &str = "nobat-tags";
const MAX_REQUEST_ID: usize = 64;

/// One request's identity. Cheap to clone.
#[derive(Clone, Debug)]
pub struct RequestContext {
    /// The caller; authentication sets it.
    pub owner: OwnerId,
    /// The caller's `x-request-id` when it is usable, else one of ours.
    pub request_id: SmolStr,
    /// W3C trace parent of what this request starts: its own span's where traces
    /// are exported, else the caller's; empty without either.
    pub traceparent: SmolStr,
    /// What weighted routes choose by; empty: the request id.
    pub route_key: SmolStr,
    /// Tags of what it enqueues, as its header has them.
    pub tags: SmolStr,
    /// Its span.
    pub span: Span,
    /// When the request's head was read.
    pub started: Instant,
    /// What the caller may do; `None` when authentication is off.
    pub grant: Option<Arc<Grant>>,
    /// The caller asked for a fresh answer (`Cache-Control: no-cache`).
    pub fresh: bool,
    /// What its way left behind for headers and the access log.
    pub notes: Arc<Notes>,
}

impl RequestContext {
    /// A context of an anonymous caller with an id of ours.
    pub fn anonymous() -> RequestContext {
        RequestContext::build(|_| None, |_| Span::default())
    }

    /// Makes the context of a request; the caller is anonymous until authentication says
    /// otherwise. `text` looks a header up by its name in lower case. Unusable ids (over
    /// 64 bytes, or not visible ASCII) are replaced, not refused.
    pub fn from_text<'a>(text: impl Fn(&'static str) -> Option<&'a str>) -> RequestContext {
        RequestContext::build(text, Span::request)
    }

    fn build<'a>(text: impl Fn(&'static str) -> Option<&'a str>, span: impl Fn(&str) -> Span) -> RequestContext {
        let request_id = text("x-request-id").filter(|text| is_request_id(text));
        let callers = text("traceparent").filter(|text| is_traceparent(text)).unwrap_or_default();
        let span = span(callers);
        RequestContext {
            owner: OwnerId::ANONYMOUS,
            request_id: request_id.map_or_else(new_request_id, SmolStr::new),
            route_key: text(ROUTE_KEY_NAME).filter(|key| !key.is_empty()).map(SmolStr::new).unwrap_or_default(),
            tags: text(TAGS_NAME).map(SmolStr::new).unwrap_or_default(),
            traceparent: span.traceparent().map_or_else(|| SmolStr::new(callers), SmolStr::from),
            span,
            started: Instant::now(),
            grant: None,
            fresh: text("cache-control").is_some_and(asks_for_fresh),
            notes: Arc::default(),
        }
    }

    /// The context of a job that goes on without its caller.
    pub fn of_job(owner: OwnerId, trace: RequestTrace, route_key: SmolStr) -> RequestContext {
        let RequestTrace { request_id, traceparent } = trace;
        RequestContext { owner, request_id, traceparent, route_key, ..RequestContext::anonymous() }
    }

    /// What weighted routes choose by.
    pub fn route_key(&self) -> &[u8] {
        let key = if self.route_key.is_empty() { &self.request_id } else { &self.route_key };
        key.as_bytes()
    }

    /// Whose jobs a list of a whole queue shows this caller: its own, and
    /// everybody's (`None`) to administrators and where authentication is off.
    pub fn sees_jobs_of(&self) -> Option<OwnerId> {
        self.grant.as_ref().filter(|grant| grant.scope < Scope::Admin).map(|grant| grant.owner)
    }

    /// Whether this caller's key is an administrator's.
    pub fn administers(&self) -> bool {
        self.grant.as_ref().is_some_and(|grant| grant.scope >= Scope::Admin)
    }

    /// Whether this caller may see a model.
    pub fn covers(&self, model: &str) -> bool {
        self.grant.as_ref().is_none_or(|grant| grant.covers(model))
    }

    /// Whether this caller may see every model.
    pub fn covers_all(&self) -> bool {
        self.grant.as_ref().is_none_or(|grant| grant.models.iter().any(|model| model == "*"))
    }

    /// Refuses a model that this caller may not use, and so not look at.
    ///
    /// # Errors
    /// `permission_denied`, whether there is such a model or not.
    pub fn require_model(&self, model: &str) -> Result<()> {
        self.grant.as_ref().map_or(Ok(()), |grant| grant.require_model(model))
    }

    /// Ends the request's span with the HTTP status of its answer.
    pub fn end_span(&self, status: u16) {
        if !traces::is_on() {
            return;
        }
        self.span.note("nobat.request", &self.request_id);
        self.span.note("nobat.model", self.notes.model());
        self.span.note("nobat.job", &self.notes.job());
        self.span.end(status);
    }

    /// The options of a job with the tags of the request's header too.
    ///
    /// # Errors
    /// `invalid_parameter` for what is no tag, and for too many.
    pub fn tagged(&self, mut options: JobOptions) -> Result<JobOptions> {
        let mut own = self.tags.split(',').map(str::trim).filter(|tag| !tag.is_empty());
        own.try_for_each(|tag| options.tags.add(tag))?;
        Ok(options)
    }

    /// What travels with a job.
    pub fn trace(&self) -> RequestTrace {
        RequestTrace { request_id: self.request_id.clone(), traceparent: self.traceparent.clone() }
    }
}

/// `no-cache` or `no-store` among the directives (RFC 9111, section 5.2.1).
fn asks_for_fresh(text: &str) -> bool {
    text.split(',').any(|part| matches!(part.trim().to_ascii_lowercase().as_str(), "no-cache" | "no-store"))
}

fn is_request_id(text: &str) -> bool {
    !text.is_empty() && text.len() <= MAX_REQUEST_ID && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// `00-<32 hex>-<16 hex>-<2 hex>`, W3C Trace Context section 3.2.
fn is_traceparent(text: &str) -> bool {
    let mut parts =
        text.split('-').map(|part| (part.len(), part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))));
    [2, 32, 16, 2].into_iter().all(|len| parts.next() == Some((len, true))) && parts.next().is_none()
}

/// Unique enough to find a request in a log; not a secret.
fn new_request_id() -> SmolStr {
    let mixed = random_bits();
    let mut text = [0u8; 16];
    for (at, digit) in text.iter_mut().enumerate() {
        *digit = b"0123456789abcdef"[(mixed >> (60 - 4 * at) & 15) as usize];
    }
    SmolStr::new(std::str::from_utf8(&text).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(headers: &[(&str, &str)]) -> RequestContext {
        let value = |name| headers.iter().find(|(given, _)| *given == name).map(|(_, value)| *value);
        RequestContext::from_text(value)
    }

    #[test]
    fn a_usable_request_id_is_kept_and_an_unusable_one_replaced() {
        assert_eq!(context(&[("x-request-id", "abc-1")]).request_id, "abc-1");
        for bad in ["", "two words", &"x".repeat(65)] {
            let id = context(&[("x-request-id", bad)]).request_id;
            assert_eq!(id.len(), 16, "{bad:?} gave {id}");
        }
    }

    #[test]
    fn ids_of_ours_differ() {
        let ids: std::collections::HashSet<_> = (0..10_000).map(|_| new_request_id()).collect();
        assert_eq!(ids.len(), 10_000);
    }

    #[test]
    fn a_trace_parent_travels_only_when_it_is_one() {
        let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let with = context(&[("x-request-id", "r"), ("traceparent", parent)]);
        assert_eq!(with.trace().traceparent, parent);
        assert_eq!(context(&[("x-request-id", "r"), ("traceparent", "00-zz-b7-01")]).trace(), "r".into());
    }
}
