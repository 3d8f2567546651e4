//! Statistics of every model version: the sum over all workers that this
//! gateway has seen, fresh at the moment it is asked.
//!
//! Workers publish their counters when they register and, for this call, on
//! request. Invariant: what is shown never falls. A worker that left keeps its
//! part in the sum, and one that comes back under its old id is not counted
//! twice.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nobat_core::Result;
use nobat_core::statistics::{ModelStatistics, WorkerReport};
use nobat_queue::{Queue, WorkerCommand, WorkerInfo};
use smol_str::SmolStr;

use crate::context::RequestContext;
use crate::registry::{ModelEntry, Registry, Want};

/// Longest wait for workers to report; the last known counters stand in for
/// one that does not.
const REPORT_WAIT: Duration = Duration::from_secs(1);
/// First pause between two looks at the registry; each next is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(2);
/// Workers that left and are still told apart; older ones are one sum.
const DEPARTED: usize = 64;

/// The counters of this deployment, as far as this gateway has seen them.
pub struct Statistics {
    /// One refresh at a time: who waits for it gets one that began after its call.
    seen: tokio::sync::Mutex<SeenWorkers>,
    nonce: AtomicU64,
}

impl Default for Statistics {
    fn default() -> Statistics {
        // Any start will do that another gateway is unlikely to share.
        let start = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0);
        Statistics { seen: tokio::sync::Mutex::default(), nonce: AtomicU64::new(start) }
    }
}

impl Statistics {
    /// Fresh statistics of one model version, of every version of a model
    /// (`version` empty), or of all models that the caller may see (`model` empty too).
    ///
    /// # Errors
    /// `permission_denied`, `model_not_found`, `version_not_found`, `queue_unavailable`.
    pub async fn collect(
        &self,
        registry: &Registry,
        queue: &dyn Queue,
        context: &RequestContext,
        model: &str,
        version: &str,
    ) -> Result<Vec<ModelStatistics>> {
        if !model.is_empty() {
            context.require_model(model)?;
            let view = registry.load();
            let entry = view.model_among(model, |name| context.covers(name))?;
            if !version.is_empty() {
                entry.find(Want::Version(version))?;
            }
        }
        let mut seen = self.seen.lock().await;
        request_reports(registry, queue, self.nonce.fetch_add(1, Ordering::Relaxed)).await?;
        let view = registry.load();
        seen.absorb(&view.workers);
        let asked = |name: &str| if model.is_empty() { context.covers(name) } else { name == model };
        let mut entries: Vec<&ModelEntry> = view.models().filter(|entry| asked(&entry.name)).collect();
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        let sums = seen.sums();
        let mut stats = Vec::new();
        for entry in entries {
            for known in entry.versions.iter().rev() {
                let number = &known.signature.version;
                if version.is_empty() || number == version {
                    let sum = sums.get(&(entry.name.clone(), number.clone())).cloned();
                    stats.push(sum.unwrap_or_else(|| ModelStatistics::new(&entry.name, number)));
                }
            }
        }
        Ok(stats)
    }
}

/// Asks the live workers to report now and waits until they have, or for
/// [`REPORT_WAIT`].
///
/// # Errors
/// `queue_unavailable`.
async fn request_reports(registry: &Registry, queue: &dyn Queue, nonce: u64) -> Result<()> {
    queue.command(&WorkerCommand::Report { nonce }).await?;
    let answered = |worker: &WorkerInfo| report(worker).nonce == nonce;
    let mut pause = FIRST_PAUSE;
    let mut waited = Duration::ZERO;
    loop {
        registry.refresh(queue).await?;
        if waited >= REPORT_WAIT || registry.load().workers.iter().all(answered) {
            return Ok(());
        }
        tokio::time::sleep(pause).await;
        waited += pause;
        pause *= 2;
    }
}

fn report(worker: &WorkerInfo) -> WorkerReport {
    serde::Deserialize::deserialize(&worker.report).unwrap_or_default()
}

/// What has been seen of each worker.
#[derive(Default)]
struct SeenWorkers {
    workers: HashMap<SmolStr, Last>,
    /// Workers that left long ago, summed.
    departed: Vec<ModelStatistics>,
    round: u64,
}

/// A worker's latest counters.
struct Last {
    statistics: Vec<ModelStatistics>,
    round: u64,
}

impl SeenWorkers {
    fn absorb(&mut self, live: &[WorkerInfo]) {
        self.round += 1;
        for worker in live {
            self.workers.insert(worker.id.clone(), Last { statistics: report(worker).statistics, round: self.round });
        }
        while self.workers.len() > live.len() + DEPARTED {
            let Some(oldest) = self.workers.iter().min_by_key(|(_, last)| last.round).map(|(id, _)| id.clone()) else {
                return;
            };
            if let Some(last) = self.workers.remove(&oldest) {
                last.statistics.iter().for_each(|statistics| add(&mut self.departed, statistics));
            }
        }
    }

    fn sums(&self) -> HashMap<(SmolStr, SmolStr), ModelStatistics> {
        let mut sums = self.departed.clone();
        for statistics in self.workers.values().flat_map(|last| &last.statistics) {
            add(&mut sums, statistics);
        }
        sums.into_iter().map(|sum| ((sum.model.clone(), sum.version.clone()), sum)).collect()
    }
}

fn add(sums: &mut Vec<ModelStatistics>, statistics: &ModelStatistics) {
    let same = |sum: &&mut ModelStatistics| sum.model == statistics.model && sum.version == statistics.version;
    match sums.iter_mut().find(same) {
        Some(sum) => sum.merge(statistics),
        None => sums.push(statistics.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nobat_core::statistics::BatchTimes;

    fn worker(id: &str, batches: u32) -> WorkerInfo {
        let mut statistics = ModelStatistics::new("m", "1");
        for _ in 0..batches {
            statistics.record_batch(BatchTimes { rows: 4, ..BatchTimes::default() }, 2, 1);
        }
        let report = WorkerReport { nonce: 0, statistics: vec![statistics] };
        WorkerInfo {
            id: id.into(),
            host: String::new(),
            started_at_ms: 0,
            sessions: 1,
            models: vec![],
            report: serde_json::to_value(report).expect("serializes"),
        }
    }

    fn executions(seen: &SeenWorkers) -> u64 {
        seen.sums().values().map(|sum| sum.execution_count).sum()
    }

    #[test]
    fn a_worker_that_leaves_keeps_its_part_and_is_not_counted_twice_when_it_returns() {
        let mut seen = SeenWorkers::default();
        seen.absorb(&[worker("a", 3), worker("b", 1)]);
        assert_eq!(executions(&seen), 4);
        seen.absorb(&[worker("b", 2)]);
        assert_eq!(executions(&seen), 5);
        seen.absorb(&[worker("a", 4), worker("b", 2)]);
        assert_eq!(executions(&seen), 6);
    }

    #[test]
    fn memory_is_bounded_however_many_workers_come_and_go() {
        let mut seen = SeenWorkers::default();
        for start in 0..1000 {
            seen.absorb(&[worker(&start.to_string(), 1)]);
        }
        assert_eq!(executions(&seen), 1000);
        assert!(seen.workers.len() <= DEPARTED + 1);
        assert_eq!(seen.departed.len(), 1);
    }
}
