//! The Redis store's own promises, on a real server: what the conformance suite
//! cannot see through the `Queue` trait.

mod redis_support;

use std::time::Duration;

use nobat_core::job::{JobError, JobOptions, JobState, NewJob, Outcome, Settlement};
use nobat_core::{ErrorCode, OwnerId};
use nobat_queue::{ListFilter, Queue, QueueSettings, Renewal};
use redis_support::*;

const SOON: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_job_goes_the_whole_way() {
    let server = Server::start(&[]);
    let queue = queue(&server, QueueSettings::default()).await;
    let client = queue.client();
    let worker = tokio::spawn(serve(queue.consumer("digits", "w").await.expect("opens"), 8));
    let view = client.call(job("one"), SOON).await.expect("answered");
    assert_eq!(view.state, JobState::Succeeded);
    assert_eq!(view.result.expect("has a result").outputs, "one");

    let accepted = client.enqueue(job("two")).await.expect("accepted");
    let view = client.wait(accepted.id, SOON).await.expect("the store answers").expect("is there");
    assert_eq!(view.result.expect("has a result").outputs, "two");
    let read = queue.get(accepted.id).await.expect("the store answers").expect("is there");
    assert_eq!((read.state, read.id, read.attempts), (JobState::Succeeded, accepted.id, 1));
    assert!(read.finished_at_ms.is_some_and(|at| at >= read.created_at_ms));
    worker.abort();

    let counts = queue.counts("digits").await.expect("counted");
    assert_eq!((counts.queued, counts.leased, counts.enqueued_total, counts.finished_total), (0, 0, 2, 2));
    assert_eq!(counts.queued_bytes, 0);
}

#[tokio::test]
async fn another_lanes_job_can_be_waited_for() {
    let server = Server::start(&[]);
    let queue = queue(&server, QueueSettings::default()).await;
    let (first, second) = (queue.client(), queue.client());
    let accepted = first.enqueue(job("x")).await.expect("accepted");
    let id = accepted.id;
    let (one, two) = (first.clone(), second.clone());
    let waits =
        [tokio::spawn(async move { one.wait(id, SOON).await }), tokio::spawn(async move { two.wait(id, SOON).await })];
    tokio::time::sleep(Duration::from_millis(50)).await;
    let worker = tokio::spawn(serve(queue.consumer("digits", "w").await.expect("opens"), 8));
    for wait in waits {
        let view = wait.await.expect("no panic").expect("the store answers").expect("is there");
        assert_eq!(view.state, JobState::Succeeded);
    }
    worker.abort();
}

#[tokio::test]
async fn a_large_tensor_travels_beside_the_scripts_and_leaves_nothing_behind() {
    let server = Server::start(&[]);
    let queue = queue(&server, QueueSettings::default()).await;
    let client = queue.client();
    let worker = tokio::spawn(serve(queue.consumer("digits", "w").await.expect("opens"), 8));
    let tensor = vec![7u8; 600_000];
    let view = client.call(job(tensor.clone()), SOON).await.expect("answered");
    assert_eq!(view.result.expect("has a result").outputs, tensor);
    let again = queue.get(view.id).await.expect("the store answers").expect("is there");
    assert_eq!(again.result.expect("has a result").outputs, tensor);
    worker.abort();
    let left: Vec<String> =
        redis::cmd("KEYS").arg("nobat{digits}:*:in").query(&mut server.connection()).expect("listed");
    assert_eq!(left, Vec::<String>::new());
    assert_eq!(queue.counts("digits").await.expect("counted").queued_bytes, 0);
}

#[tokio::test]
async fn a_server_that_lost_its_data_is_told_again_what_ids_mean() {
    let server = Server::start(&[]);
    let first = queue(&server, QueueSettings::default()).await;
    let client = first.client();
    for model in ["other", "digits"] {
        client.enqueue(NewJob { model: model.into(), ..job("before") }).await.expect("accepted");
    }
    let mut connection = server.connection();
    let () = redis::cmd("FLUSHALL").query(&mut connection).expect("flushed");
    let mut numbered = || redis::cmd("HLEN").arg("nobat{:}queues").query::<u64>(&mut connection).expect("answers");
    until_async("the queues have their numbers again", async || numbered() == 2).await;
    let id = client.enqueue(job("after")).await.expect("accepted").id;

    let second = queue(&server, QueueSettings::default()).await;
    let found = second.get(id).await.expect("the store answers").expect("is there");
    assert_eq!((found.state, found.model.as_str()), (JobState::Queued, "digits"));
    assert!(second.ids().verify(id, OwnerId::ANONYMOUS), "both key their ids alike");
    for queue in [&first, &second] {
        let page = queue.list(&ListFilter::default(), None, 10).await.expect("listed");
        assert_eq!(page.jobs.iter().map(|job| job.id).collect::<Vec<_>>(), [id]);
    }
}

#[tokio::test]
async fn a_new_queue_takes_no_number_that_another_has() {
    let server = Server::start(&[]);
    let queue = queue(&server, QueueSettings::default()).await;
    for model in ["a", "b"] {
        drop(queue.consumer(model, "w").await.expect("opens"));
    }
    let mut connection = server.connection();
    let () = redis::cmd("HDEL").arg("nobat{:}queues").arg("a").query(&mut connection).expect("gone");
    drop(queue.consumer("c", "w").await.expect("opens"));
    let number = |model: &str, connection: &mut redis::Connection| {
        redis::cmd("HGET").arg("nobat{:}queues").arg(model).query::<u64>(connection).expect("a number")
    };
    assert_eq!((number("b", &mut connection), number("c", &mut connection)), (2, 3));
}

#[tokio::test]
async fn whoever_looks_for_a_name_makes_no_queue_of_it() {
    let server = Server::start(&[]);
    let queue = queue(&server, QueueSettings::default()).await;
    let mut id = queue.client().enqueue(job("one")).await.expect("accepted").id;
    id.random += 1;
    for tag in [None, Some("t")] {
        let filter = ListFilter { model: Some("no-such".into()), tag: tag.map(Into::into), ..ListFilter::default() };
        let mut page = queue.list(&filter, None, 10).await.expect("listed");
        while let Some(cursor) = page.cursor.take() {
            assert!(page.jobs.is_empty());
            page = queue.list(&filter, Some(&cursor), 10).await.expect("listed");
        }
        assert!(page.jobs.is_empty());
    }
    assert_eq!(queue.find_idempotent("no-such", OwnerId::ANONYMOUS, "k").await.expect("answered"), None);
    assert_eq!(queue.redrive("no-such", &[], 10).await.expect("answered"), 0);
    assert_eq!(queue.purge("no-such", &[id], 10).await.expect("answered"), 0);
    assert_eq!(queue.counts("no-such").await.expect("counted"), Default::default());
    let mut connection = server.connection();
    let queues: Vec<String> = redis::cmd("HKEYS").arg("nobat{:}queues").query(&mut connection).expect("listed");
    assert_eq!(queues, ["digits"]);
    let own: Vec<String> = redis::cmd("KEYS").arg("nobat{no-such}*").query(&mut connection).expect("listed");
    assert_eq!(own, Vec::<String>::new());
}

#[tokio::test]
async fn a_settlement_after_the_lease_went_to_another_is_refused() {
    let server = Server::start(&[]);
    let queue = queue(&server, QueueSettings { lease_ms: 1_000, ..QueueSettings::default() }).await;
    let client = queue.client();
    let accepted = client.enqueue(job("x")).await.expect("accepted");
    let mut slow = queue.consumer("digits", "slow").await.expect("opens");
    let mut quick = queue.consumer("digits", "quick").await.expect("opens");
    let stale = lease(&mut *slow, 1).await.remove(0);
    let fresh = lease(&mut *quick, 1).await.remove(0);
    assert_eq!((fresh.attempt, fresh.deaths), (2, 1));
    assert_ne!(fresh.token, stale.token);

    let mut renewer = queue.renewer().await.expect("opens");
    let renewed = renewer.renew("digits", &[(stale.id, stale.token), (fresh.id, fresh.token)]).await.expect("answered");
    assert_eq!(renewed, [Renewal::Lost, Renewal::Renewed]);
    let step = slow.settle_and_lease(vec![echo(&stale)], 0).await.expect("answered");
    assert_eq!(step.refused, [stale.id]);
    let view = queue.get(accepted.id).await.expect("the store answers").expect("is there");
    assert_eq!(view.state, JobState::Leased);
    let step = quick.settle_and_lease(vec![echo(&fresh)], 0).await.expect("answered");
    assert!(step.refused.is_empty());
}

#[tokio::test]
async fn a_failed_attempt_runs_again_and_then_is_a_dead_letter() {
    let server = Server::start(&[]);
    let queue = queue(&server, QueueSettings::default()).await;
    let client = queue.client();
    let accepted = client.enqueue(job("x")).await.expect("accepted");
    let mut consumer = queue.consumer("digits", "w").await.expect("opens");
    let fail = |id, token, retry_in| Settlement {
        id,
        token,
        outcome: Outcome::Failed {
            error: JobError { code: ErrorCode::InferenceFailed, message: "no".into() },
            retry_in,
        },
    };
    let first = lease(&mut *consumer, 1).await.remove(0);
    consumer
        .settle_and_lease(vec![fail(first.id, first.token, Some(Duration::from_millis(50)))], 0)
        .await
        .expect("answered");
    let view = queue.get(accepted.id).await.expect("the store answers").expect("is there");
    assert_eq!((view.state, view.attempts), (JobState::Failed, 1));
    assert_eq!(view.error.expect("says why").message, "no");
    consumer.idle().await;
    let second = lease(&mut *consumer, 1).await.remove(0);
    assert_eq!(second.attempt, 2);
    assert_eq!(second.payload, "x");
    consumer.settle_and_lease(vec![fail(second.id, second.token, None)], 0).await.expect("answered");
    let view = client.wait(accepted.id, SOON).await.expect("the store answers").expect("is there");
    assert_eq!((view.state, view.attempts), (JobState::Dead, 2));
    assert_eq!(queue.counts("digits").await.expect("counted").dead, 1);

    assert_eq!(queue.redrive("digits", &[], 10).await.expect("redriven"), 1);
    let again = lease(&mut *consumer, 1).await.remove(0);
    assert_eq!((again.attempt, again.payload.as_ref()), (1, &b"x"[..]));
    consumer.settle_and_lease(vec![fail(again.id, again.token, None)], 0).await.expect("answered");
    assert_eq!(queue.purge("digits", &[accepted.id], 0).await.expect("purged"), 1);
    assert!(queue.get(accepted.id).await.expect("the store answers").is_none());
}

#[tokio::test]
async fn a_delayed_job_wakes_an_idle_worker_when_it_is_due() {
    let server = Server::start(&[]);
    let queue = queue(&server, QueueSettings::default()).await;
    let client = queue.client();
    let worker = tokio::spawn(serve(queue.consumer("digits", "w").await.expect("opens"), 8));
    tokio::time::sleep(Duration::from_millis(100)).await;
    let started = std::time::Instant::now();
    let delay = Duration::from_millis(300);
    let view = client
        .call(job_with("x", JobOptions { delay: Some(delay), ..JobOptions::default() }), SOON)
        .await
        .expect("answered");
    assert_eq!(view.state, JobState::Succeeded);
    assert!(started.elapsed() >= delay, "ran {:?} after it was enqueued", started.elapsed());
    assert!(started.elapsed() < Duration::from_secs(4), "ran {:?} after it was enqueued", started.elapsed());
    worker.abort();
}

#[tokio::test]
async fn a_waiting_job_ends_at_its_deadline_with_nobody_to_run_it() {
    let server = Server::start(&[]);
    let queue = queue(&server, QueueSettings { lease_ms: 500, ..QueueSettings::default() }).await;
    let client = queue.client();
    queue.set_paused("digits", true).await.expect("paused");
    let _consumer = queue.consumer("digits", "w").await.expect("opens");
    let options = JobOptions { deadline: Some(Duration::from_millis(100)), ..JobOptions::default() };
    let view = client.call(job_with("x", options), SOON).await.expect("answered");
    assert_eq!(view.state, JobState::Expired);
    assert_eq!(view.error.expect("says why").code, ErrorCode::DeadlineExceeded);
    assert_eq!(queue.counts("digits").await.expect("counted").queued_bytes, 0);
}

#[tokio::test]
async fn cancelling_ends_a_queued_and_a_leased_job_at_once() {
    let server = Server::start(&[]);
    let queue = queue(&server, QueueSettings::default()).await;
    let client = queue.client();
    let queued = client.enqueue(job("x")).await.expect("accepted").id;
    assert_eq!(queue.cancel(queued).await.expect("cancelled").state, JobState::Cancelled);
    assert_eq!(queue.cancel(queued).await.expect_err("ended").code, ErrorCode::JobAlreadyFinished);

    let leased = client.enqueue(job("y")).await.expect("accepted").id;
    let mut consumer = queue.consumer("digits", "w").await.expect("opens");
    let job = lease(&mut *consumer, 1).await.remove(0);
    assert_eq!(job.id, leased);
    assert_eq!(queue.cancel(leased).await.expect("cancelled").state, JobState::Cancelled);
    let mut renewer = queue.renewer().await.expect("opens");
    assert_eq!(renewer.renew("digits", &[(job.id, job.token)]).await.expect("answered"), [Renewal::Lost]);
    let step = consumer.settle_and_lease(vec![echo(&job)], 4).await.expect("answered");
    assert_eq!(step.refused, [leased]);
    assert!(step.leased.is_empty());
    let counts = queue.counts("digits").await.expect("counted");
    assert_eq!((counts.queued, counts.leased, counts.queued_bytes), (0, 0, 0));
}

#[tokio::test]
async fn dropping_a_call_cancels_its_queued_job() {
    let server = Server::start(&[]);
    let queue = queue(&server, QueueSettings::default()).await;
    let client = queue.client();
    let call = tokio::spawn({
        let client = client.clone();
        async move { client.call(job("x"), SOON).await }
    });
    let queued = async || queue.counts("digits").await.expect("counted").queued;
    until_async("the job", async || queued().await == 1).await;
    call.abort();
    until_async("the job's end", async || queued().await == 0).await;
    assert_eq!(queue.counts("digits").await.expect("counted").finished_total, 1);
}

#[tokio::test]
async fn an_idempotency_key_makes_one_job() {
    use nobat_core::job::Idempotency;
    let server = Server::start(&[]);
    let queue = queue(&server, QueueSettings::default()).await;
    let client = queue.client();
    let keyed = |fingerprint| {
        job_with(
            "x",
            JobOptions { idempotency: Some(Idempotency { key: "k".into(), fingerprint }), ..JobOptions::default() },
        )
    };
    let first = client.enqueue(keyed(1)).await.expect("accepted");
    let second = client.enqueue(keyed(1)).await.expect("accepted");
    assert_eq!((first.duplicate, second.duplicate, second.id), (false, true, first.id));
    assert_eq!(client.enqueue(keyed(2)).await.expect_err("another body").code, ErrorCode::IdempotencyMismatch);
    let mut other = keyed(2);
    other.owner = OwnerId(9);
    assert!(!client.enqueue(other).await.expect("another caller's key").duplicate);
    assert_eq!(queue.counts("digits").await.expect("counted").queued, 2);

    let worker = tokio::spawn(serve(queue.consumer("digits", "w").await.expect("opens"), 8));
    let view = client.call(keyed(1), SOON).await.expect("answered");
    assert_eq!((view.id, view.state), (first.id, JobState::Succeeded));
    worker.abort();
}

#[tokio::test]
async fn a_full_queue_says_when_to_come_again() {
    let server = Server::start(&[]);
    let queue = queue(&server, QueueSettings { max_jobs: 2, ..QueueSettings::default() }).await;
    let client = queue.client();
    client.enqueue(job("a")).await.expect("accepted");
    client.enqueue(job("b")).await.expect("accepted");
    let refused = client.enqueue(job("c")).await.expect_err("full");
    assert_eq!(refused.code, ErrorCode::QueueFull);
    assert!(refused.retry_after.is_some());
    let refused = client.call(job("c"), SOON).await.expect_err("full");
    assert_eq!(refused.code, ErrorCode::QueueFull);
    assert_eq!(queue.counts("digits").await.expect("counted").queued, 2);
}

#[tokio::test]
async fn every_state_is_listed() {
    let server = Server::start(&[]);
    let queue = queue(&server, QueueSettings::default()).await;
    let client = queue.client();
    let mut consumer = queue.consumer("digits", "w").await.expect("opens");
    let done = client.enqueue(job("done")).await.expect("accepted").id;
    let leased = lease(&mut *consumer, 1).await.remove(0);
    consumer.settle_and_lease(vec![echo(&leased)], 0).await.expect("answered");
    let held = client.enqueue(job("held")).await.expect("accepted").id;
    lease(&mut *consumer, 1).await;
    let later = job_with("later", JobOptions { delay: Some(SOON), ..JobOptions::default() });
    let later = client.enqueue(later).await.expect("accepted").id;
    let queued = client.enqueue(job("queued")).await.expect("accepted").id;

    let mut seen = Vec::new();
    let mut cursor = None;
    loop {
        let page = queue.list(&Default::default(), cursor.as_deref(), 10).await.expect("listed");
        seen.extend(page.jobs.into_iter().map(|job| (job.id, job.state)));
        cursor = page.cursor;
        if cursor.is_none() {
            break;
        }
    }
    let mut expected = vec![
        (done, JobState::Succeeded),
        (held, JobState::Leased),
        (later, JobState::Scheduled),
        (queued, JobState::Queued),
    ];
    expected.sort_by_key(|(id, _)| *id);
    seen.sort_by_key(|(id, _)| *id);
    assert_eq!(seen, expected);
}

/// A record is longer with a client, or once its times differ: what a job counts for
/// while it waits must be taken back whole, and no more.
#[tokio::test]
async fn the_bytes_of_waiting_jobs_are_in_balance_after_every_kind_of_wait() {
    let server = Server::start(&[]);
    let queue = queue(&server, QueueSettings::default()).await;
    let client = queue.client();
    // Never due, so that too much taken back shows as well.
    let hour = Duration::from_secs(3600);
    client
        .enqueue(job_with("guard", JobOptions { delay: Some(hour), ..JobOptions::default() }))
        .await
        .expect("accepted");
    let guard = queue.counts("digits").await.expect("counted").queued_bytes;
    let some = Duration::from_millis(1);
    let kinds = [
        JobOptions::default(),
        JobOptions { priority: 7, ..JobOptions::default() },
        JobOptions { delay: Some(some), ..JobOptions::default() },
        JobOptions { deadline: Some(hour), ..JobOptions::default() },
    ];
    let mut ids = Vec::new();
    for options in &kinds {
        for size in [3, 10_000] {
            ids.push(client.enqueue(job_with(vec![7; size], options.clone())).await.expect("accepted").id);
        }
    }
    // One more has a client that waits.
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.call(job("called"), SOON).await }
    });
    let mut consumer = queue.consumer("digits", "w").await.expect("opens");
    let count = ids.len() + 1;
    // They fail, fail for good, are redriven, and succeed.
    for retry_in in [Some(some), None] {
        let leased = lease(&mut *consumer, count).await;
        let settle = leased.iter().map(|job| Settlement {
            id: job.id,
            token: job.token,
            outcome: Outcome::Failed {
                error: JobError { code: ErrorCode::InferenceFailed, message: "not yet".to_owned() },
                retry_in,
            },
        });
        consumer.settle_and_lease(settle.collect(), 0).await.expect("answered");
    }
    assert_eq!(waiting.await.expect("no panic").expect("answered").state, JobState::Dead);
    assert_eq!(queue.counts("digits").await.expect("counted").queued_bytes, guard);
    assert_eq!(queue.redrive("digits", &[], 100).await.expect("redriven"), count as u64);
    let leased = lease(&mut *consumer, count).await;
    consumer.settle_and_lease(leased.iter().map(echo).collect(), 0).await.expect("answered");
    assert_eq!(queue.counts("digits").await.expect("counted").queued_bytes, guard);
    for id in ids {
        assert_eq!(queue.get(id).await.expect("the store answers").expect("is there").state, JobState::Succeeded);
    }
}

#[tokio::test]
async fn what_a_caller_owes_of_tokens_adds_up_over_gateways_and_a_look_adds_nothing() {
    let server = Server::start(&[]);
    let (one, other) = (queue(&server, QueueSettings::default()).await, queue(&server, QueueSettings::default()).await);
    let (owner, minute) = (OwnerId(3), Duration::from_secs(60));
    let owed = async |queue: &dyn Queue, more| queue.owe_tokens(owner, more).await.expect("the store answers");
    assert_eq!(owed(&*one, Duration::ZERO).await, Some(Duration::ZERO));
    let first = owed(&*one, 3 * minute).await.expect("kept");
    assert!(first <= 3 * minute && first > 2 * minute, "however much it is: {first:?}");
    let both = owed(&*other, minute).await.expect("kept");
    assert!(both > 3 * minute && both <= 4 * minute, "{both:?}");
    let looked = owed(&*one, Duration::ZERO).await.expect("kept");
    assert!(looked > 3 * minute && looked <= both, "{looked:?}");
    assert_eq!(
        one.owe_tokens(OwnerId(4), Duration::ZERO).await.expect("answers"),
        Some(Duration::ZERO),
        "each its own"
    );
    // A rate is another bucket.
    let taken = one.take_rate(owner, minute, minute).await.expect("answers").expect("kept");
    assert!(taken.allowed);
}
