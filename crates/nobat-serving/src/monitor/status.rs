//! What the monitor saw last, for readers.

use std::collections::HashMap;
use std::sync::Arc;

use nobat_queue::Counts;
use parking_lot::RwLock;
use serde::Serialize;
use smol_str::SmolStr;

use super::check::State;

/// What the monitor saw last. A clone-able handle.
#[derive(Clone, Default)]
pub struct Status {
    seen: Arc<RwLock<LastSeen>>,
}

#[derive(Default)]
struct LastSeen {
    /// Followed as it changes; the others are looked at.
    store: Option<CheckStatus>,
    checks: Vec<CheckStatus>,
    queues: HashMap<SmolStr, Counts>,
}

/// One check, for readers.
#[derive(Clone, Debug, Serialize)]
pub struct CheckStatus {
    /// Which.
    pub name: &'static str,
    /// Where it stands.
    pub state: State,
    /// How long it has stood there.
    pub for_s: u64,
    /// What was seen last.
    pub detail: String,
}

impl Status {
    /// Every check, as it was seen last; empty before the first look.
    pub fn checks(&self) -> Vec<CheckStatus> {
        let seen = self.seen.read();
        seen.store.iter().chain(&seen.checks).cloned().collect()
    }

    /// Every queue that a known model has, as it was seen last.
    pub fn queues(&self) -> HashMap<SmolStr, Counts> {
        self.seen.read().queues.clone()
    }

    /// Takes over how the store stands.
    pub(super) fn set_store(&self, store: CheckStatus) {
        self.seen.write().store = Some(store);
    }

    /// Takes over what a look at everything else found.
    pub(super) fn set(&self, checks: Vec<CheckStatus>, queues: HashMap<SmolStr, Counts>) {
        let mut seen = self.seen.write();
        (seen.checks, seen.queues) = (checks, queues);
    }
}
