//! `nobat compare`: two versions of a model on the same requests.

use nobat_runtime::streams::tell;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use indicatif::ProgressBar;
use nobat_check::client::{CallProtocol, ModelDescription, Target};
use nobat_check::compare::{CompareReport, CompareSettings, Comparison, PairFigures, compare};
use nobat_check::data::{Dataset, ModelInputs};
use nobat_core::tensor::Tensor;
use nobat_core::units;
use nobat_statistics::pairs::GateVerdict;
use reqwest::{Method, header};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::client::{Client, Service, block_on, segment};
use crate::table::Columns;
use crate::target;
use crate::test::{exit, progress};

const GATES: Columns = Columns { list: "gates", paths: &["name", "verdict", "words"], empty: "no gate was asked" };
const EXAMPLES: Columns = Columns {
    list: "examples",
    paths: &["request", "old", "new", "label", "input"],
    empty: "no request was answered differently",
};

/// Send the same requests to two versions of a model and say whether the new one is safe.
///
/// Safe means shown: for each gate the one-sided 95 % bound of how much worse the new version
/// is stays under its margin. Exits with 1 when it is not, with 2 when nothing could be compared.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    nobat compare digits/1 digits/2 --traffic recorded.jsonl\n  \
    nobat compare digits/1 digits/2 --traffic held_out.npz --disagreement 0.02 --latency 0.2\n  \
    nobat compare digits canary --traffic rows.csv          two models, or routes\n  \
    nobat compare digits/1 digits/2 --traffic recorded/digits   what `gateway.record` wrote\n  \
    nobat compare digits/1 digits/2 --shadow --for 10m      copies of live requests")]
pub(crate) struct Args {
    /// The version that serves, as MODEL/VERSION or MODEL.
    old: String,
    /// The version that is to replace it.
    new: String,
    /// Requests to replay: .jsonl (recorded ones too), .csv, .npz, .npy, or a folder; with
    /// a column `label` accuracy is compared as well.
    #[arg(long, value_name = "FILE", required_unless_present = "shadow")]
    traffic: Option<PathBuf>,
    /// Compare the answers to live requests: those of a shadow route that has both, or of one
    /// that stands in the old model's place until this ends (scope admin).
    #[arg(long, conflicts_with = "traffic")]
    shadow: bool,
    /// How long to gather live requests, such as 10m.
    #[arg(long = "for", default_value = "10m", value_name = "DURATION", value_parser = duration)]
    gather: Duration,
    /// Most requests to compare.
    #[arg(long, default_value_t = 100_000, value_name = "REQUESTS")]
    most: usize,
    /// Share of requests that may get another class.
    #[arg(long, default_value_t = CompareSettings::default().disagreement, value_name = "SHARE")]
    disagreement: f64,
    /// Share of requests that may be lost: right or answered before, wrong or refused now.
    #[arg(long, default_value_t = CompareSettings::default().lost, value_name = "SHARE")]
    lost: f64,
    /// Standard deviations that a mean score may move.
    #[arg(long, default_value_t = CompareSettings::default().score, value_name = "DEVIATIONS")]
    score: f64,
    /// Share that latency may grow by.
    #[arg(long, default_value_t = CompareSettings::default().latency, value_name = "SHARE")]
    latency: f64,
    /// Disagreements to show.
    #[arg(long, default_value_t = CompareSettings::default().examples, value_name = "REQUESTS")]
    examples: usize,
    #[command(flatten)]
    service: Service,
}

pub(crate) fn run(args: Args) -> ExitCode {
    exit(replay(args))
}

fn replay(args: Args) -> Result<ExitCode> {
    for (name, margin) in
        [("disagreement", args.disagreement), ("lost", args.lost), ("score", args.score), ("latency", args.latency)]
    {
        ensure!(margin > 0.0, "--{name} must be over 0: no number of requests shows that nothing at all is worse");
    }
    let settings = CompareSettings {
        disagreement: args.disagreement,
        lost: args.lost,
        score: args.score,
        latency: args.latency,
        examples: args.examples,
        ..CompareSettings::default()
    };
    block_on(async {
        let report = match &args.traffic {
            Some(traffic) => replayed(&args, traffic, settings).await?,
            None => shadowed(&args, settings).await?,
        };
        let shown = serde_json::to_value(&report)?;
        args.service.print(&shown, Some(&GATES))?;
        if args.service.is_for_people() {
            args.service.print(&json!({"examples": shown["examples"]}), Some(&EXAMPLES))?;
        }
        tell(format_args!("nobat: {}", report.summary));
        Ok(if report.verdict == GateVerdict::Safe { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    })
}

async fn replayed(args: &Args, traffic: &Path, settings: CompareSettings) -> Result<CompareReport> {
    let (old, old_model) = open(args, &args.old).await?;
    let (new, new_model) = open(args, &args.new).await?;
    let file = traffic.display();
    let traffic = Dataset::read(traffic, ModelInputs { specs: &old_model.inputs, batched: old_model.batched })?;
    ensure!(!traffic.is_empty(), "`{file}` holds no request");
    let rows = traffic.len().min(args.most);
    let bar = progress(rows as u64)?;
    let requests = (0..rows).filter_map(|row| Some((traffic.row(row)?, traffic.label(row))));
    let old = async |inputs: Vec<Tensor>| old.predict(&inputs, &old_model).await;
    let new = async |inputs: Vec<Tensor>| new.predict(&inputs, &new_model).await;
    let report = compare(&old, &new, requests, settings, |done| bar.set_position(done)).await;
    bar.finish_and_clear();
    Ok(report)
}

/// A version, asked with binary tensors: nothing is rounded on the way.
async fn open(args: &Args, reference: &str) -> Result<(Target, ModelDescription)> {
    let target = Target::new(target::settings(&args.service.server, reference), CallProtocol::V2Binary)?;
    let model = target::described(&target).await?;
    Ok((target, model))
}

/// How often pairs are asked for; a gateway keeps the newest 2,000.
const EVERY: Duration = Duration::from_millis(500);

fn duration(text: &str) -> std::result::Result<Duration, String> {
    units::whole_seconds(text).map(Duration::from_secs).map_err(|error| error.message)
}

/// Compares live answers with those of copies, for as long as asked.
async fn shadowed(args: &Args, settings: CompareSettings) -> Result<CompareReport> {
    let client = args.service.server.client(Duration::from_secs(60))?;
    let (route, is_ours) = shadow_route(args, &client).await?;
    let bar = progress(args.most as u64)?;
    let mut comparison = Comparison::new(settings);
    let gathered = tokio::select! {
        gathered = gather(args, &client, &route, &mut comparison, &bar) => gathered,
        // What came so far is judged.
        stopped = tokio::signal::ctrl_c() => stopped.map_err(Into::into),
    };
    bar.finish_and_clear();
    if is_ours {
        client.json(client.request(Method::DELETE, &path(&route))).await.with_context(|| {
            format!("route `{route}` still copies requests to `{}`; `nobat routes remove {route}` ends that", args.new)
        })?;
    }
    gathered?;
    Ok(comparison.finish())
}

async fn gather(
    args: &Args,
    client: &Client,
    route: &str,
    comparison: &mut Comparison,
    bar: &ProgressBar,
) -> Result<()> {
    let (until, mut last, mut count) = (Instant::now() + args.gather, None::<u64>, 0);
    loop {
        let after = last.map(|last| format!("&after={last}")).unwrap_or_default();
        let pairs = format!("{}/pairs?copy={}{after}", path(route), segment(&args.new));
        let answer = client.json(client.request(Method::GET, &pairs)).await?.1;
        let pairs = answer["pairs"].as_array().context("the answer has no pairs")?;
        for pair in pairs.iter().take(args.most - count) {
            let side = |name: &str| PairFigures::deserialize(&pair[name]).context("a pair cannot be read");
            comparison.add_figures(pair["request"].as_str().unwrap_or_default(), &side("old")?, &side("new")?);
            last = pair["number"].as_u64();
            count += 1;
        }
        bar.set_position(count as u64);
        if count >= args.most || Instant::now() >= until {
            return Ok(());
        }
        tokio::time::sleep(EVERY).await;
    }
}

fn path(route: &str) -> String {
    format!("/api/v1/routes/{}", segment(route))
}

/// The shadow route with the old version's answers and the new one's copies, and whether it was made here.
async fn shadow_route(args: &Args, client: &Client) -> Result<(String, bool)> {
    let routes = client.json(client.request(Method::GET, "/api/v1/routes")).await?.1;
    let routes = routes["routes"].as_array().cloned().unwrap_or_default();
    let has_both = |route: &&Value| {
        let copies = route["shadow"]["copies"].as_array();
        route["shadow"]["primary"] == args.old.as_str()
            && copies.is_some_and(|copies| copies.iter().any(|copy| copy == args.new.as_str()))
    };
    if let Some(name) = routes.iter().find(has_both).and_then(|route| route["name"].as_str()) {
        return Ok((name.to_owned(), false));
    }
    let model = args.old.split_once('/').map_or(args.old.as_str(), |(model, _)| model);
    ensure!(
        routes.iter().all(|route| route["name"] != model),
        "route `{model}` stands in the model's place and copies nothing to `{}`; add a shadow to it, or remove it",
        args.new
    );
    let rule = json!({"shadow": {"primary": args.old, "copies": [args.new]}}).to_string();
    let request = client.request(Method::PUT, &path(model)).header(header::CONTENT_TYPE, "application/json");
    client.json(request.body(rule)).await?;
    tell(format_args!(
        "nobat: requests to `{model}` go to `{}`, copies of them to `{}`, until this ends",
        args.old, args.new
    ));
    Ok((model.to_owned(), true))
}
