//! `nobat inspect`: what a model's files say of it, and the settings to start from.

use nobat_runtime::streams::{print, print_bytes, tell};
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow};
use nobat_worker::inspect::inspect;

/// Show what a model takes and gives, what was found beside it, and a model.toml to start from.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    nobat inspect ./model.onnx\n  \
    nobat inspect ./models/resnet --write     also writes ./models/resnet/model.toml\n  \
    nobat inspect ./model.onnx --json | jq .inputs")]
pub(crate) struct Args {
    /// An .onnx file, or the folder of a model.
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// Write the settings beside the model, where there are none yet.
    #[arg(long)]
    write: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args) -> Result<()> {
    let found = inspect(&args.path).map_err(|error| anyhow!("{error}"))?;
    if args.json {
        print(serde_json::to_string_pretty(&found)?)?;
    } else {
        print_bytes(found.to_string().as_bytes())?;
    }
    if args.write {
        let path = &found.settings_file;
        let mut file =
            OpenOptions::new().write(true).create_new(true).open(path).map_err(|error| match error.kind() {
                ErrorKind::AlreadyExists => {
                    anyhow!("`{}` is there already; move it away, or take over what is shown", path.display())
                }
                _ => anyhow!("cannot write `{}`: {error}", path.display()),
            })?;
        file.write_all(found.model_toml.as_bytes()).with_context(|| format!("cannot write `{}`", path.display()))?;
        // Beside JSON, standard output is the JSON's alone.
        tell(format_args!("wrote {}", path.display()));
    }
    Ok(())
}
