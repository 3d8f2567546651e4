//! Waiting for results.

use nobat_core::job::{JobState, NewJob};

use crate::on_every_store;
use crate::play::*;
use crate::stores::Backend;

on_every_store! {
    a_call_is_answered_with_the_result
    a_wait_that_begins_before_the_end_is_answered
    a_wait_that_begins_after_the_end_is_answered_at_once
    a_wait_that_times_out_says_where_the_job_stands
    a_call_that_times_out_names_a_job_that_goes_on
    a_wait_for_an_unknown_job_finds_nothing
    many_wait_for_one_job
    a_waiter_hears_of_a_dead_letter
    a_waiter_sleeps_through_retries
    ten_thousand_wait_at_once
    each_caller_gets_its_own_answer
    an_acceptance_says_when_the_job_was_made_as_every_later_look_does
}

async fn an_acceptance_says_when_the_job_was_made_as_every_later_look_does(backend: Backend) {
    let store = backend.open().await;
    let client = store.queue.client();
    let delayed = |n: u64| {
        let mut made = job(format!("job {n}"));
        made.options.delay = Some(ms(3_600_000 * (n % 2)));
        made
    };
    // Together, so that they share a call.
    let accepted = futures::future::join_all((0..40).map(|n| client.enqueue(delayed(n)))).await;
    for accepted in accepted {
        let accepted = accepted.expect("accepted");
        let view = get(&*store.queue, accepted.id).await;
        assert_eq!(accepted.created_at_ms, Some(view.created_at_ms));
    }
}

async fn a_call_is_answered_with_the_result(backend: Backend) {
    let store = backend.open().await;
    let _echo = Echo::start(&*store.queue, MODEL, 8).await;
    let view = store.queue.client().call(job("hello"), PATIENCE).await.expect("an answer");
    assert_eq!(outputs(&view), "hello");
    assert_eq!((view.attempts, view.model.as_str(), view.owner.0), (1, MODEL, 7));
    assert!(view.created_at_ms > 0 && view.finished_at_ms.is_some());
    assert_eq!(outputs(&get(&*store.queue, view.id).await), "hello");
}

async fn a_wait_that_begins_before_the_end_is_answered(backend: Backend) {
    let store = backend.open().await;
    let client = store.queue.client();
    let id = client.enqueue(job("a")).await.expect("accepted").id;
    let waiter = tokio::spawn(async move { client.wait(id, PATIENCE).await });
    tokio::time::sleep(ms(100)).await;
    let _echo = Echo::start(&*store.queue, MODEL, 8).await;
    let view = waiter.await.expect("no panic").expect("the store answers").expect("it is there");
    assert_eq!((view.id, outputs(&view).as_ref()), (id, &b"a"[..]));
}

async fn a_wait_that_begins_after_the_end_is_answered_at_once(backend: Backend) {
    let store = backend.open().await;
    let client = store.queue.client();
    let id = client.enqueue(job("a")).await.expect("accepted").id;
    let _echo = Echo::start(&*store.queue, MODEL, 8).await;
    reaches(&*store.queue, id, JobState::Succeeded).await;
    for timeout in [PATIENCE, ms(0)] {
        let view = store.queue.client().wait(id, timeout).await.expect("the store answers").expect("it is there");
        assert_eq!(outputs(&view), "a");
    }
}

async fn a_wait_that_times_out_says_where_the_job_stands(backend: Backend) {
    let store = backend.open().await;
    let client = store.queue.client();
    let id = client.enqueue(job("a")).await.expect("accepted").id;
    assert_eq!(client.wait(id, ms(50)).await.expect("the store answers").expect("it is there").state, JobState::Queued);
    let mut consumer = store.queue.consumer(MODEL, "w").await.expect("a consumer");
    lease_all(&mut consumer, 1).await;
    assert_eq!(client.wait(id, ms(50)).await.expect("the store answers").expect("it is there").state, JobState::Leased);
}

async fn a_call_that_times_out_names_a_job_that_goes_on(backend: Backend) {
    let store = backend.open().await;
    let client = store.queue.client();
    let view = client.call(job("slow"), ms(100)).await.expect("an answer");
    assert_eq!(view.state, JobState::Queued);
    let _echo = Echo::start(&*store.queue, MODEL, 8).await;
    let end = client.wait(view.id, PATIENCE).await.expect("the store answers").expect("it is there");
    assert_eq!(outputs(&end), "slow");
}

async fn a_wait_for_an_unknown_job_finds_nothing(backend: Backend) {
    let store = backend.open().await;
    let client = store.queue.client();
    let known = client.enqueue(job("a")).await.expect("accepted").id;
    let unknown = nobat_core::JobId { random: known.random ^ 1, ..known };
    assert!(client.wait(unknown, ms(100)).await.expect("the store answers").is_none());
}

async fn many_wait_for_one_job(backend: Backend) {
    let store = backend.open().await;
    let clients = [store.queue.client(), store.queue.client()];
    let id = clients[0].enqueue(job("a")).await.expect("accepted").id;
    let waits = (0..40).map(|number| clients[number % 2].wait(id, PATIENCE));
    let run = async {
        tokio::time::sleep(ms(100)).await;
        Echo::start(&*store.queue, MODEL, 8).await
    };
    let (views, _echo) = futures::join!(futures::future::join_all(waits), run);
    for view in views {
        assert_eq!(outputs(&view.expect("the store answers").expect("it is there")), "a");
    }
}

async fn a_waiter_hears_of_a_dead_letter(backend: Backend) {
    let store = backend.open().await;
    let client = store.queue.client();
    let caller = tokio::spawn(async move { client.call(job("a"), PATIENCE).await });
    let mut consumer = store.queue.consumer(MODEL, "w").await.expect("a consumer");
    let leased = lease_all(&mut consumer, 1).await;
    settle(&mut consumer, vec![failure(&leased[0], "broken", None)]).await;
    let view = caller.await.expect("no panic").expect("an answer");
    assert_eq!((view.state, view.error.expect("says why").message.as_str()), (JobState::Dead, "broken"));
}

async fn a_waiter_sleeps_through_retries(backend: Backend) {
    let store = backend.open().await;
    let client = store.queue.client();
    let caller = tokio::spawn(async move { client.call(job("a"), PATIENCE).await });
    let mut consumer = store.queue.consumer(MODEL, "w").await.expect("a consumer");
    let leased = lease_all(&mut consumer, 1).await;
    settle(&mut consumer, vec![failure(&leased[0], "once", Some(ms(50)))]).await;
    let leased = lease_all(&mut consumer, 1).await;
    settle(&mut consumer, vec![success(&leased[0], "twice")]).await;
    let view = caller.await.expect("no panic").expect("an answer");
    assert_eq!((outputs(&view).as_ref(), view.attempts), (&b"twice"[..], 2));
}

async fn ten_thousand_wait_at_once(backend: Backend) {
    let store = backend.open().await;
    let client = store.queue.client();
    let enqueues = (0..10_000).map(|number| client.enqueue(job(number.to_string())));
    let accepted = futures::future::join_all(enqueues).await;
    let waits = accepted.into_iter().enumerate().map(|(number, accepted)| {
        let client = client.clone();
        async move {
            let id = accepted.expect("accepted").id;
            let view = client.wait(id, 4 * PATIENCE).await.expect("the store answers").expect("it is there");
            assert_eq!(outputs(&view), number.to_string());
        }
    });
    let run = async {
        tokio::time::sleep(ms(200)).await;
        Echo::start(&*store.queue, MODEL, 64).await
    };
    let (ended, _echo) = futures::join!(futures::future::join_all(waits), run);
    assert_eq!(ended.len(), 10_000);
}

async fn each_caller_gets_its_own_answer(backend: Backend) {
    let store = backend.open().await;
    let _echoes = [Echo::start(&*store.queue, "a", 8).await, Echo::start(&*store.queue, "b", 3).await];
    let clients = [store.queue.client(), store.queue.client()];
    let calls = (0..400).map(|number| {
        let client = &clients[number % 2];
        async move {
            let model = if number % 3 == 0 { "a" } else { "b" };
            let view = client
                .call(NewJob { model: model.into(), ..job(number.to_string()) }, PATIENCE)
                .await
                .expect("an answer");
            assert_eq!((view.model.as_str(), outputs(&view)), (model, number.to_string().into()));
        }
    });
    futures::future::join_all(calls).await;
}
