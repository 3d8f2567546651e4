//! What only the inside can arrange: a full disk, a damaged record.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use nobat_core::job::{JobOptions, JobResult, JobState, NewJob, Outcome, Settlement};
use nobat_core::timings::Timings;
use nobat_core::{ErrorCode, OwnerId};

use super::folder::Folder;
use super::journal::Journal;
use super::*;
use crate::api::{Durability, Queue, QueueSettings};

fn job(payload: impl Into<Bytes>) -> NewJob {
    let options = JobOptions::default();
    NewJob { model: "m".into(), owner: OwnerId(1), options, payload: payload.into(), rows: 1, trace: "".into() }
}

fn parts(dir: &Path) -> (Folder, Journal) {
    let folder = Folder::take(dir).expect("takes it");
    let journal = Journal::open(&folder.journal(), Default::default(), true).expect("opens");
    (folder, journal)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_new_jobs_keeps_the_old_and_recovers() {
    let dir = tempfile::tempdir().expect("a folder");
    let (folder, journal) = parts(dir.path());
    // A quarter of a megabyte.
    journal.limit_pages(64);
    let queue = SqliteQueue::start(folder, journal, QueueSettings::default(), Vec::new()).expect("starts");
    let client = queue.client();
    let mut accepted = Vec::new();
    let refused = loop {
        match client.enqueue(job(vec![7; 20_000])).await {
            Ok(one) => accepted.push(one.id),
            Err(error) => break error,
        }
        assert!(accepted.len() < 100, "the disk does not fill up");
    };
    assert_eq!(refused.code, ErrorCode::QueueUnavailable);
    assert!(refused.message.contains(&dir.path().display().to_string()), "{}", refused.message);
    assert_eq!(queue.health().await.expect_err("ill").code, ErrorCode::QueueUnavailable);
    assert_eq!(
        client.call(job("x"), Duration::from_secs(9)).await.expect_err("refused").code,
        ErrorCode::QueueUnavailable
    );
    assert_eq!(queue.counts("m").await.expect("counts").queued, accepted.len() as u64, "what was refused is not there");

    // What runs off makes room, and the door opens again.
    let mut consumer = queue.consumer("m", "w").await.expect("a consumer");
    let leased = consumer.settle_and_lease(Vec::new(), 100).await.expect("a step").leased;
    assert_eq!(leased.iter().map(|job| job.id).collect::<Vec<_>>(), accepted);
    let result = JobResult { timings: Timings::default(), outputs: "done".into() }.encode();
    let settled = |job: &nobat_core::job::LeasedJob| Settlement {
        id: job.id,
        token: job.token,
        outcome: Outcome::Succeeded(result.clone()),
    };
    assert!(
        consumer.settle_and_lease(leased.iter().map(settled).collect(), 0).await.expect("a step").refused.is_empty()
    );
    let until = std::time::Instant::now() + Duration::from_secs(30);
    let again = loop {
        match client.enqueue(job("fits")).await {
            Ok(one) => break one.id,
            Err(error) => assert!(std::time::Instant::now() < until, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    queue.health().await.expect("well again");
    for id in accepted {
        let view = client.wait(id, Duration::from_secs(30)).await.expect("the store answers").expect("it is there");
        assert_eq!(view.state, JobState::Succeeded);
    }
    assert_eq!(queue.get(again).await.expect("the store answers").expect("it is there").state, JobState::Queued);
}

/// Waits until the store takes jobs, or takes none.
async fn takes(condition: &mut crate::Condition, wanted: bool) {
    let seen = async {
        while condition.refusal().is_none() != wanted {
            condition.changed().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), seen).await.expect("the condition changes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_hangs_or_fails_closes_the_door_and_it_opens_without_a_caller() {
    let dir = tempfile::tempdir().expect("a folder");
    let queue = SqliteQueue::open(dir.path(), QueueSettings::default()).expect("opens");
    let (client, mut condition) = (queue.client(), queue.condition());
    client.enqueue(job("before")).await.expect("accepted");
    // Holds up the next commit, as a disk that stalls does, until SQLite gives up.
    let db = rusqlite::Connection::open(dir.path().join("queue.db")).expect("opens");
    db.execute_batch("BEGIN IMMEDIATE").expect("begun");
    let held_up = tokio::spawn({
        let client = queue.client();
        async move { client.enqueue(job("held up")).await }
    });
    takes(&mut condition, false).await;
    assert!(!held_up.is_finished(), "its commit hangs");
    let refused = client.enqueue(job("x")).await.expect_err("refused at once");
    assert!(refused.message.contains("does not answer"), "{refused}");
    assert_eq!(condition.refusal().expect("refused").error.message, refused.message);
    assert_eq!(queue.health().await.expect_err("ill").message, refused.message);
    // SQLite's own patience ends; nothing is left that has to be committed.
    let refused = held_up.await.expect("no panic").expect_err("not kept");
    assert!(refused.message.contains("cannot be written"), "{refused}");
    assert_eq!(queue.counts("m").await.expect("counts").queued, 1);
    assert!(condition.refusal().is_some());
    db.execute_batch("ROLLBACK").expect("ended");
    takes(&mut condition, true).await;
    client.enqueue(job("after")).await.expect("accepted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_that_is_moved_away_is_noticed_and_nothing_is_accepted_into_it() {
    let parent = tempfile::tempdir().expect("a folder");
    let (data, away) = (parent.path().join("data"), parent.path().join("away"));
    let queue = SqliteQueue::open(&data, QueueSettings::default()).expect("opens");
    assert_eq!(queue.folder(), Some(&*data));
    let (client, mut condition) = (queue.client(), queue.condition());
    let before = client.enqueue(job("before")).await.expect("accepted").id;
    std::fs::rename(&data, &away).expect("moved");
    // At once, whether anybody has looked or not.
    let refused = client.enqueue(job("x")).await.expect_err("refused");
    assert!(refused.message.contains("removed or replaced"), "{refused}");
    takes(&mut condition, false).await;
    assert!(queue.health().await.expect_err("ill").message.contains("removed or replaced"));
    // Another process takes the path; this one stays shut.
    let other = SqliteQueue::open(&data, QueueSettings::default()).expect("the path is free");
    assert!(other.condition().refusal().is_none());
    client.enqueue(job("x")).await.expect_err("refused");
    drop(other);
    std::fs::remove_dir_all(&data).expect("removed");
    std::fs::rename(&away, &data).expect("put back");
    takes(&mut condition, true).await;
    let after = client.enqueue(job("after")).await.expect("accepted").id;
    // Without a call it is noticed too.
    std::fs::rename(&data, &away).expect("moved");
    takes(&mut condition, false).await;
    std::fs::rename(&away, &data).expect("put back");
    takes(&mut condition, true).await;
    drop((client, queue));
    let queue = SqliteQueue::open(&data, QueueSettings::default()).expect("opens");
    for id in [before, after] {
        assert_eq!(queue.get(id).await.expect("the store answers").expect("kept").state, JobState::Queued);
    }
}

/// Copies what is in a folder at this moment, as a killed process leaves it.
fn killed(from: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().expect("a folder");
    for name in ["queue.db", "queue.db-wal", "ledger.db", "ledger.db-wal"] {
        std::fs::copy(from.join(name), to.path().join(name)).expect("copied");
    }
    to
}

#[tokio::test]
async fn commits_that_a_damaged_log_loses_are_told_once_and_kept_aside() {
    let dir = tempfile::tempdir().expect("a folder");
    let queue = SqliteQueue::open(dir.path(), QueueSettings::default()).expect("opens");
    let client = queue.client();
    let mut ids = Vec::new();
    for n in 0..5 {
        ids.push(client.enqueue(job(vec![n; 9_000])).await.expect("accepted").id);
    }
    let whole = killed(dir.path());
    let told = SqliteQueue::open(whole.path(), QueueSettings::default()).expect("opens");
    assert_eq!(told.health().await.expect("well").warnings, Vec::<String>::new());
    for id in &ids {
        assert!(told.get(*id).await.expect("the store answers").is_some());
    }
    let damaged = killed(dir.path());
    let log = damaged.path().join("queue.db-wal");
    let mut bytes = std::fs::read(&log).expect("reads");
    let at = bytes.len() - 500;
    bytes[at] ^= 1;
    std::fs::write(&log, &bytes).expect("written");
    let told = SqliteQueue::open(damaged.path(), QueueSettings::default()).expect("opens");
    let warnings = told.health().await.expect("well").warnings;
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("is damaged, at byte") && warnings[0].contains("1 or more"), "{warnings:?}");
    assert!(told.get(ids[4]).await.expect("the store answers").is_none(), "it is lost");
    assert!(told.get(ids[3]).await.expect("the store answers").is_some());
    assert_eq!(std::fs::read(damaged.path().join("queue.db-wal.damaged")).expect("kept"), bytes);
    told.client().enqueue(job("goes on")).await.expect("accepted");
    let again = killed(damaged.path());
    let told = SqliteQueue::open(again.path(), QueueSettings::default()).expect("opens");
    assert_eq!(told.health().await.expect("well").warnings, Vec::<String>::new(), "told once");
    assert_eq!(told.counts("m").await.expect("counts").queued, 5);
}

#[tokio::test]
async fn a_key_ends_with_its_jobs_record_over_a_restart_too() {
    let dir = tempfile::tempdir().expect("a folder");
    let keyed = |key: &str, kept: Duration| {
        let mut job = job("keyed");
        job.options.idempotency = Some(nobat_core::job::Idempotency { key: key.into(), fingerprint: 1 });
        job.options.result_ttl = kept;
        job
    };
    let kept = [Duration::from_millis(200), Duration::from_secs(600)];
    let mut first = Vec::new();
    {
        let queue = SqliteQueue::open(dir.path(), QueueSettings::default()).expect("opens");
        let client = queue.client();
        for (key, kept) in ["short", "long", "waits", "purged"].into_iter().zip([kept[0], kept[1], kept[0], kept[1]]) {
            first.push(client.enqueue(keyed(key, kept)).await.expect("accepted").id);
        }
        for id in &first[..2] {
            queue.cancel(*id).await.expect("cancelled");
        }
        let mut consumer = queue.consumer("m", "w").await.expect("a consumer");
        let leased = consumer.settle_and_lease(Vec::new(), 2).await.expect("a step").leased;
        let error = nobat_core::job::JobError { code: ErrorCode::InferenceFailed, message: "no".into() };
        let outcomes = [Outcome::Released, Outcome::Failed { error, retry_in: None }];
        let settlements =
            leased.iter().zip(outcomes).map(|(job, outcome)| Settlement { id: job.id, token: job.token, outcome });
        consumer.settle_and_lease(settlements.collect(), 0).await.expect("a step");
        assert_eq!(queue.purge("m", &first[3..], 1).await.expect("purged"), 1);
    }
    tokio::time::sleep(Duration::from_millis(250)).await;
    let queue = SqliteQueue::open(dir.path(), QueueSettings::default()).expect("opens");
    let client = queue.client();
    for (at, (key, duplicate)) in
        [("short", false), ("long", true), ("waits", true), ("purged", false)].into_iter().enumerate()
    {
        let again = client.enqueue(keyed(key, kept[1])).await.expect("accepted");
        assert_eq!((again.duplicate, again.id == first[at]), (duplicate, duplicate), "{key}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_row_cannot_hold_fails_alone_and_the_store_goes_on() {
    let dir = tempfile::tempdir().expect("a folder");
    let (folder, mut journal) = parts(dir.path());
    journal.limit_rows(100_000);
    let most = journal.value_max();
    assert!(most < 100_000);
    let queue = SqliteQueue::start(folder, journal, QueueSettings::default(), Vec::new()).expect("starts");
    assert_eq!(queue.max_value_bytes(), most);
    let client = queue.client();
    let refused = client.enqueue(job(vec![7; most + 1])).await.expect_err("too large");
    assert_eq!(refused.code, ErrorCode::PayloadTooLarge);
    assert_eq!(
        client.call(job(vec![7; most + 1]), Duration::from_secs(9)).await.expect_err("too large").code,
        ErrorCode::PayloadTooLarge
    );
    let ids = [
        client.enqueue(job(vec![7; most])).await.expect("fits").id,
        client.enqueue(job("huge")).await.expect("accepted").id,
        client.enqueue(job("wordy")).await.expect("accepted").id,
    ];
    let mut consumer = queue.consumer("m", "w").await.expect("a consumer");
    let leased = consumer.settle_and_lease(Vec::new(), 3).await.expect("a step").leased;
    let long = nobat_core::job::JobError { code: ErrorCode::InferenceFailed, message: "x".repeat(200_000) };
    let outcomes = [
        Outcome::Succeeded(vec![0; most].into()),
        Outcome::Succeeded(vec![0; most + 1].into()),
        Outcome::Failed { error: long, retry_in: None },
    ];
    let settled =
        leased.iter().zip(outcomes).map(|(job, outcome)| Settlement { id: job.id, token: job.token, outcome });
    assert!(consumer.settle_and_lease(settled.collect(), 0).await.expect("a step").refused.is_empty());
    for (id, state) in ids.iter().zip([JobState::Succeeded, JobState::Dead, JobState::Dead]) {
        let view = client.wait(*id, Duration::from_secs(30)).await.expect("answered").expect("is there");
        assert_eq!(view.state, state);
    }
    let view = queue.get(ids[1]).await.expect("answered").expect("is there");
    let error = view.error.expect("says why");
    assert_eq!(error.code, ErrorCode::PayloadTooLarge);
    assert!(error.message.contains("fewer outputs"), "{}", error.message);
    queue.health().await.expect("well");
    client.enqueue(job("and on")).await.expect("accepted");
}

#[tokio::test]
async fn a_job_whose_payload_is_lost_is_dead_lettered_alone() {
    let dir = tempfile::tempdir().expect("a folder");
    let ids = {
        let queue = SqliteQueue::open(dir.path(), QueueSettings::default()).expect("opens");
        let client = queue.client();
        [
            client.enqueue(job("good")).await.expect("accepted").id,
            client.enqueue(job("lost")).await.expect("accepted").id,
        ]
    };
    let queue = SqliteQueue::open(dir.path(), QueueSettings::default()).expect("opens");
    // Behind the queue's back.
    let db = rusqlite::Connection::open(dir.path().join("queue.db")).expect("opens");
    db.execute("DELETE FROM jobs WHERE row = ?1", [ids[1].locator]).expect("deleted");
    let mut consumer = queue.consumer("m", "w").await.expect("a consumer");
    let leased = consumer.settle_and_lease(Vec::new(), 8).await.expect("a step").leased;
    assert_eq!(leased.iter().map(|job| job.payload.clone()).collect::<Vec<_>>(), ["good"]);
    let view = queue.get(ids[1]).await.expect("the store answers").expect("it is there");
    assert_eq!(view.state, JobState::Dead);
    assert!(view.error.expect("a reason").message.contains("cannot be read"));
}

#[test]
fn replicated_is_refused_where_there_is_no_replica() {
    let dir = tempfile::tempdir().expect("a folder");
    let settings = QueueSettings { durability: Durability::Replicated, ..QueueSettings::default() };
    let refused = SqliteQueue::open(dir.path(), settings).err().expect("refused");
    assert_eq!(refused.code, ErrorCode::InvalidParameter);
    assert!(refused.message.contains("needs Redis"), "{}", refused.message);
}

#[tokio::test]
async fn a_folder_of_a_newer_version_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    drop(SqliteQueue::open(dir.path(), QueueSettings::default()).expect("opens"));
    let db = rusqlite::Connection::open(dir.path().join("queue.db")).expect("opens");
    db.pragma_update(None, "user_version", 99).expect("set");
    drop(db);
    let refused = SqliteQueue::open(dir.path(), QueueSettings::default()).err().expect("refused");
    assert!(refused.message.contains("version 99"), "{}", refused.message);
}

#[tokio::test]
async fn a_folder_of_the_version_before_is_brought_along() {
    let dir = tempfile::tempdir().expect("a folder");
    let id = {
        let queue = SqliteQueue::open(dir.path(), QueueSettings::default()).expect("opens");
        queue.client().enqueue(job("kept")).await.expect("accepted").id
    };
    let db = rusqlite::Connection::open(dir.path().join("queue.db")).expect("opens");
    let before = "ALTER TABLE queues DROP COLUMN dropped; ALTER TABLE jobs DROP COLUMN tags;
        ALTER TABLE results DROP COLUMN tags; DROP TABLE found; PRAGMA user_version=1";
    db.execute_batch(before).expect("as it was");
    drop(db);
    for dropped in [0, 1] {
        let queue = SqliteQueue::open(dir.path(), QueueSettings::default()).expect("opens");
        let counts = queue.counts("m").await.expect("counts");
        assert_eq!((counts.enqueued_total, counts.finished_total, counts.dropped_total), (1, dropped, dropped));
        if dropped == 0 {
            queue.cancel(id).await.expect("cancelled");
        }
    }
}

#[tokio::test]
async fn a_folder_that_is_no_queue_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::write(dir.path().join("queue.db"), vec![b'x'; 8_192]).expect("written");
    let refused = SqliteQueue::open(dir.path(), QueueSettings::default()).err().expect("refused");
    assert_eq!(refused.code, ErrorCode::QueueUnavailable);
    assert!(refused.message.contains(&dir.path().display().to_string()), "{}", refused.message);
}
