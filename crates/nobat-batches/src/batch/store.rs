//! The records of batches: a timer each, due when its carrier has to renew, and once it has
//! ended when it is forgotten. A change is a swap of what was read.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nobat_core::{Error, ErrorCode, OwnerId, Result};
use nobat_queue::MetadataStore;
use serde_json::{Map, Value};

use super::record::{Batch, Counts, Status, window_s};
use crate::files::store::{BATCHES, Files, MOST_BATCHES};
use crate::random_id::random_id;

/// Most of them of one owner: nobody keeps the others out.
const MOST_OF_OWNER: usize = 1_000;

/// A deployment's batches. Cheap to clone.
#[derive(Clone)]
pub struct Batches {
    pub(crate) metadata: Arc<dyn MetadataStore>,
    pub(crate) files: Files,
    /// How long a batch is its carrier's without a renewal.
    pub(crate) lease: Duration,
    /// Rung when there is something to carry out.
    pub(crate) work: Arc<tokio::sync::Notify>,
}

/// A batch to make.
#[derive(Clone, Debug)]
pub struct NewBatch {
    /// Whose it is.
    pub owner: OwnerId,
    /// What its owner may do, for whoever answers lines.
    pub caller: Value,
    /// Path that every line asks.
    pub endpoint: String,
    /// The file of its lines.
    pub input_file_id: String,
    /// How long it may take: `24h`.
    pub completion_window: String,
    /// What its owner notes about it.
    pub metadata: Map<String, Value>,
}

impl Batches {
    /// The batches over these files; one whose process is killed is another's after `lease`.
    pub fn new(metadata: Arc<dyn MetadataStore>, files: Files, lease: Duration) -> Batches {
        Batches { metadata, files, lease, work: Arc::default() }
    }

    /// The files that they read and write.
    pub fn files(&self) -> &Files {
        &self.files
    }

    /// Makes a batch; returns when its record is there.
    ///
    /// # Errors
    /// `invalid_parameter` for a window or a file that cannot be used; `job_not_found`
    /// for a file that is not the caller's; `queue_full`; `queue_unavailable`.
    pub async fn create(&self, new: NewBatch) -> Result<Batch> {
        let window_s = window_s(&new.completion_window)?;
        let file = self.files.find(new.owner, &new.input_file_id).await?;
        if file.purpose != "batch" {
            let message =
                format!("file `{}` has purpose `{}`; a batch takes one of purpose `batch`", file.id, file.purpose);
            return Err(Error::invalid(message));
        }
        let all = self.all().await?;
        let own = all.iter().filter(|batch| batch.owner == new.owner).count();
        if own >= MOST_OF_OWNER {
            let message =
                format!("{own} of your batches are kept, the most there may be; wait until the first are forgotten");
            return Err(Error::new(ErrorCode::QueueFull, message));
        }
        if all.len() >= MOST_BATCHES {
            let message = format!("{MOST_BATCHES} batches are kept, the most there may be; try later");
            return Err(Error::new(ErrorCode::QueueFull, message));
        }
        let now = self.metadata.now_ms().await? / 1_000;
        let batch = Batch {
            id: random_id("batch_")?,
            owner: new.owner,
            caller: new.caller,
            endpoint: new.endpoint,
            input_file_id: new.input_file_id,
            completion_window: new.completion_window,
            status: Status::Validating,
            counts: Counts::default(),
            errors: Vec::new(),
            output_file_id: None,
            error_file_id: None,
            created_at: now,
            expires_at: now + window_s,
            in_progress_at: None,
            finalizing_at: None,
            completed_at: None,
            failed_at: None,
            expired_at: None,
            cancelling_at: None,
            cancelled_at: None,
            metadata: new.metadata,
            carriers: 0,
            measured: Vec::new(),
        };
        self.metadata.add_timer(BATCHES, &batch.id, &batch.encode()?, Duration::ZERO).await?;
        self.work.notify_one();
        Ok(batch)
    }

    /// A caller's batch; another's and one that never was look the same.
    ///
    /// # Errors
    /// `job_not_found`; `queue_unavailable`.
    pub async fn find(&self, owner: OwnerId, id: &str) -> Result<Batch> {
        Ok(self.stored(owner, id).await?.0)
    }

    /// As [`Batches::find`], with the record as the store has it.
    async fn stored(&self, owner: OwnerId, id: &str) -> Result<(Batch, Bytes)> {
        let value = self.metadata.timer(BATCHES, id).await?;
        let read = value.and_then(|value| Some((serde_json::from_slice::<Batch>(&value).ok()?, value)));
        read.filter(|(batch, _)| batch.owner == owner).ok_or_else(|| {
            let message = format!("there is no batch `{}`; it may be forgotten by now", nobat_core::clip(id));
            Error::new(ErrorCode::JobNotFound, message)
        })
    }

    async fn all(&self) -> Result<Vec<Batch>> {
        let timers = self.metadata.timers(BATCHES, MOST_BATCHES).await?;
        Ok(timers.iter().filter_map(|(timer, _)| serde_json::from_slice(&timer.value).ok()).collect())
    }

    /// Deletes files whose time is over, but for the inputs of batches that go on.
    ///
    /// # Errors
    /// `queue_unavailable`; `internal` for a folder that cannot be used.
    pub async fn sweep_files(&self) -> Result<()> {
        let read = async || {
            let going_on = self.all().await?.into_iter().filter(|batch| !batch.status.is_terminal());
            Ok(going_on.map(|batch| batch.input_file_id).collect())
        };
        self.files.sweep(read).await
    }

    /// A caller's batches, the newest first.
    ///
    /// # Errors
    /// `queue_unavailable`.
    pub async fn list(&self, owner: OwnerId) -> Result<Vec<Batch>> {
        let mut own: Vec<_> = self.all().await?.into_iter().filter(|batch| batch.owner == owner).collect();
        own.sort_by(|a, b| b.created_at.cmp(&a.created_at).then_with(|| a.id.cmp(&b.id)));
        Ok(own)
    }

    /// Asks a batch to end with what is answered; its carrier sees it at its next renewal.
    ///
    /// # Errors
    /// As [`Batches::find`]; `job_already_finished`.
    pub async fn cancel(&self, owner: OwnerId, id: &str) -> Result<Batch> {
        loop {
            let (before, stored) = self.stored(owner, id).await?;
            let mut after = before.clone();
            after.cancel(self.metadata.now_ms().await? / 1_000)?;
            // Due at once: whoever takes it, or holds it, sees the change.
            let to = after.encode()?;
            if after == before || self.metadata.swap_timer(BATCHES, id, &stored, &to, Duration::ZERO).await? {
                self.work.notify_one();
                return Ok(after);
            }
        }
    }

    /// Deletes a file, unless a batch that goes on reads it.
    ///
    /// # Errors
    /// As [`Files::find`]; `idempotency_in_progress` naming the batch.
    pub async fn delete_file(&self, owner: OwnerId, id: &str) -> Result<()> {
        let batches = self.list(owner).await?;
        match batches.iter().find(|batch| batch.input_file_id == id && !batch.status.is_terminal()) {
            None => self.files.delete(owner, id).await,
            Some(batch) => {
                let message =
                    format!("file `{id}` is the input of batch `{}`, which has not ended; cancel that first", batch.id);
                Err(Error::new(ErrorCode::IdempotencyInProgress, message))
            }
        }
    }
}
