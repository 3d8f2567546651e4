//! Jobs that are pushed to a consumer that waits: leased by the enqueue itself,
//! in the promised order, and never lost on the way.

mod redis_support;

use std::time::{Duration, Instant};

use nobat_core::job::{JobOptions, JobState};
use nobat_queue::{Consumer, Queue, QueueSettings};
use redis_support::proxy::Proxy;
use redis_support::*;

const SOON: Duration = Duration::from_secs(10);

/// Parks a consumer that has nothing to settle.
async fn wait_for_push(consumer: &mut dyn Consumer, room: usize) {
    let step = consumer.settle_and_lease_or_wait(Vec::new(), room).await.expect("the store answers");
    assert!(step.leased.is_empty() && consumer.is_waiting(), "nothing is ready, so it waits");
}

/// What a waiting consumer finds once it is woken.
async fn woken(consumer: &mut dyn Consumer, room: usize) -> Vec<Vec<u8>> {
    tokio::time::timeout(SOON, consumer.idle()).await.expect("woken");
    let step = consumer.settle_and_lease(Vec::new(), room).await.expect("the store answers");
    step.leased.iter().map(|job| job.payload.to_vec()).collect()
}

#[tokio::test]
async fn an_enqueue_leases_its_jobs_to_a_consumer_that_waits_without_a_call_of_its_own() {
    let mut server = Server::start(&[]);
    let queue = queue(&server, QueueSettings::default()).await;
    let client = queue.client();
    let mut consumer = queue.consumer("digits", "w").await.expect("opens");
    wait_for_push(&mut *consumer, 8).await;
    let accepted = client.enqueue(job("one")).await.expect("accepted");
    let counts = queue.counts("digits").await.expect("counted");
    assert_eq!((counts.queued, counts.leased, counts.queued_bytes), (0, 1, 0));
    let view = queue.get(accepted.id).await.expect("answered").expect("is there");
    assert_eq!(view.state, JobState::Leased);
    tokio::time::timeout(SOON, consumer.idle()).await.expect("woken");
    // Nobody is there to be asked any more.
    server.kill();
    let leased = consumer.settle_and_lease(Vec::new(), 8).await.expect("it has come already").leased;
    assert_eq!((leased.len(), leased[0].id), (1, accepted.id));
    assert!(!consumer.is_waiting());
}

#[tokio::test]
async fn what_was_pushed_is_settled_under_its_lease_and_renewed() {
    let server = Server::start(&[]);
    let queue = queue(&server, QueueSettings { lease_ms: 2_000, ..QueueSettings::default() }).await;
    let client = queue.client();
    let mut consumer = queue.consumer("digits", "w").await.expect("opens");
    let mut other = queue.consumer("digits", "other").await.expect("opens");
    wait_for_push(&mut *consumer, 8).await;
    let id = client.enqueue(job("one")).await.expect("accepted").id;
    consumer.idle().await;
    let leased = consumer.settle_and_lease(Vec::new(), 8).await.expect("answered").leased;
    let mut renewer = queue.renewer().await.expect("opens");
    for _ in 0..8 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let renewed = renewer.renew("digits", &[(id, leased[0].token)]).await.expect("answered");
        assert_eq!(renewed, [nobat_queue::Renewal::Renewed]);
        assert!(other.settle_and_lease(Vec::new(), 8).await.expect("answered").leased.is_empty(), "it is leased");
    }
    let step = consumer.settle_and_lease(vec![echo(&leased[0])], 0).await.expect("answered");
    assert!(step.refused.is_empty());
    let view = queue.get(id).await.expect("answered").expect("is there");
    assert_eq!((view.state, view.attempts), (JobState::Succeeded, 1));
}

#[tokio::test]
async fn jobs_that_arrive_together_are_pushed_in_their_order_and_large_ones_whole() {
    let server = Server::start(&[]);
    let queue = queue(&server, QueueSettings::default()).await;
    let client = queue.client();
    let mut consumer = queue.consumer("digits", "w").await.expect("opens");
    // The script is known from here on: the jobs below go in one call.
    client.enqueue(job("first")).await.expect("accepted");
    assert_eq!(lease(&mut *consumer, 1).await.len(), 1);
    wait_for_push(&mut *consumer, 8).await;
    let large = vec![7; 100_000];
    let jobs = [(0, b"low".to_vec()), (3, large.clone()), (9, b"high".to_vec()), (0, b"late".to_vec())];
    let enqueued = jobs
        .map(|(priority, payload)| client.enqueue(job_with(payload, JobOptions { priority, ..JobOptions::default() })));
    for accepted in futures::future::join_all(enqueued).await {
        accepted.expect("accepted");
    }
    let mut got = woken(&mut *consumer, 8).await;
    if got.len() < 4 {
        got.extend(lease(&mut *consumer, 4 - got.len()).await.iter().map(|job| job.payload.to_vec()));
    }
    assert_eq!(got, [b"high".to_vec(), large, b"low".to_vec(), b"late".to_vec()]);
}

#[tokio::test]
async fn nothing_is_pushed_past_older_ones_nor_from_a_paused_queue_nor_beyond_its_room() {
    let server = Server::start(&[]);
    let queue = queue(&server, QueueSettings::default()).await;
    let client = queue.client();
    let mut consumer = queue.consumer("digits", "w").await.expect("opens");
    let mut other = queue.consumer("digits", "other").await.expect("opens");
    // Paused: it waits; and what comes after it waits behind it.
    wait_for_push(&mut *consumer, 8).await;
    queue.set_paused("digits", true).await.expect("paused");
    client.enqueue(job("one")).await.expect("accepted");
    queue.set_paused("digits", false).await.expect("resumed");
    client.enqueue(job("two")).await.expect("accepted");
    assert_eq!(queue.counts("digits").await.expect("counted").leased, 0);
    assert_eq!(lease(&mut *other, 1).await[0].payload, "one");
    assert_eq!(lease(&mut *other, 1).await[0].payload, "two");
    assert!(consumer.settle_and_lease(Vec::new(), 8).await.expect("answered").leased.is_empty());
    // Scheduled: it is not due.
    wait_for_push(&mut *consumer, 8).await;
    let later = JobOptions { delay: Some(Duration::from_millis(300)), ..JobOptions::default() };
    client.enqueue(job_with("later", later)).await.expect("accepted");
    let counts = queue.counts("digits").await.expect("counted");
    assert_eq!((counts.scheduled, counts.leased), (1, 2), "leased are the two above");
    assert_eq!(woken(&mut *consumer, 8).await, [b"later"]);
    // More than it has room for: it takes what it can, in order.
    wait_for_push(&mut *consumer, 1).await;
    for accepted in futures::future::join_all([client.enqueue(job("a")), client.enqueue(job("b"))]).await {
        accepted.expect("accepted");
    }
    assert_eq!(woken(&mut *consumer, 1).await, [b"a"]);
    assert_eq!(lease(&mut *other, 1).await[0].payload, "b");
}

#[tokio::test]
async fn nothing_is_pushed_to_a_consumer_that_is_gone() {
    let server = Server::start(&[]);
    let queue = queue(&server, QueueSettings::default()).await;
    let client = queue.client();
    let mut heir = queue.consumer("digits", "heir").await.expect("opens");
    // Of two that left no word: their connections end with them.
    for name in ["a", "b"] {
        let mut gone = queue.consumer("digits", name).await.expect("opens");
        wait_for_push(&mut *gone, 8).await;
    }
    wait_for_push(&mut *heir, 8).await;
    let started = Instant::now();
    for n in 0..3u8 {
        client.enqueue(job(vec![n])).await.expect("accepted");
        let got = woken(&mut *heir, 8).await;
        assert_eq!(got, [vec![n]]);
        wait_for_push(&mut *heir, 8).await;
    }
    assert!(started.elapsed() < Duration::from_secs(5), "no lease had to end for it");
    assert!(heir.is_waiting());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_was_cut_off_is_made_up_for_by_the_next_call() {
    let server = Server::start(&[]);
    let proxy = Proxy::before(server.port);
    let plain = queue(&server, QueueSettings::default()).await;
    let client = plain.client();
    let url = format!("redis://127.0.0.1:{}/", proxy.port);
    let cut = nobat_queue::redis::RedisQueue::connect(&url, QueueSettings::default(), "nobat").await.expect("connects");
    let mut consumer = cut.consumer("digits", "w").await.expect("opens");
    for n in 0..20u8 {
        wait_for_push(&mut *consumer, 8).await;
        proxy.cut(1);
        let id = client.enqueue(job(vec![n])).await.expect("accepted").id;
        let started = Instant::now();
        let mut leased = Vec::new();
        while leased.is_empty() {
            consumer.idle().await;
            leased = consumer.settle_and_lease(Vec::new(), 8).await.expect("answered").leased;
        }
        assert_eq!((leased.len(), leased[0].id, leased[0].attempt), (1, id, 1));
        assert!(started.elapsed() < Duration::from_secs(10), "the lease of 15 s is the same one");
        let step = consumer.settle_and_lease(vec![echo(&leased[0])], 0).await.expect("answered");
        assert!(step.refused.is_empty());
    }
    assert_eq!(proxy.left(), 0, "every cut happened");
    let counts = plain.counts("digits").await.expect("counted");
    assert_eq!((counts.enqueued_total, counts.finished_total, counts.leased), (20, 20, 0));
}
