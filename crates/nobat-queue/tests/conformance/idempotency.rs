//! Idempotency keys.

use std::collections::HashSet;

use nobat_core::job::NewJob;
use nobat_core::{ErrorCode, OwnerId};
use nobat_queue::queue::QueueSettings;

use crate::on_every_store;
use crate::play::*;
use crate::stores::Backend;

on_every_store! {
    the_same_request_is_the_same_job
    another_request_under_the_key_is_refused
    a_key_belongs_to_one_caller_and_one_model
    a_key_outlives_its_job
    requests_that_race_make_one_job
    a_key_is_forgotten_after_its_ttl
    a_repeated_call_waits_for_the_first
}

async fn the_same_request_is_the_same_job(backend: Backend) {
    let store = backend.open().await;
    let lane = store.queue.lane();
    let first = lane.enqueue(keyed("k", 1)).await.expect("accepted");
    let second = lane.enqueue(keyed("k", 1)).await.expect("accepted");
    assert_eq!((first.duplicate, second.duplicate), (false, true));
    assert_eq!(first.id, second.id);
    assert_eq!(store.queue.counts(MODEL).await.expect("counts").queued, 1);
    let other = lane.enqueue(keyed("another", 1)).await.expect("accepted");
    assert!(!other.duplicate && other.id != first.id);
}

async fn another_request_under_the_key_is_refused(backend: Backend) {
    let store = backend.open().await;
    let lane = store.queue.lane();
    lane.enqueue(keyed("k", 1)).await.expect("accepted");
    let refused = lane.enqueue(keyed("k", 2)).await.expect_err("another body");
    assert_eq!(refused.code, ErrorCode::IdempotencyMismatch);
    let refused = lane.call(keyed("k", 2), ms(100)).await.expect_err("another body");
    assert_eq!(refused.code, ErrorCode::IdempotencyMismatch);
    assert_eq!(store.queue.counts(MODEL).await.expect("counts").queued, 1);
}

async fn a_key_belongs_to_one_caller_and_one_model(backend: Backend) {
    let store = backend.open().await;
    let lane = store.queue.lane();
    let ours = lane.enqueue(keyed("k", 1)).await.expect("accepted");
    let theirs = lane.enqueue(NewJob { owner: OwnerId(8), ..keyed("k", 2) }).await.expect("accepted");
    let elsewhere = lane.enqueue(NewJob { model: "other".into(), ..keyed("k", 3) }).await.expect("accepted");
    assert!(!theirs.duplicate && !elsewhere.duplicate);
    assert_eq!(HashSet::from([ours.id, theirs.id, elsewhere.id]).len(), 3);
}

async fn a_key_outlives_its_job(backend: Backend) {
    let store = backend.open().await;
    let lane = store.queue.lane();
    let first = lane.enqueue(keyed("k", 1)).await.expect("accepted");
    let _echo = Echo::start(&*store.queue, MODEL, 8).await;
    lane.wait(first.id, PATIENCE).await.expect("the store answers");
    let again = lane.enqueue(keyed("k", 1)).await.expect("accepted");
    assert_eq!((again.id, again.duplicate), (first.id, true));
    assert_eq!(outputs(&get(&*store.queue, again.id).await), "keyed");
}

async fn requests_that_race_make_one_job(backend: Backend) {
    let store = backend.open().await;
    let lanes = [store.queue.lane(), store.queue.lane()];
    let racing = (0..50).map(|number| lanes[number % 2].enqueue(keyed("k", 1)));
    let accepted: Vec<_> =
        futures::future::join_all(racing).await.into_iter().map(|one| one.expect("accepted")).collect();
    assert_eq!(accepted.iter().map(|one| one.id).collect::<HashSet<_>>().len(), 1);
    assert_eq!(accepted.iter().filter(|one| !one.duplicate).count(), 1);
    assert_eq!(store.queue.counts(MODEL).await.expect("counts").queued, 1);
}

async fn a_key_is_forgotten_after_its_ttl(backend: Backend) {
    let store = backend.open_with(QueueSettings { idempotency_ttl_s: 1, ..QueueSettings::default() }).await;
    let lane = store.queue.lane();
    let first = lane.enqueue(keyed("k", 1)).await.expect("accepted");
    tokio::time::sleep(ms(1_200)).await;
    let second = lane.enqueue(keyed("k", 2)).await.expect("accepted");
    assert!(!second.duplicate && second.id != first.id);
}

async fn a_repeated_call_waits_for_the_first(backend: Backend) {
    let store = backend.open().await;
    let lanes = [store.queue.lane(), store.queue.lane()];
    let calls = lanes.map(|lane| tokio::spawn(async move { lane.call(keyed("k", 1), PATIENCE).await }));
    tokio::time::sleep(ms(100)).await;
    let _echo = Echo::start(&*store.queue, MODEL, 8).await;
    let mut ids = HashSet::new();
    for call in calls {
        let view = call.await.expect("no panic").expect("an answer");
        assert_eq!(outputs(&view), "keyed");
        ids.insert(view.id);
    }
    assert_eq!(ids.len(), 1);
}
