//! Dead letters: kept with their reason, redriven, purged, capped.

use nobat_core::job::{JobState, NewJob};
use nobat_core::{ErrorCode, JobId};
use nobat_queue::{Queue, QueueSettings};

use crate::on_every_store;
use crate::play::*;
use crate::stores::Backend;

on_every_store! {
    a_dead_letter_keeps_reason_attempts_and_payload
    a_redriven_job_starts_afresh
    named_dead_letters_alone_are_redriven
    the_oldest_are_redriven_first
    purged_dead_letters_are_gone
    a_redrive_leaves_living_jobs_alone
    the_oldest_dead_letters_make_room
    dead_letters_are_forgotten_after_their_ttl
    the_input_of_a_dead_letter_can_be_read_and_that_of_a_succeeded_job_cannot
}

async fn the_input_of_a_dead_letter_can_be_read_and_that_of_a_succeeded_job_cannot(backend: Backend) {
    let store = backend.open().await;
    // One travels beside its record.
    let large = "x".repeat(200_000);
    for payload in ["small", &large] {
        let dead = bury(&*store.queue, &[payload]).await[0];
        let input = store.queue.input(dead).await.expect("the store answers").expect("kept");
        assert_eq!(input, payload.as_bytes());
    }
    let client = store.queue.client();
    let waiting = client.enqueue(job("waits")).await.expect("accepted").id;
    assert_eq!(store.queue.input(waiting).await.expect("the store answers").as_deref(), Some(&b"waits"[..]));
    let _echo = Echo::start(&*store.queue, MODEL, 8).await;
    reaches(&*store.queue, waiting, JobState::Succeeded).await;
    assert_eq!(store.queue.input(waiting).await.expect("the store answers"), None);
}

/// Enqueues jobs and fails each for good; their ids.
async fn bury(queue: &dyn Queue, payloads: &[&str]) -> Vec<JobId> {
    let client = queue.client();
    let mut consumer = queue.consumer(MODEL, "digger").await.expect("a consumer");
    let mut ids = Vec::new();
    for payload in payloads {
        let id = client.enqueue(job((*payload).to_owned())).await.expect("accepted").id;
        let leased = lease_all(&mut consumer, 1).await;
        settle(&mut consumer, vec![failure(&leased[0], payload, None)]).await;
        reaches(queue, id, JobState::Dead).await;
        ids.push(id);
        // Dead letters are ordered by the time they died.
        tokio::time::sleep(ms(2)).await;
    }
    ids
}

async fn a_dead_letter_keeps_reason_attempts_and_payload(backend: Backend) {
    let store = backend.open().await;
    let ids = bury(&*store.queue, &["broken"]).await;
    let view = get(&*store.queue, ids[0]).await;
    assert_eq!((view.state, view.attempts), (JobState::Dead, 1));
    assert!(view.finished_at_ms.is_some());
    let error = view.error.expect("a reason");
    assert_eq!((error.code, error.message.as_str()), (ErrorCode::InferenceFailed, "broken"));
    let counts = store.queue.counts(MODEL).await.expect("counts");
    assert_eq!((counts.dead, counts.queued, counts.leased, counts.finished_total), (1, 0, 0, 1));
}

async fn a_redriven_job_starts_afresh(backend: Backend) {
    let store = backend.open().await;
    let ids = bury(&*store.queue, &["broken"]).await;
    assert_eq!(store.queue.redrive(MODEL, &[], 10).await.expect("redriven"), 1);
    let view = get(&*store.queue, ids[0]).await;
    assert_eq!((view.state, view.attempts), (JobState::Queued, 0));
    let mut consumer = store.queue.consumer(MODEL, "w").await.expect("a consumer");
    let leased = lease_all(&mut consumer, 1).await;
    assert_eq!((leased[0].id, leased[0].attempt, leased[0].deaths), (ids[0], 1, 0));
    assert_eq!(payloads(&leased), ["broken"]);
    settle(&mut consumer, vec![success(&leased[0], "mended")]).await;
    assert_eq!(outputs(&reaches(&*store.queue, ids[0], JobState::Succeeded).await), "mended");
    assert_eq!(store.queue.counts(MODEL).await.expect("counts").dead, 0);
}

async fn named_dead_letters_alone_are_redriven(backend: Backend) {
    let store = backend.open().await;
    let ids = bury(&*store.queue, &["a", "b", "c"]).await;
    assert_eq!(store.queue.redrive(MODEL, &[ids[1]], 10).await.expect("redriven"), 1);
    assert_eq!(store.queue.redrive(MODEL, &[ids[1]], 10).await.expect("redriven"), 0, "it is no dead letter any more");
    assert_eq!(get(&*store.queue, ids[0]).await.state, JobState::Dead);
    assert_eq!(get(&*store.queue, ids[1]).await.state, JobState::Queued);
    assert_eq!(get(&*store.queue, ids[2]).await.state, JobState::Dead);
}

async fn the_oldest_are_redriven_first(backend: Backend) {
    let store = backend.open().await;
    bury(&*store.queue, &["a", "b", "c"]).await;
    assert_eq!(store.queue.redrive(MODEL, &[], 2).await.expect("redriven"), 2);
    let mut consumer = store.queue.consumer(MODEL, "w").await.expect("a consumer");
    assert_eq!(payloads(&lease(&mut consumer, 8).await), ["a", "b"]);
    assert_eq!(store.queue.counts(MODEL).await.expect("counts").dead, 1);
}

async fn purged_dead_letters_are_gone(backend: Backend) {
    let store = backend.open().await;
    let ids = bury(&*store.queue, &["a", "b", "c"]).await;
    assert_eq!(store.queue.purge(MODEL, &[ids[2], ids[2]], 10).await.expect("purged"), 1, "named twice, it goes once");
    assert!(store.queue.get(ids[2]).await.expect("the store answers").is_none());
    assert_eq!(store.queue.purge(MODEL, &[], 1).await.expect("purged"), 1);
    assert!(store.queue.get(ids[0]).await.expect("the store answers").is_none());
    assert_eq!(get(&*store.queue, ids[1]).await.state, JobState::Dead);
    assert_eq!(store.queue.purge(MODEL, &[], 100).await.expect("purged"), 1);
    assert_eq!(store.queue.counts(MODEL).await.expect("counts").dead, 0);
}

async fn a_redrive_leaves_living_jobs_alone(backend: Backend) {
    let store = backend.open().await;
    let living = store.queue.client().enqueue(job("living")).await.expect("accepted").id;
    assert_eq!(store.queue.redrive(MODEL, &[living], 10).await.expect("redriven"), 0);
    assert_eq!(store.queue.purge(MODEL, &[living], 10).await.expect("purged"), 0);
    assert_eq!(store.queue.redrive("nobody-uses-this", &[], 10).await.expect("redriven"), 0);
    assert_eq!(get(&*store.queue, living).await.state, JobState::Queued);
    let elsewhere = NewJob { model: "other".into(), ..job("b") };
    store.queue.client().enqueue(elsewhere).await.expect("accepted");
}

async fn the_oldest_dead_letters_make_room(backend: Backend) {
    let store = backend.open_with(QueueSettings { max_dead: 3, ..QueueSettings::default() }).await;
    let ids = bury(&*store.queue, &["a", "b", "c", "d", "e"]).await;
    assert_eq!(store.queue.counts(MODEL).await.expect("counts").dead, 3);
    for old in &ids[..2] {
        assert!(store.queue.get(*old).await.expect("the store answers").is_none());
    }
    for kept in &ids[2..] {
        assert_eq!(get(&*store.queue, *kept).await.state, JobState::Dead);
    }
}

async fn dead_letters_are_forgotten_after_their_ttl(backend: Backend) {
    let store = backend.open_with(QueueSettings { dead_ttl_s: 1, ..QueueSettings::default() }).await;
    let id = store.queue.client().enqueue(job("a")).await.expect("accepted").id;
    let mut consumer = store.queue.consumer(MODEL, "w").await.expect("a consumer");
    let leased = lease_all(&mut consumer, 1).await;
    settle(&mut consumer, vec![failure(&leased[0], "broken", None)]).await;
    until_async("the end of its ttl", async || store.queue.get(id).await.expect("the store answers").is_none()).await;
}
