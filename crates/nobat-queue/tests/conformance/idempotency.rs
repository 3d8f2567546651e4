//! Idempotency keys.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use nobat_core::job::{JobState, NewJob};
use nobat_core::{ErrorCode, OwnerId};
use nobat_queue::{ListFilter, QueueSettings};

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
    a_caller_that_leaves_does_not_take_its_key_along
    a_caller_that_leaves_does_not_take_the_job_of_others
    a_key_lives_no_longer_than_the_record_of_its_job
    a_key_names_a_dead_letter_until_it_is_purged_or_pushed_out
    requests_under_a_key_that_ended_make_one_job
}

async fn the_same_request_is_the_same_job(backend: Backend) {
    let store = backend.open().await;
    let client = store.queue.client();
    let first = client.enqueue(keyed("k", 1)).await.expect("accepted");
    let second = client.enqueue(keyed("k", 1)).await.expect("accepted");
    assert_eq!((first.duplicate, second.duplicate), (false, true));
    assert_eq!(first.id, second.id);
    assert_eq!(store.queue.counts(MODEL).await.expect("counts").queued, 1);
    let other = client.enqueue(keyed("another", 1)).await.expect("accepted");
    assert!(!other.duplicate && other.id != first.id);
}

async fn another_request_under_the_key_is_refused(backend: Backend) {
    let store = backend.open().await;
    let client = store.queue.client();
    client.enqueue(keyed("k", 1)).await.expect("accepted");
    let refused = client.enqueue(keyed("k", 2)).await.expect_err("another body");
    assert_eq!(refused.code, ErrorCode::IdempotencyMismatch);
    let refused = client.call(keyed("k", 2), ms(100)).await.expect_err("another body");
    assert_eq!(refused.code, ErrorCode::IdempotencyMismatch);
    assert_eq!(store.queue.counts(MODEL).await.expect("counts").queued, 1);
}

async fn a_key_belongs_to_one_caller_and_one_model(backend: Backend) {
    let store = backend.open().await;
    let client = store.queue.client();
    let ours = client.enqueue(keyed("k", 1)).await.expect("accepted");
    let theirs = client.enqueue(NewJob { owner: OwnerId(8), ..keyed("k", 2) }).await.expect("accepted");
    let elsewhere = client.enqueue(NewJob { model: "other".into(), ..keyed("k", 3) }).await.expect("accepted");
    assert!(!theirs.duplicate && !elsewhere.duplicate);
    assert_eq!(HashSet::from([ours.id, theirs.id, elsewhere.id]).len(), 3);
}

async fn a_key_outlives_its_job(backend: Backend) {
    let store = backend.open().await;
    let client = store.queue.client();
    let first = client.enqueue(keyed("k", 1)).await.expect("accepted");
    let _echo = Echo::start(&*store.queue, MODEL, 8).await;
    client.wait(first.id, PATIENCE).await.expect("the store answers");
    let again = client.enqueue(keyed("k", 1)).await.expect("accepted");
    assert_eq!((again.id, again.duplicate), (first.id, true));
    assert_eq!(outputs(&get(&*store.queue, again.id).await), "keyed");
}

/// Cancelled for whatever reason, a job would be so after this long.
const SETTLED: Duration = Duration::from_millis(300);

async fn a_caller_that_leaves_does_not_take_its_key_along(backend: Backend) {
    let store = backend.open().await;
    let client = store.queue.client();
    let left = tokio::time::timeout(ms(100), client.call(keyed("k", 1), PATIENCE)).await;
    assert!(left.is_err(), "nobody answers");
    // A second caller waits on the key, and one more comes and leaves.
    let second = tokio::spawn({
        let client = store.queue.client();
        async move { client.call(keyed("k", 1), PATIENCE).await }
    });
    tokio::time::sleep(SETTLED).await;
    assert!(tokio::time::timeout(ms(100), client.call(keyed("k", 1), PATIENCE)).await.is_err());
    tokio::time::sleep(SETTLED).await;
    assert_eq!(store.queue.counts(MODEL).await.expect("counts").queued, 1);
    let repeat = client.enqueue(keyed("k", 1)).await.expect("accepted");
    assert!(repeat.duplicate);
    let _echo = Echo::start(&*store.queue, MODEL, 8).await;
    let view = second.await.expect("no panic").expect("an answer");
    assert_eq!((outputs(&view), view.id), ("keyed".into(), repeat.id));
    let view = client.call(keyed("k", 1), PATIENCE).await.expect("an answer");
    assert_eq!((outputs(&view), view.id), ("keyed".into(), repeat.id));
}

async fn a_caller_that_leaves_does_not_take_the_job_of_others(backend: Backend) {
    let store = backend.open().await;
    let clients = [store.queue.client(), store.queue.client()];
    for waiting_lane in clients {
        let client = store.queue.client();
        let call = tokio::spawn({
            let client = client.clone();
            async move { client.call(job("shared"), PATIENCE).await }
        });
        let id = loop {
            let page = store.queue.list(&ListFilter::default(), None, 10).await.expect("a page");
            match page.jobs.iter().find(|view| view.state == JobState::Queued) {
                Some(view) => break view.id,
                None => tokio::time::sleep(ms(10)).await,
            }
        };
        let others = [client, waiting_lane].map(|client| tokio::spawn(async move { client.wait(id, PATIENCE).await }));
        tokio::time::sleep(SETTLED).await;
        call.abort();
        tokio::time::sleep(SETTLED).await;
        let echo = Echo::start(&*store.queue, MODEL, 8).await;
        for other in others {
            let view = other.await.expect("no panic").expect("the store answers").expect("it is there");
            assert_eq!(outputs(&view), "shared");
        }
        drop(echo);
    }
}

/// A keyed job whose record is kept for so long after its end.
fn short(key: &str, fingerprint: u128, kept: Duration) -> NewJob {
    let mut job = keyed(key, fingerprint);
    job.options.result_ttl = kept;
    job
}

async fn a_key_lives_no_longer_than_the_record_of_its_job(backend: Backend) {
    const KEPT: Duration = Duration::from_millis(300);
    let store = backend.open().await;
    let client = store.queue.client();
    let _echo = Echo::start(&*store.queue, MODEL, 8).await;
    let succeeded = client.call(short("succeeded", 1, KEPT), PATIENCE).await.expect("an answer").id;
    let mut expiring = short("expired", 1, KEPT);
    (expiring.options.deadline, expiring.options.delay) = (Some(ms(50)), Some(ms(600_000)));
    let expired = client.enqueue(expiring).await.expect("accepted").id;
    client.wait(expired, PATIENCE).await.expect("the store answers");
    let mut waiting = short("cancelled", 1, KEPT);
    waiting.options.delay = Some(ms(600_000));
    let cancelled = client.enqueue(waiting).await.expect("accepted").id;
    store.queue.cancel(cancelled).await.expect("cancelled");
    for (key, first) in [("succeeded", succeeded), ("expired", expired), ("cancelled", cancelled)] {
        let until = Instant::now() + PATIENCE;
        while store.queue.get(first).await.expect("the store answers").is_some() {
            assert!(Instant::now() < until, "the record of `{key}` stays");
            tokio::time::sleep(ms(20)).await;
        }
        // Whatever it came with: what the key named is forgotten.
        let again = client.enqueue(keyed(key, 2)).await.expect("accepted");
        assert!(!again.duplicate && again.id != first, "{key}");
        let view = client.wait(again.id, PATIENCE).await.expect("the store answers").expect("it is there");
        assert_eq!(outputs(&view), "keyed", "{key}");
        let repeat = client.enqueue(keyed(key, 2)).await.expect("accepted");
        assert_eq!((repeat.id, repeat.duplicate), (again.id, true), "{key}");
    }
}

async fn a_key_names_a_dead_letter_until_it_is_purged_or_pushed_out(backend: Backend) {
    let settings = QueueSettings { max_dead: 1, dead_ttl_s: 2, ..QueueSettings::default() };
    let store = backend.open_with(settings).await;
    let client = store.queue.client();
    let mut consumer = store.queue.consumer(MODEL, "w").await.expect("a consumer");
    for (round, gone) in ["purged", "pushed out", "outlived"].into_iter().enumerate() {
        let first = client.enqueue(keyed(gone, 1)).await.expect("accepted").id;
        let leased = lease_all(&mut consumer, 1).await;
        settle(&mut consumer, vec![failure(&leased[0], "no", None)]).await;
        let again = client.enqueue(keyed(gone, 1)).await.expect("accepted");
        assert_eq!((again.id, again.duplicate), (first, true), "a dead letter is there: {gone}");
        match round {
            0 => assert_eq!(store.queue.purge(MODEL, &[first], 1).await.expect("purged"), 1),
            1 => {
                client.enqueue(job("another")).await.expect("accepted");
                let leased = lease_all(&mut consumer, 1).await;
                settle(&mut consumer, vec![failure(&leased[0], "no", None)]).await;
            }
            _ => {}
        }
        let until = Instant::now() + PATIENCE;
        while store.queue.get(first).await.expect("the store answers").is_some() {
            assert!(Instant::now() < until, "{gone}");
            tokio::time::sleep(ms(20)).await;
        }
        let anew = client.enqueue(keyed(gone, 1)).await.expect("accepted");
        assert!(!anew.duplicate && anew.id != first, "{gone}");
        let leased = lease_all(&mut consumer, 1).await;
        assert_eq!(leased[0].id, anew.id);
        settle(&mut consumer, vec![success(&leased[0], "done")]).await;
    }
}

async fn requests_under_a_key_that_ended_make_one_job(backend: Backend) {
    let store = backend.open().await;
    let clients = [store.queue.client(), store.queue.client()];
    {
        let _echo = Echo::start(&*store.queue, MODEL, 8).await;
        let first = clients[0].call(short("k", 1, ms(100)), PATIENCE).await.expect("an answer").id;
        while store.queue.get(first).await.expect("the store answers").is_some() {
            tokio::time::sleep(ms(20)).await;
        }
    }
    let racing = (0..50).map(|number| clients[number % 2].enqueue(keyed("k", 1)));
    let accepted: Vec<_> =
        futures::future::join_all(racing).await.into_iter().map(|one| one.expect("accepted")).collect();
    assert_eq!(accepted.iter().map(|one| one.id).collect::<HashSet<_>>().len(), 1);
    assert_eq!(accepted.iter().filter(|one| !one.duplicate).count(), 1);
}

async fn requests_that_race_make_one_job(backend: Backend) {
    let store = backend.open().await;
    let clients = [store.queue.client(), store.queue.client()];
    let racing = (0..50).map(|number| clients[number % 2].enqueue(keyed("k", 1)));
    let accepted: Vec<_> =
        futures::future::join_all(racing).await.into_iter().map(|one| one.expect("accepted")).collect();
    assert_eq!(accepted.iter().map(|one| one.id).collect::<HashSet<_>>().len(), 1);
    assert_eq!(accepted.iter().filter(|one| !one.duplicate).count(), 1);
    assert_eq!(store.queue.counts(MODEL).await.expect("counts").queued, 1);
}

async fn a_key_is_forgotten_after_its_ttl(backend: Backend) {
    let store = backend.open_with(QueueSettings { idempotency_ttl_s: 1, ..QueueSettings::default() }).await;
    let client = store.queue.client();
    let first = client.enqueue(keyed("k", 1)).await.expect("accepted");
    tokio::time::sleep(ms(1_200)).await;
    let second = client.enqueue(keyed("k", 2)).await.expect("accepted");
    assert!(!second.duplicate && second.id != first.id);
}

async fn a_repeated_call_waits_for_the_first(backend: Backend) {
    let store = backend.open().await;
    let clients = [store.queue.client(), store.queue.client()];
    let calls = clients.map(|client| tokio::spawn(async move { client.call(keyed("k", 1), PATIENCE).await }));
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
