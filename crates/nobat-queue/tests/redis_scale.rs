//! Many at once on a real Redis: leases of one dead worker, jobs due in one second,
//! a retry storm, order over many jobs and wrong clocks, memory after a load.
//!
//! Bounded by default; `NOBAT_FAULTS=full` (`just faults`) runs them at full size.
//! Each test prints what it measured; what it asserts of time is generous.

mod redis_support;

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nobat_core::ErrorCode;
use nobat_core::job::{JobError, JobOptions, JobState, LeasedJob, NewJob, Outcome, Settlement};
use nobat_core::tags::Tags;
use nobat_queue::redis::RedisQueue;
use nobat_queue::{Consumer, ListFilter, Queue, QueueClient, QueueSettings};
use redis_support::shim::Shim;
use redis_support::*;

const SOON: Duration = Duration::from_secs(120);
/// Healthy jobs in a storm.
const CALLS: usize = 100;

/// A healthy job among others: of high priority, its time from call to answer.
struct Healthy {
    usual_ms: f64,
    /// Jobs that ran while this was measured.
    jobs: u64,
}

async fn call_ms(client: &dyn QueueClient) -> f64 {
    let started = Instant::now();
    let options = JobOptions { priority: 200, ..JobOptions::default() };
    let view = client.call(job_with("healthy", options), SOON).await.expect("answered");
    assert_eq!(view.state, JobState::Succeeded);
    started.elapsed().as_secs_f64() * 1000.0
}

fn median(mut took: Vec<f64>) -> f64 {
    took.sort_by(f64::total_cmp);
    took[took.len() / 2]
}

impl Healthy {
    /// Its usual time, while ordinary jobs keep the worker busy.
    async fn usual(queue: &RedisQueue, client: &Arc<dyn QueueClient>) -> Healthy {
        let (mut took, mut jobs) = (Vec::new(), 0);
        for _ in 0..40 {
            if queue.counts("digits").await.expect("counted").queued < 1_000 {
                enqueue_all(&**client, (0..5_000).map(|_| job("ordinary"))).await;
                jobs += 5_000;
            }
            took.push(call_ms(&**client).await);
            jobs += 1;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Healthy { usual_ms: median(took), jobs }
    }

    /// Compares with its time in a storm, and looks what calls cost the server.
    async fn compare(&self, name: &str, client: &dyn QueueClient, server: &Server) {
        let mut took = Vec::new();
        for _ in 0..CALLS {
            took.push(call_ms(client).await);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let storm_ms = median(took);
        let info: String = redis::cmd("INFO").arg("latencystats").query(&mut server.connection()).expect("told");
        let calls = info.lines().find(|line| line.starts_with("latency_percentiles_usec_fcall")).unwrap_or("none");
        println!("{name}: a healthy job takes {storm_ms:.2} ms, usually {:.2} ms; calls {calls}", self.usual_ms);
        let p99: f64 = calls.split("p99=").nth(1).and_then(|t| t.split(',').next()).expect("told").parse().expect("us");
        assert!(p99 <= 50_000.0, "{calls}");
        assert!(storm_ms <= self.usual_ms * 10.0 + 50.0, "{storm_ms} ms in the storm, {} ms usually", self.usual_ms);
        let stats: String = redis::cmd("INFO").arg("commandstats").query(&mut server.connection()).expect("told");
        let scripts = stats.lines().find(|line| line.starts_with("cmdstat_fcall:")).expect("scripts were called");
        assert!(scripts.trim_end().ends_with("rejected_calls=0,failed_calls=0"), "{scripts}");
    }
}

/// Runs jobs by `run` until it is aborted.
async fn work(mut consumer: Box<dyn Consumer>, run: fn(&LeasedJob) -> Outcome) {
    let mut settle = Vec::new();
    loop {
        let step = consumer.settle_and_lease(std::mem::take(&mut settle), 32).await.expect("no script error");
        if step.leased.is_empty() {
            consumer.idle().await;
        }
        settle.extend(step.leased.iter().map(|job| Settlement { id: job.id, token: job.token, outcome: run(job) }));
    }
}

fn succeed(job: &LeasedJob) -> Outcome {
    echo(job).outcome
}

/// `storm` jobs fail at every attempt, the others succeed.
fn fail_storm(job: &LeasedJob) -> Outcome {
    if job.payload != "storm" {
        return succeed(job);
    }
    let error = JobError { code: ErrorCode::InferenceFailed, message: "it always fails".to_owned() };
    Outcome::Failed { error, retry_in: (job.attempt < 3).then_some(Duration::from_secs(1)) }
}

async fn finished(queue: &RedisQueue, count: u64) {
    let deadline = Instant::now() + SOON;
    while queue.counts("digits").await.expect("counted").finished_total < count {
        assert!(Instant::now() < deadline, "{:?}", queue.counts("digits").await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Reaping is bounded a call, and a step leases after it: what it reaps comes in the
/// order it was leased in, so a step that wants no more than the bound runs the
/// jobs in theirs, and nobody waits for all of a dead worker's leases.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leases_of_a_dead_worker_come_back_in_order_a_hundred_a_call() {
    let jobs = amount(4_000, 20_000);
    let lease_ms = amount(3_000, 8_000);
    let server = Server::start(&[]);
    let settings = QueueSettings { lease_ms: lease_ms as u32, ..QueueSettings::default() };
    let queue = queue(&server, settings).await;
    let client = queue.client();
    enqueue_all(&*client, (0..jobs).map(|n| job(format!("{n}")))).await;
    let mut dead = queue.consumer("digits", "dead").await.expect("opens");
    let leasing = Instant::now();
    let mut leased = 0;
    while leased < jobs {
        leased += dead.settle_and_lease(Vec::new(), 1024).await.expect("answered").leased.len();
    }
    assert!(leasing.elapsed() < Duration::from_millis(lease_ms as u64), "too slow a machine for this lease");
    drop(dead);
    let mut raw = server.connection();
    let mut heir = queue.consumer("digits", "heir").await.expect("opens");
    let mut left = jobs as i64;
    let mut settle = Vec::new();
    // Each runs alone now. The first steps run while most have not been reaped.
    for expected in 0..jobs {
        let mut step = heir.settle_and_lease(std::mem::take(&mut settle), 8).await.expect("answered");
        while step.leased.is_empty() {
            assert!(leasing.elapsed() < 3 * SOON, "the leases never came back");
            tokio::time::sleep(Duration::from_millis(1)).await;
            step = heir.settle_and_lease(Vec::new(), 8).await.expect("answered");
        }
        let payloads: Vec<_> = step.leased.iter().map(|job| job.payload.clone()).collect();
        assert_eq!(payloads, [format!("{expected}")]);
        settle.push(echo(&step.leased[0]));
        if left > 0 {
            let now: i64 = redis::cmd("ZCARD").arg("nobat{digits}:leases").query(&mut raw).expect("counted");
            // The sweeper takes its share between two of our calls.
            assert!(left - now <= 2_000, "{} leases came back at once", left - now);
            left = now - 1;
        }
    }
    heir.settle_and_lease(settle, 0).await.expect("answered");
    assert_eq!(queue.counts("digits").await.expect("counted").finished_total, jobs as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_healthy_job_runs_beside_the_leases_of_a_dead_worker() {
    let jobs = amount(4_000, 20_000);
    let server = Server::start(&[]);
    let queue = queue(&server, QueueSettings { lease_ms: 5_000, ..QueueSettings::default() }).await;
    let client = queue.client();
    let mut worker = tokio::spawn(work(queue.consumer("digits", "w").await.expect("opens"), succeed));
    let healthy = Healthy::usual(&queue, &client).await;
    finished(&queue, healthy.jobs).await;
    worker.abort();
    let _ = (&mut worker).await;
    enqueue_all(&*client, (0..jobs).map(|_| job("held"))).await;
    let mut dead = queue.consumer("digits", "dead").await.expect("opens");
    while queue.counts("digits").await.expect("counted").queued > 0 {
        dead.settle_and_lease(Vec::new(), 1024).await.expect("answered");
    }
    drop(dead);
    let worker = tokio::spawn(work(queue.consumer("digits", "w").await.expect("opens"), succeed));
    redis::cmd("CONFIG").arg("RESETSTAT").exec(&mut server.connection()).expect("reset");
    tokio::time::sleep(Duration::from_millis(5_000)).await;
    healthy.compare(&format!("{jobs} leases of a dead worker"), &*client, &server).await;
    finished(&queue, healthy.jobs + (CALLS + jobs) as u64).await;
    worker.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_healthy_job_runs_while_very_many_become_due_in_one_second() {
    let jobs = amount(5_000, 100_000);
    let server = Server::start(&[]);
    let queue = queue(&server, QueueSettings::default()).await;
    let client = queue.client();
    let worker = tokio::spawn(work(queue.consumer("digits", "w").await.expect("opens"), succeed));
    let healthy = Healthy::usual(&queue, &client).await;
    finished(&queue, healthy.jobs).await;
    // Long enough for all to be enqueued before.
    let due = Instant::now() + Duration::from_secs(amount(4, 40) as u64);
    let delayed = (0..jobs).map(|_| {
        let delay = due.saturating_duration_since(Instant::now());
        job_with("due", JobOptions { delay: Some(delay), ..JobOptions::default() })
    });
    enqueue_all(&*client, delayed).await;
    assert!(Instant::now() < due, "too slow a machine to enqueue them in time");
    redis::cmd("CONFIG").arg("RESETSTAT").exec(&mut server.connection()).expect("reset");
    tokio::time::sleep(due.saturating_duration_since(Instant::now())).await;
    healthy.compare(&format!("{jobs} due in one second"), &*client, &server).await;
    finished(&queue, healthy.jobs + (CALLS + jobs) as u64).await;
    println!("all done {:.1} s after they were due", due.elapsed().as_secs_f64());
    worker.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_healthy_job_runs_in_a_storm_of_retries() {
    let jobs = amount(2_000, 50_000);
    let server = Server::start(&[]);
    let queue = queue(&server, QueueSettings::default()).await;
    let client = queue.client();
    let worker = tokio::spawn(work(queue.consumer("digits", "w").await.expect("opens"), fail_storm));
    let healthy = Healthy::usual(&queue, &client).await;
    finished(&queue, healthy.jobs).await;
    redis::cmd("CONFIG").arg("RESETSTAT").exec(&mut server.connection()).expect("reset");
    let storm = tokio::spawn({
        let client = client.clone();
        async move { enqueue_all(&*client, (0..jobs).map(|_| job("storm"))).await }
    });
    tokio::time::sleep(Duration::from_millis(500)).await;
    healthy.compare(&format!("{jobs} failing jobs"), &*client, &server).await;
    storm.await.expect("no panic");
    finished(&queue, healthy.jobs + (CALLS + jobs) as u64).await;
    let counts = queue.counts("digits").await.expect("counted");
    assert_eq!(counts.dead, jobs.min(10_000) as u64, "dead letters are capped");
    worker.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lowest_priority_starts_within_its_aging_bound_under_saturation() {
    let server = Server::start(&[]);
    let queue = queue(&server, QueueSettings { aging_s: 1, ..QueueSettings::default() }).await;
    let client = queue.client();
    // More high priority jobs than the worker can ever run.
    let high = |_| job_with("high", JobOptions { priority: 3, ..JobOptions::default() });
    enqueue_all(&*client, (0..2_000).map(high)).await;
    let mut consumer = queue.consumer("digits", "w").await.expect("opens");
    client.enqueue(job("low")).await.expect("accepted");
    let waiting = Instant::now();
    let (mut settle, mut before) = (Vec::new(), 0);
    let low_us = loop {
        enqueue_all(&*client, (0..12).map(high)).await;
        let step = consumer.settle_and_lease(std::mem::take(&mut settle), 8).await.expect("answered");
        settle.extend(step.leased.iter().map(echo));
        let is_low = |job: &&LeasedJob| job.payload == "low";
        before = step.leased.iter().filter(|job| !is_low(job)).map(|job| job.queued_at_us).fold(before, u64::max);
        if let Some(low) = step.leased.iter().find(is_low) {
            break low.queued_at_us;
        }
        assert!(waiting.elapsed() < SOON, "the lowest priority starves");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    // Three levels of a second each: what came later than that waits for it, but
    // for those that were leased in the same batch.
    let ahead = Duration::from_micros(before.saturating_sub(low_us));
    println!("the lowest priority started after {:?}, {ahead:?} of which is its aging", waiting.elapsed());
    assert!(queue.counts("digits").await.expect("counted").queued > 0, "it was saturated");
    assert!(ahead > Duration::from_secs(1), "priority counted for something");
    assert!(ahead < Duration::from_millis(3_500), "{ahead:?}");
}

/// Enqueues numbered jobs as it is told to; the other end of the next test, a
/// process of its own with a clock of its own.
#[tokio::test]
async fn a_host_that_enqueues() {
    let Ok(url) = std::env::var("NOBAT_TEST_HOST") else { return };
    let queue = RedisQueue::connect(&url, QueueSettings::default(), "nobat").await.expect("connects");
    let client = queue.client();
    for line in std::io::stdin().lines() {
        let range = line.expect("a line");
        let (from, to) = range.split_once(' ').expect("two numbers");
        let (from, to): (u32, u32) = (from.parse().expect("a number"), to.parse().expect("a number"));
        enqueue_all(&*client, (from..to).map(|n| job(format!("{n}")))).await;
        println!("\nenqueued {to}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn order_is_strict_with_hosts_whose_clocks_are_an_hour_apart() {
    let jobs = amount(6_000, 100_000) as u32;
    let phase = jobs / 20;
    let server = Server::start(&[]);
    let shim = Shim::build();
    let mut hosts: Vec<_> = ["-1800", "1800"]
        .iter()
        .map(|clock| {
            let mut host = Command::new(std::env::current_exe().expect("this test"))
                .args(["--exact", "a_host_that_enqueues", "--nocapture"])
                .env("NOBAT_TEST_HOST", server.url())
                .envs(shim.env("SHIM_CLOCK_S", clock))
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .expect("it starts");
            let told = BufReader::new(host.stdout.take().expect("piped")).lines();
            (host, told)
        })
        .collect();
    for number in 0..20 {
        let (host, told) = &mut hosts[number as usize % 2];
        let to = (number + 1) * phase;
        writeln!(host.stdin.as_mut().expect("piped"), "{} {to}", number * phase).expect("it listens");
        let done = format!("enqueued {to}");
        assert!(told.any(|line| line.is_ok_and(|line| line == done)), "a host ended early");
    }
    for (mut host, _) in hosts {
        drop(host.stdin.take());
        assert!(host.wait().expect("it ends").success());
    }
    let queue = queue(&server, QueueSettings::default()).await;
    let mut consumer = queue.consumer("digits", "w").await.expect("opens");
    let (mut next, mut settle) = (0, Vec::new());
    while next < jobs {
        let step = consumer.settle_and_lease(std::mem::take(&mut settle), 100).await.expect("answered");
        assert!(!step.leased.is_empty(), "{next} of {jobs} came");
        for job in &step.leased {
            assert_eq!(job.payload, format!("{next}"));
            next += 1;
            settle.push(echo(job));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_are_small_and_nothing_outlives_its_ttl() {
    let jobs = amount(8_000, 200_000);
    let server = Server::start(&[]);
    // The index has a figure of its own below, and lives longer than what it finds.
    let queue = queue(&server, QueueSettings { index: false, ..QueueSettings::default() }).await;
    let client = queue.client();
    let options = JobOptions { result_ttl: Duration::from_secs(amount(3, 30) as u64), ..JobOptions::default() };
    // What a first call costs once does not count.
    let mut consumer = queue.consumer("digits", "w").await.expect("opens");
    client
        .enqueue(job_with("x", JobOptions { result_ttl: Duration::from_millis(10), ..options.clone() }))
        .await
        .expect("accepted");
    let first = lease(&mut *consumer, 1).await;
    consumer.settle_and_lease(vec![echo(&first[0])], 0).await.expect("answered");
    tokio::time::sleep(Duration::from_millis(500)).await;
    let (before, keys_before) = (server.bytes(), keys(&server));
    // A digits request: 64 floats and about 25 bytes around them.
    enqueue_all(&*client, (0..jobs).map(|_| job_with(vec![7; 281], options.clone()))).await;
    let queued = (server.bytes() - before) / jobs as f64;
    let mut settle = Vec::new();
    loop {
        let step = consumer.settle_and_lease(std::mem::take(&mut settle), 32).await.expect("answered");
        if step.leased.is_empty() {
            break;
        }
        settle.extend(step.leased.iter().map(|job| Settlement {
            id: job.id,
            token: job.token,
            // A digits result: 79 bytes of outputs, about 20 of how it came about.
            outcome: Outcome::Succeeded(vec![0; 99].into()),
        }));
    }
    let stored = (server.bytes() - before) / keys(&server) as f64;
    println!("{jobs} jobs: {queued:.0} bytes queued, {stored:.0} bytes per stored result");
    // A little more just after Redis's tables grew.
    assert!(queued <= 600.0, "{queued:.0} bytes per queued job");
    assert!(stored <= 250.0, "{stored:.0} bytes per stored result");
    let deadline = Instant::now() + SOON;
    // The wake token and the sweeper's key come and go.
    while keys(&server) > keys_before + 2 {
        assert!(Instant::now() < deadline, "{} keys are left", keys(&server));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // The tables shrink by and by.
    let mut left = server.bytes() - before;
    while left > 200_000.0 {
        assert!(Instant::now() < deadline, "{left} bytes are left");
        tokio::time::sleep(Duration::from_millis(100)).await;
        left = server.bytes() - before;
    }
    println!("{left:.0} bytes and {} keys more than before", keys(&server) as i64 - keys_before as i64);
}

/// Jobs of which each has a tag of its own and one that all have.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_index_costs_few_bytes_a_job() {
    let jobs = amount(30_000, 1_000_000);
    let server = Server::start(&[]);
    let mut bytes = Vec::new();
    for (model, index) in [("warm", true), ("plain", false), ("indexed", true)] {
        let queue = queue(&server, QueueSettings { index, ..QueueSettings::default() }).await;
        let client = queue.client();
        let before = server.bytes();
        let tagged = |number: usize| {
            let mut tags = Tags::default();
            for tag in ["nightly".to_owned(), format!("order={number}")] {
                tags.add(&tag).expect("a tag");
            }
            NewJob { model: model.into(), ..job_with(vec![7; 281], JobOptions { tags, ..JobOptions::default() }) }
        };
        let count = if model == "warm" { 100 } else { jobs };
        enqueue_all(&*client, (0..count).map(tagged)).await;
        bytes.push((server.bytes() - before) / count as f64);
    }
    let index = bytes[2] - bytes[1];
    println!("{jobs} jobs with two tags: {:.0} bytes each, {index:.0} more with the index", bytes[1]);
    assert!(index <= 140.0, "{index:.0} bytes of index a job");
}

/// What a storm of errors leaves in the index is bounded, and the newest are found.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_errors_leaves_bounded_lists() {
    let server = Server::start(&[]);
    let queue = queue(&server, QueueSettings::default()).await;
    let (client, cancelled) = (queue.client(), ErrorCode::JobCancelled);
    // Those that are cancelled at the same time have no order among each other.
    let mut newest = vec![];
    for _ in 0..9 {
        let some = futures::future::join_all((0..5_000).map(|_| client.enqueue(job(vec![7; 8])))).await;
        let ids: Vec<_> = some.into_iter().map(|accepted| accepted.expect("accepted").id).collect();
        let ended = futures::future::join_all(ids.iter().map(|&id| queue.cancel(id))).await;
        assert!(ended.iter().all(Result::is_ok));
        newest = ids;
    }
    let mut connection = server.connection();
    let code = ErrorCode::ALL.iter().position(|&own| own == cancelled).expect("a code");
    let lists = format!("*:e:{code}:[0-9]*");
    let names: Vec<String> = redis::cmd("KEYS").arg(lists).query(&mut connection).expect("the lists");
    let length = |name: &String| redis::cmd("LLEN").arg(name).query::<u64>(&mut server.connection()).expect("a length");
    let entries: u64 = names.iter().map(length).sum();
    assert!(names.len() == 3 && (20_000..=30_000).contains(&entries), "{entries} entries in {names:?}");
    let filter = ListFilter { error: Some(cancelled), ..ListFilter::default() };
    let page = queue.list(&filter, None, 10).await.expect("lists");
    assert!(page.jobs.len() == 10 && page.jobs.iter().all(|view| newest.contains(&view.id)), "the newest first");
}

fn keys(server: &Server) -> u64 {
    redis::cmd("DBSIZE").query(&mut server.connection()).expect("counted")
}
