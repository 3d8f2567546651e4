//! Counts that gateways add up: each writes its own into the metadata store and reads the
//! others', so that every gateway judges what all have seen.
//!
//! A gateway's document is replaced as its counts grow, and outlives it for a day: what was
//! seen stays seen. Counts are of this process's life, under an id of its own, and only grow.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nobat_core::Result;
use nobat_queue::MetadataStore;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::random_bits::random_bits;

/// Where the documents stand.
const SPACE: &str = "gateway_counts";
/// How often counts are exchanged at most.
const EVERY: Duration = Duration::from_secs(5);
/// A document is written again after so long even if nothing changed.
const AGAIN: Duration = Duration::from_secs(3_600);
/// Who has not written for so long is forgotten.
const FORGOTTEN_MS: u64 = 86_400_000;
/// Gateways that are added up; the longest silent ones go first.
const MOST_GATEWAYS: usize = 64;

/// Counts by cell.
pub(crate) type Cells = BTreeMap<String, u64>;
/// Cells by what they are of.
pub(crate) type Counts = BTreeMap<String, Cells>;

/// What a gateway writes.
#[derive(Serialize, Deserialize)]
struct Document {
    /// Written, by the store's clock.
    at_ms: u64,
    counts: Counts,
}

/// This gateway's part in the exchange.
pub(crate) struct SharedCounts {
    gateway: String,
    metadata: Arc<dyn MetadataStore>,
    last: Mutex<Exchange>,
}

#[derive(Default)]
struct Exchange {
    at: Option<Instant>,
    written: Option<(Instant, Counts)>,
    others: BTreeMap<String, Counts>,
}

impl SharedCounts {
    /// Without any others yet.
    pub(crate) fn new(metadata: Arc<dyn MetadataStore>) -> SharedCounts {
        let gateway = format!("{:016x}{:016x}", random_bits(), random_bits());
        SharedCounts { gateway, metadata, last: Mutex::default() }
    }

    /// Writes `own` counts and reads the others', where there is anything to count and it is
    /// time again.
    ///
    /// # Errors
    /// `queue_unavailable`; what is known of the others stays.
    pub(crate) async fn exchange(&self, own: &Counts) -> Result<()> {
        let now = Instant::now();
        let write = {
            let mut last = self.last.lock();
            if own.is_empty() || last.at.is_some_and(|at| now - at < EVERY) {
                return Ok(());
            }
            last.at = Some(now);
            let current = last.written.as_ref().is_some_and(|(at, counts)| now - *at < AGAIN && counts == own);
            !current && own.values().any(|cells| !cells.is_empty())
        };
        let now_ms = self.metadata.now_ms().await?;
        if write {
            let json = serde_json::to_vec(&Document { at_ms: now_ms, counts: own.clone() }).unwrap_or_default();
            self.metadata.put(SPACE, &self.gateway, &json).await?;
            self.last.lock().written = Some((now, own.clone()));
        }
        let mut documents: Vec<(String, Document)> = Vec::new();
        for (gateway, json) in self.metadata.documents(SPACE).await? {
            match serde_json::from_slice::<Document>(&json) {
                Ok(document) if gateway != self.gateway => documents.push((gateway, document)),
                Ok(_) => {}
                Err(error) => log::debug!("counts of gateway {gateway} cannot be read: {error}"),
            }
        }
        documents.sort_by_key(|(_, document)| std::cmp::Reverse(document.at_ms));
        let kept = documents.iter().take(MOST_GATEWAYS).take_while(|(_, other)| now_ms < other.at_ms + FORGOTTEN_MS);
        for (gateway, _) in documents.split_off(kept.count()) {
            self.metadata.remove(SPACE, &gateway).await?;
        }
        self.last.lock().others = documents.into_iter().map(|(gateway, other)| (gateway, other.counts)).collect();
        Ok(())
    }

    /// Every gateway's counts, this one's as they are now.
    pub(crate) fn all(&self, own: &Counts) -> BTreeMap<String, Counts> {
        let mut all = self.last.lock().others.clone();
        all.insert(self.gateway.clone(), own.clone());
        all
    }

    /// The sum of all gateways' counts of one thing.
    pub(crate) fn sum(&self, own: &Cells, of: &str) -> Cells {
        let mut sum = own.clone();
        for cells in self.last.lock().others.values().filter_map(|counts| counts.get(of)) {
            cells.iter().for_each(|(cell, count)| *sum.entry(cell.clone()).or_default() += count);
        }
        sum
    }
}
