//! In which order jobs run.

use nobat_core::job::{JobOptions, NewJob};
use nobat_queue::QueueSettings;

use crate::on_every_store;
use crate::play::*;
use crate::stores::Backend;

on_every_store! {
    ten_runs_before_one
    equals_run_in_order_of_arrival
    a_lease_takes_no_more_than_it_asked_for_and_says_whether_more_is_there
    waiting_lifts_a_job_over_a_later_one_of_higher_priority
    strict_priority_is_not_changed_by_waiting
    background_jobs_rank_one_level_below_their_priority
    a_background_job_that_has_waited_a_step_goes_before_later_ones
    who_is_full_leases_only_what_ranks_above_a_level
    what_has_waited_a_step_ranks_above_its_level
    every_model_has_a_queue_of_its_own
}

async fn ten_runs_before_one(backend: Backend) {
    let store = backend.open().await;
    let client = store.queue.client();
    for (payload, priority) in [("zero", 0), ("one", 1), ("ten", 10), ("top", 255)] {
        client.enqueue(urgent(payload, priority)).await.expect("accepted");
    }
    let mut consumer = store.queue.consumer(MODEL, "w").await.expect("a consumer");
    let leased = lease(&mut consumer, 8).await;
    assert_eq!(payloads(&leased), ["top", "ten", "one", "zero"]);
    assert_eq!(leased.iter().map(|job| job.priority).collect::<Vec<_>>(), [255, 10, 1, 0]);
}

async fn equals_run_in_order_of_arrival(backend: Backend) {
    let store = backend.open().await;
    let client = store.queue.client();
    let expected: Vec<_> = (0..200).map(|number| number.to_string()).collect();
    for payload in &expected {
        client.enqueue(job(payload.clone())).await.expect("accepted");
    }
    let mut consumer = store.queue.consumer(MODEL, "w").await.expect("a consumer");
    assert_eq!(payloads(&lease_all(&mut consumer, 200).await), expected);
}

async fn a_lease_takes_no_more_than_it_asked_for_and_says_whether_more_is_there(backend: Backend) {
    let store = backend.open().await;
    let client = store.queue.client();
    for payload in ["a", "b", "c"] {
        client.enqueue(job(payload)).await.expect("accepted");
    }
    let mut consumer = store.queue.consumer(MODEL, "w").await.expect("a consumer");
    let step = consumer.settle_and_lease(Vec::new(), 2).await.expect("a step");
    assert_eq!((payloads(&step.leased), step.more), (vec!["a".into(), "b".into()], true));
    let step = consumer.settle_and_lease(Vec::new(), 2).await.expect("a step");
    assert_eq!((payloads(&step.leased), step.more), (vec!["c".into()], false));
    let step = consumer.settle_and_lease(Vec::new(), 2).await.expect("a step");
    assert_eq!((payloads(&step.leased), step.more), (vec![], false));
}

async fn waiting_lifts_a_job_over_a_later_one_of_higher_priority(backend: Backend) {
    let store = backend.open_with(QueueSettings { aging_s: 1, ..QueueSettings::default() }).await;
    let client = store.queue.client();
    client.enqueue(urgent("old and low", 3)).await.expect("accepted");
    tokio::time::sleep(ms(2_100)).await;
    client.enqueue(urgent("two higher", 5)).await.expect("accepted");
    client.enqueue(urgent("far higher", 250)).await.expect("accepted");
    let mut consumer = store.queue.consumer(MODEL, "w").await.expect("a consumer");
    assert_eq!(payloads(&lease(&mut consumer, 8).await), ["far higher", "old and low", "two higher"]);
}

async fn strict_priority_is_not_changed_by_waiting(backend: Backend) {
    let store = backend.open_with(QueueSettings { aging_s: 0, ..QueueSettings::default() }).await;
    let client = store.queue.client();
    client.enqueue(urgent("first low", 3)).await.expect("accepted");
    client.enqueue(urgent("second low", 3)).await.expect("accepted");
    tokio::time::sleep(ms(300)).await;
    client.enqueue(urgent("high", 4)).await.expect("accepted");
    let mut consumer = store.queue.consumer(MODEL, "w").await.expect("a consumer");
    assert_eq!(payloads(&lease(&mut consumer, 8).await), ["high", "first low", "second low"]);
}

fn background(payload: &'static str, priority: u8) -> NewJob {
    job_with(payload, JobOptions { priority, background: true, ..JobOptions::default() })
}

async fn background_jobs_rank_one_level_below_their_priority(backend: Backend) {
    for aging_s in [60, 0] {
        let store = backend.open_with(QueueSettings { aging_s, ..QueueSettings::default() }).await;
        let client = store.queue.client();
        for new in [background("bulk", 0), background("bulk of one", 1), job("plain"), urgent("one", 1)] {
            client.enqueue(new).await.expect("accepted");
        }
        let mut consumer = store.queue.consumer(MODEL, "w").await.expect("a consumer");
        let leased = lease(&mut consumer, 8).await;
        assert_eq!(payloads(&leased), ["one", "bulk of one", "plain", "bulk"], "aging {aging_s}");
        assert_eq!(leased.iter().map(|job| job.priority).collect::<Vec<_>>(), [1, 1, 0, 0]);
    }
}

async fn a_background_job_that_has_waited_a_step_goes_before_later_ones(backend: Backend) {
    let store = backend.open_with(QueueSettings { aging_s: 1, ..QueueSettings::default() }).await;
    let client = store.queue.client();
    client.enqueue(background("bulk", 0)).await.expect("accepted");
    tokio::time::sleep(ms(1_100)).await;
    client.enqueue(job("later")).await.expect("accepted");
    let mut consumer = store.queue.consumer(MODEL, "w").await.expect("a consumer");
    assert_eq!(payloads(&lease(&mut consumer, 8).await), ["bulk", "later"]);
}

async fn who_is_full_leases_only_what_ranks_above_a_level(backend: Backend) {
    for aging_s in [60, 0] {
        let store = backend.open_with(QueueSettings { aging_s, ..QueueSettings::default() }).await;
        let client = store.queue.client();
        let mut consumer = store.queue.consumer(MODEL, "w").await.expect("a consumer");
        for new in
            [background("bulk", 0), background("more bulk", 0), job("plain"), urgent("one", 1), urgent("top", 255)]
        {
            client.enqueue(new).await.expect("accepted");
        }
        for (level, want, wanted, more) in [
            (255, 8, vec![], true),
            (0, 1, vec!["top"], true),
            (0, 8, vec!["one"], true),
            (-1, 8, vec!["plain"], true),
            (-1, 8, vec![], true),
            (-2, 8, vec!["bulk", "more bulk"], false),
        ] {
            let step = consumer.settle_and_lease_above(Vec::new(), want, level).await.expect("a step");
            assert_eq!(
                (payloads(&step.leased), step.more),
                (wanted.iter().map(|&one| one.into()).collect(), more),
                "above {level}, aging {aging_s}"
            );
        }
    }
}

async fn what_has_waited_a_step_ranks_above_its_level(backend: Backend) {
    let store = backend.open_with(QueueSettings { aging_s: 1, ..QueueSettings::default() }).await;
    let client = store.queue.client();
    client.enqueue(job("old")).await.expect("accepted");
    tokio::time::sleep(ms(1_100)).await;
    client.enqueue(job("new")).await.expect("accepted");
    let mut consumer = store.queue.consumer(MODEL, "w").await.expect("a consumer");
    let step = consumer.settle_and_lease_above(Vec::new(), 8, 0).await.expect("a step");
    assert_eq!((payloads(&step.leased), step.more), (vec!["old".into()], true));
    // What is left is not forgotten: it wakes who waits.
    consumer.idle().await;
    assert_eq!(payloads(&lease(&mut consumer, 8).await), ["new"]);
}

async fn every_model_has_a_queue_of_its_own(backend: Backend) {
    let store = backend.open().await;
    let client = store.queue.client();
    for number in 0..20 {
        client
            .enqueue(NewJob { model: format!("model-{number}").into(), ..job(number.to_string()) })
            .await
            .expect("accepted");
    }
    for number in (0..20).rev() {
        let model = format!("model-{number}");
        assert_eq!(store.queue.counts(&model).await.expect("counts").queued, 1);
        let mut consumer = store.queue.consumer(&model, "w").await.expect("a consumer");
        assert_eq!(payloads(&lease(&mut consumer, 8).await), [number.to_string()]);
    }
}
