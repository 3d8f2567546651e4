//! What only the inside can arrange: a full disk, a damaged record.

use bytes::Bytes;
use nobat_core::OwnerId;
use nobat_core::explain::Explain;
use nobat_core::job::{JobOptions, JobResult, JobState, NewJob, Outcome, Settlement};

use super::*;

fn job(payload: impl Into<Bytes>) -> NewJob {
    let options = JobOptions::default();
    NewJob { model: "m".into(), owner: OwnerId(1), options, payload: payload.into(), rows: 1, trace: "".into() }
}

fn parts(dir: &Path) -> (Folder, Journal) {
    let folder = Folder::take(dir).expect("takes it");
    let journal = Journal::open(&folder.journal(), Default::default()).expect("opens");
    (folder, journal)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_new_jobs_keeps_the_old_and_recovers() {
    let dir = tempfile::tempdir().expect("a folder");
    let (folder, journal) = parts(dir.path());
    // A quarter of a megabyte.
    journal.limit_pages(64);
    let queue = SqliteQueue::start(folder, journal, QueueSettings::default()).expect("starts");
    let lane = queue.lane();
    let mut accepted = Vec::new();
    let refused = loop {
        match lane.enqueue(job(vec![7; 20_000])).await {
            Ok(one) => accepted.push(one.id),
            Err(error) => break error,
        }
        assert!(accepted.len() < 100, "the disk does not fill up");
    };
    assert_eq!(refused.code, ErrorCode::QueueUnavailable);
    assert!(refused.message.contains(&dir.path().display().to_string()), "{}", refused.message);
    assert_eq!(queue.health().await.expect_err("ill").code, ErrorCode::QueueUnavailable);
    assert_eq!(
        lane.call(job("x"), Duration::from_secs(9)).await.expect_err("refused").code,
        ErrorCode::QueueUnavailable
    );
    assert_eq!(queue.counts("m").await.expect("counts").queued, accepted.len() as u64, "what was refused is not there");

    // What runs off makes room, and the door opens again.
    let mut consumer = queue.consumer("m", "w").await.expect("a consumer");
    let leased = consumer.step(Vec::new(), 100).await.expect("a step").leased;
    assert_eq!(leased.iter().map(|job| job.id).collect::<Vec<_>>(), accepted);
    let result = JobResult { explain: Explain::default(), outputs: "done".into() }.encode();
    let settled = |job: &nobat_core::job::LeasedJob| Settlement {
        id: job.id,
        token: job.token,
        outcome: Outcome::Succeeded(result.clone()),
    };
    assert!(consumer.step(leased.iter().map(settled).collect(), 0).await.expect("a step").refused.is_empty());
    let until = std::time::Instant::now() + Duration::from_secs(30);
    let again = loop {
        match lane.enqueue(job("fits")).await {
            Ok(one) => break one.id,
            Err(error) => assert!(std::time::Instant::now() < until, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    queue.health().await.expect("well again");
    for id in accepted {
        let view = lane.wait(id, Duration::from_secs(30)).await.expect("the store answers").expect("it is there");
        assert_eq!(view.state, JobState::Succeeded);
    }
    assert_eq!(queue.get(again).await.expect("the store answers").expect("it is there").state, JobState::Queued);
}

#[tokio::test]
async fn a_job_whose_payload_is_lost_is_dead_lettered_alone() {
    let dir = tempfile::tempdir().expect("a folder");
    let ids = {
        let queue = SqliteQueue::open(dir.path(), QueueSettings::default()).expect("opens");
        let lane = queue.lane();
        [lane.enqueue(job("good")).await.expect("accepted").id, lane.enqueue(job("lost")).await.expect("accepted").id]
    };
    let queue = SqliteQueue::open(dir.path(), QueueSettings::default()).expect("opens");
    // Behind the queue's back.
    let db = rusqlite::Connection::open(dir.path().join("queue.db")).expect("opens");
    db.execute("DELETE FROM jobs WHERE row = ?1", [ids[1].locator]).expect("deleted");
    let mut consumer = queue.consumer("m", "w").await.expect("a consumer");
    let leased = consumer.step(Vec::new(), 8).await.expect("a step").leased;
    assert_eq!(leased.iter().map(|job| job.payload.clone()).collect::<Vec<_>>(), ["good"]);
    let view = queue.get(ids[1]).await.expect("the store answers").expect("it is there");
    assert_eq!(view.state, JobState::Dead);
    assert!(view.error.expect("a reason").message.contains("cannot be read"));
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
        queue.lane().enqueue(job("kept")).await.expect("accepted").id
    };
    let db = rusqlite::Connection::open(dir.path().join("queue.db")).expect("opens");
    db.execute_batch("ALTER TABLE queues DROP COLUMN dropped; PRAGMA user_version=1").expect("as it was");
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
