//! What the index of jobs costs and how fast it answers, on a redis-server of its own and on
//! the embedded store: Redis time and bytes a job with the index and without, in pairs, and
//! the p99 of pages over many jobs.
//!
//! `cargo run --release -p nobat-queue --example index_cost [redis_jobs] [embedded_jobs]`

use std::time::{Duration, Instant};

use nobat_core::job::{JobOptions, JobState, NewJob, Outcome, Settlement};
use nobat_core::tags::Tags;
use nobat_queue::redis::RedisQueue;
use nobat_queue::sqlite::SqliteQueue;
use nobat_queue::{ListFilter, Queue, QueueSettings};
use nobat_testkit::RedisServer;
use nobat_testkit::jobs::job;

const PUSHERS: usize = 64;
const PAIRS: usize = 5;
const PAIR_JOBS: usize = 40_000;
const ASKED: usize = 300;

fn tagged(model: &str, number: usize) -> anyhow::Result<NewJob> {
    let mut tags = Tags::default();
    tags.add(&format!("user={}", number % 1_000))?;
    tags.add(&format!("order={number}"))?;
    Ok(NewJob { model: model.into(), options: JobOptions { tags, ..JobOptions::default() }, ..job(vec![7; 281]) })
}

fn plain(model: &str) -> NewJob {
    NewJob { model: model.into(), ..job(vec![7; 281]) }
}

/// Enqueues from many tasks on one client.
async fn push(queue: &dyn Queue, count: usize, make: impl Fn(usize) -> anyhow::Result<NewJob>) -> anyhow::Result<()> {
    let client = queue.client();
    for from in (0..count).step_by(PUSHERS) {
        let jobs = (from..count.min(from + PUSHERS)).map(&make).collect::<anyhow::Result<Vec<_>>>()?;
        for accepted in futures::future::join_all(jobs.into_iter().map(|job| client.enqueue(job))).await {
            accepted?;
        }
    }
    Ok(())
}

async fn drain(queue: &dyn Queue, model: &str, most: usize) -> anyhow::Result<()> {
    let mut consumer = queue.consumer(model, "bench").await?;
    let (mut settle, mut ran) = (Vec::new(), 0);
    while ran < most {
        let step = consumer.settle_and_lease(std::mem::take(&mut settle), 32.min(most - ran)).await?;
        if step.leased.is_empty() {
            break;
        }
        ran += step.leased.len();
        settle.extend(step.leased.into_iter().map(|job| Settlement {
            id: job.id,
            token: job.token,
            outcome: Outcome::Succeeded(vec![0; 99].into()),
        }));
    }
    consumer.settle_and_lease(settle, 0).await?;
    Ok(())
}

/// The time of pages of 50 by some filters.
async fn pages(queue: &dyn Queue, name: &str, jobs: usize) -> anyhow::Result<()> {
    let of = |filter: ListFilter| ListFilter { model: Some("m".into()), ..filter };
    let filters = [
        ("newest", of(ListFilter::default())),
        (
            "one tag of a job",
            of(ListFilter { tag: Some(format!("order={}", jobs / 2).into()), ..ListFilter::default() }),
        ),
        ("one tag of many", of(ListFilter { tag: Some("user=7".into()), ..ListFilter::default() })),
        ("text", of(ListFilter { text: Some(format!("order={}", jobs / 3).into()), ..ListFilter::default() })),
        ("succeeded", of(ListFilter { state: Some(JobState::Succeeded), ..ListFilter::default() })),
        ("queued", of(ListFilter { state: Some(JobState::Queued), ..ListFilter::default() })),
    ];
    for (what, filter) in filters {
        let (mut took, mut found) = (Vec::new(), 0);
        let mut cursor: Option<String> = None;
        for _ in 0..ASKED {
            let started = Instant::now();
            let page = queue.list(&filter, cursor.as_deref(), 50).await?;
            took.push(started.elapsed());
            found += page.jobs.len();
            cursor = page.cursor;
        }
        took.sort();
        let p99 = took[took.len() * 99 / 100];
        println!(
            "{name:<9} {what:<18} p50 {:>9.2?}  p99 {p99:>9.2?}  {found} found by {ASKED} calls",
            took[took.len() / 2]
        );
    }
    Ok(())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1).map(|text| text.parse::<usize>());
    let redis_jobs = args.next().transpose()?.unwrap_or(1_000_000);
    let embedded_jobs = args.next().transpose()?.unwrap_or(200_000);
    let server = RedisServer::start(&[]);
    let connect = async |index| {
        RedisQueue::connect(&server.url(), QueueSettings { index, ..QueueSettings::default() }, "nobat").await
    };
    let (with, without) = (connect(true).await?, connect(false).await?);
    let cpu = || server.figure("cpu", "used_cpu_user") + server.figure("cpu", "used_cpu_sys");
    let mut ratios = Vec::new();
    push(&*with, 2_000, |_| Ok(plain("warm"))).await?;
    for pair in 0..PAIRS {
        let mut cost = Vec::new();
        for (queue, model) in [(&with, "with"), (&without, "without")] {
            let before = cpu();
            push(&**queue, PAIR_JOBS, |_| Ok(plain(model))).await?;
            let pushed = cpu();
            drain(&**queue, model, PAIR_JOBS).await?;
            cost.push(((pushed - before) * 1e6 / PAIR_JOBS as f64, (cpu() - before) * 1e6 / PAIR_JOBS as f64));
        }
        let [(push_with, with), (push_without, without)] = cost[..] else { continue };
        println!(
            "redis pair {pair}: enqueue {push_with:.2} us with, {push_without:.2} without; to the result {with:.2} and {without:.2}"
        );
        ratios.push(without / with);
    }
    ratios.sort_by(f64::total_cmp);
    println!(
        "redis throughput with the index, by Redis's time: {:.1} % of without (median of {PAIRS} pairs)",
        ratios[PAIRS / 2] * 100.0
    );

    let mut bytes = Vec::new();
    for (queue, model) in [(&without, "bare"), (&with, "m")] {
        let before = server.bytes();
        push(&**queue, redis_jobs, |number| tagged(model, number)).await?;
        bytes.push((server.bytes() - before) / redis_jobs as f64);
    }
    println!(
        "redis: {redis_jobs} jobs with two tags, {:.0} bytes each, {:.0} more with the index",
        bytes[0],
        bytes[1] - bytes[0]
    );
    drain(&*with, "m", redis_jobs / 2).await?;
    pages(&*with, "redis", redis_jobs).await?;

    let mut rates = Vec::new();
    for index in [true, false, true, false] {
        let folder = tempfile::tempdir()?;
        let queue = SqliteQueue::open(folder.path(), QueueSettings { index, ..QueueSettings::default() })?;
        let started = Instant::now();
        push(&*queue, PAIR_JOBS, |_| Ok(plain("m"))).await?;
        drain(&*queue, "m", PAIR_JOBS).await?;
        rates.push(PAIR_JOBS as f64 / started.elapsed().as_secs_f64());
    }
    println!(
        "embedded: {:.0} and {:.0} jobs/s with the index, {:.0} and {:.0} without",
        rates[0], rates[2], rates[1], rates[3]
    );
    let mut sizes = Vec::new();
    for index in [false, true] {
        let folder = tempfile::tempdir()?;
        let queue = SqliteQueue::open(folder.path(), QueueSettings { index, ..QueueSettings::default() })?;
        push(&*queue, embedded_jobs, |number| tagged("m", number)).await?;
        drain(&*queue, "m", embedded_jobs / 2).await?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        let mut bytes = 0;
        for file in std::fs::read_dir(folder.path())? {
            bytes += file?.metadata()?.len();
        }
        sizes.push(bytes as f64 / embedded_jobs as f64);
        if index {
            pages(&*queue, "embedded", embedded_jobs).await?;
        }
    }
    println!(
        "embedded: {embedded_jobs} jobs with two tags, {:.0} bytes of files each, {:.0} more with the index",
        sizes[0],
        sizes[1] - sizes[0]
    );
    Ok(())
}
