//! What time does to jobs: delays, deadlines, results that expire.

use nobat_core::ErrorCode;
use nobat_core::job::{JobOptions, JobState};

use crate::on_every_store;
use crate::play::*;
use crate::stores::Backend;

on_every_store! {
    a_delayed_job_is_scheduled_until_its_time
    a_queued_job_past_its_deadline_expires_and_is_not_run
    a_scheduled_job_past_its_deadline_expires
    a_deadline_passes_though_nobody_consumes
    a_delay_passes_though_nobody_consumes
    a_caller_is_told_that_the_deadline_passed
    a_leased_job_knows_the_time_it_has_left
    a_worker_may_say_that_a_deadline_cannot_be_met
    a_job_whose_worker_died_past_the_deadline_expires
    a_result_is_forgotten_after_its_ttl
    an_id_says_until_when_a_missing_result_means_expired
    many_jobs_due_at_once_all_run
}

async fn a_delayed_job_is_scheduled_until_its_time(backend: Backend) {
    let store = backend.open().await;
    let options = JobOptions { delay: Some(ms(700)), ..JobOptions::default() };
    let later = store.queue.client().enqueue(job_with("later", options)).await.expect("accepted").id;
    let mut consumer = store.queue.consumer(MODEL, "w").await.expect("a consumer");
    assert_eq!(payloads(&lease(&mut consumer, 8).await).len(), 0);
    assert_eq!(get(&*store.queue, later).await.state, JobState::Scheduled);
    let counts = store.queue.counts(MODEL).await.expect("counts");
    assert_eq!((counts.queued, counts.scheduled), (0, 1));
    assert_eq!(payloads(&lease_all(&mut consumer, 1).await), ["later"]);
}

async fn a_queued_job_past_its_deadline_expires_and_is_not_run(backend: Backend) {
    let store = backend.open().await;
    let client = store.queue.client();
    let options = JobOptions { deadline: Some(ms(100)), ..JobOptions::default() };
    let late = client.enqueue(job_with("late", options)).await.expect("accepted").id;
    client.enqueue(job("in time")).await.expect("accepted");
    let view = reaches(&*store.queue, late, JobState::Expired).await;
    let mut consumer = store.queue.consumer(MODEL, "w").await.expect("a consumer");
    assert_eq!(payloads(&lease_all(&mut consumer, 1).await), ["in time"]);
    assert_eq!(view.error.expect("says why").code, ErrorCode::DeadlineExceeded);
    assert!(view.finished_at_ms.is_some());
}

async fn a_scheduled_job_past_its_deadline_expires(backend: Backend) {
    let store = backend.open().await;
    let options = JobOptions { deadline: Some(ms(100)), delay: Some(ms(60_000)), ..JobOptions::default() };
    let never = store.queue.client().enqueue(job_with("never", options)).await.expect("accepted").id;
    let mut consumer = store.queue.consumer(MODEL, "w").await.expect("a consumer");
    reaches(&*store.queue, never, JobState::Expired).await;
    assert!(lease(&mut consumer, 8).await.is_empty());
    assert_eq!(store.queue.counts(MODEL).await.expect("counts").scheduled, 0);
}

async fn a_deadline_passes_though_nobody_consumes(backend: Backend) {
    let store = backend.open().await;
    let client = store.queue.client();
    let options = JobOptions { deadline: Some(ms(200)), ..JobOptions::default() };
    let first = client.enqueue(job_with("nobody is there", options.clone())).await.expect("accepted").id;
    reaches(&*store.queue, first, JobState::Expired).await;
    // The timers are known by now to have nothing to do for a while.
    let called = client.call(job_with("nor now", options), PATIENCE).await.expect("answered");
    assert_eq!(called.state, JobState::Expired);
    assert_eq!(store.queue.counts(MODEL).await.expect("counts").queued, 0);
}

async fn a_delay_passes_though_nobody_consumes(backend: Backend) {
    let store = backend.open().await;
    let options = JobOptions { delay: Some(ms(200)), ..JobOptions::default() };
    let id = store.queue.client().enqueue(job_with("later", options)).await.expect("accepted").id;
    reaches(&*store.queue, id, JobState::Queued).await;
}

async fn a_caller_is_told_that_the_deadline_passed(backend: Backend) {
    let store = backend.open().await;
    // A consumer that never steps: the store itself must watch the clock.
    let _consumer = store.queue.consumer(MODEL, "w").await.expect("a consumer");
    let options = JobOptions { deadline: Some(ms(150)), ..JobOptions::default() };
    let view = store.queue.client().call(job_with("late", options), PATIENCE).await.expect("an answer");
    assert_eq!(view.state, JobState::Expired);
    assert_eq!(view.error.expect("says why").code, ErrorCode::DeadlineExceeded);
}

async fn a_leased_job_knows_the_time_it_has_left(backend: Backend) {
    let store = backend.open().await;
    let client = store.queue.client();
    client
        .enqueue(job_with("a", JobOptions { deadline: Some(ms(60_000)), ..JobOptions::default() }))
        .await
        .expect("accepted");
    client.enqueue(job("b")).await.expect("accepted");
    let mut consumer = store.queue.consumer(MODEL, "w").await.expect("a consumer");
    let leased = lease_all(&mut consumer, 2).await;
    let left = leased[0].time_left.expect("it has a deadline");
    assert!(left <= ms(60_000) && left > ms(30_000), "{left:?}");
    assert_eq!(leased[1].time_left, None);
    assert!(leased.iter().all(|job| job.leased_at_us >= job.queued_at_us));
}

async fn a_worker_may_say_that_a_deadline_cannot_be_met(backend: Backend) {
    let store = backend.open().await;
    let options = JobOptions { deadline: Some(ms(60_000)), ..JobOptions::default() };
    let id = store.queue.client().enqueue(job_with("a", options)).await.expect("accepted").id;
    let mut consumer = store.queue.consumer(MODEL, "w").await.expect("a consumer");
    let leased = lease_all(&mut consumer, 1).await;
    assert!(settle(&mut consumer, vec![too_late(&leased[0])]).await.is_empty());
    let view = reaches(&*store.queue, id, JobState::Expired).await;
    let error = view.error.expect("says why");
    assert_eq!((error.code, error.message.as_str()), (ErrorCode::DeadlineExceeded, "would not finish in time"));
}

async fn a_job_whose_worker_died_past_the_deadline_expires(backend: Backend) {
    let store = backend.open_with(short_leases(300)).await;
    let options = JobOptions { deadline: Some(ms(200)), ..JobOptions::default() };
    let id = store.queue.client().enqueue(job_with("a", options)).await.expect("accepted").id;
    let mut dies = store.queue.consumer(MODEL, "dies").await.expect("a consumer");
    let leased = lease(&mut dies, 1).await;
    // On a machine so busy that the deadline passed already it expired sooner.
    assert!(leased.len() <= 1);
    let mut next = store.queue.consumer(MODEL, "next").await.expect("a consumer");
    reaches(&*store.queue, id, JobState::Expired).await;
    assert!(lease(&mut next, 8).await.is_empty());
}

async fn a_result_is_forgotten_after_its_ttl(backend: Backend) {
    let store = backend.open().await;
    let client = store.queue.client();
    let options = JobOptions { result_ttl: ms(1_500), ..JobOptions::default() };
    let short = client.enqueue(job_with("short", options)).await.expect("accepted").id;
    let long = client.enqueue(job("long")).await.expect("accepted").id;
    let _echo = Echo::start(&*store.queue, MODEL, 8).await;
    let view = client.wait(short, PATIENCE).await.expect("the store answers").expect("it is there");
    assert_eq!(outputs(&view), "short");
    client.wait(long, PATIENCE).await.expect("the store answers").expect("it is there");
    let forgotten = async || store.queue.get(short).await.expect("the store answers").is_none();
    until_async("the end of a result's ttl", forgotten).await;
    assert!(client.wait(short, ms(10)).await.expect("the store answers").is_none());
    assert_eq!(outputs(&get(&*store.queue, long).await), "long");
}

async fn an_id_says_until_when_a_missing_result_means_expired(backend: Backend) {
    let store = backend.open().await;
    let before_min =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs() / 60;
    let id = store.queue.client().enqueue(job("a")).await.expect("accepted").id;
    // The result's hour and the tombstone's day.
    let minutes = u64::from(id.tombstone_min) - before_min;
    assert!((25 * 60..=25 * 60 + 5).contains(&minutes), "{minutes}");
    assert!(store.queue.ids().verify(id, nobat_core::OwnerId(7)));
    assert!(!store.queue.ids().verify(id, nobat_core::OwnerId(8)));
}

async fn many_jobs_due_at_once_all_run(backend: Backend) {
    let store = backend.open().await;
    let client = store.queue.client();
    let options = JobOptions { delay: Some(ms(300)), ..JobOptions::default() };
    let enqueues = (0..500).map(|number| client.enqueue(job_with(number.to_string(), options.clone())));
    let ids: Vec<_> =
        futures::future::join_all(enqueues).await.into_iter().map(|accepted| accepted.expect("accepted").id).collect();
    let _echo = Echo::start(&*store.queue, MODEL, 32).await;
    for id in ids {
        let view = client.wait(id, PATIENCE).await.expect("the store answers").expect("it is there");
        assert_eq!(view.state, JobState::Succeeded);
    }
}
