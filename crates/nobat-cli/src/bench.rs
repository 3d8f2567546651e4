//! `nobat bench`: load on a running service, and what came of it.
//!
//! The engine is that of `nobat test`'s load stage. Here it is a measurement, with its figures
//! in lines; there it is a test among others.

use nobat_runtime::streams::{print, print_bytes};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use nobat_check::client::{CallProtocol, ModelDescription, Prepared, Target, TargetSettings, grpc_beside};
use nobat_check::data::{Dataset, ModelInputs, synthetic};
use nobat_check::load::{Load, LoadReport, LoadSettings, Pause, Sample, Tally, run as run_load};
use nobat_check::stage::{Finding, Verdict};
use serde_json::json;

use crate::client::{Server, block_on};
use crate::input;
use crate::load::LoadOptions;
use crate::target;

/// Requests that are sent in turn, where a file has more.
const MOST_REQUESTS: usize = 1_000;
/// Users of a closed loop, where nothing else is said.
const USERS: usize = 16;

/// Measure requests a second and latency of a running service.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    nobat bench digits --input digit.json\n  \
    nobat bench digits --input digit.json --users 64 --duration 10\n  \
    nobat bench digits --input digit.json --rate 2000 --deadline 50   (arrivals at random, 2000 a second)\n  \
    nobat bench digits --users 100 --per-minute 6     a hundred people, made-up inputs\n  \
    nobat bench digits --slo 20 --knee                the highest rate within 20 ms\n  \
    nobat bench digits --rate 500 --save-baseline before.json     …and after the change:\n  \
    nobat bench digits --rate 500 --baseline before.json\n\n\
    With --rate latency counts from the moment at which a request was due, so that a stall is seen\n\
    by all who would have met it. Answers come from the model, not from a cache.")]
pub(crate) struct Args {
    /// Name of the model, or MODEL/VERSION.
    model: String,
    /// A JSON file, an .npy array, or - for standard input; sent with every request. Without,
    /// inputs are made up.
    #[arg(long, short, value_name = "FILE", conflicts_with = "data")]
    input: Option<PathBuf>,
    /// Rows that are sent in turn: .npz, .npy, .csv, .jsonl, or a folder.
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// The protocol: tfserving, native, v2, v2-binary, grpc or job.
    #[arg(long, default_value = "tfserving", value_parser = protocol)]
    protocol: CallProtocol,
    /// Address of the gRPC port; without, the port after the HTTP one.
    #[arg(long, value_name = "URL")]
    grpc: Option<String>,
    #[command(flatten)]
    load: LoadOptions,
    /// Deadline of each request, in milliseconds; later answers are not useful.
    #[arg(long, value_name = "MS", allow_negative_numbers = true)]
    deadline: Option<f64>,
    /// Writes a line per request: seconds from the first run to the moment at which it was due,
    /// latency in milliseconds, status (0: no answer).
    #[arg(long, value_name = "FILE")]
    samples: Option<PathBuf>,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: Server,
}

fn protocol(name: &str) -> Result<CallProtocol, String> {
    let known = |protocol: &CallProtocol| *protocol != CallProtocol::Json;
    CallProtocol::parse(name).filter(known).ok_or_else(|| {
        let names: Vec<&str> = CallProtocol::ALL.iter().filter(|protocol| known(protocol)).map(|p| p.name()).collect();
        format!("give one of {}", names.join(", "))
    })
}

pub(crate) fn run(args: Args) -> Result<()> {
    ensure!(
        args.deadline.is_none_or(|ms| ms > 0.0 && ms.is_finite()),
        "--deadline {} cannot be; give milliseconds over 0",
        args.deadline.unwrap_or_default()
    );
    let default = LoadSettings {
        load: Some(Load::Closed { users: USERS, pause: Pause::None }),
        length: Duration::from_secs(5),
        // What is later than the deadline is of no use.
        goal: args.deadline.map(|ms| Duration::from_secs_f64(ms / 1e3)),
        samples: args.samples.is_some(),
        ..LoadSettings::default()
    };
    let settings = args.load.settings(default)?;
    // What cannot be written is told before the work, not after it.
    let kept = args.load.kept_baseline()?;
    let cannot = |path: &Path| format!("cannot write `{}`", path.display());
    let samples = args.samples.as_deref().map(|path| File::create(path).with_context(|| cannot(path))).transpose()?;
    block_on(async {
        let (target, model, is_nobat) = args.open().await?;
        let settings = LoadSettings { has_workers: is_nobat, ..settings };
        if let (Some((_, Some(earlier))), Some(load)) = (&kept, &settings.load) {
            earlier.check(&target.settings().model, target.protocol().name(), &load.words())?;
        }
        let requests = args.requests(&target, &model)?;
        prove(&target, &requests[0]).await?;
        let bar = ProgressBar::new(1)
            .with_style(ProgressStyle::with_template("{elapsed:>4} [{bar:20}] {wide_msg}")?.progress_chars("=> "));
        let report = run_load(&target, &model, requests, &settings, &|done, of, words| {
            bar.set_length(of.max(1));
            bar.set_position(done);
            bar.set_message(words.to_owned());
        })
        .await;
        bar.finish_and_clear();
        let report = report?;
        if let (Some(path), Some(file)) = (&args.samples, samples) {
            write_samples(file, &report.outcome.samples).with_context(|| cannot(path))?;
        }
        match args.json {
            true => print(serde_json::to_string_pretty(&json!(report.stage))?)?,
            false => print_bytes(in_lines(&report).as_bytes())?,
        }
        let failed: Vec<String> = report
            .stage
            .findings
            .iter()
            .filter(|finding| finding.verdict == Verdict::Failed && args.load.asks_for(&finding.id))
            .map(|finding| finding.title.clone())
            .collect();
        let gone = report.outcome.gone.is_some();
        match (kept, gone) {
            (Some((path, earlier)), false) => {
                let baseline = report.into_baseline(earlier, &target)?;
                std::fs::write(&path, serde_json::to_vec_pretty(&baseline)?).with_context(|| cannot(&path))?;
            }
            (_, true) => bail!("the server went away"),
            (None, false) => {}
        }
        ensure!(failed.is_empty(), "it did not hold: {}", failed.join("; "));
        Ok(())
    })
}

impl Args {
    /// The model, what its server says of it, and whether that is nobat.
    async fn open(&self) -> Result<(Target, ModelDescription, bool)> {
        let grpc = self.grpc.clone().or_else(|| grpc_beside(self.server.url()));
        let settings = TargetSettings { grpc, ..target::settings(&self.server, &self.model) };
        let target = Target::new(settings.clone(), self.protocol)?;
        // nobat's own description says most; another server has only its protocol's.
        let own = match Target::new(settings, CallProtocol::Native) {
            Ok(native) => native.describe().await,
            Err(error) => Err(error.message),
        };
        let is_nobat = own.is_ok();
        let model = match own {
            Ok(model) => Ok(model),
            Err(_) => target::described(&target).await,
        };
        // A body as it is needs no description.
        let bare = || ModelDescription { name: target.settings().model.clone(), ..ModelDescription::default() };
        let model = model.or_else(|error| if self.input.is_some() { Ok(bare()) } else { Err(error) })?;
        Ok((target, model, is_nobat))
    }

    fn requests(&self, target: &Target, model: &ModelDescription) -> Result<Arc<[Prepared]>> {
        let mut requests = Vec::new();
        if let Some(path) = &self.input {
            ensure!(
                matches!(self.protocol, CallProtocol::TfServing | CallProtocol::Native | CallProtocol::V2),
                "--input is sent as it is, which {} does not take; give rows with --data",
                self.protocol.name()
            );
            let empty = target.prepare(&[])?;
            let call = empty.http().context("the protocol has no body")?.clone();
            requests.push(Prepared::from(call.body(input::read(path)?)));
        } else if let Some(path) = &self.data {
            let rows = Dataset::read(path, ModelInputs { specs: &model.inputs, batched: model.batched })?;
            let rows = (0..rows.len().min(MOST_REQUESTS)).filter_map(|row| rows.row(row));
            requests = rows.map(|row| target.prepare(&row)).collect::<Result<_, _>>()?;
            ensure!(!requests.is_empty(), "`{}` has no rows", path.display());
        } else {
            let made_up = (0..16).map(|seed| synthetic(&model.inputs, model.batched, 1, seed));
            requests = made_up.map(|inputs| target.prepare(&inputs)).collect::<Result<_, _>>()?;
        }
        if let Some(ms) = self.deadline {
            ensure!(
                matches!(self.protocol, CallProtocol::TfServing | CallProtocol::Native),
                "--deadline goes with the protocols tfserving and native"
            );
            let timed = |request: &Prepared| {
                Some(Prepared::from(request.http()?.clone().query("deadline", &format!("{ms}ms"))))
            };
            requests = requests.iter().filter_map(timed).collect();
        }
        Ok(requests.into())
    }
}

/// The first answer proves the request: a refusal is told here, not counted.
async fn prove(target: &Target, request: &Prepared) -> Result<()> {
    let reply = target.send(request).await;
    if reply.is_success() {
        return Ok(());
    }
    if reply.status.is_answer() {
        bail!("{}", reply.in_words());
    }
    bail!(
        "{} gives {}; is it running? start it with `nobat serve`, or set --url",
        target.settings().url,
        reply.in_words()
    )
}

fn write_samples(file: File, samples: &[Sample]) -> Result<()> {
    let mut out = BufWriter::new(file);
    writeln!(out, "start_s,latency_ms,status")?;
    for Sample { due, took, code } in samples {
        // `HTTP 503 (queue_full)` is 503, and what never came 0.
        let status = match code.strip_prefix("HTTP ") {
            _ if code.is_empty() => "200",
            Some(rest) => rest.split(' ').next().unwrap_or_default(),
            None => "0",
        };
        writeln!(out, "{:.6},{:.3},{status}", due.as_secs_f64(), took.as_secs_f64() * 1e3)?;
    }
    Ok(out.flush()?)
}

/// The figures, and what is to be said of them.
fn in_lines(report: &LoadReport) -> String {
    let (outcome, whole) = (&report.outcome, report.outcome.whole());
    let seconds = outcome.measured().as_secs_f64().max(1e-9);
    let mut lines = vec![format!(
        "load            {}, {} runs of {:.1} s after {:.1} s of warm-up",
        report.load.words(),
        outcome.runs.len(),
        outcome.run.as_secs_f64(),
        outcome.warmed_up.as_secs_f64()
    )];
    if !report.load.is_closed() {
        lines.push(format!("arrivals/s      {:.0}", whole.due as f64 / seconds));
    }
    lines.push(format!("requests/s      {:.0}", whole.latencies.count() as f64 / seconds));
    let ms = |q: f64| whole.latencies.quantile(q).as_secs_f64() * 1e3;
    lines.push(format!(
        "latency ms      p50 {:.2}   p90 {:.2}   p99 {:.2}   max {:.2}",
        ms(0.5),
        ms(0.9),
        ms(0.99),
        ms(1.0)
    ));
    if let Some(server) = &whole.server {
        let parts = [("queue", &server.queue), ("batch", &server.batch), ("run", &server.run)];
        let parts = parts.map(|(name, part)| format!("{name} {:.2}", part.mean().as_secs_f64() * 1e3));
        lines.push(format!("server ms       {}   (means)", parts.join("   ")));
    }
    if report.goal.is_some() {
        lines.push(format!("in time/s       {:.0}", whole.in_time as f64 / seconds));
    }
    lines.extend(failures(&whole));
    for finding in &report.stage.findings {
        lines.extend(remarks(finding, report.goal.is_some()));
    }
    lines.join("\n") + "\n"
}

fn failures(whole: &Tally) -> Vec<String> {
    let mut lines = vec![format!("failed          {}", whole.failed())];
    lines.extend(whole.errors.iter().map(|(code, times)| format!("  {code}: {times}")));
    if whole.retry_after > 0 {
        lines.push(format!("  with Retry-After: {}", whole.retry_after));
    }
    lines
}

/// What the lines above do not say.
fn remarks(finding: &Finding, goal: bool) -> Vec<String> {
    let judged = match (&finding.verdict, finding.id.as_str()) {
        // Its figures are above.
        (_, "answers") => return Vec::new(),
        (Verdict::Passed, "server_time") => return Vec::new(),
        (Verdict::NotJudged { why, .. }, "latency") if !goal && why.starts_with("there is no goal") => Vec::new(),
        (Verdict::NotJudged { why, needed }, _) => {
            let needed = needed.as_ref().map(|needed| format!("; needed: {needed}")).unwrap_or_default();
            vec![format!("\nnot judged: {}\n  {why}{needed}", finding.title)]
        }
        (verdict, _) => vec![format!("\n{}: {}", verdict.name(), finding.title)],
    };
    // The first sentence of the latency repeats its line.
    let words = finding.words.iter().skip(usize::from(finding.id == "latency"));
    let words: Vec<String> = words.map(|sentence| format!("  {sentence}")).collect();
    match judged.is_empty() {
        true if words.is_empty() => Vec::new(),
        true => [vec![String::new()], words].concat(),
        false => [judged, words].concat(),
    }
}
