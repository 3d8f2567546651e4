//! Failed attempts that run again.

use nobat_core::job::{JobOptions, JobState};
use nobat_core::retry::RetryPolicy;

use crate::on_every_store;
use crate::play::*;
use crate::stores::Backend;

on_every_store! {
    a_failed_attempt_runs_again_after_its_delay
    a_retry_without_delay_runs_at_once
    a_retry_joins_the_queue_at_its_time
    a_failure_touches_no_neighbour
    the_retry_schedule_travels_with_the_job
}

async fn a_failed_attempt_runs_again_after_its_delay(backend: Backend) {
    let store = backend.open().await;
    let id = store.queue.client().enqueue(job("shaky")).await.expect("accepted").id;
    let mut consumer = store.queue.consumer(MODEL, "w").await.expect("a consumer");
    let first = lease_all(&mut consumer, 1).await;
    assert_eq!((first[0].attempt, first[0].deaths), (1, 0));
    assert!(settle(&mut consumer, vec![failure(&first[0], "shaken", Some(ms(700)))]).await.is_empty());
    let view = get(&*store.queue, id).await;
    assert_eq!((view.state, view.attempts, view.finished_at_ms), (JobState::Failed, 1, None));
    assert_eq!(view.error.expect("the last error").message, "shaken");
    assert!(lease(&mut consumer, 8).await.is_empty(), "not before its time");
    let second = lease_all(&mut consumer, 1).await;
    assert_eq!((second[0].id, second[0].attempt, second[0].deaths), (id, 2, 0));
    assert_ne!(second[0].token, first[0].token);
    assert_eq!(payloads(&second), ["shaky"]);
    settle(&mut consumer, vec![success(&second[0], "steady")]).await;
    let view = reaches(&*store.queue, id, JobState::Succeeded).await;
    assert_eq!((outputs(&view).as_ref(), view.attempts), (&b"steady"[..], 2));
}

async fn a_retry_without_delay_runs_at_once(backend: Backend) {
    let store = backend.open().await;
    store.queue.client().enqueue(job("a")).await.expect("accepted");
    let mut consumer = store.queue.consumer(MODEL, "w").await.expect("a consumer");
    for attempt in 1..=5 {
        let leased = lease_all(&mut consumer, 1).await;
        assert_eq!(leased[0].attempt, attempt);
        settle(&mut consumer, vec![failure(&leased[0], "again", Some(ms(0)))]).await;
    }
}

async fn a_retry_joins_the_queue_at_its_time(backend: Backend) {
    let store = backend.open().await;
    let client = store.queue.client();
    let first = client.enqueue(job("first")).await.expect("accepted").id;
    let mut consumer = store.queue.consumer(MODEL, "w").await.expect("a consumer");
    let leased = lease_all(&mut consumer, 1).await;
    settle(&mut consumer, vec![failure(&leased[0], "again", Some(ms(1_000)))]).await;
    client.enqueue(job("came while it waited")).await.expect("accepted");
    reaches(&*store.queue, first, JobState::Queued).await;
    assert_eq!(payloads(&lease_all(&mut consumer, 2).await), ["came while it waited", "first"]);
}

async fn a_failure_touches_no_neighbour(backend: Backend) {
    let store = backend.open().await;
    let client = store.queue.client();
    let mut ids = Vec::new();
    for payload in ["good", "bad", "fine"] {
        ids.push(client.enqueue(job(payload)).await.expect("accepted").id);
    }
    let mut consumer = store.queue.consumer(MODEL, "w").await.expect("a consumer");
    let leased = lease_all(&mut consumer, 3).await;
    let settled = vec![success(&leased[0], "1"), failure(&leased[1], "broken", None), success(&leased[2], "3")];
    assert!(settle(&mut consumer, settled).await.is_empty());
    assert_eq!(outputs(&reaches(&*store.queue, ids[0], JobState::Succeeded).await), "1");
    reaches(&*store.queue, ids[1], JobState::Dead).await;
    assert_eq!(outputs(&reaches(&*store.queue, ids[2], JobState::Succeeded).await), "3");
}

async fn the_retry_schedule_travels_with_the_job(backend: Backend) {
    let store = backend.open().await;
    let retry = RetryPolicy { max_retries: 7, delay_ms: 12_345, factor_pct: 250, jitter_pct: 30, max_delay_ms: 99_999 };
    store.queue.client().enqueue(job_with("a", JobOptions { retry, ..JobOptions::default() })).await.expect("accepted");
    let mut consumer = store.queue.consumer(MODEL, "w").await.expect("a consumer");
    assert_eq!(lease_all(&mut consumer, 1).await[0].retry, retry);
}
