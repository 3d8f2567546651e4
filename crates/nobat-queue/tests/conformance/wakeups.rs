//! Wake-ups: none lost, no herd.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use nobat_core::job::JobOptions;
use nobat_queue::Consumer;

use crate::on_every_store;
use crate::play::*;
use crate::stores::Backend;

on_every_store! {
    an_idle_consumer_wakes_for_a_job
    a_consumer_does_not_sleep_while_there_is_work
    an_idle_consumer_wakes_for_a_due_job
    an_idle_consumer_wakes_for_an_expired_lease
    an_idle_consumer_wakes_when_its_queue_is_resumed
    one_job_wakes_at_most_two_of_many
    a_backlog_reaches_every_idle_consumer
    a_wake_up_that_is_dropped_goes_to_another
}

/// Sleeps until there are jobs, and leases them.
async fn next(consumer: &mut Box<dyn Consumer>) -> Vec<String> {
    let until = std::time::Instant::now() + PATIENCE;
    loop {
        let leased = lease(consumer, 8).await;
        if !leased.is_empty() {
            return payloads(&leased);
        }
        assert!(std::time::Instant::now() < until, "nothing came");
        tokio::time::timeout(PATIENCE, consumer.idle()).await.expect("a wake-up");
    }
}

async fn an_idle_consumer_wakes_for_a_job(backend: Backend) {
    let store = backend.open().await;
    let mut consumer = store.queue.consumer(MODEL, "w").await.expect("a consumer");
    for round in 0..20 {
        let client = store.queue.client();
        let enqueue = async {
            tokio::time::sleep(ms(round)).await;
            client.enqueue(job(round.to_string())).await.expect("accepted");
        };
        let (leased, ()) = futures::join!(next(&mut consumer), enqueue);
        assert_eq!(leased, [round.to_string()]);
    }
}

async fn a_consumer_does_not_sleep_while_there_is_work(backend: Backend) {
    let store = backend.open().await;
    let client = store.queue.client();
    for _ in 0..3 {
        client.enqueue(job("a")).await.expect("accepted");
    }
    let mut consumer = store.queue.consumer(MODEL, "w").await.expect("a consumer");
    for _ in 0..3 {
        tokio::time::timeout(PATIENCE, consumer.idle()).await.expect("there is work");
        assert_eq!(lease(&mut consumer, 1).await.len(), 1);
    }
}

async fn an_idle_consumer_wakes_for_a_due_job(backend: Backend) {
    let store = backend.open().await;
    let mut consumer = store.queue.consumer(MODEL, "w").await.expect("a consumer");
    assert!(lease(&mut consumer, 8).await.is_empty());
    let options = JobOptions { delay: Some(ms(300)), ..JobOptions::default() };
    store.queue.client().enqueue(job_with("due", options)).await.expect("accepted");
    assert_eq!(next(&mut consumer).await, ["due"]);
}

async fn an_idle_consumer_wakes_for_an_expired_lease(backend: Backend) {
    let store = backend.open_with(short_leases(500)).await;
    store.queue.client().enqueue(job("orphan")).await.expect("accepted");
    let mut dies = store.queue.consumer(MODEL, "dies").await.expect("a consumer");
    lease_all(&mut dies, 1).await;
    drop(dies);
    let mut consumer = store.queue.consumer(MODEL, "w").await.expect("a consumer");
    assert_eq!(next(&mut consumer).await, ["orphan"]);
}

async fn an_idle_consumer_wakes_when_its_queue_is_resumed(backend: Backend) {
    let store = backend.open().await;
    store.queue.set_paused(MODEL, true).await.expect("paused");
    store.queue.client().enqueue(job("patient")).await.expect("accepted");
    let mut consumer = store.queue.consumer(MODEL, "w").await.expect("a consumer");
    assert!(lease(&mut consumer, 8).await.is_empty());
    let resume = async {
        tokio::time::sleep(ms(200)).await;
        store.queue.set_paused(MODEL, false).await.expect("resumed");
    };
    let (leased, ()) = futures::join!(next(&mut consumer), resume);
    assert_eq!(leased, ["patient"]);
}

async fn one_job_wakes_at_most_two_of_many(backend: Backend) {
    let store = backend.open().await;
    let woken = Arc::new(AtomicUsize::new(0));
    let mut consumers = Vec::new();
    for number in 0..30 {
        let mut consumer = store.queue.consumer(MODEL, &format!("w{number}")).await.expect("a consumer");
        let woken = Arc::clone(&woken);
        consumers.push(tokio::spawn(async move {
            assert!(lease(&mut consumer, 8).await.is_empty());
            consumer.idle().await;
            woken.fetch_add(1, Ordering::Relaxed);
            let leased = lease(&mut consumer, 8).await;
            let settled = leased.iter().map(|job| success(job, "done")).collect();
            settle(&mut consumer, settled).await;
            // Asleep for the rest of the test.
            std::future::pending::<()>().await;
        }));
    }
    tokio::time::sleep(ms(500)).await;
    let before = woken.load(Ordering::Relaxed);
    let client = store.queue.client();
    let id = client.enqueue(job("a")).await.expect("accepted").id;
    let view = client.wait(id, PATIENCE).await.expect("the store answers").expect("it is there");
    assert_eq!(outputs(&view), "done");
    tokio::time::sleep(ms(300)).await;
    let count = woken.load(Ordering::Relaxed) - before;
    consumers.into_iter().for_each(|consumer| consumer.abort());
    assert!((1..=2).contains(&count), "{count} consumers woke for one job");
}

async fn a_backlog_reaches_every_idle_consumer(backend: Backend) {
    let store = backend.open().await;
    let mut consumers = Vec::new();
    for number in 0..5 {
        let mut consumer = store.queue.consumer(MODEL, &format!("w{number}")).await.expect("a consumer");
        // Each takes one job and is then busy for ever.
        consumers.push(tokio::spawn(async move {
            loop {
                let leased = lease(&mut consumer, 1).await;
                if !leased.is_empty() {
                    return payloads(&leased);
                }
                consumer.idle().await;
            }
        }));
    }
    tokio::time::sleep(ms(200)).await;
    let client = store.queue.client();
    let enqueues = (0..5).map(|number| client.enqueue(job(number.to_string())));
    for accepted in futures::future::join_all(enqueues).await {
        accepted.expect("accepted");
    }
    let mut ran = Vec::new();
    for consumer in consumers {
        ran.extend(tokio::time::timeout(PATIENCE, consumer).await.expect("every consumer wakes").expect("no panic"));
    }
    ran.sort();
    assert_eq!(ran, ["0", "1", "2", "3", "4"]);
}

async fn a_wake_up_that_is_dropped_goes_to_another(backend: Backend) {
    let store = backend.open().await;
    let client = store.queue.client();
    for round in 0..20u64 {
        let mut fickle = store.queue.consumer(MODEL, "fickle").await.expect("a consumer");
        let mut steady = store.queue.consumer(MODEL, "steady").await.expect("a consumer");
        assert!(lease(&mut fickle, 8).await.is_empty() && lease(&mut steady, 8).await.is_empty());
        let gives_up = async {
            // Whether it was woken or not, it never steps.
            let _ = tokio::time::timeout(ms(20 + round % 3), fickle.idle()).await;
            drop(fickle);
        };
        let enqueue = async {
            tokio::time::sleep(ms(20)).await;
            client.enqueue(job("a")).await.expect("accepted");
        };
        let ((), (), leased) = futures::join!(gives_up, enqueue, next(&mut steady));
        assert_eq!(leased, ["a"]);
    }
}
