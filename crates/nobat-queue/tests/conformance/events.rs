//! The outbox: transitions of jobs that have a webhook.

use nobat_core::job::{JobEvent, JobOptions, JobState};
use nobat_queue::Queue;

use crate::on_every_store;
use crate::play::*;
use crate::stores::Backend;

on_every_store! {
    every_transition_is_told_in_order
    a_job_without_a_webhook_tells_nothing
    a_told_event_leaves_the_outbox
    cancelled_and_expired_jobs_tell_too
}

fn hooked(options: JobOptions) -> JobOptions {
    JobOptions { webhook: Some("https://example.test/hook".into()), ..options }
}

/// Waits for `count` events.
async fn events(queue: &dyn Queue, count: usize) -> Vec<JobEvent> {
    let until = std::time::Instant::now() + PATIENCE;
    loop {
        let events = queue.events(100).await.expect("events");
        if events.len() >= count {
            return events;
        }
        assert!(std::time::Instant::now() < until, "{} of {count} events", events.len());
        tokio::time::sleep(ms(5)).await;
    }
}

async fn every_transition_is_told_in_order(backend: Backend) {
    let store = backend.open().await;
    let id = store.queue.lane().enqueue(job_with("a", hooked(JobOptions::default()))).await.expect("accepted").id;
    let mut consumer = store.queue.consumer(MODEL, "w").await.expect("a consumer");
    let leased = lease_all(&mut consumer, 1).await;
    settle(&mut consumer, vec![failure(&leased[0], "once", Some(ms(10)))]).await;
    let leased = lease_all(&mut consumer, 1).await;
    settle(&mut consumer, vec![success(&leased[0], "twice")]).await;
    let told = events(&*store.queue, 2).await;
    assert_eq!(told.iter().map(|event| (event.state, event.attempts)).collect::<Vec<_>>(), [(JobState::Failed, 1), (JobState::Succeeded, 2)]);
    for event in &told {
        assert_eq!((event.id, event.model.as_str(), event.webhook.as_str()), (id, MODEL, "https://example.test/hook"));
        assert!(event.at_ms > 0);
    }
    assert_eq!(store.queue.events(1).await.expect("events"), told[..1]);
}

async fn a_job_without_a_webhook_tells_nothing(backend: Backend) {
    let store = backend.open().await;
    let _echo = Echo::start(&*store.queue, MODEL, 8).await;
    store.queue.lane().call(job("a"), PATIENCE).await.expect("an answer");
    assert!(store.queue.events(100).await.expect("events").is_empty());
}

async fn a_told_event_leaves_the_outbox(backend: Backend) {
    let store = backend.open().await;
    let lane = store.queue.lane();
    let _echo = Echo::start(&*store.queue, MODEL, 8).await;
    for payload in ["a", "b"] {
        lane.call(job_with(payload, hooked(JobOptions::default())), PATIENCE).await.expect("an answer");
    }
    let told = events(&*store.queue, 2).await;
    store.queue.forget_events(&told[..1]).await.expect("forgotten");
    store.queue.forget_events(&told[..1]).await.expect("twice is no error");
    assert_eq!(store.queue.events(100).await.expect("events"), told[1..]);
}

async fn cancelled_and_expired_jobs_tell_too(backend: Backend) {
    let store = backend.open().await;
    let lane = store.queue.lane();
    let cancelled = lane.enqueue(job_with("a", hooked(JobOptions::default()))).await.expect("accepted").id;
    store.queue.cancel(cancelled).await.expect("cancelled");
    let options = hooked(JobOptions { deadline: Some(ms(50)), ..JobOptions::default() });
    let expired = lane.enqueue(job_with("b", options)).await.expect("accepted").id;
    lane.wait(expired, PATIENCE).await.expect("the store answers");
    let mut told: Vec<_> = events(&*store.queue, 2).await.into_iter().map(|event| (event.id, event.state)).collect();
    told.sort_by_key(|(_, state)| state.as_str());
    assert_eq!(told, [(cancelled, JobState::Cancelled), (expired, JobState::Expired)]);
}
