//! Leases: exclusive, fenced, renewed, taken back; deaths and quarantine.

use nobat_core::ErrorCode;
use nobat_core::job::{JobState, LeaseToken, Settlement};
use nobat_queue::{LAST_CHANCE, Renewal};

use crate::on_every_store;
use crate::play::*;
use crate::stores::Backend;

on_every_store! {
    a_leased_job_is_leased_to_nobody_else
    no_token_is_one_that_processes_give_themselves
    settling_and_leasing_is_one_call
    an_expired_lease_returns_to_its_place
    a_stale_settlement_is_refused
    a_stale_renewal_is_refused
    an_invented_token_is_refused
    a_job_is_settled_once
    a_renewed_lease_does_not_expire
    a_job_that_kills_three_workers_is_quarantined_and_its_neighbours_are_not
    a_job_that_outlived_a_worker_runs_alone
    a_lease_that_ran_out_while_its_holder_could_not_renew_is_no_death
    three_lapses_of_living_workers_quarantine_nothing
    of_jobs_on_their_last_chance_one_runs_at_a_time
    a_released_job_keeps_its_place_and_burns_no_attempt
    a_lease_that_expires_wakes_nobody_twice
}

async fn a_leased_job_is_leased_to_nobody_else(backend: Backend) {
    let store = backend.open().await;
    let id = store.queue.client().enqueue(job("a")).await.expect("accepted").id;
    let mut first = store.queue.consumer(MODEL, "w1").await.expect("a consumer");
    let mut second = store.queue.consumer(MODEL, "w2").await.expect("a consumer");
    let leased = lease_all(&mut first, 1).await;
    assert_eq!((leased[0].id, leased[0].attempt, leased[0].deaths), (id, 1, 0));
    assert!(lease(&mut second, 8).await.is_empty());
    assert_eq!(get(&*store.queue, id).await.state, JobState::Leased);
    assert_eq!(store.queue.counts(MODEL).await.expect("counts").leased, 1);
}

async fn no_token_is_one_that_processes_give_themselves(backend: Backend) {
    let store = backend.open().await;
    for worker in 0..32 {
        store.queue.client().enqueue(job("a")).await.expect("accepted");
        let mut consumer = store.queue.consumer(MODEL, &format!("w{worker}")).await.expect("a consumer");
        let leased = lease_all(&mut consumer, 1).await;
        assert!(!leased[0].token.is_own(), "{:?}", leased[0].token);
    }
}

async fn settling_and_leasing_is_one_call(backend: Backend) {
    let store = backend.open().await;
    let client = store.queue.client();
    let ids =
        [client.enqueue(job("a")).await.expect("accepted").id, client.enqueue(job("b")).await.expect("accepted").id];
    let mut consumer = store.queue.consumer(MODEL, "w").await.expect("a consumer");
    let leased = lease_all(&mut consumer, 1).await;
    let step = consumer.settle_and_lease(vec![success(&leased[0], "1")], 1).await.expect("a step");
    assert!(step.refused.is_empty());
    assert_eq!(payloads(&step.leased), ["b"]);
    assert_eq!(outputs(&reaches(&*store.queue, ids[0], JobState::Succeeded).await), "1");
    assert_eq!(get(&*store.queue, ids[1]).await.state, JobState::Leased);
}

async fn an_expired_lease_returns_to_its_place(backend: Backend) {
    let store = backend.open_with(short_leases(400)).await;
    let client = store.queue.client();
    let first = client.enqueue(job("first")).await.expect("accepted").id;
    let mut dies = store.queue.consumer(MODEL, "dies").await.expect("a consumer");
    assert_eq!(payloads(&lease_all(&mut dies, 1).await), ["first"]);
    client.enqueue(job("second")).await.expect("accepted");
    reaches(&*store.queue, first, JobState::Queued).await;
    let mut next = store.queue.consumer(MODEL, "next").await.expect("a consumer");
    let leased = lease_all(&mut next, 1).await;
    assert_eq!(
        (leased[0].id, leased[0].attempt, leased[0].deaths),
        (first, 2, 1),
        "before `second`, with the death counted"
    );
}

async fn a_stale_settlement_is_refused(backend: Backend) {
    let store = backend.open_with(short_leases(1_000)).await;
    let id = store.queue.client().enqueue(job("a")).await.expect("accepted").id;
    let mut sleeper = store.queue.consumer(MODEL, "sleeper").await.expect("a consumer");
    let stale = lease_all(&mut sleeper, 1).await;
    let mut next = store.queue.consumer(MODEL, "next").await.expect("a consumer");
    let fresh = lease_all(&mut next, 1).await;
    assert_ne!(fresh[0].token, stale[0].token);
    assert_eq!(settle(&mut sleeper, vec![success(&stale[0], "stale")]).await, [id]);
    assert_eq!(settle(&mut sleeper, vec![failure(&stale[0], "stale", None)]).await, [id]);
    assert_eq!(settle(&mut sleeper, vec![release(&stale[0])]).await, [id]);
    assert!(settle(&mut next, vec![success(&fresh[0], "fresh")]).await.is_empty());
    let view = reaches(&*store.queue, id, JobState::Succeeded).await;
    assert_eq!((outputs(&view).as_ref(), view.attempts), (&b"fresh"[..], 2));
}

async fn a_stale_renewal_is_refused(backend: Backend) {
    let store = backend.open_with(short_leases(1_000)).await;
    let id = store.queue.client().enqueue(job("a")).await.expect("accepted").id;
    let mut sleeper = store.queue.consumer(MODEL, "sleeper").await.expect("a consumer");
    let stale = lease_all(&mut sleeper, 1).await;
    let mut next = store.queue.consumer(MODEL, "next").await.expect("a consumer");
    let fresh = lease_all(&mut next, 1).await;
    let mut renewer = store.queue.renewer().await.expect("a renewer");
    let answers = renewer.renew(MODEL, &[(id, stale[0].token), (id, fresh[0].token)]).await.expect("an answer");
    assert_eq!(answers, [Renewal::Lost, Renewal::Renewed]);
}

async fn an_invented_token_is_refused(backend: Backend) {
    let store = backend.open().await;
    let id = store.queue.client().enqueue(job("a")).await.expect("accepted").id;
    let mut consumer = store.queue.consumer(MODEL, "w").await.expect("a consumer");
    let leased = lease_all(&mut consumer, 1).await;
    let invented = Settlement { token: LeaseToken(leased[0].token.0 ^ 1), ..success(&leased[0], "forged") };
    assert_eq!(settle(&mut consumer, vec![invented]).await, [id]);
    let waiting = store.queue.client().enqueue(job("b")).await.expect("accepted").id;
    let never_leased = Settlement { id: waiting, ..success(&leased[0], "forged") };
    assert_eq!(settle(&mut consumer, vec![never_leased]).await, [waiting]);
    assert!(settle(&mut consumer, vec![success(&leased[0], "true")]).await.is_empty());
}

async fn a_job_is_settled_once(backend: Backend) {
    let store = backend.open().await;
    let id = store.queue.client().enqueue(job("a")).await.expect("accepted").id;
    let mut consumer = store.queue.consumer(MODEL, "w").await.expect("a consumer");
    let leased = lease_all(&mut consumer, 1).await;
    assert!(settle(&mut consumer, vec![success(&leased[0], "first")]).await.is_empty());
    assert_eq!(settle(&mut consumer, vec![success(&leased[0], "second")]).await, [id]);
    assert_eq!(outputs(&reaches(&*store.queue, id, JobState::Succeeded).await), "first");
    assert_eq!(store.queue.counts(MODEL).await.expect("counts").finished_total, 1);
}

async fn a_renewed_lease_does_not_expire(backend: Backend) {
    let store = backend.open_with(short_leases(2_000)).await;
    let id = store.queue.client().enqueue(job("long")).await.expect("accepted").id;
    let mut consumer = store.queue.consumer(MODEL, "w").await.expect("a consumer");
    let leased = lease_all(&mut consumer, 1).await;
    let mut other = store.queue.consumer(MODEL, "other").await.expect("a consumer");
    let mut renewer = store.queue.renewer().await.expect("a renewer");
    for _ in 0..12 {
        tokio::time::sleep(ms(200)).await;
        assert_eq!(renewer.renew(MODEL, &[(id, leased[0].token)]).await.expect("an answer"), [Renewal::Renewed]);
        assert!(lease(&mut other, 8).await.is_empty());
    }
    assert!(settle(&mut consumer, vec![success(&leased[0], "done")]).await.is_empty());
}

async fn a_job_that_kills_three_workers_is_quarantined_and_its_neighbours_are_not(backend: Backend) {
    let store = backend.open_with(short_leases(300)).await;
    let client = store.queue.client();
    let mut ids = Vec::new();
    for payload in ["fine", "poison", "good"] {
        ids.push(client.enqueue(job(payload)).await.expect("accepted").id);
    }
    let mut done = 0;
    while done < 2 || get(&*store.queue, ids[1]).await.state != JobState::Dead {
        // A fresh worker each time; it dies when it holds the poison.
        let mut worker = store.queue.consumer(MODEL, "mortal").await.expect("a consumer");
        let leased = lease(&mut worker, 8).await;
        if leased.is_empty() || leased.iter().any(|job| job.payload == "poison") {
            tokio::time::sleep(ms(50)).await;
            continue;
        }
        let settled: Vec<_> = leased.iter().map(|job| success(job, "ok")).collect();
        done += settled.len();
        assert!(settle(&mut worker, settled).await.is_empty());
    }
    let view = get(&*store.queue, ids[1]).await;
    assert_eq!(view.attempts, 3);
    let error = view.error.expect("says why");
    assert_eq!(error.code, ErrorCode::InferenceFailed);
    assert!(error.message.contains("quarantined"), "{}", error.message);
    for neighbour in [ids[0], ids[2]] {
        let view = reaches(&*store.queue, neighbour, JobState::Succeeded).await;
        assert_eq!(view.attempts, 2, "it died once, with the poison, and then ran alone");
    }
}

async fn a_job_that_outlived_a_worker_runs_alone(backend: Backend) {
    let store = backend.open_with(short_leases(2_000)).await;
    let client = store.queue.client();
    client.enqueue(urgent("fresh and urgent", 10)).await.expect("accepted");
    let suspect = client.enqueue(job("suspect")).await.expect("accepted").id;
    let mut dies = store.queue.consumer(MODEL, "dies").await.expect("a consumer");
    let leased = lease_all(&mut dies, 2).await;
    settle(&mut dies, vec![release(&leased[0])]).await;
    client.enqueue(job("after")).await.expect("accepted");
    reaches(&*store.queue, suspect, JobState::Queued).await;
    let mut next = store.queue.consumer(MODEL, "next").await.expect("a consumer");
    assert_eq!(payloads(&lease(&mut next, 8).await), ["fresh and urgent"], "the batch ends before a suspect");
    assert_eq!(payloads(&lease(&mut next, 8).await), ["suspect"]);
    assert_eq!(payloads(&lease(&mut next, 8).await), ["after"]);
}

async fn a_lease_that_ran_out_while_its_holder_could_not_renew_is_no_death(backend: Backend) {
    for settles in [false, true] {
        let store = backend.open_with(short_leases(400)).await;
        let id = store.queue.client().enqueue(job("a")).await.expect("accepted").id;
        let mut cut_off = store.queue.consumer(MODEL, "cut off").await.expect("a consumer");
        let stale = lease_all(&mut cut_off, 1).await;
        let mut next = store.queue.consumer(MODEL, "next").await.expect("a consumer");
        let fresh = lease_all(&mut next, 1).await;
        assert_eq!(fresh[0].deaths, 1, "nobody can tell yet");
        // It is back, and asks for what it held.
        if settles {
            assert_eq!(settle(&mut cut_off, vec![success(&stale[0], "late")]).await, [id]);
        } else {
            let mut renewer = store.queue.renewer().await.expect("a renewer");
            let answers = renewer.renew(MODEL, &[(id, stale[0].token)]).await.expect("an answer");
            assert_eq!(answers, [Renewal::Lost]);
        }
        assert!(settle(&mut next, vec![release(&fresh[0])]).await.is_empty());
        assert_eq!(lease_all(&mut next, 1).await[0].deaths, 0);
    }
}

async fn three_lapses_of_living_workers_quarantine_nothing(backend: Backend) {
    let store = backend.open_with(short_leases(300)).await;
    let id = store.queue.client().enqueue(job("healthy")).await.expect("accepted").id;
    let mut renewer = store.queue.renewer().await.expect("a renewer");
    let mut stale = None;
    for _ in 0..5 {
        let mut cut_off = store.queue.consumer(MODEL, "cut off").await.expect("a consumer");
        let leased = lease_all(&mut cut_off, 1).await;
        if let Some(token) = stale.replace(leased[0].token) {
            renewer.renew(MODEL, &[(id, token)]).await.expect("an answer");
        }
    }
    let mut last = store.queue.consumer(MODEL, "last").await.expect("a consumer");
    let leased = lease_all(&mut last, 1).await;
    assert!(settle(&mut last, vec![success(&leased[0], "ok")]).await.is_empty());
    reaches(&*store.queue, id, JobState::Succeeded).await;
}

async fn of_jobs_on_their_last_chance_one_runs_at_a_time(backend: Backend) {
    let store = backend.open_with(short_leases(1_000)).await;
    let client = store.queue.client();
    let mut ids = Vec::new();
    for payload in ["first", "second"] {
        ids.push(client.enqueue(job(payload)).await.expect("accepted").id);
    }
    let sessions = async || {
        let mut two = Vec::new();
        for name in ["a", "b"] {
            two.push(store.queue.consumer(MODEL, name).await.expect("a consumer"));
        }
        two
    };
    for _ in 0..LAST_CHANCE {
        // A process of two sessions dies while each of them holds one.
        for mut session in sessions().await {
            assert_eq!(lease_all(&mut session, 1).await.len(), 1);
        }
        for &id in &ids {
            reaches(&*store.queue, id, JobState::Queued).await;
        }
    }
    client.enqueue(job("fresh")).await.expect("accepted");
    let mut sessions = sessions().await;
    let first = lease_all(&mut sessions[0], 1).await;
    assert_eq!((payloads(&first), first[0].deaths), (vec!["first".to_owned()], LAST_CHANCE));
    assert_eq!(payloads(&lease_all(&mut sessions[1], 1).await), ["fresh"], "what is healthy does not wait");
    settle(&mut sessions[0], vec![success(&first[0], "ok")]).await;
    let second = lease_all(&mut sessions[1], 1).await;
    assert_eq!((payloads(&second), second[0].deaths), (vec!["second".to_owned()], LAST_CHANCE));
}

async fn a_released_job_keeps_its_place_and_burns_no_attempt(backend: Backend) {
    let store = backend.open().await;
    let client = store.queue.client();
    for payload in ["first", "second"] {
        client.enqueue(job(payload)).await.expect("accepted");
    }
    let mut consumer = store.queue.consumer(MODEL, "w").await.expect("a consumer");
    for _ in 0..5 {
        let leased = lease(&mut consumer, 1).await;
        assert_eq!((payloads(&leased), leased[0].attempt, leased[0].deaths), (vec!["first".to_owned()], 1, 0));
        assert!(settle(&mut consumer, vec![release(&leased[0])]).await.is_empty());
    }
    assert_eq!(payloads(&lease(&mut consumer, 8).await), ["first", "second"]);
}

async fn a_lease_that_expires_wakes_nobody_twice(backend: Backend) {
    let store = backend.open_with(short_leases(300)).await;
    store.queue.client().enqueue(job("a")).await.expect("accepted");
    let mut dies = store.queue.consumer(MODEL, "dies").await.expect("a consumer");
    lease_all(&mut dies, 1).await;
    let mut next = store.queue.consumer(MODEL, "next").await.expect("a consumer");
    let leased = lease_all(&mut next, 1).await;
    settle(&mut next, vec![success(&leased[0], "done")]).await;
    tokio::time::sleep(ms(500)).await;
    assert!(lease(&mut next, 8).await.is_empty(), "a settled job does not come back with its first lease");
}
