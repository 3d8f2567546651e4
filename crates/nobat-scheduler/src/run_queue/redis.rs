//! apalis-redis, which carries runs between processes around one plain Redis
//! server: a second way beside the metadata store's timer, faster to begin, trusted with
//! nothing.
//!
//! apalis-redis 1.0 stays within its guard-rails: one poll a second, one task a
//! fetch, a heartbeat every 5 s and three missed ones, no events, an idempotency ttl
//! always, a new worker name per start, and finished tasks vacuumed every hour.
//!
//! Invariants:
//! - It goes by the caller's clock, so a host whose clock is not the store's keeps
//!   away from it: it would take every other worker for dead.
//! - What it delivers is carried out by whoever takes the run's key in the metadata store;
//!   what it loses or delays is taken from there after [`HANDOVER`].

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use apalis_core::backend::Vacuum;
use apalis_core::backend::ext::BackendExt;
use apalis_core::error::BoxDynError;
use apalis_core::task::builder::TaskBuilder;
use apalis_core::worker::builder::WorkerBuilder;
use apalis_redis::{Config, ConnectionManager, RedisStorage, queries};
use nobat_core::retry::Backoff;
use nobat_core::units::unix_ms;
use nobat_core::{Error, ErrorCode, Result};
use nobat_queue::MetadataStore;
use tokio::sync::{OnceCell, watch};

use super::leases::{KEPT, RunLeases};
use crate::run::{Handler, RunRequest};

/// How long a run is left to apalis-redis before the metadata store's timer is due: longer
/// than a poll takes.
pub(super) const HANDOVER: Duration = Duration::from_secs(3);
/// How far a host's clock may be from the store's. Twice this and a heartbeat are
/// less than what makes an orphan.
const BESIDE_MS: u64 = 2_000;
const HEARTBEAT: Duration = Duration::from_secs(5);
const MISSED_HEARTBEATS: usize = 3;
/// Heartbeats between two vacuums: an hour.
const VACUUM: usize = 720;
/// How often apalis-redis looks for a run.
const POLL: Duration = Duration::from_secs(1);
/// Pauses between two lives of a worker.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How long a push may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// The way through one Redis server. Cheap to clone.
#[derive(Clone)]
pub(super) struct Server {
    url: String,
    config: Config,
    /// Opened when first needed: a server that is away ends no start.
    connection: Arc<OnceCell<ConnectionManager>>,
}

impl Server {
    pub(super) fn new(url: String, prefix: &str) -> Server {
        let config = Config::default()
            .queue(format!("{prefix}{{:}}periodic"))
            .batch_size(1)
            .heartbeat_interval(HEARTBEAT)
            .missed_heartbeats(MISSED_HEARTBEATS)
            // The metadata store says whose a run is.
            .lock_tasks(false)
            .emit_events(false)
            // Without it nothing is acknowledged, and all comes again when a worker
            // ends. The result itself is nothing.
            .persist_results(true)
            .idempotency_ttl(Some(KEPT));
        Server { url, config, connection: Arc::default() }
    }

    async fn connection(&self) -> Result<ConnectionManager, BoxDynError> {
        Ok(self.connection.get_or_try_init(|| apalis_redis::connect(self.url.as_str())).await?.clone())
    }

    async fn storage(&self) -> Result<RedisStorage<RunRequest>, BoxDynError> {
        Ok(RedisStorage::new(self.connection().await?).with_config(self.config.clone()))
    }

    /// Hands over a run whose key has been taken in the metadata store.
    pub(super) async fn push(&self, key: &str, json: Vec<u8>) -> Result<(), BoxDynError> {
        let task = TaskBuilder::new(json).idempotency_key(key).build();
        let push = async {
            queries::push_tasks(&mut self.connection().await?, &self.config, &[task]).await?;
            Ok(())
        };
        tokio::time::timeout(PATIENCE, push).await?
    }

    /// Carries runs out until `stop` is true. Starts a worker again whatever ends it;
    /// what it was carrying out goes on.
    pub(super) async fn work(
        &self,
        name: &str,
        leases: &RunLeases,
        handler: &Handler,
        mut stop: watch::Receiver<bool>,
    ) {
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        let mut said = String::new();
        for start in 0usize.. {
            let began = Instant::now();
            let outcome = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return,
                outcome = self.work_once(format!("{name}-redis-{start}"), leases, handler) => outcome,
            };
            if began.elapsed() > LONGEST_PAUSE {
                backoff.reset();
            }
            let pause = backoff.pause();
            let why = outcome.err().map_or_else(|| "it ended".to_owned(), |error| error.to_string());
            // Said once: what lasts is one thing.
            let level = if why == said { log::Level::Debug } else { log::Level::Warn };
            log::log!(level, retry_ms = pause.as_millis() as u64; "periodic: the worker starts again: {why}");
            said = why;
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// One life of a worker; it ends when this host's clock goes wrong.
    async fn work_once(&self, name: String, leases: &RunLeases, handler: &Handler) -> Result<(), BoxDynError> {
        while !is_right(&*leases.metadata).await? {
            tokio::time::sleep(HEARTBEAT).await;
        }
        let storage = self.storage().await?;
        let (to, handler) = (leases.clone(), handler.clone());
        let worker =
            WorkerBuilder::new(name).backend(storage.poll_with_interval(POLL)).build(move |run: RunRequest| {
                let (leases, handler) = (to.clone(), handler.clone());
                async move {
                    let untaken = run.to_json()?;
                    leases.carry_out(&handler, run, &untaken).await;
                    Ok::<(), BoxDynError>(())
                }
            });
        tokio::select! {
            ended = worker.run() => Ok(ended?),
            wrong = self.watch(&*leases.metadata) => Err(wrong),
        }
    }

    /// Keeps house; returns when the clock has gone wrong.
    async fn watch(&self, metadata: &dyn MetadataStore) -> BoxDynError {
        for beat in 0usize.. {
            if let Ok(false) = is_right(metadata).await {
                break;
            }
            if beat.is_multiple_of(VACUUM)
                && let Err(error) = self.vacuum(KEPT).await
            {
                log::debug!("periodic: finished runs are forgotten later: {error}");
            }
            tokio::time::sleep(HEARTBEAT).await;
        }
        "this host's clock is not the store's (set it, by NTP); until it is, runs go by the metadata store".into()
    }

    pub(super) async fn vacuum(&self, keep: Duration) -> Result<()> {
        let unavailable = |error: BoxDynError| {
            Error::new(ErrorCode::QueueUnavailable, format!("periodic tasks cannot reach redis: {error}"))
                .retry_after(Duration::from_secs(1))
        };
        let mut storage = self.storage().await.map_err(unavailable)?;
        storage.vacuum_before(keep).await.map(drop).map_err(|error| unavailable(error.into()))
    }
}

/// Whether this host's clock is the store's, nearly.
pub(super) async fn is_right(metadata: &dyn MetadataStore) -> Result<bool> {
    let before = unix_ms(SystemTime::now());
    let store = metadata.now_ms().await?;
    Ok(beside(before, store, unix_ms(SystemTime::now())) <= BESIDE_MS)
}

/// How far a clock is from a host's that showed `before` and `after` around its telling.
fn beside(before: u64, told: u64, after: u64) -> u64 {
    before.saturating_sub(told).max(told.saturating_sub(after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_answer_is_no_wrong_clock() {
        assert_eq!(beside(1_000, 1_000, 9_000), 0);
        assert_eq!(beside(1_000, 9_000, 9_000), 0);
        assert_eq!(beside(1_000, 9_500, 9_000), 500);
        assert_eq!(beside(86_401_000, 1_000, 86_401_200), 86_400_000);
    }
}
