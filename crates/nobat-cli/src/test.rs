//! `nobat test`: whether a model answers as its profile says.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use nobat_check::data::{Dataset, ModelInputs};
use nobat_check::statistical::{
    ChartBar, DRAWN_ROWS, StatisticalReport, StatisticalSettings, StatisticalVerdict, make_profile, run as run_stage,
};
use nobat_statistics::profile::Profile;
use serde_json::json;

use crate::client::{Service, Tool, block_on, print};
use crate::inference::{ServedModel, asked};

/// Columns of the longest bar.
const BAR: f64 = 30.0;

/// Test whether a model's answers are distributed as they were on rows it was not trained on.
#[derive(clap::Subcommand)]
pub(crate) enum Action {
    Init(InitArgs),
    Statistical(StatisticalArgs),
}

/// Make a model's profile: ask it about rows that it was not trained on, and keep what the
/// inputs and the answers look like (counts and quantiles, never rows).
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  nobat test init digits --data held_out.npz\n  nobat test init digits --data rows.csv --profile digits.json"
)]
pub(crate) struct InitArgs {
    /// Name of the model, or MODEL/VERSION.
    model: String,
    /// The rows: .npz, .npy, .csv, .jsonl, or a folder of them. More are better: 1,000 show a
    /// shift of one class in ten by about seven points, 10,000 one by five.
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// Where the profile goes.
    #[arg(long, default_value = "profile.json", value_name = "FILE")]
    profile: PathBuf,
}

/// Send fresh inputs to a model and hold its answers against its profile. Exits with 1 when they
/// are distributed otherwise, or too few to say.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    nobat test statistical digits                              inputs drawn from the profile\n  \
    nobat test statistical digits --data today.npz --rows 5000\n  \
    nobat test statistical digits --data today.npz --shift 0.05   refuses to judge on too few rows")]
pub(crate) struct StatisticalArgs {
    /// Name of the model, or MODEL/VERSION.
    model: String,
    /// The model's profile, as `nobat test init` wrote it.
    #[arg(long, default_value = "profile.json", value_name = "FILE")]
    profile: PathBuf,
    /// Fresh rows: .npz, .npy, .csv, .jsonl, or a folder; a column `label` tests stated
    /// probabilities too. Without, inputs are drawn from the profile.
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// Rows to send.
    #[arg(long, default_value_t = StatisticalSettings::default().rows)]
    rows: u64,
    /// Chance that a right model fails.
    #[arg(long, default_value_t = StatisticalSettings::default().alpha, value_name = "SHARE")]
    alpha: f64,
    /// The shift of one class that must be found, such as 0.05 for five points.
    #[arg(long, value_name = "SHARE")]
    shift: Option<f64>,
    /// Chance of finding it.
    #[arg(long, default_value_t = StatisticalSettings::default().power, value_name = "SHARE")]
    power: f64,
    /// Seed of all that is drawn.
    #[arg(long, default_value_t = StatisticalSettings::default().seed)]
    seed: u64,
}

pub(crate) fn run(args: Tool<Action>) -> Result<()> {
    match args.action {
        Action::Init(init) => block_on(make(init, &args.service)),
        Action::Statistical(stage) => block_on(hold(stage, &args.service)),
    }
}

async fn make(args: InitArgs, service: &Service) -> Result<()> {
    let model = ServedModel::open(&service.server, &args.model).await?;
    let data = read(&args.data, &model)?;
    let bar = progress(data.len() as u64 + DRAWN_ROWS)?;
    let profile =
        make_profile(&asked(&model), &data, (&model.name, &model.version), |done| bar.set_position(done)).await;
    bar.finish_and_clear();
    let profile = profile?;
    let file = args.profile.display();
    std::fs::write(&args.profile, serde_json::to_vec_pretty(&profile)?)
        .with_context(|| format!("cannot write `{file}`"))?;
    let answers: Vec<_> = profile
        .answers
        .iter()
        .map(|answer| json!({"output": answer.output, "reading": answer.reading, "classes": answer.classes.len(), "rows": answer.rows}))
        .collect();
    service.print(&json!({"profile": file.to_string(), "model": profile.model, "version": profile.version, "rows": profile.rows, "answers": answers}), None)
}

async fn hold(args: StatisticalArgs, service: &Service) -> Result<()> {
    let within = |share: f64| share > 0.0 && share < 1.0;
    for (name, share) in [("alpha", args.alpha), ("power", args.power), ("shift", args.shift.unwrap_or(0.5))] {
        ensure!(within(share), "--{name} is a share; give more than 0 and less than 1");
    }
    ensure!(args.rows > 0, "--rows must be 1 or more");
    let file = args.profile.display();
    let bytes = std::fs::read(&args.profile)
        .with_context(|| format!("cannot read the profile `{file}`; `nobat test init MODEL --data FILE` writes one"))?;
    let profile = Profile::parse(&bytes).map_err(|why| anyhow::anyhow!("`{file}`: {why}"))?;
    let model = ServedModel::open(&service.server, &args.model).await?;
    let data = args.data.as_deref().map(|path| read(path, &model)).transpose()?;
    let settings = StatisticalSettings {
        rows: args.rows,
        alpha: args.alpha,
        shift: args.shift,
        power: args.power,
        seed: args.seed,
    };
    let bar = progress(args.rows)?;
    let name = (model.name.as_str(), model.version.as_str());
    let report =
        run_stage(&asked(&model), &profile, data.as_ref(), name, &settings, |done| bar.set_position(done)).await;
    bar.finish_and_clear();
    let report = report?;
    match service.is_for_people() {
        true => print(in_words(&report).as_bytes())?,
        false => service.print(&serde_json::to_value(&report)?, None)?,
    }
    match report.verdict {
        StatisticalVerdict::Passed => Ok(()),
        StatisticalVerdict::Failed => bail!("model `{}` does not answer as its profile says", model.name),
        StatisticalVerdict::NotJudged => bail!("model `{}` could not be judged", model.name),
    }
}

fn read(path: &Path, model: &ServedModel) -> Result<Dataset> {
    Ok(Dataset::read(path, ModelInputs { specs: &model.inputs, batched: model.batched })?)
}

/// A bar over so many requests.
pub(crate) fn progress(requests: u64) -> Result<ProgressBar> {
    let style = ProgressStyle::with_template("{elapsed:>4} [{bar:40}] {pos}/{len}")?.progress_chars("=> ");
    Ok(ProgressBar::new(requests).with_style(style))
}

/// The report as a person reads it.
fn in_words(report: &StatisticalReport) -> String {
    let mut out =
        format!("{} answers to {}, against a profile of {} rows\n", report.rows, report.source, report.profile_rows);
    for finding in &report.findings {
        let verdict = match finding.verdict {
            StatisticalVerdict::Passed => "passed",
            StatisticalVerdict::Failed => "FAILED",
            StatisticalVerdict::NotJudged => "not judged",
        };
        out += &format!("\n{verdict}: {}\n  {}\n  {}\n", finding.tested, finding.found, finding.sure);
        let widest = finding.chart.iter().map(|bar| bar.name.chars().count()).max().unwrap_or(0);
        let most = finding.chart.iter().map(|bar| bar.expected.max(bar.seen)).fold(0.0, f64::max);
        out.extend(finding.chart.iter().map(|bar| bars(bar, widest, most)));
    }
    out.extend(report.notes.iter().map(|note| format!("\nnote: {note}\n")));
    out
}

fn bars(ChartBar { name, expected, seen, .. }: &ChartBar, widest: usize, most: f64) -> String {
    let bar = |share: f64, block: &str| block.repeat((share / most * BAR).round() as usize);
    let name: String = name.chars().map(|letter| if letter.is_control() { '?' } else { letter }).collect();
    format!(
        "  {name:>widest$}  expected {:>5.1} % {}\n  {:>widest$}  seen     {:>5.1} % {}\n",
        expected * 100.0,
        bar(*expected, "░"),
        "",
        seen * 100.0,
        bar(*seen, "█")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_as_long_as_their_shares_and_names_obey_nobody() {
        let bar = ChartBar { name: "ca\u{1b}t".into(), expected: 0.5, seen: 0.25, interval: (0.2, 0.3) };
        let shown = bars(&bar, 6, 0.5);
        assert!(shown.starts_with("    ca?t  expected  50.0 % ") && shown.contains("seen      25.0 %"), "{shown}");
        assert_eq!((shown.matches('░').count(), shown.matches('█').count()), (30, 15));
    }
}
