//! Measures the Redis store's hot path on a redis-server of its own: enqueues and
//! drains per second, Redis time per job, bytes per job and per result, and what
//! a large backlog costs.
//!
//! `cargo run --release -p nobat-queue --example redis_hot_path [jobs] [backlog]`

use std::sync::Arc;
use std::time::{Duration, Instant};

use nobat_core::job::{NewJob, Outcome, Settlement};
use nobat_queue::redis::RedisQueue;
use nobat_queue::{Consumer, Queue, QueueClient, QueueSettings};
use nobat_testkit::RedisServer;
use nobat_testkit::jobs::job;

/// Jobs leased in one step.
const BATCH: usize = 32;
/// Enqueues in flight at once.
const PUSHERS: usize = 64;

/// Processor seconds of the server so far.
fn cpu(server: &RedisServer) -> f64 {
    server.figure("cpu", "used_cpu_user") + server.figure("cpu", "used_cpu_sys")
}

/// Enqueues `count` jobs from many tasks on one client.
async fn push(queue: &Arc<RedisQueue>, count: usize) -> anyhow::Result<()> {
    let client = queue.client();
    let each = count.div_ceil(PUSHERS);
    let mut pushers = Vec::new();
    for _ in 0..PUSHERS {
        let client = client.clone();
        pushers.push(tokio::spawn(async move {
            for _ in 0..each {
                client.enqueue(job(vec![7; 281])).await?;
            }
            anyhow::Ok(())
        }));
    }
    for pusher in pushers {
        pusher.await??;
    }
    Ok(())
}

/// Runs up to `most` jobs through one consumer; how many it ran.
async fn drain(consumer: &mut dyn Consumer, most: usize) -> anyhow::Result<usize> {
    let mut settle = Vec::new();
    let mut ran = 0;
    loop {
        let want = BATCH.min(most - ran);
        let step = consumer.settle_and_lease(std::mem::take(&mut settle), want).await?;
        if step.leased.is_empty() {
            return Ok(ran);
        }
        ran += step.leased.len();
        settle.extend(step.leased.into_iter().map(|job| Settlement {
            id: job.id,
            token: job.token,
            outcome: Outcome::Succeeded(vec![0; 99].into()),
        }));
    }
}

/// Milliseconds of a blocking call with a payload of `bytes`.
async fn median_call(client: &Arc<dyn QueueClient>, bytes: usize) -> anyhow::Result<f64> {
    let payload = bytes::Bytes::from(vec![7; bytes]);
    let mut took = Vec::new();
    for _ in 0..300 {
        let started = Instant::now();
        client.call(NewJob { payload: payload.clone(), ..job(Vec::new()) }, Duration::from_secs(10)).await?;
        took.push(started.elapsed().as_secs_f64() * 1e3);
    }
    took.sort_by(f64::total_cmp);
    Ok(took[took.len() / 2])
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1).map(|text| text.parse::<usize>());
    let jobs = args.next().transpose()?.unwrap_or(200_000);
    let backlog = args.next().transpose()?.unwrap_or(1_000_000);
    let server = RedisServer::start(&[]);
    let queue = RedisQueue::connect(&server.url(), QueueSettings::default(), "nobat").await?;
    let mut consumer = queue.consumer("digits", "bench").await?;
    push(&queue, 1_000).await?;
    drain(&mut *consumer, usize::MAX).await?;

    let (memory, before, started) = (server.bytes(), cpu(&server), Instant::now());
    push(&queue, jobs).await?;
    let took = started.elapsed().as_secs_f64();
    let pushed = jobs.div_ceil(PUSHERS) * PUSHERS;
    let queued_bytes = (server.bytes() - memory) / pushed as f64;
    let push_us = (cpu(&server) - before) * 1e6 / pushed as f64;
    println!(
        "enqueue  {:>9.0} jobs/s   {push_us:.1} us of redis per job   {queued_bytes:.0} bytes queued",
        pushed as f64 / took
    );

    let (before, started) = (cpu(&server), Instant::now());
    let drained = drain(&mut *consumer, usize::MAX).await?;
    let took = started.elapsed().as_secs_f64();
    let stored_bytes = (server.bytes() - memory) / drained as f64;
    let drain_us = (cpu(&server) - before) * 1e6 / drained as f64;
    println!(
        "drain    {:>9.0} jobs/s   {drain_us:.1} us of redis per job   {stored_bytes:.0} bytes per result",
        drained as f64 / took
    );

    let worker = queue.consumer("digits", "echo").await?;
    let served = tokio::spawn(async move {
        let mut worker = worker;
        while drain(&mut *worker, usize::MAX).await.is_ok() {
            worker.idle().await;
        }
    });
    for clients in [1usize, 64] {
        let client = queue.client();
        let each = 40_000 / clients / if clients == 1 { 10 } else { 1 };
        let started = Instant::now();
        let calls = (0..clients).map(|_| {
            let client = client.clone();
            tokio::spawn(async move {
                for _ in 0..each {
                    client.call(job(vec![7; 281]), Duration::from_secs(10)).await?;
                }
                anyhow::Ok(())
            })
        });
        for call in futures::future::join_all(calls).await {
            call??;
        }
        let per_s = (each * clients) as f64 / started.elapsed().as_secs_f64();
        println!("call     {per_s:>9.0} calls/s  at {clients} callers, gateway and worker on one thread");
    }
    let client = queue.client();
    let small = median_call(&client, 281).await?;
    let large = median_call(&client, 600_000).await?;
    println!("tensor   of 600 KB: {large:.2} ms a call, {small:.2} ms with 281 bytes: {:.2} ms added", large - small);
    served.abort();

    if backlog > 0 {
        let mut per_job = Vec::new();
        for size in [1_000, backlog] {
            let waiting = queue.counts("digits").await?.queued as usize;
            push(&queue, size.saturating_sub(waiting)).await?;
            // Enqueue what is drained, so that the backlog stays as it is.
            let before = cpu(&server);
            let mut ran = 0;
            while ran < 50_000 {
                push(&queue, 960).await?;
                ran += drain(&mut *consumer, 960).await?;
            }
            let us = (cpu(&server) - before) * 1e6 / ran as f64;
            println!("backlog  {size:>9} jobs     {us:.1} us of redis per job, enqueue to result");
            per_job.push(us);
        }
        println!("backlog  ratio {:.2}", per_job[1] / per_job[0]);
    }
    Ok(())
}
