//! Finding jobs: by tags, by their callers' request ids, by time, by what they ended as.

use nobat_core::job::{JobOptions, JobState, NewJob};
use nobat_core::tags::Tags;
use nobat_core::{ErrorCode, JobId, OwnerId};
use nobat_queue::{ListFilter, Queue, QueueSettings};

use crate::admin::all;
use crate::on_every_store;
use crate::play::*;
use crate::stores::Backend;

on_every_store! {
    a_tag_finds_its_jobs_in_every_state
    a_request_is_found_by_the_id_that_its_caller_gave
    an_idempotency_key_finds_its_job
    filters_are_of_one_mind
    jobs_that_were_made_for_another_are_found_by_it
    an_error_finds_its_jobs_however_many_succeed
    a_page_of_a_tag_goes_on_where_the_one_before_ended
    hostile_tags_are_tags
    without_an_index_nothing_is_written_and_a_search_says_so
}

fn tagged(tags: &[&str]) -> NewJob {
    let mut own = Tags::default();
    tags.iter().for_each(|tag| own.add(tag).expect("a tag"));
    job_with("tagged", JobOptions { tags: own, ..JobOptions::default() })
}

fn by_tag(tag: &str) -> ListFilter {
    ListFilter { tag: Some(tag.into()), ..ListFilter::default() }
}

fn by_text(text: &str) -> ListFilter {
    ListFilter { text: Some(text.into()), ..ListFilter::default() }
}

async fn enqueue(queue: &dyn Queue, job: NewJob) -> JobId {
    queue.client().enqueue(job).await.expect("accepted").id
}

async fn ids(queue: &dyn Queue, filter: &ListFilter, limit: usize) -> Vec<JobId> {
    all(queue, filter, limit).await.iter().map(|view| view.id).collect()
}

async fn a_tag_finds_its_jobs_in_every_state(backend: Backend) {
    let store = backend.open().await;
    let queue = &*store.queue;
    let mut consumer = queue.consumer(MODEL, "w").await.expect("a consumer");
    let mut expected = Vec::new();
    for state in [JobState::Succeeded, JobState::Dead, JobState::Failed, JobState::Expired, JobState::Leased] {
        expected.push((enqueue(queue, tagged(&["team=a", "x"])).await, state));
    }
    let leased = lease_all(&mut consumer, 5).await;
    let later = Some(std::time::Duration::from_secs(60));
    let settled = vec![
        success(&leased[0], "x"),
        failure(&leased[1], "y", None),
        failure(&leased[2], "z", later),
        too_late(&leased[3]),
    ];
    settle(&mut consumer, settled).await;
    // A large payload travels beside its record.
    let large = NewJob { payload: vec![7; 100_000].into(), ..tagged(&["team=a"]) };
    expected.push((enqueue(queue, large).await, JobState::Queued));
    let cancelled = enqueue(queue, tagged(&["team=a"])).await;
    queue.cancel(cancelled).await.expect("cancelled");
    expected.push((cancelled, JobState::Cancelled));
    enqueue(queue, tagged(&["team=b"])).await;
    enqueue(queue, job("untagged")).await;

    for filter in [by_tag("team=a"), by_text("team=a")] {
        let found = all(queue, &filter, 100).await;
        assert_eq!(found.len(), expected.len());
        for view in &found {
            let state = expected.iter().find(|(id, _)| *id == view.id).map(|(_, state)| *state);
            assert_eq!(state, Some(view.state));
            assert!(view.tags.contains("team=a") && view.result.is_none());
        }
    }
    let dead = ListFilter { state: Some(JobState::Dead), error: Some(ErrorCode::InferenceFailed), ..by_tag("x") };
    assert_eq!(ids(queue, &dead, 10).await, [expected[1].0]);
    assert!(ids(queue, &by_tag("team"), 10).await.is_empty(), "a part of a tag is another tag");
    let read = queue.get(expected[0].0).await.expect("reads").expect("is there");
    assert_eq!(read.tags.iter().collect::<Vec<_>>(), ["team=a", "x"]);
    assert_eq!(outputs(&read), "x");
    let payload = queue.input(expected[5].0).await.expect("reads").expect("has one");
    assert_eq!(payload.len(), 100_000, "tags are no part of an input");
    assert_eq!(payloads(&leased)[0], "tagged");
}

async fn a_request_is_found_by_the_id_that_its_caller_gave(backend: Backend) {
    let store = backend.open().await;
    let queue = &*store.queue;
    let mut consumer = queue.consumer(MODEL, "w").await.expect("a consumer");
    let given = enqueue(queue, NewJob { trace: "order-17".into(), ..job("a") }).await;
    enqueue(queue, NewJob { trace: "0123456789abcdef".into(), ..job("b") }).await;
    assert_eq!(ids(queue, &by_text("order-17"), 10).await, [given]);
    let leased = lease_all(&mut consumer, 2).await;
    settle(&mut consumer, leased.iter().map(|job| success(job, "x")).collect()).await;
    assert_eq!(ids(queue, &by_text("order-17"), 10).await, [given]);
    assert!(ids(queue, &by_tag("order-17"), 10).await.is_empty(), "it is no tag");
    assert!(ids(queue, &by_text("0123456789abcdef"), 10).await.is_empty(), "made here, and not indexed");
}

async fn an_idempotency_key_finds_its_job(backend: Backend) {
    let store = backend.open().await;
    let queue = &*store.queue;
    let id = enqueue(queue, keyed("k", 1)).await;
    let find = async |model: &str, owner, key: &str| queue.find_idempotent(model, owner, key).await.expect("answers");
    assert_eq!(find(MODEL, OwnerId(7), "k").await, Some(id));
    assert_eq!(find(MODEL, OwnerId(8), "k").await, None);
    assert_eq!(find(MODEL, OwnerId(7), "other").await, None);
    assert_eq!(find("nobody-used-this", OwnerId(7), "k").await, None);
}

async fn jobs_that_were_made_for_another_are_found_by_it(backend: Backend) {
    let store = backend.open().await;
    let queue = &*store.queue;
    let mut consumer = queue.consumer(MODEL, "w").await.expect("a consumer");
    let (parent, other) = (enqueue(queue, job("a")).await, enqueue(queue, tagged(&["x"])).await);
    let child = |of| job_with("child", JobOptions { tags: Tags::of_parent(of), ..JobOptions::default() });
    let first = enqueue(queue, child(parent)).await;
    let second = enqueue(queue, NewJob { model: "elsewhere".into(), ..child(parent) }).await;
    let own = enqueue(queue, child(other)).await;
    let of = |parent| ListFilter { parent: Some(parent), ..ListFilter::default() };
    let leased = lease_all(&mut consumer, 4).await;
    settle(&mut consumer, leased.iter().map(|job| success(job, "x")).collect()).await;
    let found: std::collections::HashSet<_> = ids(queue, &of(parent), 10).await.into_iter().collect();
    assert_eq!(found, [first, second].into());
    assert_eq!(ids(queue, &of(other), 10).await, [own]);
    assert!(ids(queue, &of(first), 10).await.is_empty());
    let only = ListFilter { tag: Some("x".into()), ..of(parent) };
    assert!(ids(queue, &only, 10).await.is_empty(), "all filters count");
    let read = queue.get(first).await.expect("reads").expect("is there");
    assert_eq!((read.tags.parent(), read.tags.iter().count()), (Some(parent), 0));
}

async fn an_error_finds_its_jobs_however_many_succeed(backend: Backend) {
    let store = backend.open().await;
    let queue = &*store.queue;
    let mut consumer = queue.consumer(MODEL, "w").await.expect("a consumer");
    for payload in ["dead", "dead too", "retries", "late"] {
        enqueue(queue, job(payload)).await;
    }
    let leased = lease_all(&mut consumer, 4).await;
    let later = Some(std::time::Duration::from_secs(60));
    let settled = vec![
        failure(&leased[0], "y", None),
        failure(&leased[1], "y", None),
        failure(&leased[2], "z", later),
        too_late(&leased[3]),
    ];
    settle(&mut consumer, settled).await;
    let cancelled = enqueue(queue, job("cancelled")).await;
    queue.cancel(cancelled).await.expect("cancelled");
    // More than a call looks at.
    let client = queue.client();
    let many = futures::future::join_all((0..2_500).map(|_| client.enqueue(job("fine")))).await;
    assert!(many.iter().all(Result::is_ok));
    for _ in 0..5 {
        let some = lease_all(&mut consumer, 500).await;
        settle(&mut consumer, some.iter().map(|job| success(job, "x")).collect()).await;
    }
    // A page or two a place where such jobs may be, and none that shows nothing of many.
    let found = async |code, state| {
        let filter = ListFilter { error: Some(code), state, ..ListFilter::default() };
        let (mut found, mut cursor, mut pages) = (Vec::new(), None::<String>, 0);
        loop {
            let page = queue.list(&filter, cursor.as_deref(), 50).await.expect("lists");
            found.extend(page.jobs.iter().map(|view| view.id));
            (cursor, pages) = (page.cursor, pages + 1);
            assert!(pages <= 4, "{code:?} in {state:?} took too many pages");
            if cursor.is_none() {
                found.sort();
                return found;
            }
        }
    };
    let of = |places: &[usize]| {
        let mut ids: Vec<JobId> = places.iter().map(|&at| leased[at].id).collect();
        ids.sort();
        ids
    };
    let (failed, dead) = (ErrorCode::InferenceFailed, Some(JobState::Dead));
    assert_eq!(found(failed, None).await, of(&[0, 1, 2]));
    assert_eq!(found(failed, dead).await, of(&[0, 1]));
    assert_eq!(found(failed, Some(JobState::Failed)).await, of(&[2]));
    assert_eq!(found(failed, Some(JobState::Succeeded)).await, []);
    assert_eq!(found(ErrorCode::DeadlineExceeded, None).await, of(&[3]));
    assert_eq!(found(ErrorCode::JobCancelled, None).await, [cancelled]);
    assert_eq!(found(ErrorCode::Internal, None).await, []);

    // What goes back or is deleted has no error any more.
    assert_eq!(queue.redrive(MODEL, &of(&[0]), 1).await.expect("redriven"), 1);
    assert_eq!(found(failed, None).await, of(&[1, 2]));
    assert_eq!(queue.purge(MODEL, &of(&[1]), 1).await.expect("purged"), 1);
    assert_eq!(found(failed, None).await, of(&[2]));
    let again = lease_all(&mut consumer, 1).await;
    settle(&mut consumer, vec![failure(&again[0], "again", None)]).await;
    // An end is seen once it is kept.
    queue.get(again[0].id).await.expect("reads");
    assert_eq!(found(failed, dead).await.into_iter().collect::<std::collections::HashSet<_>>(), [leased[0].id].into());
}

async fn filters_are_of_one_mind(backend: Backend) {
    let store = backend.open().await;
    let queue = &*store.queue;
    let high = enqueue(queue, urgent("a", 9)).await;
    let low = enqueue(queue, job("b")).await;
    let created = queue.get(low).await.expect("reads").expect("is there").created_at_ms;
    let only = |priority| ListFilter { priority: Some(priority), ..ListFilter::default() };
    assert_eq!(ids(queue, &only(9), 10).await, [high]);
    assert_eq!(ids(queue, &only(0), 10).await, [low]);
    let since = |ms| ListFilter { since_ms: Some(ms), ..ListFilter::default() };
    let until = |ms| ListFilter { until_ms: Some(ms), ..ListFilter::default() };
    assert_eq!(ids(queue, &since(created - 60_000), 1).await, [low, high], "the newest first");
    assert!(ids(queue, &since(created + 120_000), 10).await.is_empty());
    assert_eq!(ids(queue, &until(created + 1), 10).await.len(), 2);
    assert!(ids(queue, &until(created - 120_000), 10).await.is_empty());
    assert!(ids(queue, &ListFilter { error: Some(ErrorCode::Internal), ..ListFilter::default() }, 10).await.is_empty());
    let both = enqueue(queue, tagged(&["one", "two"])).await;
    let narrowed = |text| ListFilter { text: Some(text), ..by_tag("one") };
    assert_eq!(ids(queue, &narrowed("two".into()), 10).await, [both]);
    assert!(ids(queue, &narrowed("absent".into()), 10).await.is_empty(), "a tag does not do for a text");
}

async fn a_page_of_a_tag_goes_on_where_the_one_before_ended(backend: Backend) {
    let store = backend.open().await;
    let queue = &*store.queue;
    let client = queue.client();
    let enqueues =
        (0..700).map(|number| client.enqueue(tagged(&["all", if number % 70 == 0 { "some" } else { "rest" }])));
    for accepted in futures::future::join_all(enqueues).await {
        accepted.expect("accepted");
    }
    enqueue(queue, NewJob { model: "other".into(), ..tagged(&["all"]) }).await;
    for (tag, count) in [("all", 701), ("some", 10), ("rest", 690)] {
        for limit in [7, 500] {
            let found = ids(queue, &by_tag(tag), limit).await;
            let distinct: std::collections::HashSet<_> = found.iter().collect();
            assert_eq!((found.len(), distinct.len()), (count, count), "{tag} by {limit}");
        }
    }
    let page = queue.list(&by_tag("all"), None, 10).await.expect("a page");
    assert_eq!(page.jobs.len(), 10, "a page is full while there are jobs");
    let here = ListFilter { model: Some("other".into()), ..by_tag("all") };
    assert_eq!(ids(queue, &here, 10).await.len(), 1);
    let any = ListFilter::default();
    let own = queue.list(&any, None, 1).await.expect("a page").cursor.expect("more than one");
    let far = own.rsplit_once(':').map(|(place, _)| format!("{place}:9300000000000000000"));
    for far in ["0:0:18446744073709551615", "0:3:9223372036854775807"].map(str::to_owned).into_iter().chain(far) {
        if let Err(error) = queue.list(&any, Some(&far), 10).await {
            assert_eq!(error.code, ErrorCode::InvalidParameter, "{far}: {error}");
        }
    }
    for nonsense in ["no cursor", "x:1", "m:1:1:1:x", "-1"] {
        assert_eq!(
            queue.list(&by_tag("all"), Some(nonsense), 10).await.expect_err("refused").code,
            ErrorCode::InvalidParameter
        );
    }
}

async fn hostile_tags_are_tags(backend: Backend) {
    let store = backend.open().await;
    let queue = &*store.queue;
    let mut expected = Vec::new();
    for tag in
        ["<script>", "'; DROP TABLE found; --", "{digits}:ready", "*", "سلام", "a b", "%00", "\u{202e}x", "=", ":"]
    {
        expected.push((tag, enqueue(queue, tagged(&[tag])).await));
    }
    for (tag, id) in expected {
        assert_eq!(ids(queue, &by_tag(tag), 10).await, [id], "{tag}");
    }
}

async fn without_an_index_nothing_is_written_and_a_search_says_so(backend: Backend) {
    let store = backend.open_with(QueueSettings { index: false, ..QueueSettings::default() }).await;
    let queue = &*store.queue;
    let id = enqueue(queue, tagged(&["a"])).await;
    let refused = queue.list(&by_tag("a"), None, 10).await.expect_err("no index");
    assert_eq!(refused.code, ErrorCode::Unsupported);
    assert!(refused.message.contains("queue.index"), "{}", refused.message);
    assert_eq!(ids(queue, &ListFilter::default(), 10).await, [id], "lists go on");
    let view = queue.get(id).await.expect("reads").expect("is there");
    assert!(view.tags.contains("a"), "a job keeps its tags");
}
