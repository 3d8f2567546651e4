//! A queue on a real Redis, and the roles a test plays.

#![allow(dead_code, unused_imports)] // Each test binary uses a part.

use std::sync::Arc;
use std::time::Duration;

use nobat_core::job::{LeasedJob, NewJob};
use nobat_queue::redis::RedisQueue;
use nobat_queue::{Consumer, QueueClient, QueueSettings};
pub(crate) use nobat_testkit::jobs::{echo, job, job_with};
pub(crate) use nobat_testkit::{RedisServer as Server, Sentinel, free_port, proxy, shim, until, until_async};

/// A queue on `server`.
pub(crate) async fn queue(server: &Server, settings: QueueSettings) -> Arc<RedisQueue> {
    RedisQueue::connect(&server.url(), settings, "nobat").await.expect("a fresh server is fit")
}

/// Answers every job with its payload until it is aborted.
pub(crate) async fn serve(mut consumer: Box<dyn Consumer>, want: usize) {
    let mut settle = Vec::new();
    loop {
        match consumer.settle_and_lease_or_wait(std::mem::take(&mut settle), want).await {
            Ok(step) if step.leased.is_empty() => consumer.idle().await,
            Ok(step) => settle.extend(step.leased.iter().map(echo)),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// How much a test does: `bounded` in every run, `full` with `NOBAT_FAULTS=full`.
pub(crate) fn amount(bounded: usize, full: usize) -> usize {
    match std::env::var("NOBAT_FAULTS").as_deref() {
        Ok("full") => full,
        _ => bounded,
    }
}

/// Enqueues jobs in their order, a thousand in flight.
pub(crate) async fn enqueue_all(client: &dyn QueueClient, jobs: impl IntoIterator<Item = NewJob>) {
    let mut jobs = jobs.into_iter().peekable();
    // The first goes alone: calls in flight together that meet a server without the
    // script are sent again, and need not arrive in their order then.
    if let Some(first) = jobs.next() {
        client.enqueue(first).await.expect("accepted");
    }
    while jobs.peek().is_some() {
        let accepted: Vec<_> = jobs.by_ref().take(1_000).map(|job| client.enqueue(job)).collect();
        for accepted in futures::future::join_all(accepted).await {
            accepted.expect("accepted");
        }
    }
}

/// Leases until `count` jobs are there.
pub(crate) async fn lease(consumer: &mut dyn Consumer, count: usize) -> Vec<LeasedJob> {
    let mut leased = Vec::new();
    until_async("a lease of every job", async || {
        let reply = consumer.settle_and_lease(Vec::new(), count - leased.len()).await.expect("the store answers");
        leased.extend(reply.leased);
        leased.len() == count
    })
    .await;
    leased
}
