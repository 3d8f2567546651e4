//! One batch carried out by this process, from what its carriers before have left.
//!
//! The record is the only thing that is shared: [`Held`] swaps it, and learns so whether
//! the batch is still this process's and whether it is to end.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use nobat_core::{Error, Result};
use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use xxhash_rust::xxh3::xxh3_128;

use crate::answer::{AnswerLine, LineAnswer};
use crate::batch::line::{self, MAX_LINE};
use crate::batch::record::{Counts, Fault};
use crate::batch::segments::{Kind, LINE_ID, Pair, Segments};
use crate::batch::store::Batches;
use crate::batch::{Batch, Status};
use crate::files::store::{BATCHES, blocking};

/// How often the record is renewed, and what was answered is written, at the latest.
const RENEW: Duration = Duration::from_secs(2);
/// Pause before what could not be done is tried again.
const AWAY: Duration = Duration::from_secs(1);
/// Lines in flight, and bytes of them.
const WINDOW: usize = 128;
const WINDOW_BYTES: usize = 4 << 20;
/// Answers are written when there are so many bytes of them.
const WRITE_AT: usize = 1 << 20;

const EXPIRED: &str = "the completion window ended before this line was answered";

/// What ends carrying out without an end of the batch.
#[derive(Debug)]
enum Left {
    /// This process stops, or another has the batch.
    ToOthers,
    /// Something did not work; whoever takes the batch next tries again.
    Failed(Error),
}

impl From<Error> for Left {
    fn from(error: Error) -> Left {
        Left::Failed(error)
    }
}

/// A process's hold of a batch's record.
struct Held {
    batches: Batches,
    batch: Batch,
    /// The record as the store has it.
    written: Vec<u8>,
}

impl Held {
    /// Changes the record, due again after `delay`. A cancelling that came in between is
    /// taken over.
    async fn change(&mut self, delay: Duration, change: impl Fn(&mut Batch)) -> std::result::Result<(), Left> {
        loop {
            let mut next = self.batch.clone();
            change(&mut next);
            let to = next.encode()?;
            if self.batches.metadata.swap_timer(BATCHES, &next.id, &self.written, &to, delay).await? {
                (self.batch, self.written) = (next, to);
                return Ok(());
            }
            let stored = self.batches.metadata.timer(BATCHES, &next.id).await?.ok_or(Left::ToOthers)?;
            let stored_batch: Batch = serde_json::from_slice(&stored).map_err(|_| Left::ToOthers)?;
            if stored_batch.carriers != self.batch.carriers || stored_batch.status != Status::Cancelling {
                return Err(Left::ToOthers);
            }
            (self.batch, self.written) = (stored_batch, stored.to_vec());
        }
    }

    /// Changes the record and keeps the batch for another lease.
    async fn renew(&mut self, change: impl Fn(&mut Batch)) -> std::result::Result<(), Left> {
        self.change(self.batches.lease, change).await
    }

    /// How often it is renewed.
    fn pace(&self) -> Duration {
        RENEW.min(self.batches.lease / 3)
    }

    async fn now(&self) -> Result<u64> {
        Ok(self.batches.metadata.now_ms().await? / 1_000)
    }
}

/// One batch, to be carried out.
pub(crate) struct Carrier {
    held: Held,
    segments: Segments,
    answer: Arc<dyn AnswerLine>,
    stopped: watch::Receiver<bool>,
    /// Lines that are answered, by number.
    done: Vec<bool>,
    counts: Counts,
}

impl Carrier {
    pub(crate) fn new(
        batches: Batches,
        answer: Arc<dyn AnswerLine>,
        stopped: watch::Receiver<bool>,
        batch: Batch,
        written: Vec<u8>,
    ) -> Carrier {
        let segments = Segments::of(batches.files(), &batch.id);
        let held = Held { batches, batch, written };
        Carrier { held, segments, answer, stopped, done: Vec::new(), counts: Counts::default() }
    }

    /// Carries it out to its end, or as far as this process may.
    pub(crate) async fn carry_out(mut self) {
        match self.to_its_end().await {
            Ok(()) => {
                let counts = self.held.batch.counts;
                log::info!(batch = self.held.batch.id.as_str(); "batches: over, {} lines answered and {} refused", counts.completed, counts.failed);
            }
            Err(Left::ToOthers) => {
                log::info!(batch = self.held.batch.id.as_str(); "batches: left to another process");
                // At once, where it is still ours.
                let _ = self.held.change(Duration::ZERO, |_| {}).await;
            }
            Err(Left::Failed(error)) => {
                log::warn!(batch = self.held.batch.id.as_str(); "batches: carried out again later: {error}");
            }
        }
    }

    async fn to_its_end(&mut self) -> std::result::Result<(), Left> {
        self.take_over().await?;
        let Some(total) = self.look_through().await? else { return Ok(()) };
        let now = self.held.now().await?;
        self.counts.total = total;
        let counts = self.counts;
        self.held
            .renew(|batch| {
                batch.begin(now);
                batch.counts = counts;
            })
            .await?;
        let in_time = self.answer_lines().await?;
        self.put_together(in_time).await
    }

    /// Makes the batch this process's, and finds what carriers before have done.
    async fn take_over(&mut self) -> std::result::Result<(), Left> {
        let (segments, before) = (self.segments.clone(), self.held.batch.carriers);
        let measured = match before {
            0 => None,
            before => Some(blocking(move || segments.measure(before)).await?),
        };
        self.held.renew(|batch| batch.take_over(measured)).await?;
        let (segments, batch) = (self.segments.clone(), self.held.batch.clone());
        let (done, counts) = blocking(move || {
            let (mut done, mut counts) = (Vec::new(), Counts::default());
            segments.lines(&batch, |kind, number| {
                mark(&mut done, number);
                match kind {
                    Kind::Output => counts.completed += 1,
                    Kind::Errors => counts.failed += 1,
                }
            })?;
            Ok((done, counts))
        })
        .await?;
        (self.done, self.counts) = (done, counts);
        Ok(())
    }

    /// Counts the lines; `None` when the batch has failed as a whole.
    async fn look_through(&mut self) -> std::result::Result<Option<u64>, Left> {
        let batch = &self.held.batch;
        let fault = |code: &str, message: String| Fault {
            code: code.to_owned(),
            message,
            line: None,
            param: Some("input_file_id".to_owned()),
        };
        let found = match self.held.batches.files().find(batch.owner, &batch.input_file_id).await {
            Ok(file) => {
                let path = self.held.batches.files().path(&file);
                match blocking(move || Ok(File::open(&path).and_then(count_lines))).await? {
                    Ok(0) => Err(fault("empty_file", "the file has no lines; give at least one request".to_owned())),
                    Ok(lines) => Ok(lines),
                    Err(error) => Err(fault("missing_file", format!("the file's contents cannot be read: {error}"))),
                }
            }
            Err(error) if error.code == nobat_core::ErrorCode::JobNotFound => Err(fault("missing_file", error.message)),
            Err(error) => return Err(error.into()),
        };
        match found {
            Ok(lines) => Ok(Some(lines)),
            Err(fault) => {
                let now = self.held.now().await?;
                let keep = self.keep();
                self.held.change(keep, |batch| batch.fail(now, fault.clone())).await?;
                Ok(None)
            }
        }
    }

    fn keep(&self) -> Duration {
        Duration::from_secs(u64::from(self.held.batches.files().settings().keep_s))
    }

    /// Answers the lines that are not answered yet; whether it was in time.
    async fn answer_lines(&mut self) -> std::result::Result<bool, Left> {
        let (segments, carrier) = (self.segments.clone(), self.held.batch.carriers);
        let mut writer = Writer { pair: Some(blocking(move || segments.open(carrier)).await?), ..Writer::default() };
        let file = self.held.batches.files().find(self.held.batch.owner, &self.held.batch.input_file_id).await?;
        let path = self.held.batches.files().path(&file);
        let mut lines =
            read_lines(File::open(path).map_err(|error| Error::internal(format!("the file cannot be read: {error}")))?);
        let mut ids: HashMap<u128, u64> = HashMap::new();
        let mut asked: FuturesUnordered<BoxFuture<'static, (usize, Written)>> = FuturesUnordered::new();
        // Those that are asked: their number and custom id.
        let mut open: HashMap<u64, String> = HashMap::new();
        let (mut number, mut bytes, mut more, mut in_time) = (0u64, 0usize, true, true);
        let now = self.held.now().await?;
        let expires = Instant::now() + Duration::from_secs(self.held.batch.expires_at.saturating_sub(now));
        let mut stop = self.stopped.clone();
        let mut renew = tokio::time::interval(self.held.pace());
        loop {
            if self.held.batch.status == Status::Cancelling {
                break;
            }
            if !in_time && !open.is_empty() {
                asked.clear();
                bytes = 0;
                for (at, custom_id) in open.drain() {
                    writer.put(&Written::refused(at, Some(&custom_id), "batch_expired", EXPIRED));
                }
            }
            if writer.is_full() {
                self.write(&mut writer).await?;
            }
            tokio::select! {
                biased;
                () = stopped(&mut stop) => {
                    self.write(&mut writer).await?;
                    return Err(Left::ToOthers);
                }
                _ = renew.tick() => {
                    self.write(&mut writer).await?;
                    let counts = self.counts;
                    self.held.renew(|batch| batch.counts = counts).await?;
                }
                () = tokio::time::sleep_until(expires), if in_time => in_time = false,
                Some((size, written)) = asked.next() => {
                    bytes -= size;
                    open.remove(&written.number);
                    writer.put(&written);
                }
                line = lines.recv(), if more && asked.len() < WINDOW && bytes < WINDOW_BYTES => {
                    let Some(line) = line else { more = false; continue };
                    let line = line.map_err(|error| Error::internal(format!("the file cannot be read: {error}")))?;
                    let at = number;
                    number += 1;
                    if line.iter().all(u8::is_ascii_whitespace) {
                        number -= 1;
                        continue;
                    }
                    let is_done = self.done.get(at as usize).copied().unwrap_or_default();
                    let read = match line::read(&line, &self.held.batch.endpoint) {
                        Ok(read) => read,
                        Err(bad) if !is_done => {
                            writer.put(&Written::refused(at, bad.custom_id.as_deref(), bad.code, &bad.message));
                            continue;
                        }
                        Err(_) => continue,
                    };
                    // The first line of an id has it, whoever carries the batch out.
                    let first = *ids.entry(xxh3_128(read.custom_id.as_bytes())).or_insert(at);
                    if is_done {
                        continue;
                    }
                    if first != at {
                        let message = format!("custom_id `{}` stands in line {} already; give each line one of its own", nobat_core::clip(&read.custom_id), first + 1);
                        writer.put(&Written::refused(at, Some(&read.custom_id), "duplicate_custom_id", &message));
                        continue;
                    }
                    if !in_time {
                        writer.put(&Written::refused(at, Some(&read.custom_id), "batch_expired", EXPIRED));
                        continue;
                    }
                    bytes += line.len();
                    open.insert(at, read.custom_id.clone());
                    let asking = Asked {
                        answer: self.answer.clone(),
                        caller: self.held.batch.caller.clone(),
                        endpoint: self.held.batch.endpoint.clone(),
                        key: format!("{}/{at}", self.held.batch.id),
                        at,
                        custom_id: read.custom_id,
                        body: read.body.to_owned(),
                        expires,
                    };
                    let size = line.len();
                    asked.push(async move { (size, asking.until_answered().await) }.boxed());
                }
                else => break,
            }
        }
        drop(asked);
        self.write(&mut writer).await?;
        if let Some(pair) = writer.pair.take() {
            blocking(move || pair.sync()).await?;
        }
        Ok(in_time)
    }

    /// Appends what was answered, and counts it.
    async fn write(&mut self, writer: &mut Writer) -> std::result::Result<(), Left> {
        let (output, errors) = (std::mem::take(&mut writer.output), std::mem::take(&mut writer.errors));
        let numbers = std::mem::take(&mut writer.numbers);
        let Some(mut pair) = writer.pair.take() else { return Ok(()) };
        writer.pair = Some(
            blocking(move || {
                pair.append(&output, &errors)?;
                Ok(pair)
            })
            .await?,
        );
        for (kind, number) in numbers {
            mark(&mut self.done, number);
            match kind {
                Kind::Output => self.counts.completed += 1,
                Kind::Errors => self.counts.failed += 1,
            }
        }
        Ok(())
    }

    /// Joins the answers into the batch's files and ends it.
    async fn put_together(&mut self, in_time: bool) -> std::result::Result<(), Left> {
        let now = self.held.now().await?;
        let counts = self.counts;
        self.held
            .renew(|batch| {
                batch.counts = counts;
                batch.finalize(now);
            })
            .await?;
        let mut kept = [None, None];
        for (at, kind) in Kind::BOTH.into_iter().enumerate() {
            let (segments, batch) = (self.segments.clone(), self.held.batch.clone());
            let pace = self.held.pace();
            let mut joining = tokio::spawn(blocking(move || segments.join(&batch, kind)));
            let joined = loop {
                tokio::select! {
                    joined = &mut joining => break joined.map_err(|e| Error::internal(format!("joining ended early: {e}")))??,
                    () = tokio::time::sleep(pace) => self.held.renew(|_| {}).await?,
                }
            };
            if let Some(path) = joined {
                // Whoever has lost the batch meanwhile keeps nothing of it.
                self.held.renew(|_| {}).await?;
                let batch = &self.held.batch;
                // One id, whoever puts it together.
                let id = format!("{}-{}", batch.id.replacen("batch_", "file-", 1), kind.name());
                let filename = format!("{}_{}.jsonl", batch.id, kind.name());
                self.held.batches.files().keep(path, &id, batch.owner, &filename, "batch_output").await?;
                kept[at] = Some(id);
            }
        }
        let now = self.held.now().await?;
        let keep = self.keep();
        let [output, errors] = kept;
        self.held
            .change(keep, |batch| {
                batch.end(now, in_time);
                batch.output_file_id.clone_from(&output);
                batch.error_file_id.clone_from(&errors);
            })
            .await?;
        let (segments, carriers) = (self.segments.clone(), self.held.batch.carriers);
        blocking(move || {
            segments.delete(carriers);
            Ok(())
        })
        .await?;
        Ok(())
    }
}

/// Answers on their way into the carrier's files.
#[derive(Default)]
struct Writer {
    pair: Option<Pair>,
    output: Vec<u8>,
    errors: Vec<u8>,
    numbers: Vec<(Kind, u64)>,
}

impl Writer {
    fn is_full(&self) -> bool {
        self.output.len() + self.errors.len() >= WRITE_AT
    }

    fn put(&mut self, written: &Written) {
        let file = if written.kind == Kind::Output { &mut self.output } else { &mut self.errors };
        file.extend_from_slice(&written.text);
        file.push(b'\n');
        self.numbers.push((written.kind, written.number));
    }
}

/// One line of the output or of the errors.
struct Written {
    kind: Kind,
    number: u64,
    text: Vec<u8>,
}

impl Written {
    fn refused(number: u64, custom_id: Option<&str>, code: &str, message: &str) -> Written {
        // From 1, as editors count.
        let error = json!({ "code": code, "message": message, "line": number + 1 });
        let id = json!(custom_id);
        let text = format!("{{\"id\":\"{LINE_ID}{number}\",\"custom_id\":{id},\"response\":null,\"error\":{error}}}");
        Written { kind: Kind::Errors, number, text: text.into_bytes() }
    }

    fn answered(number: u64, custom_id: &str, answer: &LineAnswer) -> Written {
        let (id, request) = (json!(custom_id), json!(answer.request_id));
        let mut text = format!(
            "{{\"id\":\"{LINE_ID}{number}\",\"custom_id\":{id},\"response\":{{\"status_code\":{},\"request_id\":{request},\"body\":",
            answer.status
        )
        .into_bytes();
        text.extend_from_slice(&answer.body);
        text.extend_from_slice(b"},\"error\":null}");
        let kind = if answer.status < 400 { Kind::Output } else { Kind::Errors };
        Written { kind, number, text }
    }
}

/// A line that is asked.
struct Asked {
    answer: Arc<dyn AnswerLine>,
    caller: serde_json::Value,
    endpoint: String,
    key: String,
    at: u64,
    custom_id: String,
    body: String,
    expires: Instant,
}

impl Asked {
    /// Asks until the deployment takes it; the window's end drops it.
    async fn until_answered(self) -> Written {
        loop {
            let left = self.expires.saturating_duration_since(Instant::now());
            let answer = self.answer.answer(&self.caller, &self.endpoint, &self.body, &self.key, left).await;
            if !answer.is_passing() {
                return Written::answered(self.at, &self.custom_id, &answer);
            }
            tokio::time::sleep(AWAY).await;
        }
    }
}

/// Resolves when this process stops.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

fn mark(done: &mut Vec<bool>, number: u64) {
    let at = number as usize;
    if done.len() <= at {
        done.resize(at + 1, false);
    }
    done[at] = true;
}

/// Lines with something in them.
fn count_lines(file: File) -> io::Result<u64> {
    let mut reader = BufReader::with_capacity(256 << 10, file);
    let (mut lines, mut has_text) = (0, false);
    loop {
        let piece = reader.fill_buf()?;
        if piece.is_empty() {
            return Ok(lines + u64::from(has_text));
        }
        for &byte in piece {
            if byte == b'\n' {
                lines += u64::from(std::mem::take(&mut has_text));
            } else {
                has_text |= !byte.is_ascii_whitespace();
            }
        }
        let read = piece.len();
        reader.consume(read);
    }
}

/// The lines of a file, read ahead by a few on a thread that may wait for the disk.
fn read_lines(file: File) -> mpsc::Receiver<io::Result<Vec<u8>>> {
    let (send, lines) = mpsc::channel(64);
    tokio::task::spawn_blocking(move || {
        let mut reader = BufReader::with_capacity(256 << 10, file);
        loop {
            let mut line = Vec::new();
            // A byte too many says that the line is too long; the rest is passed over.
            let read = io::Read::take(&mut reader, MAX_LINE as u64 + 2).read_until(b'\n', &mut line);
            let read = match read {
                Ok(0) => return,
                Ok(_) if line.last() != Some(&b'\n') && line.len() > MAX_LINE => reader.skip_until(b'\n').map(drop),
                Ok(_) => Ok(()),
                Err(error) => Err(error),
            };
            while line.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
                line.pop();
            }
            let failed = read.is_err();
            if send.blocking_send(read.map(|()| line)).is_err() || failed {
                return;
            }
        }
    });
    lines
}
