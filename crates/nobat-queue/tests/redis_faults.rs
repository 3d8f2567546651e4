//! What the Redis store promises when things break: replies lost after the
//! script has committed, servers restarted and flushed, workers that die with
//! leases in hand, records that rot.

mod redis_support;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nobat_core::job::{JobError, JobState, Outcome, Settlement};
use nobat_core::{ErrorCode, JobId};
use nobat_queue::redis::RedisQueue;
use nobat_queue::{Consumer, Queue, QueueSettings, Renewal};
use parking_lot::Mutex;
use redis_support::proxy::Proxy;
use redis_support::shim::Shim;
use redis_support::*;

const SOON: Duration = Duration::from_secs(30);

/// Answers jobs and counts how often each payload was started.
async fn serve_counted(mut consumer: Box<dyn Consumer>, started: Arc<Mutex<HashMap<Vec<u8>, u32>>>) {
    let mut settle = Vec::new();
    loop {
        match consumer.settle_and_lease_or_wait(std::mem::take(&mut settle), 8).await {
            Ok(step) if step.leased.is_empty() => consumer.idle().await,
            Ok(step) => {
                for job in &step.leased {
                    *started.lock().entry(job.payload.to_vec()).or_default() += 1;
                    settle.push(echo(job));
                }
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replies_lost_after_the_commit_lose_no_job_and_run_none_twice() {
    let server = Server::start(&[]);
    let proxy = Proxy::before(server.port);
    let url = format!("redis://127.0.0.1:{}/", proxy.port);
    let queue = RedisQueue::connect(&url, QueueSettings::default(), "nobat").await.expect("connects");
    let client = queue.client();
    let started = Arc::new(Mutex::new(HashMap::new()));
    let worker = tokio::spawn(serve_counted(queue.consumer("digits", "w").await.expect("opens"), started.clone()));
    let mut ids: Vec<JobId> = Vec::new();
    for round in 0..60u32 {
        proxy.cut(1);
        let jobs: Vec<_> = (0..3u32)
            .map(|n| {
                let client = client.clone();
                tokio::spawn(async move { client.enqueue(job(format!("{round}-{n}"))).await })
            })
            .collect();
        for enqueued in jobs {
            ids.push(enqueued.await.expect("no panic").expect("accepted").id);
        }
    }
    for id in &ids {
        let view = queue.client().wait(*id, SOON).await.expect("the store answers").expect("is there");
        assert_eq!(view.state, JobState::Succeeded, "job {id}");
    }
    worker.abort();
    assert_eq!(proxy.left(), 0, "every cut happened");
    let counts = queue.counts("digits").await.expect("counted");
    assert_eq!((counts.enqueued_total, counts.finished_total, counts.leased), (180, 180, 0));
    let twice: Vec<_> = started.lock().iter().filter(|(_, count)| **count > 1).map(|(job, _)| job.clone()).collect();
    assert_eq!(twice, Vec::<Vec<u8>>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flushed_killed_and_restarted_server_ends_nothing() {
    let mut server = Server::start(&["--appendonly", "yes", "--appendfsync", "always"]);
    let queue = queue(&server, QueueSettings { lease_ms: 2_000, ..QueueSettings::default() }).await;
    let client = queue.client();
    let worker = tokio::spawn(serve(queue.consumer("digits", "w").await.expect("opens"), 8));
    assert_eq!(client.call(job("before"), SOON).await.expect("answered").state, JobState::Succeeded);

    redis::cmd("FUNCTION").arg("FLUSH").exec(&mut server.connection()).expect("flushed");
    assert_eq!(client.call(job("flushed"), SOON).await.expect("answered").state, JobState::Succeeded);

    let mut admin = server.connection();
    redis::cmd("CLIENT").arg("KILL").arg("TYPE").arg("normal").exec(&mut admin).expect("killed");
    redis::cmd("CLIENT").arg("KILL").arg("TYPE").arg("pubsub").exec(&mut admin).expect("killed");
    assert_eq!(client.call(job("killed"), SOON).await.expect("answered").state, JobState::Succeeded);

    worker.abort();
    let waiting = client.enqueue(job("waits")).await.expect("accepted").id;
    let waiter = tokio::spawn({
        let client = client.clone();
        async move { client.wait(waiting, SOON).await }
    });
    let watched =
        || redis::cmd("HLEN").arg("nobat{digits}:watch").query::<u32>(&mut server.connection()).expect("told");
    until("a note of who waits", || watched() == 1);
    server.kill();
    assert_eq!(client.enqueue(job("down")).await.expect_err("it is down").code, ErrorCode::QueueUnavailable);
    assert!(queue.health().await.is_err());
    let worker = tokio::spawn(serve(queue.consumer("digits", "w").await.expect("known"), 8));
    server.restart();
    let view = waiter.await.expect("no panic").expect("the store answers").expect("is there");
    assert_eq!(view.state, JobState::Succeeded);
    assert_eq!(client.call(job("after"), SOON).await.expect("answered").state, JobState::Succeeded);
    // Its own connection comes back after its pause.
    until_async("its health", async || queue.health().await.is_ok_and(|health| health.warnings.is_empty())).await;
    worker.abort();
}

#[tokio::test]
async fn a_server_out_of_memory_refuses_new_jobs_and_ends_those_it_has() {
    let server = Server::start(&[]);
    let queue = queue(&server, QueueSettings::default()).await;
    let client = queue.client();
    let mut accepted = Vec::new();
    // The first has a result that travels beside its record.
    let large = vec![7; 100_000];
    for payload in [large.clone(), b"fails".to_vec(), b"waits".to_vec()] {
        accepted.push(client.enqueue(job(payload)).await.expect("accepted").id);
    }
    let mut consumer = queue.consumer("digits", "w").await.expect("opens");
    let leased = lease(&mut *consumer, 2).await;
    let mut admin = server.connection();
    let mut limit = |bytes: u32| {
        redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg(bytes).exec(&mut admin).expect("set");
    };
    limit(1_000_000);
    let refused = client.enqueue(job("too many")).await.expect_err("there is no memory for it");
    assert_eq!(refused.code, ErrorCode::QueueUnavailable);
    assert!(refused.message.contains("raise maxmemory or drain the queues"), "{refused}");

    let mut renewer = queue.renewer().await.expect("opens");
    let held: Vec<_> = leased.iter().map(|job| (job.id, job.token)).collect();
    let renewed = renewer.renew("digits", &held).await.expect("answered");
    assert_eq!(renewed, [Renewal::Renewed; 2]);
    let error = JobError { code: ErrorCode::InferenceFailed, message: "it always fails".to_owned() };
    let failed =
        Settlement { id: leased[1].id, token: leased[1].token, outcome: Outcome::Failed { error, retry_in: None } };
    let step = consumer.settle_and_lease(vec![echo(&leased[0]), failed], 8).await.expect("answered");
    assert!(step.refused.is_empty());
    assert_eq!(step.leased.len(), 1, "the waiting job runs");
    assert!(consumer.settle_and_lease(vec![echo(&step.leased[0])], 0).await.expect("answered").refused.is_empty());
    for (id, state) in accepted.iter().zip([JobState::Succeeded, JobState::Dead, JobState::Succeeded]) {
        assert_eq!(client.wait(*id, SOON).await.expect("answered").expect("is there").state, state);
    }
    let view = queue.get(accepted[0]).await.expect("answered").expect("is there");
    assert_eq!(view.result.expect("has a result").outputs, large);
    // A process that starts now, for a queue that is known: to drain it.
    let late = RedisQueue::connect(&server.url(), QueueSettings::default(), "nobat").await.expect("connects");
    late.consumer("digits", "late").await.expect("opens");

    limit(0);
    client.enqueue(job("fits again")).await.expect("accepted");
}

/// Nobody could renew: what ran out meanwhile says nothing about its holder.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_was_away_for_longer_than_a_lease_takes_no_job_from_its_worker() {
    let server = Server::start(&[]);
    let queue = queue(&server, QueueSettings { lease_ms: 4_000, ..QueueSettings::default() }).await;
    let client = queue.client();
    let mut holder = queue.consumer("digits", "holder").await.expect("opens");
    let id = client.enqueue(job("long")).await.expect("accepted").id;
    let leased = lease(&mut *holder, 1).await;
    let mut renewer = queue.renewer().await.expect("opens");
    let held = [(id, leased[0].token)];
    assert_eq!(renewer.renew("digits", &held).await.expect("answered"), [Renewal::Renewed]);

    signal(&server, "STOP");
    tokio::time::sleep(Duration::from_millis(5_000)).await;
    signal(&server, "CONT");
    // Others are back before the holder renews.
    let mut other = queue.consumer("digits", "other").await.expect("opens");
    let deadline = Instant::now() + SOON;
    let step = loop {
        match other.settle_and_lease(Vec::new(), 8).await {
            Ok(step) => break step,
            Err(e) => assert!(Instant::now() < deadline, "{e}"),
        }
    };
    assert!(step.leased.is_empty(), "the job is its holder's still");
    assert_eq!(renewer.renew("digits", &held).await.expect("answered"), [Renewal::Renewed]);
    assert!(holder.settle_and_lease(vec![echo(&leased[0])], 0).await.expect("answered").refused.is_empty());
    let view = client.wait(id, SOON).await.expect("answered").expect("is there");
    assert_eq!((view.state, view.attempts), (JobState::Succeeded, 1));
}

fn signal(server: &Server, name: &str) {
    let sent = std::process::Command::new("kill").arg(format!("-{name}")).arg(server.pid().to_string()).status();
    assert!(sent.expect("kill runs").success());
}

#[tokio::test]
async fn what_redis_cannot_keep_fails_alone_and_the_session_goes_on() {
    let server = Server::start(&["--proto-max-bulk-len", "1mb"]);
    let queue = queue(&server, QueueSettings::default()).await;
    let most = queue.max_value_bytes();
    assert_eq!(most, 1 << 20);
    let client = queue.client();
    let refused = client.enqueue(job(vec![7; most + 1])).await.expect_err("too large");
    assert_eq!(refused.code, ErrorCode::PayloadTooLarge);
    assert!(refused.message.contains("1048577 bytes") && refused.message.contains("fewer rows"), "{refused}");
    assert_eq!(
        client.call(job(vec![7; most + 1]), SOON).await.expect_err("too large").code,
        ErrorCode::PayloadTooLarge
    );
    let ids = [
        client.enqueue(job(vec![7; most])).await.expect("fits").id,
        client.enqueue(job("huge")).await.expect("accepted").id,
        client.enqueue(job("small")).await.expect("accepted").id,
    ];
    let mut consumer = queue.consumer("digits", "w").await.expect("opens");
    let leased = lease(&mut *consumer, 3).await;
    assert_eq!(leased[0].payload.len(), most);
    let huge =
        Settlement { id: leased[1].id, token: leased[1].token, outcome: Outcome::Succeeded(vec![0; most + 1].into()) };
    let largest =
        Settlement { id: leased[0].id, token: leased[0].token, outcome: Outcome::Succeeded(vec![0; most].into()) };
    let settled = consumer
        .settle_and_lease(vec![largest, huge, echo(&leased[2])], 8)
        .await
        .expect("no call is repeated for ever");
    assert!(settled.refused.is_empty());
    let view = queue.get(ids[1]).await.expect("answered").expect("is there");
    let error = view.error.expect("says why");
    assert_eq!((view.state, error.code), (JobState::Dead, ErrorCode::PayloadTooLarge));
    assert!(error.message.contains("1048577 bytes") && error.message.contains("fewer"), "{}", error.message);
    assert_eq!(queue.get(ids[2]).await.expect("answered").expect("is there").state, JobState::Succeeded);
    let metadata = queue.metadata();
    assert_eq!(
        metadata.put("s", "k", &vec![0; most + 1]).await.expect_err("too large").code,
        ErrorCode::PayloadTooLarge
    );
    queue.cache_put(1, &vec![0; most + 1], SOON).await.expect("not kept, and no fault");
    assert_eq!(queue.cache_get(1).await.expect("answered"), None);
}

/// A full disk (MISCONF) and missing replicas (NOREPLICAS) refuse every write.
#[tokio::test]
async fn where_writes_are_refused_jobs_can_still_be_read() {
    let server = Server::start(&[]);
    let queue = queue(&server, QueueSettings::default()).await;
    let client = queue.client();
    let worker = tokio::spawn(serve(queue.consumer("digits", "w").await.expect("opens"), 8));
    let ended = client.enqueue(job("ended")).await.expect("accepted").id;
    assert_eq!(client.wait(ended, SOON).await.expect("answered").expect("is there").state, JobState::Succeeded);
    worker.abort();
    let waits = client.enqueue(job("waits")).await.expect("accepted").id;

    let set = ["SET", "min-replicas-to-write", "1"];
    redis::cmd("CONFIG").arg(&set).exec(&mut server.connection()).expect("set");
    let refused = client.enqueue(job("too late")).await.expect_err("no write is taken");
    assert_eq!(refused.code, ErrorCode::QueueUnavailable, "{refused}");
    assert_eq!(queue.get(ended).await.expect("answered").expect("is there").state, JobState::Succeeded);
    assert_eq!(queue.get(waits).await.expect("answered").expect("is there").state, JobState::Queued);
    assert_eq!(client.wait(ended, SOON).await.expect("answered").expect("is there").state, JobState::Succeeded);
    assert_eq!(client.wait(waits, SOON).await.expect_err("nobody can watch it").code, ErrorCode::QueueUnavailable);
    // A process that starts now reads as well.
    let late = RedisQueue::connect(&server.url(), QueueSettings::default(), "nobat").await.expect("connects");
    assert_eq!(late.get(ended).await.expect("answered").expect("is there").state, JobState::Succeeded);
}

/// `everysec` lets Redis answer before it has written, while an fsync runs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_accepted_survives_a_kill_while_an_fsync_runs() {
    let shim = Shim::build();
    let everysec = ["--appendonly", "yes", "--appendfsync", "everysec"];
    let mut server = Server::start_in(shim.env("SHIM_FSYNC_MS", "900"), &everysec);
    let queue = queue(&server, QueueSettings::default()).await;
    let client = queue.client();
    let (stop, accepted) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (client, stop, accepted) = (client.clone(), stop.clone(), accepted.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::SeqCst) {
                    match client.enqueue(job("kept")).await {
                        Ok(job) => accepted.lock().push(job.id),
                        Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                    }
                }
            })
        })
        .collect();
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        server.kill();
        server.restart();
    }
    stop.store(true, Ordering::SeqCst);
    for client in clients {
        client.await.expect("no panic");
    }
    let accepted = std::mem::take(&mut *accepted.lock());
    assert!(!accepted.is_empty());
    for id in accepted {
        assert!(queue.get(id).await.expect("the store answers").is_some(), "job {id} was accepted and is lost");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_job_wakes_at_most_two_of_a_hundred_idle_consumers() {
    let server = Server::start(&[]);
    let queue = queue(&server, QueueSettings::default()).await;
    let client = queue.client();
    let woken = Arc::new(AtomicUsize::new(0));
    let mut workers = Vec::new();
    for n in 0..100 {
        let mut consumer = queue.consumer("digits", &format!("w{n}")).await.expect("opens");
        let woken = woken.clone();
        workers.push(tokio::spawn(async move {
            let mut settle = Vec::new();
            loop {
                let step = consumer.settle_and_lease(std::mem::take(&mut settle), 8).await.expect("the store answers");
                settle.extend(step.leased.iter().map(echo));
                if settle.is_empty() {
                    consumer.idle().await;
                    woken.fetch_add(1, Ordering::SeqCst);
                }
            }
        }));
    }
    let blocked = |server: &Server| {
        let info: String = redis::cmd("INFO").arg("clients").query(&mut server.connection()).expect("told");
        info.lines().any(|line| line.trim() == "blocked_clients:100")
    };
    until("a hundred blocking consumers", || blocked(&server));
    for _ in 0..5 {
        woken.store(0, Ordering::SeqCst);
        assert_eq!(client.call(job("x"), SOON).await.expect("answered").state, JobState::Succeeded);
        tokio::time::sleep(Duration::from_millis(100)).await;
        let count = woken.load(Ordering::SeqCst);
        assert!((1..=2).contains(&count), "{count} consumers woke for one job");
    }
    // A hundred idle consumers in one process: far below a command a second each.
    redis::cmd("CONFIG").arg("RESETSTAT").exec(&mut server.connection()).expect("reset");
    tokio::time::sleep(Duration::from_secs(3)).await;
    let info: String = redis::cmd("INFO").arg("stats").query(&mut server.connection()).expect("told");
    let commands: u32 = info
        .lines()
        .find_map(|line| line.strip_prefix("total_commands_processed:"))
        .and_then(|count| count.trim().parse().ok())
        .expect("counted");
    assert!(commands < 150, "{commands} commands in 3 s from 100 idle consumers");
    workers.iter().for_each(|worker| worker.abort());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_poison_job_is_quarantined_and_takes_no_neighbour_with_it() {
    let server = Server::start(&[]);
    let queue = queue(&server, QueueSettings { lease_ms: 150, ..QueueSettings::default() }).await;
    let client = queue.client();
    let mut ids = HashMap::new();
    for name in ["a", "b", "poison", "c", "d"] {
        ids.insert(name, client.enqueue(job(name)).await.expect("accepted").id);
    }
    let deadline = Instant::now() + SOON;
    while queue.counts("digits").await.expect("counted").finished_total < 5 {
        assert!(Instant::now() < deadline, "the queue never came to rest");
        let mut worker = queue.consumer("digits", "w").await.expect("opens");
        let step = worker.settle_and_lease(Vec::new(), 8).await.expect("answered");
        if step.leased.iter().any(|job| job.payload == "poison") {
            // The worker dies with everything it holds.
            drop(worker);
            continue;
        }
        worker.settle_and_lease(step.leased.iter().map(echo).collect(), 0).await.expect("answered");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for (name, id) in ids {
        let view = queue.get(id).await.expect("the store answers").expect("is there");
        let expected = if name == "poison" { JobState::Dead } else { JobState::Succeeded };
        assert_eq!(view.state, expected, "job {name}");
        assert_eq!(view.attempts, if name == "poison" { 3 } else { 2 }, "job {name}");
    }
}

#[tokio::test]
async fn a_rotten_record_is_dead_lettered_alone() {
    let server = Server::start(&[]);
    let queue = queue(&server, QueueSettings::default()).await;
    let client = queue.client();
    let mut raw = server.connection();
    let mut ids = Vec::new();
    for name in ["a", "cut", "b", "list", "gone", "c", "rubbish"] {
        ids.push((name, client.enqueue(job(name)).await.expect("accepted").id));
    }
    let key = |id: JobId| [&b"nobat{digits}:"[..], &id.random.to_be_bytes()[..12]].concat();
    for (name, id) in &ids {
        let key = key(*id);
        match *name {
            "cut" => {
                let whole: Vec<u8> = redis::cmd("GET").arg(&key).query(&mut raw).expect("read");
                redis::cmd("SET").arg(&key).arg(&whole[..whole.len() / 2]).exec(&mut raw).expect("written");
            }
            "rubbish" => redis::cmd("SET").arg(&key).arg("rubbish").exec(&mut raw).expect("written"),
            "gone" => redis::cmd("DEL").arg(&key).exec(&mut raw).expect("deleted"),
            "list" => {
                redis::cmd("DEL").arg(&key).exec(&mut raw).expect("deleted");
                redis::cmd("LPUSH").arg(&key).arg(1).exec(&mut raw).expect("written");
            }
            _ => {}
        }
    }
    let worker = tokio::spawn(serve(queue.consumer("digits", "w").await.expect("opens"), 8));
    for (name, id) in ids {
        match name {
            "a" | "b" | "c" => {
                let view = client.wait(id, SOON).await.expect("the store answers").expect("is there");
                assert_eq!(view.state, JobState::Succeeded, "job {name}");
            }
            "cut" | "rubbish" => {
                let view = client.wait(id, SOON).await.expect("the store answers").expect("is there");
                assert_eq!(view.state, JobState::Dead, "job {name}");
            }
            _ => assert!(queue.get(id).await.expect("the store answers").is_none(), "job {name}"),
        }
    }
    worker.abort();
    assert_eq!(queue.counts("digits").await.expect("counted").queued, 0);
}

#[tokio::test]
async fn the_auditor_names_what_is_wrong_and_repairs_it() {
    let server = Server::start(&[]);
    let queue = queue(&server, QueueSettings::default()).await;
    let client = queue.client();
    let mut raw = server.connection();
    let lost = client.enqueue(job("lost")).await.expect("accepted").id;
    client.enqueue(job("fine")).await.expect("accepted");
    assert_eq!(queue.audit("digits", false).await.expect("looked"), Vec::<String>::new());

    redis::cmd("ZREM")
        .arg("nobat{digits}:ready")
        .arg(&lost.random.to_be_bytes()[..12])
        .exec(&mut raw)
        .expect("removed");
    redis::cmd("ZADD").arg("nobat{digits}:ready").arg(1).arg(&[9u8; 12][..]).exec(&mut raw).expect("added");
    redis::cmd("DEL").arg("nobat{digits}:meta").exec(&mut raw).expect("deleted");
    redis::cmd("SET").arg("nobat{digits}:sched").arg("x").exec(&mut raw).expect("written");
    let found = queue.audit("digits", false).await.expect("looked");
    for what in ["is a string, must be a zset", "has no record", "is in no set", "is missing though jobs wait"] {
        assert!(found.iter().any(|finding| finding.contains(what)), "{what}: {found:?}");
    }
    queue.audit("digits", true).await.expect("repaired");
    let left = queue.audit("digits", false).await.expect("looked");
    assert_eq!(left, Vec::<String>::new());
    let worker = tokio::spawn(serve(queue.consumer("digits", "w").await.expect("opens"), 8));
    let view = client.wait(lost, SOON).await.expect("the store answers").expect("is there");
    assert_eq!(view.state, JobState::Succeeded);
    worker.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wait_that_ends_before_its_enqueue_is_answered_does_not_say_that_the_job_is_gone() {
    let server = Server::start(&[]);
    let queue = queue(&server, QueueSettings::default()).await;
    let client = queue.client();
    // The model is known and the connection is open.
    client.enqueue(job("before")).await.expect("accepted");
    redis::cmd("CLIENT").arg("PAUSE").arg(1_500).arg("WRITE").exec(&mut server.connection()).expect("paused");
    let view = client.call(job("slow"), Duration::from_millis(100)).await.expect("it is accepted");
    assert_eq!(view.state, JobState::Queued);
    assert_eq!(queue.counts("digits").await.expect("counted").queued, 2);
    // A caller that leaves while it is not answered takes its job along.
    redis::cmd("CLIENT").arg("PAUSE").arg(1_000).arg("WRITE").exec(&mut server.connection()).expect("paused");
    let left =
        tokio::time::timeout(Duration::from_millis(300), client.call(job("left"), Duration::from_millis(50))).await;
    assert!(left.is_err(), "not answered before the store has it");
    let worker = tokio::spawn(serve(queue.consumer("digits", "w").await.expect("opens"), 8));
    let ended = client.wait(view.id, SOON).await.expect("the store answers").expect("is there");
    assert_eq!(ended.state, JobState::Succeeded);
    worker.abort();
}
