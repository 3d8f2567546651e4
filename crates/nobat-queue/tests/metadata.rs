//! Both metadata stores keep the same contract, on a real Redis and a real file.

use std::sync::Arc;
use std::time::Duration;

use nobat_queue::redis::RedisQueue;
use nobat_queue::sqlite::SqliteQueue;
use nobat_queue::{MetadataStore, Queue, QueueSettings};
use nobat_testkit::{RedisServer, until_async};

const LONG: Duration = Duration::from_secs(60);

async fn keeps_the_contract(metadata: Arc<dyn MetadataStore>) {
    // Locks.
    let races = (0..20).map(|n| {
        let metadata = metadata.clone();
        tokio::spawn(async move { metadata.lock("tick", &format!("holder-{n}"), LONG).await.expect("answers") })
    });
    let mut winners = 0;
    for race in races.collect::<Vec<_>>() {
        winners += usize::from(race.await.expect("runs"));
    }
    assert_eq!(winners, 1, "exactly one of twenty gets a lock");
    assert!(metadata.lock("short", "a", LONG).await.expect("answers"));
    assert!(!metadata.lock("short", "b", LONG).await.expect("answers"));
    assert!(
        metadata.lock("short", "a", Duration::from_millis(200)).await.expect("answers"),
        "a holder changes its ttl"
    );
    until_async("the lock's end", async || metadata.lock("short", "b", LONG).await.expect("answers")).await;
    metadata.unlock("short", "a").await.expect("answers");
    assert!(!metadata.lock("short", "a", LONG).await.expect("answers"), "another's lock cannot be released");
    metadata.unlock("short", "b").await.expect("answers");
    assert!(metadata.lock("short", "a", LONG).await.expect("answers"));

    // The clock.
    let own =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_millis() as u64;
    let told = metadata.now_ms().await.expect("told");
    assert!(told.abs_diff(own) < 60_000, "both are of this machine: {told} and {own}");

    // Documents.
    metadata.put("space", "a", b"1").await.expect("written");
    metadata.put("space", "a", b"2").await.expect("written");
    metadata.put("other", "b", b"\xff\x00").await.expect("written");
    assert_eq!(metadata.documents("space").await.expect("read"), [("a".into(), "2".into())]);
    assert_eq!(metadata.documents("other").await.expect("read")[0].1[..], b"\xff\x00"[..]);
    assert!(metadata.remove("space", "a").await.expect("answers"));
    assert!(!metadata.remove("space", "a").await.expect("answers"));

    // Logs.
    for n in 0..10u8 {
        metadata.append("log", &[n], 4).await.expect("written");
    }
    let newest: Vec<_> = metadata.tail("log", 9).await.expect("read").iter().map(|entry| entry[0]).collect();
    assert_eq!(newest, [9, 8, 7, 6]);
    assert_eq!(metadata.tail("log", 2).await.expect("read").len(), 2);
    assert_eq!(metadata.tail("none", 2).await.expect("read").len(), 0);

    // Timers.
    assert!(metadata.add_timer("set", "now", b"v", Duration::ZERO).await.expect("answers"));
    assert!(!metadata.add_timer("set", "now", b"w", Duration::ZERO).await.expect("answers"), "a key is there once");
    assert!(metadata.add_timer("set", "later", b"x", LONG).await.expect("answers"));
    assert_eq!(metadata.timer("set", "now").await.expect("answers").as_deref(), Some(&b"v"[..]));
    assert_eq!(metadata.timer("set", "never").await.expect("answers"), None);
    let due = metadata.take_due("set", 10, LONG).await.expect("answers");
    assert_eq!(
        due.iter().map(|timer| (timer.key.as_str(), &timer.value[..])).collect::<Vec<_>>(),
        [("now", &b"v"[..])]
    );
    assert!(metadata.take_due("set", 10, LONG).await.expect("answers").is_empty(), "it is lent");
    assert!(metadata.move_timer("set", "now", b"v", Duration::ZERO).await.expect("answers"));
    assert_eq!(metadata.take_due("set", 10, Duration::from_millis(200)).await.expect("answers").len(), 1);
    let back = async || metadata.take_due("set", 10, LONG).await.expect("answers").len() == 1;
    until_async("a timer whose taker died", back).await;
    assert!(metadata.move_timer("set", "now", b"again", Duration::ZERO).await.expect("answers"));
    assert_eq!(metadata.take_due("set", 10, LONG).await.expect("answers")[0].value[..], b"again"[..]);
    let timers = metadata.timers("set", 10).await.expect("read");
    assert_eq!(timers.len(), 2);
    assert!(timers.iter().all(|(_, left)| *left > Duration::from_secs(30) && *left <= LONG));
    let races = (0..20).map(|n| {
        let metadata = metadata.clone();
        let own = format!("holder-{n}");
        tokio::spawn(async move {
            metadata.swap_timer("set", "now", b"again", own.as_bytes(), LONG).await.expect("answers").then_some(own)
        })
    });
    let mut winners = Vec::new();
    for race in races.collect::<Vec<_>>() {
        winners.extend(race.await.expect("runs"));
    }
    assert_eq!(winners.len(), 1, "exactly one of twenty swaps a value for its own");
    let own = winners[0].as_bytes();
    assert!(metadata.swap_timer("set", "now", b"again", own, LONG).await.expect("answers"), "its call may be repeated");
    assert!(!metadata.swap_timer("set", "now", b"other", b"x", Duration::ZERO).await.expect("answers"));
    assert!(metadata.take_due("set", 10, LONG).await.expect("answers").is_empty(), "a refused swap moves nothing");
    assert!(metadata.swap_timer("set", "now", own, own, Duration::ZERO).await.expect("answers"), "its time alone");
    assert_eq!(metadata.take_due("set", 10, LONG).await.expect("answers")[0].value[..], own[..]);
    assert!(metadata.remove_timer("set", "now").await.expect("answers"));
    assert!(!metadata.swap_timer("set", "now", own, own, LONG).await.expect("answers"), "what is gone stays gone");
    assert!(!metadata.remove_timer("set", "now").await.expect("answers"));
    assert!(!metadata.move_timer("set", "now", b"", Duration::ZERO).await.expect("answers"), "it is gone");
}

#[tokio::test]
async fn the_embedded_store_keeps_the_contract() {
    let dir = tempfile::tempdir().expect("a folder");
    let queue = SqliteQueue::open(dir.path(), QueueSettings::default()).expect("opens");
    keeps_the_contract(queue.metadata()).await;
}

#[tokio::test]
async fn the_redis_store_keeps_the_contract() {
    let server = RedisServer::start(&[]);
    let queue = RedisQueue::connect(&server.url(), QueueSettings::default(), "t").await.expect("connects");
    keeps_the_contract(queue.metadata()).await;
}

#[tokio::test]
async fn the_embedded_store_survives_a_restart() {
    let dir = tempfile::tempdir().expect("a folder");
    let queue = SqliteQueue::open(dir.path(), QueueSettings::default()).expect("opens");
    let first = queue.metadata();
    first.add_timer("set", "k", b"v", Duration::ZERO).await.expect("written");
    first.put("space", "k", b"v").await.expect("written");
    drop((first, queue));
    let queue = SqliteQueue::open(dir.path(), QueueSettings::default()).expect("opens");
    let second = queue.metadata();
    assert_eq!(second.take_due("set", 1, LONG).await.expect("answers").len(), 1);
    assert_eq!(second.documents("space").await.expect("read").len(), 1);
}
