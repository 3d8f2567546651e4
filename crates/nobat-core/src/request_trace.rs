//! Where a job comes from: the request that a gateway took, as logs and traces name it.

use smol_str::{SmolStr, format_smolstr};

/// The request behind a job, carried from the gateway to the worker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestTrace {
    /// The request's id; may be empty.
    pub request_id: SmolStr,
    /// The W3C trace parent; empty when the caller sent none and no traces are exported.
    pub traceparent: SmolStr,
}

impl RequestTrace {
    /// As stores keep it: the request id, then, after a space, the trace parent.
    pub fn stored(&self) -> SmolStr {
        match self.traceparent.is_empty() {
            true => self.request_id.clone(),
            false => format_smolstr!("{} {}", self.request_id, self.traceparent),
        }
    }
}

/// Whether a request's id was given by its caller: those that are made here have 16
/// hexadecimal digits. Only a given one is worth finding a job by.
pub fn is_given(request_id: &str) -> bool {
    let made = request_id.len() == 16 && request_id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    !request_id.is_empty() && !made
}

/// Reads [`RequestTrace::stored`].
impl From<&str> for RequestTrace {
    fn from(stored: &str) -> RequestTrace {
        let (request_id, traceparent) = stored.split_once(' ').unwrap_or((stored, ""));
        RequestTrace { request_id: request_id.into(), traceparent: traceparent.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_reads_back() {
        for stored in ["", "r", "r 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"] {
            assert_eq!(RequestTrace::from(stored).stored(), stored);
        }
        let parent = RequestTrace::from("r 00-1-2-01");
        assert_eq!((parent.request_id.as_str(), parent.traceparent.as_str()), ("r", "00-1-2-01"));
    }
}
