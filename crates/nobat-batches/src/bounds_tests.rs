//! That nobody's files and batches grow over what an operator allows, and none is deleted that is read.

use std::fs::{self, File};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use nobat_core::{ErrorCode, OwnerId};
use nobat_queue::sqlite::SqliteQueue;
use nobat_queue::{MetadataStore, Queue, QueueSettings};
use object_store::memory::InMemory;
use serde_json::Value;

use crate::answer::{AnswerLine, LineAnswer};
use crate::batch::store::{Batches, NewBatch};
use crate::batch::{Batch, Status};
use crate::files::FileRecord;
use crate::files::bucket::Bucket;
use crate::files::contents::{Contents, blocking};
use crate::files::store::{BATCHES, Files};
use crate::runner::RunningBatches;
use crate::settings::FileSettings;

const OWNER: OwnerId = OwnerId(7);

struct House {
    batches: Batches,
    metadata: Arc<dyn MetadataStore>,
    folder: tempfile::TempDir,
}

fn house(settings: FileSettings) -> House {
    let folder = tempfile::tempdir().expect("a folder");
    let queue = SqliteQueue::open(folder.path(), QueueSettings::default()).expect("opens");
    let files = Files::in_folder(queue.metadata(), settings, folder.path().join("files")).expect("a folder");
    House {
        batches: Batches::new(queue.metadata(), files, Duration::from_secs(30)),
        metadata: queue.metadata(),
        folder,
    }
}

impl House {
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path().join("files")).expect("a folder");
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
    }

    fn bytes(&self) -> u64 {
        let path = |name: &String| self.folder.path().join("files").join(name);
        self.names().iter().map(|name| fs::metadata(path(name)).expect("a file").len()).sum()
    }

    async fn file(&self, text: String) -> FileRecord {
        let mut upload = self.batches.files().upload(OWNER, "in.jsonl", "batch").await.expect("begun");
        upload.write(text.into()).await.expect("written");
        upload.finish().await.expect("kept")
    }

    fn new_batch(owner: OwnerId, file: &str) -> NewBatch {
        NewBatch {
            owner,
            caller: Value::Null,
            endpoint: "/v1/embeddings".into(),
            input_file_id: file.into(),
            completion_window: "1h".into(),
            metadata: Default::default(),
        }
    }
}

fn lines(count: usize) -> String {
    (0..count)
        .map(|at| format!("{{\"custom_id\":\"{at}\",\"method\":\"POST\",\"url\":\"/v1/embeddings\",\"body\":{{}}}}\n"))
        .collect()
}

/// Answers of so many bytes.
struct Long(usize);

#[async_trait]
impl AnswerLine for Long {
    async fn answer(&self, _: &Value, _: &str, _: &str, _: &str, _: Duration) -> LineAnswer {
        let body = format!("\"{}\"", "a".repeat(self.0));
        LineAnswer { status: 200, request_id: "r".into(), body: body.into_bytes() }
    }
}

async fn wait_for(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    for _ in 0..600 {
        if is_so().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{what}: not within 30 s");
}

#[tokio::test]
async fn uploads_at_the_same_time_share_the_room_and_one_that_is_dropped_leaves_none_of_it() {
    let house = house(FileSettings { max_file_bytes: 1_000, max_bytes: 1_000, ..FileSettings::default() });
    let files = house.batches.files();
    let mut first = files.upload(OWNER, "a", "batch").await.expect("begun");
    let mut second = files.upload(OWNER, "b", "batch").await.expect("begun");
    for piece in ["a"; 3] {
        first.write(piece.repeat(200).into()).await.expect("there is room");
    }
    let record = first.finish().await.expect("kept");
    assert_eq!(record.bytes, 600);
    second.write("b".repeat(300).into()).await.expect("there is room");
    let refused = second.write("b".repeat(300).into()).await.expect_err("over the limit of all files");
    assert_eq!(refused.code, ErrorCode::PayloadTooLarge);
    drop(second);
    wait_for("only the kept one is there", async || house.names() == [record.id.clone()]).await;
}

#[tokio::test]
async fn answers_that_the_folder_has_no_room_for_are_refused_line_by_line() {
    let most = 2 << 20;
    let house = house(FileSettings { max_file_bytes: 1 << 20, max_bytes: most, ..FileSettings::default() });
    let file = house.file(lines(40)).await;
    let batch = house.batches.create(House::new_batch(OWNER, &file.id)).await.expect("made");
    let running = RunningBatches::start(house.batches.clone(), Arc::new(Long(300_000)));
    wait_for("the batch is over", async || {
        assert!(house.bytes() <= most, "{} bytes of {most}", house.bytes());
        house.batches.find(OWNER, &batch.id).await.is_ok_and(|batch| batch.status.is_terminal())
    })
    .await;
    running.stop().await;
    let batch = house.batches.find(OWNER, &batch.id).await.expect("kept");
    assert_eq!((batch.status, batch.counts.total), (Status::Completed, 40));
    assert!(batch.counts.completed >= 1 && batch.counts.completed <= 3, "{:?}", batch.counts);
    let errors = batch.error_file_id.expect("refusals");
    let text = fs::read_to_string(house.folder.path().join("files").join(errors)).expect("read");
    assert!(text.lines().count() >= 37 && text.lines().all(|line| line.contains("\"no_room\"")), "{text}");
}

#[tokio::test]
async fn a_file_of_so_many_lines_that_their_refusals_have_no_room_is_refused_before_one_is_written() {
    let house = house(FileSettings { max_file_bytes: 1 << 20, max_bytes: 2 << 20, ..FileSettings::default() });
    let file = house.file("x\n".repeat(50_000)).await;
    let batch = house.batches.create(House::new_batch(OWNER, &file.id)).await.expect("made");
    let running = RunningBatches::start(house.batches.clone(), Arc::new(Long(1)));
    wait_for("the batch is over", async || {
        house.batches.find(OWNER, &batch.id).await.is_ok_and(|batch| batch.status.is_terminal())
    })
    .await;
    running.stop().await;
    let batch = house.batches.find(OWNER, &batch.id).await.expect("kept");
    assert_eq!((batch.status, batch.errors[0].code.as_str()), (Status::Failed, "no_room"), "{:?}", batch.errors);
    assert!(batch.errors[0].message.contains("50000 lines"), "{:?}", batch.errors);
    assert_eq!(house.names(), [file.id]);
}

#[tokio::test]
async fn each_line_of_a_file_is_in_one_of_the_two_files_under_the_number_that_editors_show() {
    let house = house(FileSettings::default());
    let long = format!("{}{{}}", " ".repeat(17 << 20));
    let file = house.file(format!("\u{feff}{}\r\n\n{long}\nx\n{}", lines(1).trim_end(), lines(2))).await;
    let batch = house.batches.create(House::new_batch(OWNER, &file.id)).await.expect("made");
    let running = RunningBatches::start(house.batches.clone(), Arc::new(Long(1)));
    wait_for("the batch is over", async || {
        house.batches.find(OWNER, &batch.id).await.is_ok_and(|batch| batch.status.is_terminal())
    })
    .await;
    running.stop().await;
    let batch = house.batches.find(OWNER, &batch.id).await.expect("kept");
    let counts = batch.counts;
    assert_eq!((batch.status, counts.total, counts.completed, counts.failed), (Status::Completed, 5, 2, 3));
    let text = fs::read_to_string(house.folder.path().join("files").join(batch.error_file_id.expect("refusals")));
    let text = text.expect("read");
    let mut refused: Vec<(u64, String)> = (text.lines())
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON"))
        .map(|line| (line["error"]["line"].as_u64().unwrap_or(0), line["error"]["code"].to_string()))
        .collect();
    refused.sort();
    let code = |code: &str| format!("\"{code}\"");
    let expected = [(3, code("line_too_long")), (4, code("invalid_json_line")), (5, code("duplicate_custom_id"))];
    assert_eq!(refused, expected);
    assert!(text.contains("stands in line 1 already"), "{text}");
}

#[tokio::test]
async fn a_file_whose_time_is_over_stays_while_a_batch_reads_it() {
    let house = house(FileSettings { keep_s: 1, ..FileSettings::default() });
    let (read, other) = (house.file(lines(1)).await, house.file(lines(1)).await);
    let batch = house.batches.create(House::new_batch(OWNER, &read.id)).await.expect("made");
    assert_eq!(batch.status, Status::Validating);
    wait_for("the other one is deleted", async || {
        house.batches.sweep_files().await.expect("swept");
        house.batches.files().find(OWNER, &other.id).await.is_err()
    })
    .await;
    house.batches.files().find(OWNER, &read.id).await.expect("it is read");
    assert_eq!(house.names(), [read.id]);
}

#[tokio::test]
async fn one_owner_does_not_keep_the_others_from_making_batches() {
    let house = house(FileSettings::default());
    let file = house.file(lines(1)).await;
    let template = house.batches.create(House::new_batch(OWNER, &file.id)).await.expect("made");
    let adds = (1..1_000).map(|at| {
        let batch = Batch { id: format!("batch_{at}"), ..template.clone() };
        let (metadata, json) = (house.metadata.clone(), batch.encode().expect("JSON"));
        async move { metadata.add_timer(BATCHES, &batch.id, &json, Duration::from_secs(60)).await.expect("added") }
    });
    assert!(futures::future::join_all(adds).await.into_iter().all(|added| added));
    let refused = house.batches.create(House::new_batch(OWNER, &file.id)).await.expect_err("a thousand");
    assert!(refused.code == ErrorCode::QueueFull && refused.message.contains("of your batches"), "{refused}");
    let mut upload = house.batches.files().upload(OwnerId(8), "in.jsonl", "batch").await.expect("begun");
    upload.write(lines(1).into()).await.expect("written");
    let other = upload.finish().await.expect("kept");
    house.batches.create(House::new_batch(OwnerId(8), &other.id)).await.expect("another's");
}

#[tokio::test]
async fn what_is_old_and_nobodys_is_swept_and_what_a_record_names_is_not() {
    let house = house(FileSettings::default());
    let file = house.file(lines(1)).await;
    let batch = house.batches.create(House::new_batch(OWNER, &file.id)).await.expect("made");
    let folder = house.folder.path().join("files");
    let segment = format!("{}.1.output", batch.id);
    for name in [&segment, "file-lost", "file-half.part", "batch_lost.1.errors", "file-new.part"] {
        fs::write(folder.join(name), "x").expect("writes");
    }
    let old = SystemTime::now() - Duration::from_secs(2 * 86_400);
    for name in [file.id.as_str(), &segment, "file-lost", "file-half.part", "batch_lost.1.errors"] {
        let opened = File::options().write(true).open(folder.join(name)).expect("opens");
        opened.set_modified(old).expect("a time");
    }
    house.batches.files().sweep_strays().await.expect("swept");
    let mut names = house.names();
    names.sort();
    let mut kept = vec![segment, "file-new.part".into(), file.id];
    kept.sort();
    assert_eq!(names, kept);
}

#[tokio::test]
async fn files_and_batches_in_a_bucket_are_bounded_as_in_a_folder_and_leave_what_is_kept() {
    let folder = tempfile::tempdir().expect("a folder");
    let queue = SqliteQueue::open(folder.path(), QueueSettings::default()).expect("opens");
    let bucket = Bucket::new(Arc::new(InMemory::new()), "batches".into(), "s3://test").expect("a bucket");
    let contents: Arc<dyn Contents> = Arc::new(bucket);
    let settings = FileSettings { max_file_bytes: 60_000, max_bytes: 1 << 20, ..FileSettings::default() };
    let files = Files::with(queue.metadata(), settings, Arc::clone(&contents));
    let batches = Batches::new(queue.metadata(), files.clone(), Duration::from_secs(30));
    let mut upload = files.upload(OWNER, "in.jsonl", "batch").await.expect("begun");
    upload.write(lines(400).into()).await.expect("written");
    let too_much = upload.write("x".repeat(60_000).into()).await.expect_err("over the limit of a file");
    assert_eq!(too_much.code, ErrorCode::PayloadTooLarge);
    drop(upload);
    let mut upload = files.upload(OWNER, "in.jsonl", "batch").await.expect("begun");
    upload.write(lines(400).into()).await.expect("written");
    let input = upload.finish().await.expect("kept");
    // Half of the room is for putting the answers together.
    for (answer, completed) in [(400, 400..401), (4_000, 50..200)] {
        let batch = batches.create(House::new_batch(OWNER, &input.id)).await.expect("made");
        let running = RunningBatches::start(batches.clone(), Arc::new(Long(answer)));
        wait_for("the batch is over", async || {
            batches.find(OWNER, &batch.id).await.is_ok_and(|batch| batch.status.is_terminal())
        })
        .await;
        running.stop().await;
        let batch = batches.find(OWNER, &batch.id).await.expect("kept");
        assert_eq!((batch.status, batch.counts.total), (Status::Completed, 400));
        assert!(completed.contains(&batch.counts.completed), "{:?}", batch.counts);
        let output = files.find(OWNER, &batch.output_file_id.expect("answers")).await.expect("kept");
        let mut reader = files.read(&output).await.expect("it is there").reader;
        let text = blocking(move || std::io::read_to_string(&mut reader)).await.expect("read");
        assert_eq!((text.lines().count() as u64, text.len() as u64), (batch.counts.completed, output.bytes));
    }
    let kept: u64 = files.list(OWNER).await.expect("listed").iter().map(|file| file.bytes).sum();
    assert_eq!(blocking(move || contents.used()).await.expect("looked"), kept, "no segment is left");
}
