//! What a client's callers and its tasks share.

use std::sync::Arc;

use nobat_core::{JobId, Result};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::super::connection::ConnectionManager;
use super::super::keys::QueueKeys;
use super::super::store::RedisStore;
use super::outgoing::OutgoingJob;
use super::waiters::{Completion, Waiters};
use crate::api::Accepted;

pub(crate) struct ClientState {
    pub(crate) store: Arc<RedisStore>,
    pub(crate) name: [u8; 8],
    pub(crate) manager: ConnectionManager,
    pub(crate) outbox: Mutex<Outbox>,
    pub(crate) filled: Notify,
    pub(crate) waiters: Arc<Waiters>,
}

/// What waits to be sent.
#[derive(Default)]
pub(crate) struct Outbox {
    pub(crate) jobs: Vec<OutgoingJob>,
    /// Queued jobs whose caller left.
    pub(crate) abandoned: Vec<(Arc<QueueKeys>, JobId)>,
}

impl ClientState {
    /// Sends a job with the next call.
    pub(crate) fn push(&self, outgoing: OutgoingJob) {
        self.outbox.lock().jobs.push(outgoing);
        self.filled.notify_one();
    }

    /// Tells whoever waits for an enqueue's answer.
    pub(crate) fn answer(&self, outgoing: &mut OutgoingJob, verdict: Result<Accepted>) {
        let job = outgoing.id.random;
        match (outgoing.ack.take(), verdict) {
            (Some(ack), verdict) => drop(ack.send(verdict)),
            // A caller waits for the end, not for this.
            (None, Ok(accepted)) if !accepted.duplicate => {}
            (None, Ok(accepted)) => self.waiters.notify(job, || Completion::Duplicate(accepted.id)),
            (None, Err(e)) => self.waiters.notify(job, || Completion::Refused(e.clone())),
        }
    }
}
