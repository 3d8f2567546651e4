//! One batch carried out by this process, from what its carriers before have left.
//!
//! The record is the only thing that is shared: [`Held`] swaps it, and learns so whether
//! the batch is still this process's and whether it is to end.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use nobat_core::{Error, ErrorCode};
use tokio::sync::watch;
use tokio::time::Instant;
use xxhash_rust::xxh3::xxh3_128;

use crate::answer::AnswerLine;
use crate::asked::Asked;
use crate::batch::line;
use crate::batch::record::{Counts, Fault};
use crate::batch::segments::{Kind, Segments};
use crate::batch::store::Batches;
use crate::batch::{Batch, Status};
use crate::files::contents::blocking;
use crate::held::{Held, Left};
use crate::input::{count_lines, is_blank, read_lines};
use crate::written::{Writer, Written};

/// Lines in flight, and bytes of them.
const WINDOW: usize = 128;
const WINDOW_BYTES: usize = 4 << 20;

/// Bytes of answers after which it is looked again how much room there is.
const LOOK_BYTES: u64 = 16 << 20;

/// Bytes that a refusal takes, beside its custom id.
const REFUSAL_BYTES: u64 = 256;

const NO_ROOM: &str = "the deployment's files have no room for more answers; delete some, or have `gateway.files.max_bytes` \
                       raised, and send this line again";
const EXPIRED: &str = "the completion window ended before this line was answered";

/// Bytes that a line in flight counts for. Each comma may part two inputs, whose answers are
/// held until the line is answered.
fn weight(line: &[u8]) -> usize {
    line.len() + line.iter().filter(|&&byte| byte == b',').count() * 256
}

fn too_many_lines(lines: u64, room: u64) -> String {
    format!(
        "the file has {lines} lines, and the deployment's files have room for the answers to {room}; split it, delete files, \
         or have `gateway.files.max_bytes` raised"
    )
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
    /// Bytes of answers and refusals so far, those of earlier carriers too.
    bytes: u64,
    /// Bytes that may be written before it is looked again how much room there is.
    left: u64,
    /// Nothing but refusals is written any more.
    is_full: bool,
}

impl Carrier {
    pub(crate) fn new(
        batches: Batches,
        answer: Arc<dyn AnswerLine>,
        stopped: watch::Receiver<bool>,
        batch: Batch,
        written: Vec<u8>,
    ) -> Carrier {
        let segments = Segments::of(batches.files().contents(), &batch.id);
        let held = Held { batches, batch, written };
        let (done, counts) = (Vec::new(), Counts::default());
        Carrier { held, segments, answer, stopped, done, counts, bytes: 0, left: 0, is_full: false }
    }

    /// Carries it out to its end, or as far as this process may.
    pub(crate) async fn carry_out(mut self) {
        match self.carry_to_end().await {
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

    async fn carry_to_end(&mut self) -> Result<(), Left> {
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
    async fn take_over(&mut self) -> Result<(), Left> {
        let (segments, before) = (self.segments.clone(), self.held.batch.carriers);
        let measured = match before {
            0 => None,
            before => Some(blocking(move || segments.measure(before)).await?),
        };
        self.held.renew(|batch| batch.take_over(measured)).await?;
        let (segments, batch) = (self.segments.clone(), self.held.batch.clone());
        let looked_through = blocking(move || {
            let (mut done, mut counts) = (Vec::new(), Counts::default());
            segments.lines(&batch, |kind, number| {
                mark(&mut done, number);
                match kind {
                    Kind::Output => counts.completed += 1,
                    Kind::Errors => counts.failed += 1,
                }
            })?;
            Ok((done, counts))
        });
        (self.done, self.counts) = self.held.beside(looked_through).await?;
        self.bytes = self.held.batch.measured.iter().map(|measured| measured.output + measured.errors).sum();
        Ok(())
    }

    /// Counts the lines; `None` when the batch has failed as a whole.
    async fn look_through(&mut self) -> Result<Option<u64>, Left> {
        let batch = &self.held.batch;
        let fault = |code: &str, message: String| Fault {
            code: code.to_owned(),
            message,
            line: None,
            param: Some("input_file_id".to_owned()),
        };
        let files = self.held.batches.files().clone();
        let opened = match files.find(batch.owner, &batch.input_file_id).await {
            Ok(file) => files.read(&file).await,
            Err(error) => Err(error),
        };
        let found = match opened {
            Ok(contents) => match self.held.beside(blocking(move || count_lines(contents.reader))).await? {
                0 => Err(fault("empty_file", "the file has no lines; give at least one request".to_owned())),
                lines => match self.room_for(lines).await? {
                    room if room < lines => Err(fault("no_room", too_many_lines(lines, room))),
                    _ => Ok(lines),
                },
            },
            Err(error) if matches!(error.code, ErrorCode::JobNotFound | ErrorCode::ResultExpired) => {
                Err(fault("missing_file", error.message))
            }
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

    /// How many of so many lines there is room for if all are refused: a line of two bytes is refused in a hundred.
    async fn room_for(&self, lines: u64) -> Result<u64, Left> {
        match self.held.batch.status {
            // Putting them together takes as much again.
            Status::Validating => Ok(self.held.batches.files().room().await? / (2 * REFUSAL_BYTES)),
            _ => Ok(lines),
        }
    }

    fn keep(&self) -> Duration {
        Duration::from_secs(u64::from(self.held.batches.files().settings().keep_s))
    }

    /// Answers the lines that are not answered yet; whether it was in time.
    async fn answer_lines(&mut self) -> Result<bool, Left> {
        let (segments, carrier) = (self.segments.clone(), self.held.batch.carriers);
        let mut writer = Writer { pair: Some(blocking(move || segments.begin(carrier)).await?), ..Writer::default() };
        let file = self.held.batches.files().find(self.held.batch.owner, &self.held.batch.input_file_id).await?;
        let mut lines = read_lines(self.held.batches.files().read(&file).await?.reader);
        let mut ids: HashMap<u128, u64> = HashMap::new();
        let mut asked: FuturesUnordered<BoxFuture<'static, (usize, Written)>> = FuturesUnordered::new();
        // Those that are asked: their number, their place in the file and their custom id.
        let mut open: HashMap<u64, (u64, String)> = HashMap::new();
        let (mut number, mut place, mut bytes, mut more, mut in_time) = (0u64, 0u64, 0usize, true, true);
        let now = self.held.now().await?;
        let expires = Instant::now() + Duration::from_secs(self.held.batch.expires_at.saturating_sub(now));
        let mut stop = self.stopped.clone();
        let mut renew = tokio::time::interval(self.held.pace());
        let (pace, mut written) = (self.held.batches.files().contents().pace(), Instant::now());
        loop {
            if self.held.batch.status == Status::Cancelling {
                break;
            }
            if !in_time && !open.is_empty() {
                asked.clear();
                bytes = 0;
                for (at, (place, custom_id)) in open.drain() {
                    writer.put(&Written::refused(at, place, Some(&custom_id), "batch_expired", EXPIRED));
                }
            }
            if !more && asked.is_empty() {
                break;
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
                    if written.elapsed() >= pace {
                        self.write(&mut writer).await?;
                        written = Instant::now();
                    }
                    let counts = self.counts;
                    self.held.renew(|batch| batch.counts = counts).await?;
                }
                () = tokio::time::sleep_until(expires), if in_time => in_time = false,
                Some((size, written)) = asked.next() => {
                    bytes -= size;
                    let (place, custom_id) = open.remove(&written.number).unwrap_or_default();
                    if self.has_room(written.bytes(), writer.bytes()).await? {
                        writer.put(&written);
                    } else {
                        writer.put(&Written::refused(written.number, place, Some(&custom_id), "no_room", NO_ROOM));
                    }
                }
                line = lines.recv(), if more && asked.len() < WINDOW && bytes < WINDOW_BYTES => {
                    let Some(line) = line else { more = false; continue };
                    let line = line.map_err(|error| Error::internal(format!("the file cannot be read: {error}")))?;
                    place += 1;
                    if is_blank(&line) {
                        continue;
                    }
                    let at = number;
                    number += 1;
                    let is_done = self.done.get(at as usize).copied().unwrap_or_default();
                    let read = match line::read(&line, &self.held.batch.endpoint) {
                        Ok(read) => read,
                        Err(bad) if !is_done => {
                            writer.put(&Written::refused(at, place, bad.custom_id.as_deref(), bad.code, &bad.message));
                            continue;
                        }
                        Err(_) => continue,
                    };
                    // The first line of an id has it, whoever carries the batch out.
                    let first = *ids.entry(xxh3_128(read.custom_id.as_bytes())).or_insert(place);
                    if is_done {
                        continue;
                    }
                    if first != place {
                        let message = format!("custom_id `{}` stands in line {} already; give each line one of its own", nobat_core::clip(&read.custom_id), first);
                        writer.put(&Written::refused(at, place, Some(&read.custom_id), "duplicate_custom_id", &message));
                        continue;
                    }
                    if !in_time {
                        writer.put(&Written::refused(at, place, Some(&read.custom_id), "batch_expired", EXPIRED));
                        continue;
                    }
                    if self.is_full {
                        writer.put(&Written::refused(at, place, Some(&read.custom_id), "no_room", NO_ROOM));
                        continue;
                    }
                    let size = weight(&line);
                    bytes += size;
                    open.insert(at, (place, read.custom_id.clone()));
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
                    asked.push(async move { (size, asking.until_answered().await) }.boxed());
                }
            }
        }
        drop(asked);
        self.write(&mut writer).await?;
        if let Some(pair) = writer.pair.take() {
            blocking(move || pair.sync()).await?;
        }
        Ok(in_time)
    }

    /// Whether the folder has room for an answer of so many bytes, beside `waiting` ones that are not
    /// written yet. Once it has not, the batch gets no more answers.
    async fn has_room(&mut self, size: u64, waiting: u64) -> Result<bool, Left> {
        if size > self.left && !self.is_full {
            // Putting them together takes as much again.
            let room = self.held.batches.files().room().await?.saturating_sub(waiting + self.bytes) / 2;
            self.left = room.min(LOOK_BYTES.max(size));
            self.is_full = size > self.left;
        }
        if !self.is_full {
            self.left -= size;
            self.bytes += size;
        }
        Ok(!self.is_full)
    }

    /// Appends what was answered, and counts it.
    async fn write(&mut self, writer: &mut Writer) -> Result<(), Left> {
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
    async fn put_together(&mut self, in_time: bool) -> Result<(), Left> {
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
            let joined = self.held.beside(blocking(move || segments.join(&batch, kind))).await?;
            if let Some(draft) = joined {
                // Whoever has lost the batch meanwhile keeps nothing of it.
                self.held.renew(|_| {}).await?;
                let (batch, id) = (&self.held.batch, self.segments.file_id(kind));
                let filename = format!("{}_{}.jsonl", batch.id, kind.name());
                self.held.batches.files().keep(draft, &id, batch.owner, &filename, "batch_output").await?;
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
