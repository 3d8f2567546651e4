//! Whose clock counts, and what is left of a time when it was wrong: on both
//! stores, over a restart.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use nobat_core::Result;
use nobat_queue::redis::RedisQueue;
use nobat_queue::sqlite::SqliteQueue;
use nobat_queue::{MetadataStore, Queue, QueueSettings, Timer};
use nobat_scheduler::schedule::{Crontab, Periodic, RunOutcome};
use nobat_scheduler::{RunQueue, ScheduleStore, Scheduler};
use nobat_testkit::RedisServer;

const MINUTE: i64 = 60;
const DAY: i64 = 86_400;
const YEARS: i64 = 10 * 365 * DAY;

fn task(json: serde_json::Value) -> (Periodic, Crontab) {
    let task: Periodic = serde_json::from_value(json).expect("a task");
    let crontab = task.check(false).expect("valid");
    (task, crontab)
}

fn every_minute() -> (Periodic, Crontab) {
    task(serde_json::json!({"name": "t", "schedule": "* * * * *", "vacuum": {}}))
}

fn scheduler(metadata: &Arc<dyn MetadataStore>) -> Scheduler {
    Scheduler::new("s", vec![every_minute()], metadata.clone(), RunQueue::new(metadata.clone()))
}

async fn goes_on_after_ten_years_of_twelve_seconds(metadata: Arc<dyn MetadataStore>) {
    let now = metadata.now_ms().await.expect("told") as i64 / 1000 / MINUTE * MINUTE;
    let mut first = scheduler(&metadata);
    assert_eq!(first.step(now).await.expect("looks"), 0, "the first look begins");
    assert_eq!(first.step(now + MINUTE).await.expect("looks"), 1);
    for second in 0..12 {
        first.step(now + YEARS + second).await.expect("looks");
    }
    // Right again: the next minute has its tick, in this process and in the next.
    first.step(now + MINUTE + 12).await.expect("looks");
    assert_eq!(first.step(now + 2 * MINUTE).await.expect("looks"), 1, "the same process goes on");
    first.step(now + YEARS).await.expect("looks");
    let mut second = scheduler(&metadata);
    second.step(now + 2 * MINUTE + 12).await.expect("looks");
    assert_eq!(second.step(now + 3 * MINUTE).await.expect("looks"), 1, "and so does the next start");
    let runs: Vec<_> = metadata.timers("periodic-run", 100).await.expect("read");
    // One of ten years later ran in those twelve seconds.
    let today = |key: &String| {
        let tick = key.strip_prefix("t@").and_then(|tick| tick.parse::<i64>().ok());
        tick.is_some_and(|tick| tick < now + DAY)
    };
    let mut keys: Vec<_> = runs.into_iter().map(|(run, _)| run.key).filter(today).collect();
    keys.sort();
    let expected: Vec<_> = (1..=3).map(|minute| format!("t@{}", now + minute * MINUTE)).collect();
    assert_eq!(keys, expected, "each minute once");
}

#[tokio::test]
async fn a_clock_that_was_ten_years_ahead_leaves_the_ticks_of_the_embedded_store() {
    let dir = tempfile::tempdir().expect("a folder");
    let queue = SqliteQueue::open(dir.path(), QueueSettings::default()).expect("opens");
    goes_on_after_ten_years_of_twelve_seconds(queue.metadata()).await;
}

#[tokio::test]
async fn a_clock_that_was_ten_years_ahead_leaves_the_ticks_of_redis() {
    let server = RedisServer::start(&[]);
    let queue = RedisQueue::connect(&server.url(), QueueSettings::default(), "t").await.expect("connects");
    goes_on_after_ten_years_of_twelve_seconds(queue.metadata()).await;
}

#[tokio::test]
async fn a_clock_set_back_by_an_hour_repeats_no_tick() {
    let dir = tempfile::tempdir().expect("a folder");
    let queue = SqliteQueue::open(dir.path(), QueueSettings::default()).expect("opens");
    let metadata = queue.metadata();
    let start = 29_000_000 * MINUTE;
    let mut scheduler = scheduler(&metadata);
    for minute in 0..=120 {
        scheduler.step(start + minute * MINUTE).await.expect("looks");
    }
    for minute in 60..=120 {
        assert_eq!(scheduler.step(start + minute * MINUTE).await.expect("looks"), 0, "minute {minute} again");
    }
    assert_eq!(scheduler.step(start + 121 * MINUTE).await.expect("looks"), 1);
}

/// A metadata store whose store has another time than this host.
struct Elsewhere {
    metadata: Arc<dyn MetadataStore>,
    ahead_s: AtomicI64,
}

#[async_trait]
impl MetadataStore for Elsewhere {
    async fn now_ms(&self) -> Result<u64> {
        let now = self.metadata.now_ms().await? as i64;
        Ok((now + self.ahead_s.load(Ordering::Relaxed) * 1000) as u64)
    }
    async fn lock(&self, key: &str, holder: &str, ttl: Duration) -> Result<bool> {
        self.metadata.lock(key, holder, ttl).await
    }
    async fn unlock(&self, key: &str, holder: &str) -> Result<()> {
        self.metadata.unlock(key, holder).await
    }
    async fn documents(&self, space: &str) -> Result<Vec<(String, Bytes)>> {
        self.metadata.documents(space).await
    }
    async fn put(&self, space: &str, key: &str, value: &[u8]) -> Result<()> {
        self.metadata.put(space, key, value).await
    }
    async fn remove(&self, space: &str, key: &str) -> Result<bool> {
        self.metadata.remove(space, key).await
    }
    async fn append(&self, log: &str, entry: &[u8], keep: usize) -> Result<()> {
        self.metadata.append(log, entry, keep).await
    }
    async fn tail(&self, log: &str, limit: usize) -> Result<Vec<Bytes>> {
        self.metadata.tail(log, limit).await
    }
    async fn add_timer(&self, set: &str, key: &str, value: &[u8], delay: Duration) -> Result<bool> {
        self.metadata.add_timer(set, key, value, delay).await
    }
    async fn timer(&self, set: &str, key: &str) -> Result<Option<Bytes>> {
        self.metadata.timer(set, key).await
    }
    async fn take_due(&self, set: &str, limit: usize, lease: Duration) -> Result<Vec<Timer>> {
        self.metadata.take_due(set, limit, lease).await
    }
    async fn move_timer(&self, set: &str, key: &str, value: &[u8], delay: Duration) -> Result<bool> {
        self.metadata.move_timer(set, key, value, delay).await
    }
    async fn swap_timer(&self, set: &str, key: &str, from: &[u8], to: &[u8], delay: Duration) -> Result<bool> {
        self.metadata.swap_timer(set, key, from, to, delay).await
    }
    async fn remove_timer(&self, set: &str, key: &str) -> Result<bool> {
        self.metadata.remove_timer(set, key).await
    }
    async fn timers(&self, set: &str, limit: usize) -> Result<Vec<(Timer, Duration)>> {
        self.metadata.timers(set, limit).await
    }
}

/// A process whose host is a day beside its store runs what the store's clock says,
/// and takes no other's run.
#[tokio::test]
async fn the_store_s_clock_is_the_one_that_counts() {
    let dir = tempfile::tempdir().expect("a folder");
    let queue = SqliteQueue::open(dir.path(), QueueSettings::default()).expect("opens");
    // Three seconds before the store's next minute, two days from this host's now.
    let own = queue.metadata().now_ms().await.expect("told") as i64 / 1000;
    let ahead_s = 2 * DAY + (MINUTE - own % MINUTE) - 3;
    let metadata = Arc::new(Elsewhere { metadata: queue.metadata(), ahead_s: AtomicI64::new(ahead_s) });
    let handle =
        nobat_scheduler::start_on(&settings(), queue.clone(), metadata.clone(), RunQueue::new(metadata.clone()))
            .await
            .expect("starts");
    let tick = (own + ahead_s) / MINUTE * MINUTE + MINUTE;
    let mut runs = Vec::new();
    for _ in 0..200 {
        runs = ScheduleStore::new(metadata.clone()).history("t", 10).await.expect("read");
        if !runs.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!((runs[0].tick, runs[0].outcome), (tick, RunOutcome::Succeeded));
    let shown = ScheduleStore::new(metadata.clone()).list().await.expect("read");
    assert_eq!(shown[0].next, Some(tick + MINUTE));
    handle.stop().await;
}

/// Around one Redis as well; and apalis-redis, which goes by the host's clock, sees
/// nothing of such a host.
#[tokio::test]
async fn a_host_with_another_time_than_redis_runs_by_the_ledger_alone() {
    let server = RedisServer::start(&[]);
    let queue = RedisQueue::connect(&server.url(), QueueSettings::default(), "t").await.expect("connects");
    let metadata: Arc<dyn MetadataStore> =
        Arc::new(Elsewhere { metadata: queue.metadata(), ahead_s: AtomicI64::new(-DAY) });
    let run_queue = RunQueue::around(metadata.clone(), &server.url(), "t");
    let handle =
        nobat_scheduler::start_on(&settings(), queue.clone(), metadata.clone(), run_queue).await.expect("starts");
    ScheduleStore::new(metadata.clone()).run_now("t").await.expect("asked");
    let mut runs = Vec::new();
    for _ in 0..300 {
        runs = ScheduleStore::new(metadata.clone()).history("t", 1).await.expect("read");
        if !runs.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(runs[0].outcome, RunOutcome::Succeeded);
    assert_eq!(server.cli(&["--raw", "keys", "t{:}periodic:*"]).trim(), "", "no worker, no run");
    handle.stop().await;
}

fn settings() -> nobat_scheduler::SchedulerSettings {
    serde_json::from_value(serde_json::json!({"periodic": [every_minute().0]})).expect("settings")
}
