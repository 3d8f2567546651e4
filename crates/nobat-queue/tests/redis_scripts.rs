//! What the functions of the Redis library promise by themselves, called as a
//! consumer calls them: what a repeat recognises and finds again, and what time
//! does when the clock does not run as it should.

mod redis_support;

use nobat_core::job::{JobOptions, JobState};
use nobat_queue::{Queue, QueueSettings};
use redis::{Connection, RedisResult, Value};
use redis_support::*;
use std::time::Duration;

const BASE: &str = "nobat{digits}:";
const LEASE_US: u64 = 15_000_000;

/// The library on a server, called by hand.
struct Library {
    name: String,
    connection: Connection,
}

/// One step's call; what is not said is as a consumer without settlements says it.
#[derive(Clone, Default)]
struct StepCall {
    want: usize,
    token: u64,
    again_us: u64,
    register: Vec<u8>,
    withdraw: Vec<u8>,
    /// Whether another consumer calls.
    elsewhere: bool,
    /// Lease, result.
    stored: Vec<(Vec<u8>, Vec<u8>)>,
    /// Leases of jobs that failed and run again at once.
    failed: Vec<Vec<u8>>,
}

/// What a step answered.
#[derive(Debug, PartialEq)]
struct Answer {
    more: i64,
    refused: Vec<i64>,
    /// Key and record of each job.
    jobs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Library {
    /// The one that a queue has loaded.
    fn of(server: &Server) -> Library {
        let mut connection = server.connection();
        let list: Vec<Vec<Value>> = redis::cmd("FUNCTION").arg("LIST").query(&mut connection).expect("told");
        let name = list.iter().flatten().find_map(|value| match value {
            Value::BulkString(text) if text.starts_with(b"nobat_") => String::from_utf8(text.clone()).ok(),
            _ => None,
        });
        Library { name: name.expect("the library is loaded"), connection }
    }

    fn call(&mut self, function: &str, key: &str, args: &[&[u8]]) -> RedisResult<Value> {
        let mut cmd = redis::cmd("FCALL");
        cmd.arg(format!("{}_{function}", self.name)).arg(1).arg(key);
        for arg in args {
            cmd.arg(*arg);
        }
        cmd.query(&mut self.connection)
    }

    fn step(&mut self, call: &StepCall) -> Answer {
        let text = |number: u64| number.to_string().into_bytes();
        let mut args = vec![text(call.want as u64), Vec::new(), text(LEASE_US), call.token.to_le_bytes().to_vec()];
        args.extend([text(call.again_us), text(60_000_000), text(1_000), text(60_000)]);
        args.extend([b"nobat:lane:".to_vec(), b"nobat:keeper:".to_vec(), text(1)]);
        args.extend([call.register.clone(), call.withdraw.clone()]);
        args.push(if call.elsewhere { b"another_".to_vec() } else { b"consumer".to_vec() });
        args.extend([text(call.stored.len() as u64), text(call.failed.len() as u64)]);
        for (lease, record) in &call.stored {
            args.extend([lease.clone(), text(60_000), Vec::new(), record.clone()]);
        }
        for lease in &call.failed {
            args.extend([lease.clone(), b"F".to_vec(), text(0), text(1), b"it failed".to_vec()]);
        }
        let args: Vec<&[u8]> = args.iter().map(Vec::as_slice).collect();
        let reply = self.call("step", BASE, &args).expect("a step that is repeated is answered");
        let Value::Array(parts) = reply else { panic!("{reply:?}") };
        let number = |at: usize| match parts[at] {
            Value::Int(number) => number,
            ref other => panic!("{other:?}"),
        };
        let bytes = |value: &Value| match value {
            Value::BulkString(bytes) => bytes.clone(),
            other => panic!("{other:?}"),
        };
        let refused = (0..number(2) as usize).map(|at| number(3 + at)).collect();
        let jobs = parts[3 + number(2) as usize..].chunks(2).map(|pair| (bytes(&pair[0]), bytes(&pair[1])));
        Answer { more: number(1), refused, jobs: jobs.collect() }
    }

    /// Takes `count` jobs under leases of their own, as other consumers would.
    fn lease_elsewhere(&mut self, count: usize) {
        for token in 0..count.div_ceil(64) as u64 {
            let call = StepCall { want: 64, token: 1 << 40 | token, elsewhere: true, ..StepCall::default() };
            assert!(!self.step(&call).jobs.is_empty());
        }
    }
}

fn lease_of(token: u64, key: &[u8]) -> Vec<u8> {
    [&token.to_le_bytes()[..], key].concat()
}

/// A packed success: its fourth byte is of its time, where a job without a result has
/// its flags.
fn success(fourth: u8) -> Vec<u8> {
    [&[2, 0, 0, fourth, 0, 0, 0][..], &[0xff; 120]].concat()
}

#[tokio::test]
async fn a_repeated_failure_of_a_job_that_succeeded_since_is_refused_whenever_it_succeeded() {
    let server = Server::start(&[]);
    let queue = queue(&server, QueueSettings::default()).await;
    let client = queue.client();
    let mut library = Library::of(&server);
    for fourth in 0..=255 {
        client.enqueue(job("x")).await.expect("accepted");
        let leased = library.step(&StepCall { want: 1, token: 1, ..StepCall::default() }).jobs;
        let key = &leased[0].0;
        let fail = StepCall { token: 2, failed: vec![lease_of(1, key)], ..StepCall::default() };
        assert!(library.step(&fail).refused.is_empty());
        // That reply is lost; another consumer runs the job again meanwhile.
        assert_eq!(&library.step(&StepCall { want: 1, token: 3, ..StepCall::default() }).jobs[0].0, key);
        let succeed = StepCall { token: 4, stored: vec![(lease_of(3, key), success(fourth))], ..StepCall::default() };
        assert!(library.step(&succeed).refused.is_empty());
        let repeated = library.step(&StepCall { again_us: 1_000, ..fail });
        assert_eq!((repeated.refused, repeated.jobs), (vec![1], vec![]), "fourth byte {fourth}");
    }
    assert_eq!(queue.counts("digits").await.expect("counted").finished_total, 256);
}

#[tokio::test]
async fn a_repeated_failure_is_known_as_done_while_its_record_says_so() {
    let server = Server::start(&[]);
    let queue = queue(&server, QueueSettings::default()).await;
    queue.client().enqueue(job("x")).await.expect("accepted");
    let mut library = Library::of(&server);
    let leased = library.step(&StepCall { want: 1, token: 1, ..StepCall::default() }).jobs;
    let fail = StepCall { token: 2, failed: vec![lease_of(1, &leased[0].0)], ..StepCall::default() };
    assert!(library.step(&fail).refused.is_empty());
    assert!(library.step(&StepCall { again_us: 1_000, ..fail.clone() }).refused.is_empty());
    assert_eq!(library.step(&fail).refused, [1], "sent for the first time, it settles nothing");
}

#[tokio::test]
async fn leases_of_a_lost_reply_are_found_beside_any_number_of_others() {
    let server = Server::start(&[]);
    let queue = queue(&server, QueueSettings::default()).await;
    let client = queue.client();
    enqueue_all(&*client, (0..6_464).map(|n| job(format!("{n}")))).await;
    let mut library = Library::of(&server);
    library.lease_elsewhere(3_200);
    let call = StepCall { want: 64, token: 7, ..StepCall::default() };
    let lost = library.step(&call).jobs;
    library.lease_elsewhere(3_200);
    let found = library.step(&StepCall { again_us: 500_000, want: 64, ..call });
    assert_eq!((lost.len(), found.jobs.len()), (64, 64));
    assert!(found.jobs == lost);
}

#[tokio::test]
async fn jobs_pushed_unseen_are_found_beside_any_number_of_others() {
    let server = Server::start(&[]);
    let queue = queue(&server, QueueSettings::default()).await;
    let client = queue.client();
    enqueue_all(&*client, (0..6_400).map(|n| job(format!("{n}")))).await;
    let mut library = Library::of(&server);
    library.lease_elsewhere(6_400);
    let entry = [b"consumer", &7u64.to_le_bytes()[..], &(LEASE_US as f64).to_le_bytes(), &64u16.to_le_bytes()].concat();
    let waiting = library.step(&StepCall { want: 64, token: 7, register: entry.clone(), ..StepCall::default() });
    assert_eq!((waiting.more, waiting.jobs.len()), (2, 0), "noted as waiting");
    let mut listener = server.connection();
    let mut listening = listener.as_pubsub();
    listening.subscribe("nobat:hand:consumer").expect("subscribed");
    client.enqueue(job("pushed")).await.expect("accepted");
    let found = library.step(&StepCall { token: 8, withdraw: entry, ..StepCall::default() }).jobs;
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].0[..8], 7u64.to_le_bytes(), "under the token it was pushed with");
}

#[tokio::test]
async fn one_settlement_that_cannot_be_written_loses_no_other_job() {
    let server = Server::start(&[]);
    let queue = queue(&server, QueueSettings::default()).await;
    let client = queue.client();
    let mut consumer = queue.consumer("digits", "w").await.expect("opens");
    let mut ids = Vec::new();
    for name in ["a", "b", "c"] {
        ids.push(client.enqueue(job(name)).await.expect("accepted").id);
    }
    let leased = lease(&mut *consumer, 3).await;
    // Whoever settles is told that this is no hash.
    redis::cmd("SET").arg("nobat{digits}:watch").arg("x").exec(&mut server.connection()).expect("set");
    let step =
        consumer.settle_and_lease(leased.iter().map(echo).collect(), 0).await.expect("no call is repeated for ever");
    assert!(step.refused.is_empty(), "{step:?}");
    for id in ids {
        assert_eq!(queue.get(id).await.expect("answered").expect("is there").state, JobState::Succeeded);
    }
    let next = client.enqueue(job("next")).await.expect("accepted").id;
    assert_eq!(lease(&mut *consumer, 1).await[0].id, next, "the session goes on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_set_back_delays_no_timer() {
    let server = Server::start(&[]);
    let queue = queue(&server, QueueSettings { lease_ms: 3_000, ..QueueSettings::default() }).await;
    let client = queue.client();
    let mut ids = vec![client.enqueue(job("its worker dies")).await.expect("accepted").id];
    let mut dies = queue.consumer("digits", "dies").await.expect("opens");
    assert_eq!(lease(&mut *dies, 1).await.len(), 1);
    drop(dies);
    let delayed = |ms: u64| JobOptions { delay: Some(Duration::from_millis(ms)), ..JobOptions::default() };
    ids.push(client.enqueue(job_with("waits", delayed(1_000))).await.expect("accepted").id);
    // As though all of it had been written by a clock that was a day ahead.
    let mut script = redis::cmd("EVAL");
    script.arg(
        "for _, set in ipairs({ 'leases', 'sched', 'due', 'took' }) do
           for _, member in ipairs(redis.call('ZRANGE', KEYS[1] .. set, 0, -1)) do
             redis.call('ZINCRBY', KEYS[1] .. set, 86400000000, member)
           end
         end
         for _, field in ipairs({ 'last', 'swept', 'at' }) do
           local at = redis.call('HGET', KEYS[1] .. 'meta', field)
           if at then redis.call('HSET', KEYS[1] .. 'meta', field, string.format('%.0f', at + 86400000000)) end
         end",
    );
    script.arg(1).arg(BASE).exec(&mut server.connection()).expect("set");
    ids.push(client.enqueue(job_with("waits, too", delayed(500))).await.expect("accepted").id);
    let deadline = JobOptions {
        delay: Some(Duration::from_secs(600)),
        deadline: Some(Duration::from_millis(500)),
        ..JobOptions::default()
    };
    let passes = client.enqueue(job_with("too late", deadline)).await.expect("accepted").id;
    let worker = tokio::spawn(serve(queue.consumer("digits", "w").await.expect("opens"), 8));
    for id in ids {
        let view = client.wait(id, Duration::from_secs(60)).await.expect("answered").expect("is there");
        assert_eq!(view.state, JobState::Succeeded);
    }
    let view = client.wait(passes, Duration::from_secs(60)).await.expect("answered").expect("is there");
    assert_eq!(view.state, JobState::Expired);
    worker.abort();
}

#[tokio::test]
async fn a_worker_that_registers_while_it_is_forgotten_stays() {
    let server = Server::start(&[]);
    let _queue = queue(&server, QueueSettings::default()).await;
    let mut library = Library::of(&server);
    let mut raw = server.connection();
    redis::cmd("HSET").arg("nobat{:}workers").arg("w").arg("2 {}").exec(&mut raw).expect("set");
    let mut forget = |read: &[u8]| library.call("forget", "nobat{:}workers", &[b"w", read]).expect("answered");
    assert_eq!(forget(b"1 {}"), Value::Int(0), "what was read is not what is there");
    assert_eq!(forget(b"2 {}"), Value::Int(1));
    assert_eq!(forget(b"2 {}"), Value::Int(0));
}
