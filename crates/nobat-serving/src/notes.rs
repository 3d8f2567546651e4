//! What a request's way leaves behind for its end: headers, the access log, its span.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};

use nobat_core::JobId;
use smol_str::SmolStr;

use crate::cache::CacheOutcome;
use crate::limits::{HeldBytes, QuotaCell};

/// What a request's way leaves behind for its end: written once, read when the
/// answer is on its way out.
#[derive(Debug, Default)]
pub struct Notes {
    cache: AtomicU8,
    model: OnceLock<SmolStr>,
    job: OnceLock<JobId>,
    /// Where the caller's limit stands.
    pub quota: QuotaCell,
    held: OnceLock<HeldBytes>,
}

impl Notes {
    /// Notes which model was asked.
    pub fn set_model(&self, model: &SmolStr) {
        let _ = self.model.set(model.clone());
    }

    /// Notes which job it became; the first of many.
    pub fn set_job(&self, job: JobId) {
        let _ = self.job.set(job);
    }

    /// Notes what the cache did.
    pub fn set_cache(&self, outcome: CacheOutcome) {
        self.cache.store(outcome as u8, Ordering::Relaxed);
    }

    /// The bytes that this request's body takes, given back with it.
    pub fn held(&self, hold: impl FnOnce() -> HeldBytes) -> &HeldBytes {
        self.held.get_or_init(hold)
    }

    /// The bytes that are counted for this request, if any are.
    pub fn held_bytes(&self) -> Option<&HeldBytes> {
        self.held.get()
    }

    /// Which model was asked; empty when none was.
    pub fn model(&self) -> &str {
        self.model.get().map_or("", SmolStr::as_str)
    }

    /// Which job it became; empty when none.
    pub fn job(&self) -> String {
        self.job.get().map(JobId::to_string).unwrap_or_default()
    }

    /// What the cache did.
    pub fn cache(&self) -> CacheOutcome {
        CacheOutcome::from_u8(self.cache.load(Ordering::Relaxed))
    }
}
