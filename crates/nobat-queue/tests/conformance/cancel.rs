//! Cancelling, and callers that leave.

use nobat_core::ErrorCode;
use nobat_core::job::{JobOptions, JobState};
use nobat_queue::Renewal;

use crate::on_every_store;
use crate::play::*;
use crate::stores::Backend;

on_every_store! {
    a_cancelled_job_does_not_run
    a_scheduled_job_can_be_cancelled
    a_leased_job_ends_cancelled_and_its_settlement_is_refused
    a_finished_job_cannot_be_cancelled
    an_unknown_job_cannot_be_cancelled
    a_waiter_hears_of_the_cancel
    a_caller_who_leaves_takes_the_queued_job_along
    a_caller_who_leaves_does_not_stop_a_running_job
}

async fn a_cancelled_job_does_not_run(backend: Backend) {
    let store = backend.open().await;
    let client = store.queue.client();
    let gone = client.enqueue(job("gone")).await.expect("accepted").id;
    client.enqueue(job("stays")).await.expect("accepted");
    let view = store.queue.cancel(gone).await.expect("cancelled");
    assert_eq!((view.id, view.state), (gone, JobState::Cancelled));
    let view = get(&*store.queue, gone).await;
    assert_eq!(view.state, JobState::Cancelled);
    assert_eq!(view.error.expect("says why").code, ErrorCode::JobCancelled);
    let mut consumer = store.queue.consumer(MODEL, "w").await.expect("a consumer");
    assert_eq!(payloads(&lease(&mut consumer, 8).await), ["stays"]);
}

async fn a_scheduled_job_can_be_cancelled(backend: Backend) {
    let store = backend.open().await;
    let options = JobOptions { delay: Some(ms(60_000)), ..JobOptions::default() };
    let id = store.queue.client().enqueue(job_with("later", options)).await.expect("accepted").id;
    assert_eq!(store.queue.cancel(id).await.expect("cancelled").state, JobState::Cancelled);
    let counts = store.queue.counts(MODEL).await.expect("counts");
    assert_eq!((counts.queued, counts.scheduled, counts.queued_bytes), (0, 0, 0));
}

async fn a_leased_job_ends_cancelled_and_its_settlement_is_refused(backend: Backend) {
    let store = backend.open().await;
    let id = store.queue.client().enqueue(job("running")).await.expect("accepted").id;
    let mut consumer = store.queue.consumer(MODEL, "w").await.expect("a consumer");
    let leased = lease_all(&mut consumer, 1).await;
    assert_eq!(store.queue.cancel(id).await.expect("cancelled").state, JobState::Cancelled);
    let mut renewer = store.queue.renewer().await.expect("a renewer");
    assert_eq!(renewer.renew(MODEL, &[(id, leased[0].token)]).await.expect("an answer"), [Renewal::Lost]);
    assert_eq!(settle(&mut consumer, vec![success(&leased[0], "too late")]).await, [id]);
    let view = get(&*store.queue, id).await;
    assert_eq!((view.state, view.result.is_none()), (JobState::Cancelled, true));
}

async fn a_finished_job_cannot_be_cancelled(backend: Backend) {
    let store = backend.open().await;
    let client = store.queue.client();
    let done = client.enqueue(job("done")).await.expect("accepted").id;
    let dead = client.enqueue(job("dead")).await.expect("accepted").id;
    let mut consumer = store.queue.consumer(MODEL, "w").await.expect("a consumer");
    let leased = lease_all(&mut consumer, 2).await;
    settle(&mut consumer, vec![success(&leased[0], "x"), failure(&leased[1], "y", None)]).await;
    for id in [done, dead] {
        let refused = store.queue.cancel(id).await.expect_err("it has ended");
        assert_eq!(refused.code, ErrorCode::JobAlreadyFinished, "{refused}");
    }
    assert_eq!(outputs(&get(&*store.queue, done).await), "x");
    let again = client.enqueue(job("twice")).await.expect("accepted").id;
    store.queue.cancel(again).await.expect("cancelled");
    assert_eq!(store.queue.cancel(again).await.expect_err("cancelled before").code, ErrorCode::JobAlreadyFinished);
}

async fn an_unknown_job_cannot_be_cancelled(backend: Backend) {
    let store = backend.open().await;
    let known = store.queue.client().enqueue(job("a")).await.expect("accepted").id;
    for stranger in
        [nobat_core::JobId { random: known.random ^ 1, ..known }, nobat_core::JobId { locator: 999_999, ..known }]
    {
        assert_eq!(store.queue.cancel(stranger).await.expect_err("unknown").code, ErrorCode::JobNotFound);
        assert!(store.queue.get(stranger).await.expect("the store answers").is_none());
    }
    assert_eq!(get(&*store.queue, known).await.state, JobState::Queued);
}

async fn a_waiter_hears_of_the_cancel(backend: Backend) {
    let store = backend.open().await;
    let client = store.queue.client();
    let id = client.enqueue(job("a")).await.expect("accepted").id;
    let waiter = tokio::spawn(async move { client.wait(id, PATIENCE).await });
    tokio::time::sleep(ms(50)).await;
    store.queue.cancel(id).await.expect("cancelled");
    let view = waiter.await.expect("no panic").expect("the store answers").expect("it is there");
    assert_eq!(view.state, JobState::Cancelled);
}

async fn a_caller_who_leaves_takes_the_queued_job_along(backend: Backend) {
    let store = backend.open().await;
    let client = store.queue.client();
    let _consumer = store.queue.consumer(MODEL, "w").await.expect("a consumer");
    let left = tokio::time::timeout(ms(200), client.call(job("abandoned"), PATIENCE)).await;
    assert!(left.is_err(), "nobody ran it");
    let until = std::time::Instant::now() + PATIENCE;
    while store.queue.counts(MODEL).await.expect("counts").queued > 0 {
        assert!(std::time::Instant::now() < until, "the job is still queued");
        tokio::time::sleep(ms(5)).await;
    }
    let mut consumer = store.queue.consumer(MODEL, "w2").await.expect("a consumer");
    assert!(lease(&mut consumer, 8).await.is_empty());
}

async fn a_caller_who_leaves_does_not_stop_a_running_job(backend: Backend) {
    let store = backend.open().await;
    let client = store.queue.client();
    let caller = tokio::spawn(async move { client.call(job("running"), PATIENCE).await });
    let mut consumer = store.queue.consumer(MODEL, "w").await.expect("a consumer");
    let leased = lease_all(&mut consumer, 1).await;
    caller.abort();
    tokio::time::sleep(ms(100)).await;
    assert!(settle(&mut consumer, vec![success(&leased[0], "kept")]).await.is_empty());
    assert_eq!(outputs(&reaches(&*store.queue, leased[0].id, JobState::Succeeded).await), "kept");
}
