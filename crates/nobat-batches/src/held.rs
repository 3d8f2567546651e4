//! A process's hold of a batch's record. The record is the only thing that is shared: whoever
//! swaps it learns whether the batch is still this process's, and whether it is to end.

use std::time::Duration;

use nobat_core::{Error, Result};

use crate::batch::store::Batches;
use crate::batch::{Batch, Status};
use crate::files::store::BATCHES;

/// How often the record is renewed, and what was answered is written, at the latest.
const RENEW: Duration = Duration::from_secs(2);

/// What ends carrying out without an end of the batch.
#[derive(Debug)]
pub(crate) enum Left {
    /// This process stops, or another has the batch.
    ToOthers,
    /// Something did not work; whoever takes the batch next tries again.
    Failed(Error),
}

impl From<Error> for Left {
    fn from(error: Error) -> Left {
        Left::Failed(error)
    }
}

/// A process's hold of a batch's record.
pub(crate) struct Held {
    pub(crate) batches: Batches,
    pub(crate) batch: Batch,
    /// The record as the store has it.
    pub(crate) written: Vec<u8>,
}

impl Held {
    /// Changes the record, due again after `delay`. A cancelling that came in between is
    /// taken over.
    pub(crate) async fn change(
        &mut self,
        delay: Duration,
        change: impl Fn(&mut Batch),
    ) -> std::result::Result<(), Left> {
        loop {
            let mut next = self.batch.clone();
            change(&mut next);
            let to = next.encode()?;
            if self.batches.metadata.swap_timer(BATCHES, &next.id, &self.written, &to, delay).await? {
                (self.batch, self.written) = (next, to);
                return Ok(());
            }
            let stored = self.batches.metadata.timer(BATCHES, &next.id).await?.ok_or(Left::ToOthers)?;
            let stored_batch: Batch = serde_json::from_slice(&stored).map_err(|_| Left::ToOthers)?;
            if stored_batch.carriers != self.batch.carriers || stored_batch.status != Status::Cancelling {
                return Err(Left::ToOthers);
            }
            (self.batch, self.written) = (stored_batch, stored.to_vec());
        }
    }

    /// Changes the record and keeps the batch for another lease.
    pub(crate) async fn renew(&mut self, change: impl Fn(&mut Batch)) -> std::result::Result<(), Left> {
        self.change(self.batches.lease, change).await
    }

    /// Waits for `work`, and keeps the batch meanwhile.
    pub(crate) async fn beside<T: Send + 'static>(
        &mut self,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> std::result::Result<T, Left> {
        let (pace, mut work) = (self.pace(), tokio::spawn(work));
        loop {
            tokio::select! {
                done = &mut work => {
                    return Ok(done.map_err(|error| Error::internal(format!("work on a batch ended early: {error}")))??);
                }
                () = tokio::time::sleep(pace) => self.renew(|_| {}).await?,
            }
        }
    }

    /// How often it is renewed.
    pub(crate) fn pace(&self) -> Duration {
        RENEW.min(self.batches.lease / 3)
    }

    pub(crate) async fn now(&self) -> Result<u64> {
        Ok(self.batches.metadata.now_ms().await? / 1_000)
    }
}
