//! `nobat test init`: what a model's tests compare with, made by asking it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use nobat_check::client::{CallProtocol, Served};
use nobat_check::data::{Dataset, GoldenSet, ModelInputs, stack};
use nobat_check::statistical::{DRAWN_ROWS, make_profile};
use nobat_core::tensor::Tensor;
use serde_json::json;

use super::outputs::progress;
use crate::client::Service;
use crate::target;

/// Rows of the golden set.
const GOLDEN_ROWS: usize = 16;
/// How far outputs may be off on another machine.
const TOLERANCE: f64 = 1e-4;

/// Write a model's tests by asking it about rows that it was not trained on.
///
/// Writes tests/MODEL.toml (settings), tests/MODEL.golden.json (the first rows and what is
/// answered to them) and tests/MODEL.profile.json (what inputs and answers look like: counts
/// and quantiles, never rows). Look at the answers: from now on they count as right.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  nobat test init digits --data held_out.npz\n  nobat test init digits --data rows.csv --into checks --force"
)]
pub(super) struct InitArgs {
    /// Name of the model, or MODEL/VERSION.
    model: String,
    /// The rows: .npz, .npy, .csv, .jsonl, or a folder of them. More are better: 1,000 show a
    /// shift of one class in ten by about seven points, 10,000 one by five.
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// The folder of the tests.
    #[arg(long, default_value = "tests", value_name = "FOLDER")]
    into: PathBuf,
    /// Where the profile goes [default: FOLDER/MODEL.profile.json].
    #[arg(long, value_name = "FILE")]
    profile: Option<PathBuf>,
    /// Replace the files where there are some.
    #[arg(long)]
    force: bool,
}

pub(super) async fn make(args: InitArgs, service: &Service) -> Result<()> {
    let settings = target::settings(&service.server, &args.model);
    let name = settings.model.as_str();
    let file = |end: &str| args.into.join(format!("{name}.{end}"));
    let (tests, golden) = (file("toml"), file("golden.json"));
    let profile_file = args.profile.clone().unwrap_or_else(|| file("profile.json"));
    for path in [&tests, &golden, &profile_file] {
        ensure!(args.force || !path.exists(), "`{}` is there already; --force replaces it", path.display());
    }
    std::fs::create_dir_all(&args.into).with_context(|| format!("cannot make the folder `{}`", args.into.display()))?;
    let served = match Served::discover(&settings, Some(CallProtocol::V2Binary), None).await {
        Ok(served) => served,
        Err(_) => Served::discover(&settings, None, None).await?,
    };
    let (target, model) = (&served.targets[0], &*served.model);
    let data = Dataset::read(&args.data, ModelInputs { specs: &model.inputs, batched: model.batched })?;
    ensure!(!data.is_empty(), "`{}` holds no row", args.data.display());
    let ask = async |inputs: Vec<Tensor>| target.predict(&inputs, model).await;
    let bar = progress(data.len() as u64 + DRAWN_ROWS)?;
    let profile = make_profile(&ask, &data, (&model.name, &model.version), |done| bar.set_position(done)).await;
    bar.finish_and_clear();
    let profile = profile?;

    // Rows of one shape go into one request.
    let first = data.row(0).context("there is no first row")?;
    let like_first = |row: &Vec<Tensor>| row.iter().zip(&first).all(|(own, first)| own.shape == first.shape);
    let most = if model.batched { GOLDEN_ROWS.min(model.max_rows.unwrap_or(u32::MAX) as usize) } else { 1 };
    let rows: Vec<Vec<Tensor>> =
        (0..data.len()).filter_map(|row| data.row(row)).filter(like_first).take(most).collect();
    let inputs = stack(&rows);
    let outputs = ask(inputs.clone()).await.map_err(|why| anyhow::anyhow!("the golden rows got no answer: {why}"))?;
    let set = GoldenSet { tolerance: TOLERANCE, inputs, outputs };

    write(&golden, &set.to_json())?;
    write(&profile_file, &serde_json::to_vec_pretty(&profile)?)?;
    write(&tests, settings_file(name, &args.into, &golden, &profile_file, &set).as_bytes())?;
    let answers: Vec<_> = profile
        .answers
        .iter()
        .map(|answer| json!({"output": answer.output, "reading": answer.reading, "classes": answer.classes.len(), "rows": answer.rows}))
        .collect();
    let shown = |path: &Path| path.display().to_string();
    service.print(
        &json!({
            "tests": shown(&tests), "golden": shown(&golden), "profile": shown(&profile_file),
            "model": profile.model, "version": profile.version, "rows": profile.rows, "golden_rows": rows.len(),
            "answers": answers,
        }),
        None,
    )
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    std::fs::write(path, bytes).with_context(|| format!("cannot write `{}`", path.display()))
}

/// `tests/MODEL.toml` as it begins.
fn settings_file(model: &str, folder: &Path, golden: &Path, profile: &Path, set: &GoldenSet) -> String {
    // Files in its own folder are named without it.
    let from = |path: &Path| match path.strip_prefix(folder) {
        Ok(own) => own.to_owned(),
        Err(_) => std::path::absolute(path).unwrap_or_else(|_| path.to_owned()),
    };
    let text = |path: &Path| toml::Value::from(from(path).display().to_string()).to_string();
    let tolerances: String = set
        .outputs
        .iter()
        .map(|output| format!("{} = {:?}\n", toml::Value::from(output.name.as_str()), set.tolerance))
        .collect();
    format!(
        "# Tests of the model {model}: `nobat test {model}`.\n\
         golden = {}\n\
         profile = {}\n\n\
         [functional]\n\
         # Longest median of a single call.\n\
         # latency_ms = 20.0\n\n\
         # How far outputs may be off: a share of the number, or absolutely where it is under 1.\n\
         [functional.tolerance]\n{tolerances}\n\
         [statistical]\n\
         rows = 1000\n\
         # Chance that a right model fails.\n\
         alpha = 0.01\n\
         # The shift of one class that must be found, and the chance of finding it.\n\
         # shift = 0.05\n\
         power = 0.9\n\
         seed = 1\n",
        text(golden),
        text(profile),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use nobat_core::tensor::Datatype;

    #[test]
    fn the_settings_read_back_with_odd_names() {
        let output = Tensor {
            name: "a \"b\".c".into(),
            datatype: Datatype::Fp32,
            shape: [1].as_slice().into(),
            data: vec![0; 4].into(),
        };
        let set = GoldenSet { tolerance: 1e-4, inputs: vec![], outputs: vec![output] };
        let folder = Path::new("tests");
        let text = settings_file("m", folder, &folder.join("m.golden.json"), Path::new("elsewhere/p.json"), &set);
        let table: toml::Table = toml::from_str(&text).expect("reads");
        assert_eq!(table["golden"].as_str(), Some("m.golden.json"));
        assert!(table["profile"].as_str().is_some_and(|path| path.ends_with("elsewhere/p.json")));
        assert_eq!(table["functional"]["tolerance"]["a \"b\".c"].as_float(), Some(1e-4));
    }
}
