//! Periodic tasks around every kind of Redis: a server, a cluster, Sentinel.

mod servers;

use std::sync::Arc;
use std::time::Duration;

use nobat_core::schedule::RunOutcome;
use nobat_queue::Queue;
use nobat_queue::queue::QueueSettings;
use nobat_queue::redis::RedisQueue;
use nobat_scheduler::{Carrier, RunRequest, SchedulerHandle, SchedulerSettings, board, start};
use serde_json::json;
use servers::Server;

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
        if let Some(run) = board::history(&*queue.ledger(), task, 1).await.expect("read").pop() {
            return run.outcome;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("task {task} has not run");
}

async fn starts_and_runs(url: &str) {
    let queue = queue(url).await;
    let handle = start(&settings(), queue.clone()).await.expect("starts");
    board::run_now(&*queue.ledger(), "quick").await.expect("asked");
    assert_eq!(ran(&queue, "quick").await, RunOutcome::Succeeded);
    handle.stop().await;
}

#[tokio::test]
async fn on_a_cluster() {
    let server = Server::cluster();
    starts_and_runs(&format!("redis+cluster://127.0.0.1:{}", server.port)).await;
}

#[tokio::test]
async fn under_sentinel() {
    let master = Server::start(&[]);
    let sentinel = Server::sentinel(master.port);
    starts_and_runs(&format!("redis+sentinel://127.0.0.1:{}/main", sentinel.port)).await;
}

#[tokio::test]
async fn a_run_whose_scheduler_stops_is_carried_out_by_another_at_once_and_once() {
    let server = Server::start(&[]);
    let queue = queue(&server.url()).await;
    let one = start(&settings(), queue.clone()).await.expect("starts");
    let carrier = Carrier::new(queue.ledger());
    let run = RunRequest { task: "slow".into(), tick: 60, manual: false, key: "slow@60".into() };
    assert!(carrier.push(&run).await.expect("taken"));
    // Its lease is longer than the task takes: it is taken, and not by waiting for that.
    while queue.ledger().timers("periodic-run", 1).await.expect("read").iter().all(|(_, left)| left.is_zero()) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let others: Vec<SchedulerHandle> = {
        let mut others = Vec::new();
        for _ in 0..2 {
            others.push(start(&settings(), queue.clone()).await.expect("starts"));
        }
        others
    };
    one.stop().await;
    assert_eq!(ran(&queue, "slow").await, RunOutcome::Succeeded);
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(board::history(&*queue.ledger(), "slow", 10).await.expect("read").len(), 1, "two others, one run");
    assert!(!carrier.push(&run).await.expect("answers"), "its key stays taken");
    for other in others {
        other.stop().await;
    }
}
