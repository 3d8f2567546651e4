//! Who changed what: a bounded log of changes that people and programs made through the API.
//!
//! A protocol hands an entry over and never waits: a writer of its own appends them to the
//! metadata store, where every gateway reads them. What comes faster than it is written is
//! counted and left out. Inputs, bodies and secrets are no part of an entry.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nobat_core::{Error, Result};
use nobat_queue::MetadataStore;
use nobat_runtime::now_ms;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;
use tokio::sync::mpsc;

use crate::auth::KeyId;
use crate::context::RequestContext;

/// Name of the log.
const LOG: &str = "audit";
/// Entries that wait to be written.
const WAITING: usize = 1_000;
/// How often what is too old is looked for.
const LOOK_EVERY: Duration = Duration::from_secs(600);
/// Most entries that may be kept.
const KEPT_MAX: usize = 100_000;
/// Most bytes of what an entry is about.
const TARGET_MAX: usize = 400;
const DAY_MS: u64 = 86_400_000;

/// How long the log of changes is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuditConfig {
    /// Newest entries kept; 0 keeps no log.
    pub keep: usize,
    /// Days after which an entry is forgotten.
    pub days: u32,
}

impl Default for AuditConfig {
    fn default() -> AuditConfig {
        AuditConfig { keep: 10_000, days: 90 }
    }
}

impl AuditConfig {
    /// Checks the settings.
    ///
    /// # Errors
    /// `invalid_parameter`, naming the key.
    pub fn validate(&self) -> Result<()> {
        if self.keep > KEPT_MAX {
            return Err(Error::invalid(format!("audit.keep is {}; it takes up to {KEPT_MAX}", self.keep)));
        }
        if self.keep > 0 && self.days == 0 {
            return Err(Error::invalid("audit.days is 0; it takes 1 or more, and `audit.keep = 0` keeps no log"));
        }
        Ok(())
    }
}

/// One change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// When it was answered, milliseconds since 1970.
    pub at_ms: u64,
    /// Id of the key; `None` where no keys are asked for.
    pub key: Option<String>,
    /// Name of the key.
    pub name: Option<SmolStr>,
    /// `console`, `cli` or `api`.
    pub by: SmolStr,
    /// Method and pattern of the path, or the gRPC call.
    pub action: String,
    /// The path, with the query of what was done, or what the call names.
    pub target: String,
    /// HTTP status of the answer, or the one that its gRPC status stands for.
    pub status: u16,
    /// The request's id.
    pub request_id: SmolStr,
}

impl AuditEntry {
    /// A change that a caller made just now, and how it was answered.
    pub fn of(context: &RequestContext, by: &str, action: String, target: &str, status: u16) -> AuditEntry {
        AuditEntry {
            at_ms: now_ms(),
            key: context.grant.as_ref().map(|grant| KeyId(grant.owner.0).to_string()),
            name: context.grant.as_ref().map(|grant| grant.name.clone()),
            by: by.into(),
            action,
            target: target[..target.floor_char_boundary(TARGET_MAX)].to_owned(),
            status,
            request_id: context.request_id.clone(),
        }
    }
}

/// The log. Entries are handed over from any thread.
pub struct Audit {
    config: AuditConfig,
    sender: mpsc::Sender<AuditEntry>,
    /// Until the writer has taken it.
    receiver: Mutex<Option<mpsc::Receiver<AuditEntry>>>,
    lost: AtomicU64,
}

impl Audit {
    /// A log without a writer yet.
    pub fn new(config: AuditConfig) -> Audit {
        let (sender, receiver) = mpsc::channel(WAITING);
        Audit { config, sender, receiver: Mutex::new(Some(receiver)), lost: AtomicU64::new(0) }
    }

    /// Whether there is a log.
    pub fn is_on(&self) -> bool {
        self.config.keep > 0
    }

    /// Hands an entry over.
    pub fn note(&self, entry: AuditEntry) {
        if self.is_on() && self.sender.try_send(entry).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Entries that came faster than they were written, since the start.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// The newest entries, the newest first.
    ///
    /// # Errors
    /// `queue_unavailable`.
    pub async fn newest(&self, metadata: &dyn MetadataStore, limit: usize) -> Result<Vec<AuditEntry>> {
        let entries = metadata.tail(LOG, limit.min(self.config.keep)).await?;
        let oldest_ms = now_ms().saturating_sub(u64::from(self.config.days) * DAY_MS);
        let entries = entries.iter().filter_map(|entry| serde_json::from_slice::<AuditEntry>(entry).ok());
        Ok(entries.filter(|entry| entry.at_ms >= oldest_ms).collect())
    }

    /// Writes for ever what is handed over; ends at once when there is no log, or a writer.
    pub(crate) async fn write(&self, metadata: &dyn MetadataStore) {
        let Some(mut receiver) = self.receiver.lock().take().filter(|_| self.is_on()) else { return };
        let mut looked: Option<tokio::time::Instant> = None;
        while let Some(entry) = receiver.recv().await {
            let mut keep = self.config.keep;
            if looked.is_none_or(|at| at.elapsed() >= LOOK_EVERY) {
                // An append drops all but the newest so many: those that are not too old.
                if let Ok(young) = self.newest(metadata, keep).await {
                    keep = (young.len() + 1).min(keep);
                    looked = Some(tokio::time::Instant::now());
                }
            }
            // A struct of plain fields always serializes.
            let text = serde_json::to_vec(&entry).unwrap_or_default();
            if let Err(error) = metadata.append(LOG, &text, keep).await {
                self.lost.fetch_add(1, Ordering::Relaxed);
                log::warn!(action = entry.action.as_str(), request = entry.request_id.as_str(); "a change could not be written into the audit log: {error}");
            }
        }
    }
}
