//! Counting, listing, pausing.

use std::collections::HashSet;
use std::time::Duration;

use nobat_core::OwnerId;
use nobat_core::job::{JobOptions, JobState, JobView, NewJob};
use nobat_queue::{CountBounds, Counts, JobCount, ListFilter, Queue, count};

use crate::on_every_store;
use crate::play::*;
use crate::stores::Backend;

on_every_store! {
    counts_follow_a_job_through_its_life
    a_queue_nobody_used_is_empty
    the_oldest_queued_job_gives_the_queue_its_age
    a_paused_queue_takes_jobs_and_gives_none
    a_paused_queue_settles_what_runs
    a_list_finds_jobs_by_state_model_and_owner
    pages_cover_everything_once
    a_count_is_exact_up_to_a_bound_and_by_counters_beyond_it
    a_count_looks_at_no_more_than_it_may
    the_store_says_what_it_is
}

async fn counts(queue: &dyn Queue) -> Counts {
    queue.counts(MODEL).await.expect("counts")
}

async fn counts_follow_a_job_through_its_life(backend: Backend) {
    let store = backend.open().await;
    let queue = &*store.queue;
    let client = queue.client();
    let later = JobOptions { delay: Some(Duration::from_secs(60)), ..JobOptions::default() };
    client.enqueue(job_with("later", later)).await.expect("accepted");
    for payload in ["a", "b", "c"] {
        client.enqueue(job(payload)).await.expect("accepted");
    }
    let now = counts(queue).await;
    assert_eq!((now.queued, now.scheduled, now.leased, now.dead), (3, 1, 0, 0));
    assert!(now.queued_bytes >= 8);
    assert_eq!((now.enqueued_total, now.finished_total, now.paused), (4, 0, false));
    let mut consumer = queue.consumer(MODEL, "w").await.expect("a consumer");
    let leased = lease_all(&mut consumer, 3).await;
    let now = counts(queue).await;
    assert_eq!((now.queued, now.scheduled, now.leased, now.oldest_ms), (0, 1, 3, 0));
    let settled = vec![
        success(&leased[0], "x"),
        failure(&leased[1], "y", None),
        failure(&leased[2], "z", Some(Duration::from_secs(60))),
    ];
    settle(&mut consumer, settled).await;
    let now = counts(queue).await;
    assert_eq!((now.queued, now.scheduled, now.leased, now.dead), (0, 2, 0, 1));
    assert_eq!((now.enqueued_total, now.finished_total), (4, 2));
}

async fn a_queue_nobody_used_is_empty(backend: Backend) {
    let store = backend.open().await;
    assert_eq!(store.queue.counts("nobody-used-this").await.expect("counts"), Counts::default());
}

async fn the_oldest_queued_job_gives_the_queue_its_age(backend: Backend) {
    let store = backend.open().await;
    let client = store.queue.client();
    client.enqueue(job("old")).await.expect("accepted");
    until_async("some age", async || counts(&*store.queue).await.oldest_ms >= 250).await;
    client.enqueue(job("new")).await.expect("accepted");
    let age = counts(&*store.queue).await.oldest_ms;
    assert!((250..30_000).contains(&age), "{age}");
}

async fn a_paused_queue_takes_jobs_and_gives_none(backend: Backend) {
    let store = backend.open().await;
    store.queue.set_paused(MODEL, true).await.expect("paused");
    assert!(counts(&*store.queue).await.paused);
    store.queue.client().enqueue(job("a")).await.expect("accepted");
    let mut consumer = store.queue.consumer(MODEL, "w").await.expect("a consumer");
    assert!(lease(&mut consumer, 8).await.is_empty());
    assert_eq!(counts(&*store.queue).await.queued, 1);
    store.queue.set_paused(MODEL, false).await.expect("resumed");
    assert_eq!(payloads(&lease(&mut consumer, 8).await), ["a"]);
    assert!(!counts(&*store.queue).await.paused);
}

async fn a_paused_queue_settles_what_runs(backend: Backend) {
    let store = backend.open().await;
    let id = store.queue.client().enqueue(job("a")).await.expect("accepted").id;
    let mut consumer = store.queue.consumer(MODEL, "w").await.expect("a consumer");
    let leased = lease_all(&mut consumer, 1).await;
    store.queue.set_paused(MODEL, true).await.expect("paused");
    assert!(settle(&mut consumer, vec![success(&leased[0], "done")]).await.is_empty());
    assert_eq!(outputs(&reaches(&*store.queue, id, JobState::Succeeded).await), "done");
}

/// Every job a filter finds, page by page.
pub(crate) async fn all(queue: &dyn Queue, filter: &ListFilter, limit: usize) -> Vec<JobView> {
    let mut found = Vec::new();
    let mut cursor: Option<String> = None;
    for _ in 0..10_000 {
        let page = queue.list(filter, cursor.as_deref(), limit).await.expect("a page");
        found.extend(page.jobs);
        match page.cursor {
            Some(next) => cursor = Some(next),
            None => return found,
        }
    }
    panic!("the pages do not end");
}

async fn a_list_finds_jobs_by_state_model_and_owner(backend: Backend) {
    let store = backend.open().await;
    let queue = &*store.queue;
    let client = queue.client();
    let mut consumer = queue.consumer(MODEL, "w").await.expect("a consumer");
    let mut expected = Vec::new();
    for state in ["succeeded", "dead", "failed", "leased"] {
        expected
            .push((client.enqueue(job(state)).await.expect("accepted").id, JobState::parse(state).expect("a state")));
    }
    let leased = lease_all(&mut consumer, 4).await;
    let settled = vec![
        success(&leased[0], "x"),
        failure(&leased[1], "y", None),
        failure(&leased[2], "z", Some(Duration::from_secs(60))),
    ];
    settle(&mut consumer, settled).await;
    let later = JobOptions { delay: Some(Duration::from_secs(60)), ..JobOptions::default() };
    expected.push((client.enqueue(job_with("later", later)).await.expect("accepted").id, JobState::Scheduled));
    expected.push((client.enqueue(job("queued")).await.expect("accepted").id, JobState::Queued));
    let cancelled = client.enqueue(job("cancelled")).await.expect("accepted").id;
    queue.cancel(cancelled).await.expect("cancelled");
    expected.push((cancelled, JobState::Cancelled));
    let theirs = client.enqueue(NewJob { owner: OwnerId(99), ..job("theirs") }).await.expect("accepted").id;
    let elsewhere = client.enqueue(NewJob { model: "other".into(), ..job("elsewhere") }).await.expect("accepted").id;

    let everything = all(queue, &ListFilter::default(), 100).await;
    assert_eq!(everything.len(), expected.len() + 2);
    for (id, state) in &expected {
        let filter = ListFilter {
            state: Some(*state),
            owner: Some(OwnerId(7)),
            model: Some(MODEL.into()),
            ..ListFilter::default()
        };
        let found = all(queue, &filter, 100).await;
        assert_eq!(found.iter().map(|view| (view.id, view.state)).collect::<Vec<_>>(), [(*id, *state)]);
        assert!(found[0].result.is_none(), "a list carries no results");
    }
    let filter = ListFilter { owner: Some(OwnerId(99)), ..ListFilter::default() };
    assert_eq!(all(queue, &filter, 100).await.iter().map(|view| view.id).collect::<Vec<_>>(), [theirs]);
    let filter = ListFilter { model: Some("other".into()), ..ListFilter::default() };
    assert_eq!(all(queue, &filter, 100).await.iter().map(|view| view.id).collect::<Vec<_>>(), [elsewhere]);
    let filter = ListFilter { model: Some("nobody-used-this".into()), ..ListFilter::default() };
    assert!(all(queue, &filter, 100).await.is_empty());
}

async fn pages_cover_everything_once(backend: Backend) {
    let store = backend.open().await;
    let queue = &*store.queue;
    let client = queue.client();
    let enqueues = (0..120).map(|number| client.enqueue(job(number.to_string())));
    let ids: HashSet<_> =
        futures::future::join_all(enqueues).await.into_iter().map(|accepted| accepted.expect("accepted").id).collect();
    let mut consumer = queue.consumer(MODEL, "w").await.expect("a consumer");
    let leased = lease_all(&mut consumer, 60).await;
    settle(&mut consumer, leased[..50].iter().map(|job| success(job, "x")).collect()).await;
    for limit in [7, 500] {
        let found = all(queue, &ListFilter::default(), limit).await;
        assert_eq!(found.len(), 120);
        assert_eq!(found.iter().map(|view| view.id).collect::<HashSet<_>>(), ids);
    }
    let nonsense = queue.list(&ListFilter::default(), Some("no cursor"), 10).await.expect_err("refused");
    assert_eq!(nonsense.code, nobat_core::ErrorCode::InvalidParameter);
}

async fn the_store_says_what_it_is(backend: Backend) {
    let store = backend.open().await;
    let health = store.queue.health().await.expect("healthy");
    let name = match backend {
        Backend::Sqlite => "sqlite 3.",
        Backend::Redis => "redis ",
    };
    assert!(health.store.starts_with(name), "{}", health.store);
    assert_eq!(store.queue.settings().max_dead, 10_000);
}

const UNFINISHED: &[JobState] = &[JobState::Scheduled, JobState::Queued, JobState::Leased, JobState::Failed];

fn exactly(count: u64) -> JobCount {
    JobCount { count, more: false }
}

fn at_least(count: u64) -> JobCount {
    JobCount { count, more: true }
}

async fn a_count_is_exact_up_to_a_bound_and_by_counters_beyond_it(backend: Backend) {
    let store = backend.open().await;
    let queue = &*store.queue;
    let mut consumer = queue.consumer(MODEL, "w").await.expect("a consumer");
    for payload in ["done", "dead", "retries", "runs"] {
        queue.client().enqueue(job(payload)).await.expect("accepted");
    }
    let leased = lease_all(&mut consumer, 4).await;
    let later = Some(Duration::from_secs(60));
    let settled = vec![success(&leased[0], "x"), failure(&leased[1], "y", None), failure(&leased[2], "z", later)];
    settle(&mut consumer, settled).await;
    reaches(queue, leased[0].id, JobState::Succeeded).await;
    let scheduled = JobOptions { delay: later, ..JobOptions::default() };
    queue.client().enqueue(job_with("later", scheduled)).await.expect("accepted");
    for _ in 0..30 {
        queue.client().enqueue(urgent("waits", 9)).await.expect("accepted");
    }
    queue.client().enqueue(NewJob { model: "other".into(), ..job("waits") }).await.expect("accepted");

    let few = CountBounds { counted: 20, ..CountBounds::default() };
    let of = async |filter: &ListFilter, states: &[JobState], bounds| {
        count(queue, filter, states, None, bounds).await.expect("counts")
    };
    let own = ListFilter { model: Some(MODEL.into()), ..ListFilter::default() };
    // Of one queue and by state the counters know, without a bound.
    assert_eq!(of(&own, UNFINISHED, few).await, exactly(33));
    assert_eq!(of(&own, &[JobState::Dead], few).await, exactly(1));
    let queued = ListFilter { state: Some(JobState::Queued), ..own.clone() };
    assert_eq!(of(&queued, UNFINISHED, few).await, exactly(30));
    assert_eq!(of(&queued, &[JobState::Dead], few).await, exactly(0), "a state that is not asked for");
    // Whatever else is asked for is counted, to a bound.
    let urgent = ListFilter { priority: Some(9), ..ListFilter::default() };
    assert_eq!(of(&urgent, UNFINISHED, CountBounds::default()).await, exactly(30));
    assert_eq!(of(&urgent, UNFINISHED, few).await, at_least(20));
    assert_eq!(of(&ListFilter::default(), UNFINISHED, CountBounds::default()).await, exactly(34));
    let failed = ListFilter { state: Some(JobState::Failed), ..own.clone() };
    assert_eq!(of(&failed, UNFINISHED, few).await, exactly(1));
    let sees = |job: &JobView| job.priority == 9;
    let seen = count(queue, &own, UNFINISHED, Some(&sees), CountBounds::default()).await.expect("counts");
    assert_eq!(seen, exactly(30), "counters tell nothing of what a caller may see");
}

async fn a_count_looks_at_no_more_than_it_may(backend: Backend) {
    let store = backend.open().await;
    let queue = &*store.queue;
    let client = queue.client();
    client.enqueue(urgent("rare", 9)).await.expect("accepted");
    let many = futures::future::join_all((0..3_000).map(|_| client.enqueue(job("waits")))).await;
    assert!(many.iter().all(Result::is_ok));
    let rare = ListFilter { priority: Some(9), ..ListFilter::default() };
    let bounds = |looked| CountBounds { looked, ..CountBounds::default() };
    // The oldest of all: whoever does not look at every job does not find it, and says so.
    let of = async |looked| count(queue, &rare, UNFINISHED, None, bounds(looked)).await.expect("counts");
    assert_eq!(of(1_000).await, at_least(0));
    assert_eq!(of(100_000).await, exactly(1));
    let (mut cursor, mut looked) = (None::<String>, 0);
    loop {
        let page = queue.list(&rare, cursor.as_deref(), 500).await.expect("a page");
        assert!(page.looked <= 2_000, "a page looks at {}", page.looked);
        looked += page.looked;
        cursor = page.cursor;
        if cursor.is_none() {
            break;
        }
    }
    assert!((3_001..10_000).contains(&looked), "looked at {looked} of 3001, and at some twice");
}
