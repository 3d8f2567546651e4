//! Workers: who is alive, what they serve, what they are told.

use nobat_testkit::signatures::ready;
use std::time::{Duration, Instant};

use nobat_core::signature::ModelSignature;
use nobat_queue::{WorkerCommand, WorkerInfo};

use crate::on_every_store;
use crate::play::*;
use crate::stores::Backend;

on_every_store! {
    a_registered_worker_is_listed_with_its_models
    a_worker_that_falls_silent_is_forgotten
    a_worker_that_leaves_is_forgotten_at_once
    a_worker_that_was_forgotten_and_returns_is_heard
    a_change_that_comes_between_reading_and_waiting_is_heard
    a_change_of_the_registry_is_heard
    who_does_not_read_is_told_of_a_change_once
    a_command_reaches_a_worker_that_waits
    a_command_reaches_a_worker_that_is_busy_with_another
}

fn worker(id: &str, models: &[&str]) -> WorkerInfo {
    let signature = |name: &&str| ModelSignature {
        digest: "0123".into(),
        max_batch_size: 32,
        max_rows: 1_024,
        ..ready(name, Vec::new(), Vec::new())
    };
    WorkerInfo {
        id: id.into(),
        host: "here:1".into(),
        started_at_ms: 5,
        sessions: 2,
        models: models.iter().map(signature).collect(),
        report: serde_json::json!({"batches": 7}),
    }
}

async fn a_registered_worker_is_listed_with_its_models(backend: Backend) {
    let store = backend.open().await;
    assert!(store.queue.workers().await.expect("a list").is_empty());
    let (one, two) = (worker("one", &["digits", "faces"]), worker("two", &[]));
    store.queue.register_worker(&one, PATIENCE).await.expect("registered");
    store.queue.register_worker(&two, PATIENCE).await.expect("registered");
    let mut listed = store.queue.workers().await.expect("a list");
    listed.sort_by(|a, b| a.id.cmp(&b.id));
    assert_eq!(listed, [one, two.clone()]);
    let grown = worker("two", &["digits"]);
    store.queue.register_worker(&grown, PATIENCE).await.expect("registered");
    let listed = store.queue.workers().await.expect("a list");
    assert!(listed.contains(&grown) && !listed.contains(&two));
}

async fn a_worker_that_falls_silent_is_forgotten(backend: Backend) {
    let store = backend.open().await;
    store.queue.register_worker(&worker("brief", &["digits"]), ms(300)).await.expect("registered");
    store.queue.register_worker(&worker("lasting", &["digits"]), PATIENCE).await.expect("registered");
    let listed = async || store.queue.workers().await.expect("a list");
    until_async("the end of a registration", async || listed().await.len() == 1).await;
    assert_eq!(listed().await[0].id, "lasting");
}

async fn a_worker_that_leaves_is_forgotten_at_once(backend: Backend) {
    let store = backend.open().await;
    store.queue.register_worker(&worker("one", &["digits"]), PATIENCE).await.expect("registered");
    store.queue.deregister_worker("one").await.expect("gone");
    store.queue.deregister_worker("never-there").await.expect("no error");
    assert!(store.queue.workers().await.expect("a list").is_empty());
}

async fn a_change_of_the_registry_is_heard(backend: Backend) {
    let store = backend.open().await;
    store.queue.workers().await.expect("a list");
    let joins = async {
        tokio::time::sleep(ms(100)).await;
        store.queue.register_worker(&worker("one", &["digits"]), PATIENCE).await.expect("registered");
    };
    let until = Instant::now() + PATIENCE;
    let hears = async {
        let mut seen = 0;
        while store.queue.workers().await.expect("a list").is_empty() {
            assert!(Instant::now() < until, "not heard");
            seen = tokio::time::timeout(Duration::from_secs(15), store.queue.registry_changed(seen))
                .await
                .expect("it always returns");
        }
    };
    futures::join!(joins, hears);
}

fn load(model: &str) -> WorkerCommand {
    WorkerCommand::Load { model: model.into() }
}

async fn a_command_reaches_a_worker_that_waits(backend: Backend) {
    let store = backend.open().await;
    let queue = store.queue.clone();
    let worker = tokio::spawn(async move { queue.next_command().await });
    tokio::time::sleep(ms(200)).await;
    store.queue.command(&load("digits")).await.expect("sent");
    let command = tokio::time::timeout(PATIENCE, worker).await.expect("it arrives").expect("no panic");
    assert_eq!(command, load("digits"));
}

async fn a_command_reaches_a_worker_that_is_busy_with_another(backend: Backend) {
    let store = backend.open().await;
    let queue = store.queue.clone();
    let worker = tokio::spawn(async move {
        let first = queue.next_command().await;
        tokio::time::sleep(ms(300)).await;
        [first, queue.next_command().await]
    });
    tokio::time::sleep(ms(200)).await;
    let unload = WorkerCommand::Unload { model: "faces".into() };
    store.queue.command(&load("digits")).await.expect("sent");
    store.queue.command(&unload).await.expect("sent");
    let commands = tokio::time::timeout(PATIENCE, worker).await.expect("they arrive").expect("no panic");
    assert_eq!(commands, [load("digits"), unload]);
}

/// Whether a change since `seen` is heard before a reader would look by itself.
async fn is_heard(queue: &dyn nobat_queue::Queue, seen: &mut u64) -> bool {
    let heard = tokio::time::timeout(Duration::from_millis(2_500), queue.registry_changed(*seen)).await;
    *seen = heard.as_ref().copied().unwrap_or(*seen);
    heard.is_ok()
}

/// Looks again and again until nothing more is heard, as who reads the registry does; `reads`
/// says whether it reads in between: who does not is told no more often.
async fn settled(queue: &dyn nobat_queue::Queue, reads: bool) -> u64 {
    let (mut seen, mut times) = (0, 0);
    while is_heard(queue, &mut seen).await {
        times += 1;
        assert!(times < 20, "it is told without end");
        if reads {
            queue.workers().await.expect("listed");
        }
    }
    seen
}

async fn a_worker_that_was_forgotten_and_returns_is_heard(backend: Backend) {
    let store = backend.open().await;
    store.queue.register_worker(&worker("w", &["m"]), ms(100)).await.expect("registered");
    while !store.queue.workers().await.expect("listed").is_empty() {
        tokio::time::sleep(ms(10)).await;
    }
    // What is left of the first registration is heard first.
    let mut seen = settled(&*store.queue, true).await;
    store.queue.register_worker(&worker("w", &["m"]), PATIENCE).await.expect("registered again");
    assert!(is_heard(&*store.queue, &mut seen).await, "the same worker, but it was gone");
    assert_eq!(store.queue.workers().await.expect("listed").len(), 1);
}

async fn a_change_that_comes_between_reading_and_waiting_is_heard(backend: Backend) {
    let store = backend.open().await;
    store.queue.workers().await.expect("listed");
    store.queue.register_worker(&worker("w", &["m"]), PATIENCE).await.expect("registered");
    // Its message arrives while nobody waits.
    tokio::time::sleep(ms(300)).await;
    assert!(is_heard(&*store.queue, &mut 0).await);
}

async fn who_does_not_read_is_told_of_a_change_once(backend: Backend) {
    let store = backend.open().await;
    store.queue.register_worker(&worker("w", &["m"]), PATIENCE).await.expect("registered");
    settled(&*store.queue, false).await;
}
