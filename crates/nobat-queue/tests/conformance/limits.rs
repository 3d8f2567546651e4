//! Length limits.

use nobat_core::ErrorCode;
use nobat_core::job::{JobOptions, NewJob};
use nobat_queue::QueueSettings;

use crate::on_every_store;
use crate::play::*;
use crate::stores::Backend;

on_every_store! {
    a_full_queue_refuses_and_says_when_to_come_back
    a_leased_job_makes_room
    scheduled_jobs_count
    bytes_are_limited_too
    one_full_queue_does_not_fill_another
    a_refused_key_can_be_used_again
}

fn at_most(max_jobs: u64) -> QueueSettings {
    QueueSettings { max_jobs, ..QueueSettings::default() }
}

async fn a_full_queue_refuses_and_says_when_to_come_back(backend: Backend) {
    let store = backend.open_with(at_most(3)).await;
    let client = store.queue.client();
    for _ in 0..3 {
        client.enqueue(job("a")).await.expect("accepted");
    }
    let refused = client.enqueue(job("one too many")).await.expect_err("full");
    assert_eq!(refused.code, ErrorCode::QueueFull);
    let after = refused.retry_after.expect("says when");
    assert!(after >= ms(100) && after <= ms(60_000), "{after:?}");
    let refused = client.call(job("one too many"), ms(500)).await.expect_err("full");
    assert_eq!(refused.code, ErrorCode::QueueFull);
    let counts = store.queue.counts(MODEL).await.expect("counts");
    assert_eq!((counts.queued, counts.enqueued_total), (3, 3));
}

async fn a_leased_job_makes_room(backend: Backend) {
    let store = backend.open_with(at_most(2)).await;
    let client = store.queue.client();
    client.enqueue(job("a")).await.expect("accepted");
    client.enqueue(job("b")).await.expect("accepted");
    assert_eq!(client.enqueue(job("c")).await.expect_err("full").code, ErrorCode::QueueFull);
    let mut consumer = store.queue.consumer(MODEL, "w").await.expect("a consumer");
    let leased = lease_all(&mut consumer, 1).await;
    client.enqueue(job("c")).await.expect("accepted");
    // What comes back is not refused: it was accepted before.
    assert!(settle(&mut consumer, vec![release(&leased[0])]).await.is_empty());
    assert_eq!(store.queue.counts(MODEL).await.expect("counts").queued, 3);
}

async fn scheduled_jobs_count(backend: Backend) {
    let store = backend.open_with(at_most(2)).await;
    let client = store.queue.client();
    let later = JobOptions { delay: Some(ms(60_000)), ..JobOptions::default() };
    client.enqueue(job_with("a", later.clone())).await.expect("accepted");
    client.enqueue(job_with("b", later)).await.expect("accepted");
    assert_eq!(client.enqueue(job("c")).await.expect_err("full").code, ErrorCode::QueueFull);
}

async fn bytes_are_limited_too(backend: Backend) {
    let store = backend.open_with(QueueSettings { max_bytes: 100_000, ..QueueSettings::default() }).await;
    let client = store.queue.client();
    client.enqueue(job(vec![1; 60_000])).await.expect("accepted");
    let refused = client.enqueue(job(vec![2; 60_000])).await.expect_err("over the limit");
    assert_eq!(refused.code, ErrorCode::QueueFull);
    assert!(refused.retry_after.is_some());
    client.enqueue(job(vec![3; 30_000])).await.expect("fits");
    let mut consumer = store.queue.consumer(MODEL, "w").await.expect("a consumer");
    lease_all(&mut consumer, 2).await;
    client.enqueue(job(vec![4; 60_000])).await.expect("there is room again");
}

async fn one_full_queue_does_not_fill_another(backend: Backend) {
    let store = backend.open_with(at_most(1)).await;
    let client = store.queue.client();
    client.enqueue(job("a")).await.expect("accepted");
    client.enqueue(NewJob { model: "other".into(), ..job("b") }).await.expect("accepted");
}

async fn a_refused_key_can_be_used_again(backend: Backend) {
    let store = backend.open_with(at_most(1)).await;
    let client = store.queue.client();
    client.enqueue(job("a")).await.expect("accepted");
    assert_eq!(client.enqueue(keyed("k", 1)).await.expect_err("full").code, ErrorCode::QueueFull);
    let mut consumer = store.queue.consumer(MODEL, "w").await.expect("a consumer");
    lease_all(&mut consumer, 1).await;
    assert!(!client.enqueue(keyed("k", 1)).await.expect("accepted").duplicate);
}
