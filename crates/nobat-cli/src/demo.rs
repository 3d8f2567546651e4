//! `nobat demo`: serves the demo model, which is part of the binary, as `nobat serve`
//! would from a folder, and prints what to paste.
//!
//! Model, queue and log are in a temporary folder that goes with the process, or in the
//! one that was named.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use nobat_gateway::{GatewayFlags, GatewayHandle};
use nobat_runtime::process::LogFlags;
use nobat_worker::WorkerHandle;

use crate::config::Settings;
use crate::serve;
use crate::welcome::{quoted, welcome};

/// Serve a built-in model of handwritten digits, to try; needs no file.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    nobat demo\n  \
    nobat demo --port 9000\n  \
    nobat demo --data ./demo      keep the model, the jobs and the log\n\n\
    It is `nobat serve` with a model that the binary brings, in a temporary folder. Ctrl-C ends it.")]
pub(crate) struct Args {
    #[command(flatten)]
    gateway: GatewayFlags,
    /// Folder for model, queue and log [default: a temporary one, removed at the end].
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    #[command(flatten)]
    log: LogFlags,
}

/// The folder of the model, file by file.
const MODEL: [(&str, &[u8]); 4] = [
    ("1/model.onnx", include_bytes!("../../../models/digits/1/model.onnx")),
    ("model.json", include_bytes!("../../../models/digits/model.json")),
    ("golden.json", include_bytes!("../../../models/digits/golden.json")),
    (EXAMPLE, include_bytes!("../../../models/digits/example.json")),
];
const EXAMPLE: &str = "example.json";

pub(crate) fn run(args: Args, file: Option<&Path>) -> Result<()> {
    let temporary = match args.data {
        Some(_) => None,
        None => Some(tempfile::Builder::new().prefix("nobat-demo-").tempdir().with_context(|| {
            format!("cannot make a folder in {}; name another with --data", std::env::temp_dir().display())
        })?),
    };
    let folder = match (&temporary, args.data) {
        (Some(temporary), _) => temporary.path().to_owned(),
        (None, data) => std::path::absolute(data.unwrap_or_default())?,
    };
    let settings = || {
        let mut settings = Settings::read(file)?;
        args.gateway.over(&mut settings.gateway)?;
        args.log.over(&mut settings.log);
        settings.store.redis = String::new().into();
        settings.store.data = folder.join("queue");
        settings.worker.models = vec![folder.join("models")];
        write_model(&folder.join("models/digits"))?;
        Ok(settings)
    };
    serve::until_stopped(settings, if temporary.is_some() { passing } else { kept })
}

fn write_model(folder: &Path) -> Result<()> {
    for (name, content) in MODEL {
        let path = folder.join(name);
        let written =
            path.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| std::fs::write(&path, content));
        written.with_context(|| format!("cannot write {}; name another folder with --data", path.display()))?;
    }
    Ok(())
}

fn passing(gateway: &GatewayHandle, worker: &WorkerHandle, models: &[PathBuf], took: Duration) -> String {
    greeting(gateway, worker, models, took, "removed at the end (Ctrl-C)")
}

fn kept(gateway: &GatewayHandle, worker: &WorkerHandle, models: &[PathBuf], took: Duration) -> String {
    greeting(gateway, worker, models, took, "and stay there")
}

/// The text of `nobat serve`, and how to go on from its line to try.
fn greeting(gateway: &GatewayHandle, worker: &WorkerHandle, models: &[PathBuf], took: Duration, until: &str) -> String {
    let mut text = welcome(gateway, worker, models, took);
    let url = gateway.url();
    let Some(folder) = models.first() else { return text };
    let example = folder.join("digits").join(EXAMPLE).display().to_string();
    let body = quoted(&format!("@{example}"));
    let _ = write!(
        text,
        "\nThe model reads handwritten digits of 8x8 pixels; the example is a 7. In another shell, a job, and its result:\n\n  \
         curl -s '{url}/api/v1/predict/digits?priority=10' -d {body}\n  \
         curl -s '{url}/api/v1/jobs/ID/result?wait=30'\n\n\
         From Python (pip install nobat):\n\n  \
         import json, nobat\n  \
         digit = json.load(open({python}))[\"instances\"]\n  \
         print(nobat.Client(\"{url}\").predict(\"digits\", digit)[\"label\"])\n\n\
         Every path with its documentation: {url}/docs\n\
         Your own model: nobat serve ./model.onnx\n\n\
         Model, queue and log are in {home}, {until}.\n",
        python = serde_json::Value::from(example),
        home = folder.parent().unwrap_or(folder).display(),
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_binary_has_every_file_of_the_demo_model() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/digits");
        let mut there = Vec::new();
        let mut folders = vec![folder.clone()];
        while let Some(next) = folders.pop() {
            for entry in std::fs::read_dir(next).expect("a folder") {
                let path = entry.expect("an entry").path();
                match path.is_dir() {
                    true => folders.push(path),
                    false => there.push(path.strip_prefix(&folder).expect("beneath").to_string_lossy().into_owned()),
                }
            }
        }
        there.sort();
        let mut built_in: Vec<&str> = MODEL.iter().map(|(name, _)| *name).collect();
        built_in.sort_unstable();
        assert_eq!(there, built_in);
    }
}
