//! A served model as what a thread calls.

use std::sync::Arc;
use std::time::Duration;

use nobat_core::Result;

use super::sending::Caller;
use super::tally::{Answer, ServerShares};
use crate::client::{Prepared, Reply, ReplyStatus, ServerTimings, Target};

/// Prepared requests to one model, sent in turn.
pub struct TargetCaller {
    target: Target,
    requests: Arc<[Prepared]>,
}

impl TargetCaller {
    /// Makes one on each thread, with connections of its own.
    pub fn each(
        target: &Target,
        requests: Arc<[Prepared]>,
    ) -> impl Fn() -> Result<TargetCaller> + Clone + Send + use<> {
        let (settings, protocol) = (target.settings().clone(), target.protocol());
        move || Ok(TargetCaller { target: Target::new(settings.clone(), protocol)?, requests: requests.clone() })
    }
}

impl Caller for TargetCaller {
    async fn call(&self, n: u64) -> Answer {
        let at = n % self.requests.len().max(1) as u64;
        match self.requests.get(at as usize) {
            Some(request) => answer(&self.target.send(request).await),
            None => Answer { code: "there is no request to send".into(), ..Answer::default() },
        }
    }
}

/// What counts of a reply.
fn answer(reply: &Reply) -> Answer {
    // A job that was not finished while its caller waited is no prediction yet.
    if reply.status == ReplyStatus::Http(202) {
        return Answer { code: "HTTP 202 (not finished in time)".into(), ..Answer::default() };
    }
    if reply.is_success() {
        return Answer { right: true, server: reply.timings().map(shares), ..Answer::default() };
    }
    let code = reply.code.as_ref().map(|code| format!(" ({code})")).unwrap_or_default();
    Answer {
        right: false,
        code: format!("{}{code}", reply.status),
        silent: !reply.status.is_answer(),
        retry_after: reply.retry_after,
        server: None,
    }
}

fn shares(timings: ServerTimings) -> ServerShares {
    let time = |ms: f64| Duration::try_from_secs_f64(ms / 1e3).unwrap_or_default();
    ServerShares { queue: time(timings.queue_ms), batch: time(timings.batch_ms), run: time(timings.run_ms) }
}
