//! Whether a Redis store takes jobs, as its connections and refusals show it: before
//! or with the first call that fails, and over again without a caller.

mod redis_support;

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use nobat_core::ErrorCode;
use nobat_queue::{Condition, Queue, QueueSettings, Refusal};
use redis_support::*;

const SOON: Duration = Duration::from_secs(30);

/// The refusal; waits for it.
async fn refused(condition: &mut Condition) -> Arc<Refusal> {
    let seen = async {
        loop {
            if let Some(refusal) = condition.refusal() {
                return refusal;
            }
            condition.changed().await;
        }
    };
    let refusal = tokio::time::timeout(SOON, seen).await.expect("a refusal");
    assert_eq!(refusal.error.code, ErrorCode::QueueUnavailable);
    refusal
}

/// Waits for the end of every refusal.
async fn over(condition: &mut Condition) {
    let seen = async {
        while condition.refusal().is_some() {
            condition.changed().await;
        }
    };
    tokio::time::timeout(SOON, seen).await.expect("an end of the refusals");
}

fn set(server: &Server, name: &str, value: impl ToString) {
    redis::cmd("CONFIG").arg("SET").arg(name).arg(value.to_string()).exec(&mut server.connection()).expect("set");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_is_seen_and_its_return_too_without_a_caller() {
    let mut server = Server::start(&[]);
    let queue = queue(&server, QueueSettings::default()).await;
    let (client, mut condition) = (queue.client(), queue.condition());
    client.enqueue(job("before")).await.expect("accepted");
    assert!(condition.refusal().is_none());
    for _ in 0..2 {
        server.kill();
        let refusal = refused(&mut condition).await;
        assert!(refusal.error.message.contains("redis cannot be used"), "{}", refusal.error);
        server.restart();
        over(&mut condition).await;
        client.enqueue(job("after")).await.expect("accepted");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_answers_nothing_is_seen_without_a_caller() {
    let server = Server::start(&[]);
    let queue = queue(&server, QueueSettings::default()).await;
    let (client, mut condition) = (queue.client(), queue.condition());
    client.enqueue(job("before")).await.expect("accepted");
    let signal = |name: &str| {
        let sent = Command::new("kill").args([name, &server.pid().to_string()]).status();
        assert!(sent.expect("kill runs").success());
    };
    signal("-STOP");
    assert!(refused(&mut condition).await.error.message.contains("no answer"));
    signal("-CONT");
    over(&mut condition).await;
    client.enqueue(job("after")).await.expect("accepted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_refuses_writes_is_refused_with_the_first_call_until_it_takes_them() {
    let server = Server::start(&[]);
    let queue = queue(&server, QueueSettings::default()).await;
    let (client, mut condition) = (queue.client(), queue.condition());
    client.enqueue(job("before")).await.expect("accepted");

    set(&server, "maxmemory", 1);
    let refused_call = client.enqueue(job("x")).await.expect_err("no memory");
    let refusal = condition.refusal().expect("seen by the time the caller is told");
    assert_eq!(refusal.error.message, refused_call.message);
    assert!(refusal.error.message.contains("out of memory"), "{}", refusal.error);
    // Reads go on, and say nothing about writes.
    queue.counts("digits").await.expect("counted");
    queue.health().await.expect("it answers");
    assert!(condition.refusal().is_some());
    set(&server, "maxmemory", 0);
    over(&mut condition).await;

    redis::cmd("REPLICAOF").arg("127.0.0.1").arg(1).exec(&mut server.connection()).expect("a replica");
    client.enqueue(job("x")).await.expect_err("read only");
    refused(&mut condition).await;
    redis::cmd("REPLICAOF").arg("NO").arg("ONE").exec(&mut server.connection()).expect("a master");
    over(&mut condition).await;

    set(&server, "min-replicas-to-write", 1);
    client.enqueue(job("x")).await.expect_err("too few replicas");
    assert!(condition.refusal().expect("seen").error.message.contains("replicas"));
    set(&server, "min-replicas-to-write", 0);
    over(&mut condition).await;
    client.enqueue(job("after")).await.expect("accepted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thread_that_gets_no_connection_is_seen_with_its_first_call() {
    let server = Server::start(&[]);
    let queue = queue(&server, QueueSettings::default()).await;
    let (client, mut condition) = (queue.client(), queue.condition());
    client.enqueue(job("before")).await.expect("accepted");
    let mut admin = server.connection();
    let set = |admin: &mut redis::Connection, most: u32| {
        redis::cmd("CONFIG").arg("SET").arg("maxclients").arg(most).exec(admin).expect("set");
    };
    set(&mut admin, 1);
    let other = queue.client();
    other.enqueue(job("x")).await.expect_err("no connection is left");
    refused(&mut condition).await;
    client.enqueue(job("y")).await.expect("the other thread has one");
    assert!(condition.refusal().is_some(), "that one works says nothing about the other");
    set(&mut admin, 100);
    over(&mut condition).await;
    other.enqueue(job("after")).await.expect("accepted");
}
