//! Tasks run on the embedded store: what each kind does, overlap, pauses,
//! histories, and runs that a killed process left.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use nobat_queue::QueueSettings;
use nobat_queue::sqlite::SqliteQueue;
use nobat_queue::{MetadataStore, Queue};
use nobat_scheduler::schedule::{RunOutcome, RunRecord};
use nobat_scheduler::{RunQueue, RunRequest, ScheduleStore, SchedulerHandle, SchedulerSettings, start};
use serde_json::{Value, json};

struct Bench {
    metadata: Arc<dyn MetadataStore>,
    handle: SchedulerHandle,
    _dir: tempfile::TempDir,
}

async fn bench(periodic: Value) -> Bench {
    let dir = tempfile::tempdir().expect("a folder");
    let queue = SqliteQueue::open(dir.path(), QueueSettings::default()).expect("opens");
    let settings: SchedulerSettings =
        serde_json::from_value(json!({"periodic_exec": true, "periodic": periodic})).expect("settings");
    let handle = start(&settings, queue.clone(), "", "").await.expect("starts");
    Bench { metadata: queue.metadata(), handle, _dir: dir }
}

impl Bench {
    async fn runs(&self, task: &str, count: usize) -> Vec<RunRecord> {
        for _ in 0..300 {
            let runs = ScheduleStore::new(self.metadata.clone()).history(task, 10).await.expect("read");
            if runs.len() >= count {
                return runs;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("task {task} has not run {count} times");
    }

    async fn run(&self, task: &str) -> RunRecord {
        let before = ScheduleStore::new(self.metadata.clone()).history(task, 10).await.expect("read").len();
        ScheduleStore::new(self.metadata.clone()).run_now(task).await.expect("asked");
        self.runs(task, before + 1).await.swap_remove(0)
    }
}

fn yearly(name: &str, kind: &str, what: Value) -> Value {
    json!({"name": name, "schedule": "@yearly", kind: what})
}

#[tokio::test]
async fn a_command_keeps_its_exit_code_and_the_end_of_its_output() {
    let bench = bench(json!([
        yearly("good", "exec", json!({"command": ["sh", "-c", "seq 1 100000"], "max_output_bytes": 200})),
        yearly("bad", "exec", json!({"command": ["sh", "-c", "echo why >&2; exit 3"]})),
        yearly("none", "exec", json!({"command": ["/no/such/program"]})),
        {"name": "slow", "schedule": "@yearly", "timeout_s": 1, "exec": {"command": ["sleep", "60"]}},
    ]))
    .await;
    let good = bench.run("good").await;
    assert_eq!((good.outcome, good.exit_code, good.manual), (RunOutcome::Succeeded, Some(0), true));
    assert!(good.output.ends_with("100000\n") && good.output.len() <= 200, "{}", good.output.len());
    let bad = bench.run("bad").await;
    assert_eq!(bad.outcome, RunOutcome::Failed);
    assert!(bad.message.contains("exit code 3: why"), "{}", bad.message);
    assert!(bench.run("none").await.message.contains("cannot start"));
    assert!(bench.run("slow").await.message.contains("timeout_s = 1"));
    bench.handle.stop().await;
}

/// Answers each GET with what `answer` makes of the request's text.
fn server(answer: impl Fn(&str) -> Vec<u8> + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}/data", listener.local_addr().expect("bound"));
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let mut socket = socket.expect("a caller");
            let mut request = Vec::new();
            let mut chunk = [0; 1024];
            while !request.ends_with(b"\r\n\r\n") {
                match socket.read(&mut chunk).expect("a request") {
                    0 => break,
                    count => request.extend_from_slice(&chunk[..count]),
                }
            }
            let _ = socket.write_all(&answer(&String::from_utf8_lossy(&request)));
        }
    });
    url
}

#[tokio::test]
async fn a_fetch_replaces_the_file_whole_respects_its_tag_and_its_bound() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("data.csv");
    let good = server(|request| {
        if request.to_ascii_lowercase().contains("if-none-match: \"v1\"") {
            b"HTTP/1.1 304 Not Modified\r\nconnection: close\r\n\r\n".to_vec()
        } else {
            b"HTTP/1.1 200 OK\r\netag: \"v1\"\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello".to_vec()
        }
    });
    // No length given: the bound must hold while the body comes.
    let large = server(|_| [&b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n"[..], &[b'x'; 5000]].concat());
    let cut = server(|_| b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\nconnection: close\r\n\r\nhalf".to_vec());
    let fetch = |url: &str| json!({"url": url, "file": file, "max_bytes": 1000});
    let bench = bench(json!([
        yearly("good", "fetch", fetch(&good)),
        yearly("large", "fetch", fetch(&large)),
        yearly("cut", "fetch", fetch(&cut)),
    ]))
    .await;
    assert_eq!(bench.run("good").await.message, "fetched 5 bytes");
    assert_eq!(bench.run("good").await.message, "not modified");
    let large = bench.run("large").await;
    assert!(large.message.contains("larger than max_bytes = 1000"), "{}", large.message);
    assert_eq!(bench.run("cut").await.outcome, RunOutcome::Failed);
    assert_eq!(std::fs::read(&file).expect("the file"), b"hello", "the old file stays");
    let left: Vec<_> =
        std::fs::read_dir(dir.path()).expect("the folder").map(|entry| entry.expect("one").file_name()).collect();
    assert_eq!(left.len(), 2, "the file and its tag: {left:?}");
    bench.handle.stop().await;
}

#[tokio::test]
async fn overlap_skips_or_queues_and_retries_are_counted() {
    let sleep = json!({"command": ["sleep", "1.5"]});
    let bench = bench(json!([
        {"name": "skips", "schedule": "@yearly", "exec": sleep},
        {"name": "queues", "schedule": "@yearly", "overlap": "queue", "exec": sleep},
        {"name": "retries", "schedule": "@yearly", "retry": {"max_retries": 2, "delay_ms": 10}, "exec": {"command": ["false"]}},
    ]))
    .await;
    for task in ["skips", "skips", "queues", "queues", "retries"] {
        ScheduleStore::new(bench.metadata.clone()).run_now(task).await.expect("asked");
    }
    let mut outcomes: Vec<_> = bench.runs("skips", 2).await.iter().map(|run| run.outcome).collect();
    outcomes.sort_by_key(|outcome| *outcome as u8);
    assert_eq!(outcomes, [RunOutcome::Succeeded, RunOutcome::Skipped]);
    let queued = bench.runs("queues", 2).await;
    assert!(queued.iter().all(|run| run.outcome == RunOutcome::Succeeded));
    assert!(queued[0].duration_ms >= queued[1].duration_ms + 500, "the second waited for the first");
    assert_eq!(bench.runs("retries", 1).await[0].attempts, 3);
    bench.handle.stop().await;
}

#[tokio::test]
async fn a_task_is_shown_paused_and_resumed() {
    let bench = bench(json!([yearly("t", "vacuum", json!({}))])).await;
    let shown = |tasks: Vec<nobat_scheduler::schedule_store::TaskView>| (tasks[0].is_paused, tasks[0].next.is_some());
    assert_eq!(shown(ScheduleStore::new(bench.metadata.clone()).list().await.expect("read")), (false, true));
    ScheduleStore::new(bench.metadata.clone()).set_paused("t", true).await.expect("paused");
    assert_eq!(shown(ScheduleStore::new(bench.metadata.clone()).list().await.expect("read")), (true, false));
    ScheduleStore::new(bench.metadata.clone()).set_paused("t", false).await.expect("resumed");
    assert_eq!(shown(ScheduleStore::new(bench.metadata.clone()).list().await.expect("read")), (false, true));
    let unknown = ScheduleStore::new(bench.metadata.clone()).run_now("nope").await.expect_err("unknown");
    assert!(unknown.message.contains("no periodic task `nope`; tasks: t"), "{}", unknown.message);
    bench.handle.stop().await;
}

#[tokio::test]
async fn a_run_that_a_killed_process_left_is_carried_out_by_the_next_and_taken_once() {
    let dir = tempfile::tempdir().expect("a folder");
    let queue = SqliteQueue::open(dir.path(), QueueSettings::default()).expect("opens");
    let run_queue = RunQueue::new(queue.metadata());
    let run = RunRequest { task: "t".into(), tick: 60, manual: false, key: "t@60".into() };
    assert!(run_queue.push(&run).await.expect("taken"));
    assert!(!run_queue.push(&run).await.expect("answers"), "a key is taken once");
    drop(run_queue);
    let settings: SchedulerSettings =
        serde_json::from_value(json!({"periodic": [yearly("t", "vacuum", json!({}))]})).expect("settings");
    let handle = start(&settings, queue.clone(), "", "").await.expect("starts");
    let bench = Bench { metadata: queue.metadata(), handle, _dir: dir };
    let left = bench.runs("t", 1).await;
    assert_eq!((left[0].tick, left[0].outcome), (60, RunOutcome::Succeeded));
    let again = RunQueue::new(queue.metadata());
    assert!(!again.push(&run).await.expect("answers"), "not even after it was carried out");
    bench.handle.stop().await;
}
