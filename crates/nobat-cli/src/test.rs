//! `nobat test`: functional, statistical, error and load tests of a model's API, and what they
//! compare with (`nobat test init`).

mod args;
mod init;
mod outputs;
mod plan;
mod stages;

use nobat_runtime::streams::tell;
use std::process::ExitCode;

use anyhow::Result;

use crate::client::{Service, block_on};
use args::{COULD_NOT_RUN, RunArgs};

pub(crate) use outputs::progress;

/// Test a model's API: expected outputs, distribution of the answers, bad requests, load.
///
/// Asks all that can be derived from the model's signature, its golden inputs and outputs and
/// its profile, over every protocol that the server speaks. Exits with 0 when nothing failed,
/// with 1 when something did, with 2 when nothing could be asked.
#[derive(clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "Examples:\n  \
    nobat test digits                                       all that can be derived\n  \
    nobat test init digits --data held_out.npz              write what it is compared with\n  \
    nobat test digits --only functional,errors --report report.html --junit junit.xml\n  \
    nobat test digits --url http://other:8000 --protocol v2\n  \
    nobat test digits --only statistical --data today.npz --shift 0.05\n  \
    nobat test digits --only load --rate 200 --slo 50 --baseline digits.json\n  \
    nobat test digits --url http://other:8000/predict --protocol json --golden digits.json \\\n        \
    --request-template '{\"input\": $input[0]}' --answer /output"
)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    run: RunArgs,
    #[command(flatten)]
    service: Service,
}

#[derive(clap::Subcommand)]
enum Action {
    Init(init::InitArgs),
}

pub(crate) fn run(args: Args) -> ExitCode {
    let done = match args.action {
        Some(Action::Init(init)) => block_on(init::make(init, &args.service)).map(|()| ExitCode::SUCCESS),
        None => block_on(stages::run(args.run, &args.service)),
    };
    exit(done)
}

/// The exit code of a test or a comparison; what could not be run is told on stderr.
pub(crate) fn exit(done: Result<ExitCode>) -> ExitCode {
    done.unwrap_or_else(|error| {
        tell(format_args!("nobat: {error:#}"));
        ExitCode::from(COULD_NOT_RUN)
    })
}
