//! `nobat compare`: two versions of a model on the same requests.

use std::path::PathBuf;

use anyhow::{Result, bail, ensure};
use nobat_check::compare::{CompareSettings, compare};
use nobat_check::data::{Dataset, ModelInputs};
use nobat_statistics::pairs::GateVerdict;
use serde_json::json;

use crate::client::{Service, block_on};
use crate::inference::{ServedModel, asked};
use crate::table::Columns;
use crate::test::progress;

const GATES: Columns = Columns { list: "gates", paths: &["name", "verdict", "words"], empty: "no gate was asked" };
const EXAMPLES: Columns = Columns {
    list: "examples",
    paths: &["request", "old", "new", "label", "input"],
    empty: "no request was answered differently",
};

/// Send the same requests to two versions of a model and say whether the new one is safe.
///
/// Safe means shown: for each gate the one-sided 95 % bound of how much worse the new version
/// is stays under its margin. Exits with 1 when it is not.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    nobat compare digits/1 digits/2 --traffic recorded.jsonl\n  \
    nobat compare digits/1 digits/2 --traffic held_out.npz --disagreement 0.02 --latency 0.2\n  \
    nobat compare digits canary --traffic rows.csv          two models, or routes")]
pub(crate) struct Args {
    /// The version that serves, as MODEL/VERSION or MODEL.
    old: String,
    /// The version that is to replace it.
    new: String,
    /// Requests to replay: .jsonl (recorded ones too), .csv, .npz, .npy, or a folder; with
    /// a column `label` accuracy is compared as well.
    #[arg(long, value_name = "FILE")]
    traffic: PathBuf,
    /// Most requests to replay.
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

pub(crate) fn run(args: Args) -> Result<()> {
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
        let old = ServedModel::open(&args.service.server, &args.old).await?;
        let new = ServedModel::open(&args.service.server, &args.new).await?;
        let traffic = Dataset::read(&args.traffic, ModelInputs { specs: &old.inputs, batched: old.batched })?;
        ensure!(!traffic.is_empty(), "`{}` holds no request", args.traffic.display());
        let rows = traffic.len().min(args.most);
        let bar = progress(rows as u64)?;
        let requests = (0..rows).filter_map(|row| Some((traffic.row(row)?, traffic.label(row))));
        let (old, new) = (asked(&old), asked(&new));
        let report = compare(&old, &new, requests, settings, |done| bar.set_position(done)).await;
        bar.finish_and_clear();
        let shown = serde_json::to_value(&report)?;
        args.service.print(&shown, Some(&GATES))?;
        if args.service.is_for_people() {
            args.service.print(&json!({"examples": shown["examples"]}), Some(&EXAMPLES))?;
        }
        match report.verdict {
            GateVerdict::Safe => eprintln!("nobat: {}", report.summary),
            _ => bail!("{}", report.summary),
        }
        Ok(())
    })
}
