//! What jobs carry comes through as it was.

use nobat_core::job::{JobOptions, JobState, NewJob};

use crate::on_every_store;
use crate::play::*;
use crate::stores::Backend;

on_every_store! {
    every_byte_comes_through
    empty_payloads_and_results_are_fine
    large_tensors_come_through_both_ways
    a_tensor_of_forty_megabytes_comes_through_both_ways
    rows_and_trace_travel_along
    a_large_payload_survives_retry_and_redrive
    a_large_batch_is_leased_and_settled_at_once
}

/// Bytes without a pattern that a codec could lose.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..len).map(next).collect()
}

async fn every_byte_comes_through(backend: Backend) {
    let store = backend.open().await;
    let _echo = Echo::start(&*store.queue, MODEL, 8).await;
    let bytes: Vec<u8> = (0..=255).chain((0..=255).rev()).collect();
    let view = store.queue.client().call(job(bytes.clone()), PATIENCE).await.expect("an answer");
    assert_eq!(outputs(&view), bytes);
}

async fn empty_payloads_and_results_are_fine(backend: Backend) {
    let store = backend.open().await;
    let _echo = Echo::start(&*store.queue, MODEL, 8).await;
    let view = store.queue.client().call(job(""), PATIENCE).await.expect("an answer");
    assert_eq!(outputs(&view), "");
}

async fn large_tensors_come_through_both_ways(backend: Backend) {
    let store = backend.open().await;
    let _echo = Echo::start(&*store.queue, MODEL, 8).await;
    let client = store.queue.client();
    for len in [5_000, 600 << 10, 10 << 20] {
        let bytes = noise(len);
        let view = client.call(job(bytes.clone()), PATIENCE).await.expect("an answer");
        assert!(outputs(&view) == bytes, "{len} bytes came back different");
        assert!(outputs(&get(&*store.queue, view.id).await) == bytes, "{len} bytes are stored differently");
        let id = client.enqueue(job(bytes.clone())).await.expect("accepted").id;
        let view = client.wait(id, PATIENCE).await.expect("the store answers").expect("it is there");
        assert!(outputs(&view) == bytes, "{len} bytes came back different");
    }
}

/// Redis closes a connection that is subscribed to a channel once 32 MiB wait on it.
async fn a_tensor_of_forty_megabytes_comes_through_both_ways(backend: Backend) {
    let store = backend.open().await;
    let _echo = Echo::start(&*store.queue, MODEL, 8).await;
    let (client, bytes) = (store.queue.client(), bytes::Bytes::from(vec![7; 40 << 20]));
    let later = JobOptions { delay: Some(PATIENCE), ..JobOptions::default() };
    let waits = client.enqueue(NewJob { payload: bytes.clone(), ..job_with("", later) }).await.expect("accepted").id;
    assert!(store.queue.input(waits).await.expect("reads") == Some(bytes.clone()), "its input is read");
    let view = client.call(NewJob { payload: bytes.clone(), ..job("") }, PATIENCE).await.expect("an answer");
    assert!(outputs(&view) == bytes, "it came back different");
    assert!(outputs(&get(&*store.queue, view.id).await) == bytes, "it is stored differently");
}

async fn rows_and_trace_travel_along(backend: Backend) {
    let store = backend.open().await;
    let trace = "req-123 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let sent = NewJob { rows: 17, trace: trace.into(), ..job("a") };
    store.queue.client().enqueue(sent).await.expect("accepted");
    let mut consumer = store.queue.consumer(MODEL, "w").await.expect("a consumer");
    let leased = lease_all(&mut consumer, 1).await;
    assert_eq!((leased[0].rows, &leased[0].trace), (17, &trace.into()));
}

async fn a_large_payload_survives_retry_and_redrive(backend: Backend) {
    let store = backend.open().await;
    let bytes = noise(600 << 10);
    let id = store.queue.client().enqueue(job(bytes.clone())).await.expect("accepted").id;
    let mut consumer = store.queue.consumer(MODEL, "w").await.expect("a consumer");
    let leased = lease_all(&mut consumer, 1).await;
    settle(&mut consumer, vec![failure(&leased[0], "again", Some(ms(10)))]).await;
    let leased = lease_all(&mut consumer, 1).await;
    assert!(leased[0].payload == bytes, "the retry carries the payload");
    settle(&mut consumer, vec![failure(&leased[0], "never", None)]).await;
    reaches(&*store.queue, id, JobState::Dead).await;
    store.queue.redrive(MODEL, &[id], 1).await.expect("redriven");
    let leased = lease_all(&mut consumer, 1).await;
    assert!(leased[0].payload == bytes, "the redrive carries the payload");
}

async fn a_large_batch_is_leased_and_settled_at_once(backend: Backend) {
    let store = backend.open().await;
    let client = store.queue.client();
    let enqueues = (0..1_000).map(|number| client.enqueue(job(number.to_string())));
    let accepted = futures::future::join_all(enqueues).await;
    assert!(accepted.iter().all(Result::is_ok));
    let mut consumer = store.queue.consumer(MODEL, "w").await.expect("a consumer");
    let leased = lease_all(&mut consumer, 1_000).await;
    let settled = leased.iter().map(|job| success(job, job.payload.clone())).collect();
    assert!(settle(&mut consumer, settled).await.is_empty());
    for leased in leased.iter().step_by(97) {
        assert_eq!(outputs(&reaches(&*store.queue, leased.id, JobState::Succeeded).await), leased.payload);
    }
}
