//! Runs batches on one session: concatenate, run, split, settle each job.
//!
//! Invariants:
//! - Every job of a batch is settled exactly once, whatever the run does.
//! - A batch that fails is halved until the guilty job stands alone: only that
//!   one burns an attempt. A panic in a run counts as its failure.
//! - Output bytes are copied once, from the runtime's buffer into the packed result.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use nobat_core::explain::Explain;
use nobat_core::infer::InferResponse;
use nobat_core::job::{JobError, Outcome, Settlement};
use nobat_core::statistics::BatchTimes;
use nobat_core::tensor::{Datatype, Shape, put_bytes_element, take_bytes_element};
use nobat_core::{Error, ErrorCode};
use nobat_queue::backend::Desk;
use smallvec::SmallVec;
use smol_str::SmolStr;

use crate::batch::intake::{Batch, Item};
use crate::engine::buffer::Buffer;
use crate::engine::{Engine, InputData, InputView, OutputData, OutputView, RunError, RunLimit};
use crate::model::Version;
use crate::stats::JobWaits;
use crate::watchdog::Watchdog;

/// One session's engines, one per ready version, and its reused buffers.
pub(crate) struct Runner {
    worker: SmolStr,
    desk: Arc<Desk>,
    watchdog: Watchdog,
    engines: Vec<(Arc<Version>, Box<dyn Engine>)>,
    buffers: Vec<Buffer>,
    settled: Vec<Settlement>,
}

/// A failed run of several rows or one.
struct Failure {
    code: ErrorCode,
    message: String,
    /// Whether another attempt may fare better.
    again: bool,
}

impl Failure {
    fn run(error: RunError, version: &Version) -> Failure {
        let (model, number) = (&version.signature.name, &version.signature.version);
        match error {
            RunError::Failed(reason) => Failure {
                code: ErrorCode::InferenceFailed,
                message: format!("model `{model}` version {number} failed: {reason}"),
                again: true,
            },
            RunError::TimedOut => Failure {
                code: ErrorCode::DeadlineExceeded,
                message: format!("the run of model `{model}` was ended at the job's deadline; allow more time"),
                again: false,
            },
        }
    }

    fn invalid(message: String) -> Failure {
        Failure { code: ErrorCode::InvalidTensor, message, again: false }
    }
}

/// The times of one finished run.
struct Ran {
    times: BatchTimes,
    started: Instant,
}

impl Runner {
    /// A session of the worker with the short id `worker`.
    pub(crate) fn new(worker: SmolStr, desk: Arc<Desk>, watchdog: Watchdog) -> Runner {
        Runner { worker, desk, watchdog, engines: Vec::new(), buffers: Vec::new(), settled: Vec::new() }
    }

    /// Adds a version's engine. An older one of the same number stays until it
    /// is removed: jobs planned on it still run on it.
    pub(crate) fn put(&mut self, version: Arc<Version>, engine: Box<dyn Engine>) {
        self.engines.push((version, engine));
    }

    /// Takes a version's engine out, to be dropped where that delays nobody.
    pub(crate) fn remove(&mut self, version: &Arc<Version>) -> Option<Box<dyn Engine>> {
        let at = self.engines.iter().position(|(own, _)| Arc::ptr_eq(own, version))?;
        Some(self.engines.swap_remove(at).1)
    }

    /// Runs a batch and puts a settlement for each of its jobs on the desk.
    pub(crate) fn run(&mut self, batch: Batch) {
        let Batch { version, items, cap } = batch;
        match self.engines.iter().position(|(own, _)| Arc::ptr_eq(own, &version)) {
            Some(at) => self.attempt(at, &version, &items, cap),
            None => {
                let message = format!(
                    "model `{}` version {} was unloaded while the job waited",
                    version.signature.name, version.signature.version
                );
                for item in &items {
                    let failure = Failure { code: ErrorCode::ModelNotReady, message: message.clone(), again: true };
                    self.fail(&version, item, failure);
                }
            }
        }
        self.desk.settle_all(&mut self.settled);
    }

    fn attempt(&mut self, engine: usize, version: &Version, items: &[Item], cap: u32) {
        let started = Instant::now();
        let outcome = match items {
            [item] if version.batches() && item.rows > cap => {
                self.guarded(engine, version, |turn| turn.run_split(item, cap))
            }
            _ => self.guarded(engine, version, |turn| turn.run_whole(items)),
        };
        match (outcome, items) {
            (Ok(()), _) => {}
            (Err(failure), [item]) => {
                version.stats.failed(waits(item, started), started.elapsed());
                self.fail(version, item, failure);
            }
            (Err(failure), _) => {
                let (model, jobs) = (version.signature.name.as_str(), items.len());
                log::debug!(model, jobs; "a batch failed and is halved: {}", failure.message);
                let (left, right) = items.split_at(items.len() / 2);
                self.attempt(engine, version, left, cap);
                self.attempt(engine, version, right, cap);
            }
        }
    }

    /// Runs `work`, containing a panic as the batch's failure. Settlements
    /// appear only when all of it succeeded.
    fn guarded(
        &mut self,
        engine: usize,
        version: &Version,
        work: impl FnOnce(&mut Turn<'_>) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let before = self.settled.len();
        let mut turn = Turn {
            worker: &self.worker,
            watchdog: &self.watchdog,
            engine: self.engines[engine].1.as_mut(),
            version,
            buffers: &mut self.buffers,
            settled: &mut self.settled,
        };
        let outcome = catch_unwind(AssertUnwindSafe(|| work(&mut turn))).unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<&str>().copied().or(panic.downcast_ref::<String>().map(String::as_str));
            let message =
                format!("the run of model `{}` panicked: {}", version.signature.name, text.unwrap_or("no message"));
            Err(Failure { code: ErrorCode::InferenceFailed, message, again: true })
        });
        if outcome.is_err() {
            self.settled.truncate(before);
        }
        outcome
    }

    fn fail(&mut self, version: &Version, item: &Item, failure: Failure) {
        let job = &item.job;
        let error = JobError { code: failure.code, message: failure.message };
        let outcome = match failure.code {
            ErrorCode::DeadlineExceeded => {
                version.stats.expired();
                Outcome::Expired(error)
            }
            _ => {
                let retry_in = failure.again.then(|| job.retry.next_delay(job.attempt, random())).flatten();
                let (id, model, attempt) = (job.id.to_string(), version.signature.name.as_str(), job.attempt);
                log::warn!(job = id, model, attempt, trace = job.trace.as_str(); "an attempt failed: {}", error.message);
                Outcome::Failed { error, retry_in }
            }
        };
        self.settled.push(Settlement { id: job.id, token: job.token, outcome });
    }
}

/// Uniform in 0..2^32, for the retry schedule's jitter.
pub(crate) fn random() -> u32 {
    // Without entropy the schedule runs without jitter, which is only less spread.
    getrandom::u32().unwrap_or(0)
}

/// One run's view of the runner.
struct Turn<'a> {
    worker: &'a SmolStr,
    watchdog: &'a Watchdog,
    engine: &'a mut dyn Engine,
    version: &'a Version,
    buffers: &'a mut Vec<Buffer>,
    settled: &'a mut Vec<Settlement>,
}

impl Turn<'_> {
    /// One run over all rows of `items`.
    fn run_whole(&mut self, items: &[Item]) -> Result<(), Failure> {
        let rows: u32 = items.iter().map(|item| item.rows).sum();
        let limit = match items {
            // Ending a run ends it for all its jobs, so only for one alone.
            [item] => item.deadline,
            _ => None,
        };
        let (worker, version) = (self.worker, self.version);
        let mut fresh = Vec::with_capacity(items.len());
        let ran = self.once(
            items,
            0..rows,
            limit,
            &mut |outputs, explain, since_run| {
                if items.len() > 1 {
                    batch_axis(version, outputs, rows)?;
                }
                let mut first = 0;
                for item in items {
                    let explain = Explain { output_us: micros(since_run.elapsed()), ..explain_for(item, explain) };
                    let part = match items.len() {
                        1 => None,
                        _ => Some((first, item.rows, rows)),
                    };
                    let packed = pack(version, item, outputs, part, &explain);
                    fresh.push(Settlement {
                        id: item.job.id,
                        token: item.job.token,
                        outcome: Outcome::Succeeded(packed),
                    });
                    first += item.rows;
                }
                Ok(())
            },
            worker,
        )?;
        self.count(items, &ran);
        self.settled.append(&mut fresh);
        Ok(())
    }

    /// Several runs over the rows of one large item, joined.
    fn run_split(&mut self, item: &Item, cap: u32) -> Result<(), Failure> {
        let (worker, version) = (self.worker, self.version);
        let items = std::slice::from_ref(item);
        let mut joined: Vec<Joined> = Vec::new();
        let mut total = Explain::default();
        let mut from = 0;
        let mut first_start = None;
        while from < item.rows {
            let to = (from + cap).min(item.rows);
            let ran = self.once(
                items,
                from..to,
                item.deadline,
                &mut |outputs, explain, _| {
                    batch_axis(version, outputs, to - from)?;
                    total.input_us += explain.input_us;
                    total.infer_us += explain.infer_us;
                    total.batch_size = total.batch_size.max(to - from);
                    joined.resize_with(outputs.len(), Joined::default);
                    for (whole, output) in joined.iter_mut().zip(outputs) {
                        whole.append(output)?;
                    }
                    Ok(())
                },
                worker,
            )?;
            first_start.get_or_insert(ran.started);
            // The job counts once, with its last run.
            self.count(if to == item.rows { items } else { &[] }, &ran);
            from = to;
        }
        total.batch_wait_us = micros(first_start.map_or(Duration::ZERO, |start| start - item.since));
        total.worker = worker.clone();
        let views: SmallVec<[OutputView<'_>; 4]> = joined.iter().map(Joined::view).collect();
        let packed = pack(version, item, &views, None, &explain_for(item, &total));
        self.settled.push(Settlement { id: item.job.id, token: item.job.token, outcome: Outcome::Succeeded(packed) });
        Ok(())
    }

    /// One call of the engine over `rows` of the concatenated items.
    fn once(
        &mut self,
        items: &[Item],
        rows: std::ops::Range<u32>,
        deadline: Option<Instant>,
        split: &mut dyn FnMut(&[OutputView<'_>], &Explain, Instant) -> Result<(), Failure>,
        worker: &SmolStr,
    ) -> Result<Ran, Failure> {
        let started = Instant::now();
        let filled = fill(self.version, self.buffers, items, &rows)?;
        let views: SmallVec<[InputView<'_>; 2]> = filled.views(self.version, self.buffers);
        let limit = deadline.map(|at| RunLimit { at, watchdog: self.watchdog });
        let before_run = Instant::now();
        let mut outcome = Ok(());
        let mut times = None;
        let engine = &mut *self.engine;
        engine
            .run(&views, limit, &mut |outputs| {
                let after_run = Instant::now();
                let explain = Explain {
                    batch_wait_us: micros(items.first().map_or(Duration::ZERO, |item| started - item.since)),
                    input_us: micros(before_run - started),
                    infer_us: micros(after_run - before_run),
                    batch_size: rows.end - rows.start,
                    worker: worker.clone(),
                    ..Explain::default()
                };
                outcome = split(outputs, &explain, after_run);
                times = Some(BatchTimes {
                    rows: rows.end - rows.start,
                    input: before_run - started,
                    infer: after_run - before_run,
                    output: after_run.elapsed(),
                });
            })
            .map_err(|error| Failure::run(error, self.version))?;
        outcome?;
        let times =
            times.ok_or_else(|| Failure::run(RunError::Failed("the runtime gave no outputs".into()), self.version))?;
        self.version.controller.lock().observe(times.rows, started.elapsed());
        Ok(Ran { times, started })
    }

    fn count(&self, items: &[Item], ran: &Ran) {
        self.version.stats.ran(ran.times, items.iter().map(|item| waits(item, ran.started)));
    }
}

fn waits(item: &Item, started: Instant) -> JobWaits {
    let queue = Duration::from_micros(item.job.leased_at_us.saturating_sub(item.job.queued_at_us));
    JobWaits { queue, batch_wait: started.saturating_duration_since(item.since) }
}

/// The explanation of one item of a run.
fn explain_for(item: &Item, run: &Explain) -> Explain {
    Explain {
        queue_us: item.job.leased_at_us.saturating_sub(item.job.queued_at_us),
        attempts: item.job.attempt,
        worker: run.worker.clone(),
        ..*run
    }
}

fn micros(duration: Duration) -> u64 {
    duration.as_micros() as u64
}

/// Checks that every output has the batch axis, so that it can be split.
fn batch_axis(version: &Version, outputs: &[OutputView<'_>], rows: u32) -> Result<(), Failure> {
    for (output, spec) in outputs.iter().zip(&version.signature.outputs) {
        if output.shape.first() != Some(&i64::from(rows)) {
            let why = format!("output `{}` has shape {:?} for {rows} rows", spec.name, output.shape);
            version.stop_batching(&why);
            return Err(Failure {
                code: ErrorCode::InferenceFailed,
                message: format!("{why}; its first axis is not the batch axis, send one row per request"),
                again: false,
            });
        }
    }
    Ok(())
}

/// Inputs concatenated into the buffers.
struct Filled<'a> {
    shapes: SmallVec<[Shape; 2]>,
    texts: SmallVec<[Vec<&'a str>; 2]>,
    used: SmallVec<[usize; 2]>,
}

fn fill<'a>(
    version: &Version,
    buffers: &mut Vec<Buffer>,
    items: &'a [Item],
    rows: &std::ops::Range<u32>,
) -> Result<Filled<'a>, Failure> {
    let signature = &version.signature;
    buffers.resize_with(signature.inputs.len().max(buffers.len()), Buffer::default);
    let mut filled = Filled { shapes: SmallVec::new(), texts: SmallVec::new(), used: SmallVec::new() };
    for (at, spec) in signature.inputs.iter().enumerate() {
        let mut parts = items.iter().filter_map(|item| Some((item.inputs[at].as_ref()?, item.rows)));
        let Some((first, _)) = parts.clone().next() else { continue };
        let mut shape = first.shape.clone();
        // Without a batch axis the item goes in as it is; `rows` is its one "row".
        if signature.batched {
            shape[0] = i64::from(rows.end - rows.start);
        }
        let part_of = |data_len: usize, own_rows: u32| -> std::ops::Range<usize> {
            let from = if items.len() == 1 && signature.batched { rows.clone() } else { 0..own_rows };
            let per_row = data_len / own_rows.max(1) as usize;
            from.start as usize * per_row..if from.end == own_rows { data_len } else { from.end as usize * per_row }
        };
        let mut text = Vec::new();
        if spec.datatype == Datatype::Bytes {
            for (tensor, own_rows) in parts {
                let mut elements = Vec::new();
                let mut rest = &tensor.data[..];
                while let Some(element) = take_bytes_element(&mut rest) {
                    let element = std::str::from_utf8(element).map_err(|_| {
                        Failure::invalid(format!(
                            "input `{}` element {} is not UTF-8, which ONNX string tensors hold",
                            spec.name,
                            elements.len()
                        ))
                    })?;
                    elements.push(element);
                }
                text.extend_from_slice(&elements[part_of(elements.len(), own_rows)]);
            }
        } else {
            let ranges: usize =
                parts.clone().map(|(tensor, own_rows)| part_of(tensor.data.len(), own_rows).len()).sum();
            buffers[at].reset(ranges);
            parts
                .by_ref()
                .for_each(|(tensor, own_rows)| buffers[at].push(&tensor.data[part_of(tensor.data.len(), own_rows)]));
        }
        filled.shapes.push(shape);
        filled.texts.push(text);
        filled.used.push(at);
    }
    Ok(filled)
}

impl Filled<'_> {
    fn views<'s>(&'s self, version: &Version, buffers: &'s [Buffer]) -> SmallVec<[InputView<'s>; 2]> {
        self.used
            .iter()
            .zip(&self.shapes)
            .zip(&self.texts)
            .map(|((&index, shape), text)| {
                let datatype = version.signature.inputs[index].datatype;
                let data = match datatype {
                    Datatype::Bytes => InputData::Text(text),
                    _ => InputData::Raw(buffers[index].bytes()),
                };
                InputView { index, datatype, shape, data }
            })
            .collect()
    }
}

/// Packs one item's result: explain, then the outputs it asked for. `part` is
/// its first row, its rows and the run's rows; `None` takes the outputs whole.
fn pack(
    version: &Version,
    item: &Item,
    outputs: &[OutputView<'_>],
    part: Option<(u32, u32, u32)>,
    explain: &Explain,
) -> Bytes {
    let signature = &version.signature;
    let wanted = |at: usize| item.outputs.is_empty() || item.outputs.contains(&signature.outputs[at].name);
    let size: usize = outputs
        .iter()
        .enumerate()
        .filter(|(at, _)| wanted(*at))
        .map(|(at, output)| {
            let len = match &output.data {
                OutputData::Raw(raw) => raw.len(),
                OutputData::Text(elements) => elements.iter().map(|element| element.len() + 4).sum(),
            };
            signature.outputs[at].name.len()
                + output.shape.len() * 3
                + 16
                + part.map_or(len, |(_, rows, all)| len * rows as usize / all.max(1) as usize)
        })
        .sum();
    let mut out = Vec::with_capacity(size + signature.version.len() + 48);
    explain.encode(&mut out);
    let count = (0..outputs.len()).filter(|&at| wanted(at)).count();
    InferResponse::encode_head(&mut out, &signature.version, count);
    for (at, output) in outputs.iter().enumerate().filter(|(at, _)| wanted(*at)) {
        let name = &signature.outputs[at].name;
        let mut shape: Shape = output.shape.into();
        let slice = |len: usize| match part {
            None => 0..len,
            Some((first, rows, all)) => {
                let per_row = len / all.max(1) as usize;
                first as usize * per_row..(first + rows) as usize * per_row
            }
        };
        if let (Some((_, rows, _)), Some(dim)) = (part, shape.first_mut()) {
            *dim = i64::from(rows);
        }
        match &output.data {
            OutputData::Raw(raw) => {
                let raw = &raw[slice(raw.len())];
                InferResponse::encode_output(&mut out, name, output.datatype, &shape, raw.len());
                out.extend_from_slice(raw);
            }
            OutputData::Text(elements) => {
                let mut framed = Vec::new();
                for element in &elements[slice(elements.len())] {
                    put_bytes_element(&mut framed, element.as_bytes());
                }
                InferResponse::encode_output(&mut out, name, output.datatype, &shape, framed.len());
                out.extend_from_slice(&framed);
            }
        }
    }
    out.into()
}

/// One output of a split item, growing run by run.
#[derive(Default)]
struct Joined {
    datatype: Option<Datatype>,
    shape: Shape,
    raw: Vec<u8>,
    text: Vec<String>,
}

impl Joined {
    fn append(&mut self, output: &OutputView<'_>) -> Result<(), Failure> {
        match self.datatype {
            None => {
                self.datatype = Some(output.datatype);
                self.shape = output.shape.into();
            }
            Some(_) if self.shape[1..] != output.shape[1..] => {
                return Err(Failure {
                    code: ErrorCode::InferenceFailed,
                    message: format!(
                        "an output has shape {:?} for some rows and {:?} for others; send fewer rows per request",
                        self.shape.as_slice(),
                        output.shape
                    ),
                    again: false,
                });
            }
            Some(_) => self.shape[0] += output.shape[0],
        }
        match &output.data {
            OutputData::Raw(raw) => self.raw.extend_from_slice(raw),
            OutputData::Text(elements) => self.text.extend_from_slice(elements),
        }
        Ok(())
    }

    fn view(&self) -> OutputView<'_> {
        let datatype = self.datatype.unwrap_or(Datatype::Uint8);
        let data = match datatype {
            Datatype::Bytes => OutputData::Text(self.text.clone()),
            _ => OutputData::Raw(&self.raw),
        };
        OutputView { datatype, shape: &self.shape, data }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure { code: error.code, message: error.message, again: false }
    }
}

#[cfg(test)]
mod tests;
