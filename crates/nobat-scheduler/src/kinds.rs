//! What each kind of task does. One call is one attempt; the caller bounds its
//! time by dropping it.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use crate::schedule::{Exec, Fetch, Periodic, Predict, TaskKind};
use bytes::Bytes;
use nobat_core::infer::{InferRequest, InferResponse};
use nobat_core::job::{Idempotency, JobOptions, JobState, JobView, NewJob};
use nobat_core::signature::{ModelSignature, ModelState};
use nobat_core::{Error, ErrorCode, JobId, OwnerId, Result};
use nobat_queue::queue::WorkerCommand;
use nobat_queue::{route_jobs, watch};
use reqwest::StatusCode;
use reqwest::header::{ETAG, IF_NONE_MATCH};
use serde_json::json;
use smol_str::SmolStr;

use crate::carrier::RunRequest;
use crate::request;
use crate::runner::Inner;
use crate::scheduler::now_ms;

/// Longest one wait for a job; waited again until the task's own timeout.
const WAIT: Duration = Duration::from_secs(60);

/// How often a command is asked whether it has ended.
const LOOK: Duration = Duration::from_millis(20);

/// What a successful attempt leaves in the history.
#[derive(Clone, Debug, Default)]
pub(crate) struct Done {
    pub(crate) message: String,
    pub(crate) exit_code: Option<i32>,
    pub(crate) output: String,
    pub(crate) job: Option<String>,
}

impl Done {
    fn said(message: impl Into<String>) -> Done {
        Done { message: message.into(), ..Done::default() }
    }
}

/// One attempt.
pub(crate) async fn carry_out(inner: &Inner, task: &Periodic, run: &RunRequest) -> Result<Done> {
    match task.kind()? {
        TaskKind::Predict(kind) => predict(inner, kind, run, task.retry.max_retries.into()).await,
        TaskKind::Fetch(kind) => fetch(inner, kind).await,
        TaskKind::Reload(kind) => {
            inner.queue.command(&WorkerCommand::Load { model: kind.model.clone() }).await?;
            Ok(Done::said(format!("asked the workers to load `{}` again", kind.model)))
        }
        TaskKind::Exec(kind) => exec(kind).await,
        TaskKind::Vacuum(kind) => {
            let forgotten = inner.carrier.vacuum(Duration::from_secs(kind.keep_s)).await?;
            Ok(Done::said(format!("forgot {forgotten} finished runs")))
        }
    }
}

/// The job of a run's attempt: the first one under the run's own key. A job that
/// ended dead or expired is answered for, and a further one has a key of its own; of
/// these there are as many as the task has retries.
async fn predict(inner: &Inner, kind: &Predict, run: &RunRequest, retries: u32) -> Result<Done> {
    let request = request::decode(&kind.request)?;
    let (queue, request, rows) = match route_jobs::is_route(&*inner.ledger, &kind.model).await? {
        // A gateway checks it against the route's signature when it carries it out.
        true => {
            route_jobs::open(&*inner.ledger, &kind.model).await?;
            (route_jobs::queue_of(&kind.model), request, 1)
        }
        false => for_model(inner, &kind.model, request).await?,
    };
    let payload = Bytes::from(request.encode());
    let result_ttl = Duration::from_secs(u64::from(kind.result_ttl_s));
    let result_ttl = if kind.webhook.is_some() { watch::kept(result_ttl) } else { result_ttl };
    let job = |key: &str| NewJob {
        model: queue.clone(),
        owner: OwnerId::ANONYMOUS,
        options: JobOptions {
            priority: kind.priority,
            result_ttl,
            // A run that is carried out twice after a crash finds its job there.
            idempotency: Some(Idempotency { key: key.into(), fingerprint: 0 }),
            ..JobOptions::default()
        },
        payload: payload.clone(),
        rows,
        trace: run.key.as_str().into(),
    };
    let mut accepted = inner.lane.enqueue(job(&run.key)).await?;
    for retry in 1..=retries {
        if !accepted.duplicate || !ended_badly(inner, accepted.id).await? {
            break;
        }
        accepted = inner.lane.enqueue(job(&format!("{}#{retry}", run.key))).await?;
    }
    let id = accepted.id;
    if let Some(url) = &kind.webhook {
        watch::begin(&*inner.ledger, id, OwnerId::ANONYMOUS, url, now_ms()).await?;
    }
    let view = loop {
        match inner.lane.wait(id, WAIT).await? {
            Some(view) if view.state.is_terminal() => break view,
            Some(_) => {}
            None => return Err(Error::new(ErrorCode::ResultExpired, "the job's record is gone; raise result_ttl_s")),
        }
    };
    if view.state != JobState::Succeeded {
        let why = view.error.map_or_else(|| view.state.as_str().to_owned(), |error| error.message);
        return Err(Error::new(ErrorCode::InferenceFailed, format!("job {id}: {why}")));
    }
    if let Some(file) = &kind.write_to {
        write_whole(Path::new(file), &shown(&view)?).await?;
    }
    Ok(Done { job: Some(id.to_string()), ..Done::said(format!("job {id} succeeded")) })
}

/// Whether a job has failed for good by itself; one that somebody cancelled is to stay so.
async fn ended_badly(inner: &Inner, id: JobId) -> Result<bool> {
    let view = inner.queue.get(id).await?;
    Ok(view.is_some_and(|view| matches!(view.state, JobState::Dead | JobState::Expired)))
}

/// A request to a live model, checked; with its queue and its rows.
async fn for_model(inner: &Inner, target: &str, request: InferRequest) -> Result<(SmolStr, InferRequest, u32)> {
    let (model, version) = target.split_once('/').unwrap_or((target, ""));
    let workers = inner.queue.workers().await?;
    let serves = |known: &&ModelSignature| {
        known.name == model && known.state == ModelState::Ready && (version.is_empty() || known.version == version)
    };
    let signature = workers.iter().flat_map(|worker| &worker.models).find(serves).ok_or_else(|| {
        Error::new(ErrorCode::NoWorker, format!("`{target}` is no route, and no live worker serves it; start one"))
    })?;
    let rows = signature.validate(&request)?;
    Ok((model.into(), InferRequest { version: version.into(), ..request }, rows))
}

/// A result as the Open Inference Protocol's JSON, data flat.
fn shown(view: &JobView) -> Result<Vec<u8>> {
    let packed = view.result.as_ref().map(|result| InferResponse::decode(&result.outputs)).transpose()?;
    let outputs: Vec<_> = packed
        .iter()
        .flat_map(|response| &response.outputs)
        .map(|tensor| json!({"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape, "data": request::values(tensor)}))
        .collect();
    let shown = json!({"id": view.id, "model_name": route_jobs::shown(&view.model), "outputs": outputs});
    serde_json::to_vec_pretty(&shown)
        .map_err(|e| Error::new(ErrorCode::Internal, format!("a result cannot be written: {e}")))
}

async fn fetch(inner: &Inner, kind: &Fetch) -> Result<Done> {
    let file = Path::new(&kind.file);
    let etag_file = beside(file, "etag");
    let mut get = inner.http.get(&kind.url);
    if file.exists()
        && let Ok(etag) = std::fs::read_to_string(&etag_file)
    {
        get = get.header(IF_NONE_MATCH, etag);
    }
    let failed = |why: String| Error::new(ErrorCode::InvalidParameter, format!("fetching into `{}`: {why}", kind.file));
    let mut answer = get.send().await.map_err(|e| failed(e.without_url().to_string()))?;
    if answer.status() == StatusCode::NOT_MODIFIED {
        return Ok(Done::said("not modified"));
    }
    if !answer.status().is_success() {
        return Err(failed(format!("the server answered {}", answer.status())));
    }
    let too_large = || failed(format!("the answer is larger than max_bytes = {}; raise it", kind.max_bytes));
    if answer.content_length().is_some_and(|length| length > kind.max_bytes) {
        return Err(too_large());
    }
    let etag = answer.headers().get(ETAG).and_then(|etag| etag.to_str().ok()).map(str::to_owned);
    let mut part = Part::create(file)?;
    let mut length = 0u64;
    while let Some(chunk) = answer.chunk().await.map_err(|e| failed(e.without_url().to_string()))? {
        length += chunk.len() as u64;
        if length > kind.max_bytes {
            return Err(too_large());
        }
        part.write(chunk).await?;
    }
    // The old tag goes first: killed between here and the last line, the file is
    // fetched once more, never left under a tag that is not its own.
    let _ = std::fs::remove_file(&etag_file);
    part.replace(file).await?;
    if let Some(etag) = etag {
        write_whole(&etag_file, etag.as_bytes()).await?;
    }
    if let Some(model) = &kind.then_reload {
        inner.queue.command(&WorkerCommand::Load { model: model.clone() }).await?;
    }
    Ok(Done::said(format!("fetched {length} bytes")))
}

async fn exec(kind: &Exec) -> Result<Done> {
    let failed =
        |why: String| Error::new(ErrorCode::InvalidParameter, format!("command `{}` {why}", kind.command.join(" ")));
    let (program, arguments) = kind.command.split_first().ok_or_else(|| failed("is empty".into()))?;
    let mut command = std::process::Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    if let Some(dir) = &kind.dir {
        command.current_dir(dir);
    }
    let child = command.spawn().map_err(|e| failed(format!("cannot start: {e}; check path and rights")))?;
    let mut running = Running(child);
    let most = kind.max_output_bytes as usize;
    let (stdout, stderr) = (running.0.stdout.take(), running.0.stderr.take());
    let out = tokio::task::spawn_blocking(move || newest(stdout, most / 2));
    let err = tokio::task::spawn_blocking(move || newest(stderr, most / 2));
    let status = loop {
        match running.0.try_wait().map_err(|e| failed(format!("cannot be waited for: {e}")))? {
            Some(status) => break status,
            None => tokio::time::sleep(LOOK).await,
        }
    };
    let (out, err) = (out.await.unwrap_or_default(), err.await.unwrap_or_default());
    let output = format!("{out}{err}");
    match status.code() {
        Some(0) => Ok(Done { exit_code: Some(0), output, ..Done::said("exit code 0") }),
        Some(code) => Err(failed(format!("ended with exit code {code}: {}", output.trim_end()))),
        None => Err(failed(format!("was ended by a signal: {}", output.trim_end()))),
    }
}

/// A command at work; killed when dropped, which is how its time is bounded.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Ended already: neither does anything. Else it is gone at once.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The newest `most` bytes of a stream, read to its end.
fn newest(stream: Option<impl Read>, most: usize) -> String {
    let Some(mut stream) = stream else { return String::new() };
    let mut kept = Vec::new();
    let mut chunk = vec![0; 8192];
    while let Ok(count) = stream.read(&mut chunk) {
        if count == 0 {
            break;
        }
        kept.extend_from_slice(&chunk[..count]);
        if kept.len() > 2 * most {
            kept.drain(..kept.len() - most);
        }
    }
    let from = kept.len().saturating_sub(most);
    String::from_utf8_lossy(&kept[from..]).into_owned()
}

/// A file on its way; gone when dropped before it replaced the old one.
struct Part {
    path: PathBuf,
    file: Option<std::fs::File>,
}

impl Part {
    fn create(beside_file: &Path) -> Result<Part> {
        let path = beside(beside_file, &format!("part-{}", crate::scheduler::unique()));
        let file = std::fs::File::create(&path).map_err(|e| cannot_write(&path, &e))?;
        Ok(Part { path, file: Some(file) })
    }

    /// Writes on a blocking thread: a slow disk holds up nobody else.
    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        self.with(move |file| file.write_all(&bytes)).await
    }

    async fn replace(mut self, old: &Path) -> Result<()> {
        self.with(|file| file.sync_all()).await?;
        std::fs::rename(&self.path, old).map_err(|e| cannot_write(old, &e))
    }

    async fn with(
        &mut self,
        work: impl FnOnce(&mut std::fs::File) -> std::io::Result<()> + Send + 'static,
    ) -> Result<()> {
        let Some(mut file) = self.file.take() else {
            return Err(Error::new(ErrorCode::Internal, "a file is written after its write failed"));
        };
        let worked = tokio::task::spawn_blocking(move || work(&mut file).map(|()| file)).await;
        match worked {
            Ok(Ok(file)) => {
                self.file = Some(file);
                Ok(())
            }
            Ok(Err(error)) => Err(cannot_write(&self.path, &error)),
            Err(error) => Err(Error::new(ErrorCode::Internal, format!("a write ended early: {error}"))),
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // Renamed away when it is whole; else nobody wants it.
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn write_whole(file: &Path, bytes: &[u8]) -> Result<()> {
    let mut part = Part::create(file)?;
    part.write(Bytes::copy_from_slice(bytes)).await?;
    part.replace(file).await
}

fn beside(file: &Path, suffix: &str) -> PathBuf {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name.push(suffix);
    file.with_file_name(name)
}

fn cannot_write(path: &Path, error: &std::io::Error) -> Error {
    Error::new(
        ErrorCode::InvalidParameter,
        format!("cannot write `{}`: {error}; check the folder, its rights and its space", path.display()),
    )
}
