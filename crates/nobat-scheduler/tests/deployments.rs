//! Periodic tasks around every kind of Redis: a server, a cluster, Sentinel.

use std::sync::Arc;
use std::time::Duration;

use nobat_queue::redis::{RedisQueue, single_server};
use nobat_queue::{Queue, QueueSettings};
use nobat_scheduler::schedule::RunOutcome;
use nobat_scheduler::{RunQueue, RunRequest, ScheduleStore, SchedulerHandle, SchedulerSettings, start};
use nobat_testkit::{RedisServer, Sentinel};
use serde_json::json;

fn settings() -> SchedulerSettings {
    let tasks = json!([
        {"name": "quick", "schedule": "@yearly", "vacuum": {}},
        {"name": "slow", "schedule": "@yearly", "exec": {"command": ["sleep", "3"]}},
    ]);
    serde_json::from_value(json!({"periodic_exec": true, "periodic": tasks})).expect("settings")
}

async fn queue(url: &str) -> Arc<RedisQueue> {
    RedisQueue::connect(url, QueueSettings::default(), "t").await.expect("connects")
}

async fn ran(queue: &RedisQueue, task: &str) -> RunOutcome {
    for _ in 0..300 {
        if let Some(run) = ScheduleStore::new(queue.metadata()).history(task, 1).await.expect("read").pop() {
            return run.outcome;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("task {task} has not run");
}

async fn started(queue: &Arc<RedisQueue>, url: &str) -> SchedulerHandle {
    start(&settings(), queue.clone(), url, "t").await.expect("starts")
}

async fn starts_and_runs(url: &str) {
    let queue = queue(url).await;
    let handle = started(&queue, url).await;
    ScheduleStore::new(queue.metadata()).run_now("quick").await.expect("asked");
    assert_eq!(ran(&queue, "quick").await, RunOutcome::Succeeded);
    handle.stop().await;
}

fn slow_run() -> RunRequest {
    RunRequest { task: "slow".into(), tick: 60, manual: false, key: "slow@60".into() }
}

/// Waits until somebody carries the one run out.
async fn held(queue: &RedisQueue) {
    until("the run is taken", async || {
        let runs = queue.metadata().timers("periodic-run", 1).await.expect("read");
        String::from_utf8_lossy(&runs[0].0.value).contains("holder")
    })
    .await;
}

async fn until(what: &str, reached: impl AsyncFn() -> bool) {
    for _ in 0..600 {
        if reached().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("never: {what}");
}

/// How often apalis-redis' workers have reported an end.
fn acknowledged(server: &RedisServer) -> usize {
    server.cli(&["scard", "t{:}periodic:done"]).trim().parse().expect("a number")
}

#[tokio::test]
async fn around_one_server_apalis_redis_carries_runs_and_forgets_them() {
    let server = RedisServer::start(&[]);
    let queue = queue(&server.url()).await;
    let handle = started(&queue, &server.url()).await;
    // What is pushed before a worker has come is the metadata store's after a while.
    until("a worker", async || server.cli(&["zcard", "t{:}periodic:workers"]).trim() == "1").await;
    ScheduleStore::new(queue.metadata()).run_now("quick").await.expect("asked");
    assert_eq!(ran(&queue, "quick").await, RunOutcome::Succeeded);
    until("an end", async || acknowledged(&server) == 1).await;
    let inflight = server.cli(&["--raw", "keys", "t{:}periodic:inflight:*"]);
    assert_eq!(inflight.trim(), "", "nothing is left to come again");
    handle.stop().await;
}

/// What a host whose clock is a day ahead does to another's worker at its first
/// heartbeat: the last sign of life is a day old.
#[tokio::test]
async fn a_run_that_a_wrong_clock_takes_for_orphaned_is_carried_out_once() {
    let server = RedisServer::start(&[]);
    let queue = queue(&server.url()).await;
    let one = started(&queue, &server.url()).await;
    until("a worker", async || server.cli(&["zcard", "t{:}periodic:workers"]).trim() == "1").await;
    let worker = server.cli(&["--raw", "zrange", "t{:}periodic:workers", "0", "0"]).trim().to_owned();
    let inflight = format!("t{{:}}periodic:inflight:{worker}");
    let run_queue = RunQueue::around(queue.metadata(), &server.url(), "t");
    assert!(run_queue.push(&slow_run()).await.expect("taken"));
    held(&queue).await;
    let id = server.cli(&["--raw", "hkeys", "t{:}periodic:data"]).trim().to_owned();
    // It is brought to a second scheduler while the first carries it out ...
    let two = started(&queue, &server.url()).await;
    until("it is taken for orphaned", async || {
        server.cli(&["zadd", "t{:}periodic:workers", "XX", "1", &worker]);
        server.cli(&["exists", &inflight]).trim() == "0"
    })
    .await;
    assert_eq!(ran(&queue, "slow").await, RunOutcome::Succeeded);
    until("its end", async || acknowledged(&server) == 1).await;
    // ... and once more after its end.
    server.cli(&["rpush", "t{:}periodic:active", &id]);
    until("it is brought again", async || {
        server.cli(&["llen", "t{:}periodic:active"]).trim() == "0"
            && server.cli(&["--raw", "keys", "t{:}periodic:inflight:*"]).trim().is_empty()
    })
    .await;
    tokio::time::sleep(Duration::from_millis(3_500)).await;
    assert_eq!(ScheduleStore::new(queue.metadata()).history("slow", 10).await.expect("read").len(), 1, "once");
    one.stop().await;
    two.stop().await;
}

/// As docs/OPERATIONS.md gives a user of Redis its rights: with apalis-redis' list of
/// queues, and without.
#[tokio::test]
async fn a_confined_user_s_runs_are_carried_out() {
    let server = RedisServer::start(&[]);
    let rights = ["on", ">secret", "~t*", "&t*", "+@all", "-@dangerous", "+info", "+config|get"];
    server.cli(&[&["acl", "setuser", "less"][..], &rights].concat());
    server.cli(&[&["acl", "setuser", "more"][..], &rights, &["~core:apalis:*"]].concat());
    for (user, listed) in [("less", "0"), ("more", "1")] {
        let url = format!("redis://{user}:secret@127.0.0.1:{}", server.port);
        let queue = queue(&url).await;
        let handle = started(&queue, &url).await;
        until("a run", async || {
            ScheduleStore::new(queue.metadata()).run_now("quick").await.expect("asked");
            tokio::time::sleep(Duration::from_millis(500)).await;
            !ScheduleStore::new(queue.metadata()).history("quick", 1).await.expect("read").is_empty()
        })
        .await;
        until("its queue is listed, or not", async || {
            server.cli(&["exists", "core:apalis:queues:list"]).trim() == listed
        })
        .await;
        handle.stop().await;
        server.cli(&["flushall"]);
    }
}

#[tokio::test]
async fn a_run_that_apalis_redis_lost_is_carried_out() {
    let server = RedisServer::start(&[]);
    let queue = queue(&server.url()).await;
    let run_queue = RunQueue::around(queue.metadata(), &server.url(), "t");
    let run = RunRequest { task: "quick".into(), tick: 60, manual: false, key: "quick@60".into() };
    // As a scheduler that is killed between the two, or refused by the second.
    server.cli(&["set", "t{:}periodic:scheduled", "no sorted set"]);
    assert!(run_queue.push(&run).await.expect("taken"));
    let handle = started(&queue, &server.url()).await;
    assert_eq!(ran(&queue, "quick").await, RunOutcome::Succeeded);
    assert!(!run_queue.push(&run).await.expect("answers"));
    handle.stop().await;
}

#[test]
fn a_url_of_one_server_is_told_from_a_cluster_s_and_a_sentinel_s() {
    assert_eq!(single_server("db:6379").as_deref(), Some("redis://db:6379"));
    for one in ["redis://me:secret@db:6379/2", "rediss://db", "unix:///run/redis.sock"] {
        assert_eq!(single_server(one).as_deref(), Some(one));
    }
    for other in ["", "redis+cluster://a,b", "rediss+cluster://a", "redis+sentinel://a,b/main", "http://db"] {
        assert_eq!(single_server(other), None, "{other}");
    }
}

#[tokio::test]
async fn on_a_cluster() {
    let server = RedisServer::cluster();
    starts_and_runs(&format!("redis+cluster://127.0.0.1:{}", server.port)).await;
}

#[tokio::test]
async fn under_sentinel() {
    let master = RedisServer::start(&[]);
    let sentinel = Sentinel::watch(master.port);
    starts_and_runs(&format!("redis+sentinel://127.0.0.1:{}/main", sentinel.port)).await;
}

#[tokio::test]
async fn a_run_whose_scheduler_stops_is_carried_out_by_another_at_once_and_once() {
    let server = RedisServer::start(&[]);
    let queue = queue(&server.url()).await;
    let one = started(&queue, &server.url()).await;
    let run_queue = RunQueue::around(queue.metadata(), &server.url(), "t");
    let run = slow_run();
    assert!(run_queue.push(&run).await.expect("taken"));
    // Its lease is longer than the task takes: it is taken, and not by waiting for that.
    held(&queue).await;
    let mut others = Vec::new();
    for _ in 0..2 {
        others.push(started(&queue, &server.url()).await);
    }
    one.stop().await;
    assert_eq!(ran(&queue, "slow").await, RunOutcome::Succeeded);
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(
        ScheduleStore::new(queue.metadata()).history("slow", 10).await.expect("read").len(),
        1,
        "two others, one run"
    );
    assert!(!run_queue.push(&run).await.expect("answers"), "its key stays taken");
    for other in others {
        other.stop().await;
    }
}
