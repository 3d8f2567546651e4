//! `nobat test`: functional, statistical, error and load tests of a model's API, and what they
//! compare with (`nobat test init`).

mod init;
mod outputs;
mod plan;
mod stages;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use nobat_check::client::{CallProtocol, JsonTemplate, TargetSettings};
use nobat_check::stage::TestStage;
use std::sync::Arc;

use crate::client::{Service, block_on};
use crate::load::LoadOptions;

pub(crate) use outputs::progress;

/// The exit code of what could not be run.
pub(crate) const COULD_NOT_RUN: u8 = 2;
/// Longest that an answer may take.
const PATIENCE: Duration = Duration::from_secs(60);

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

/// What a run is told on the command line; the rest is in `tests/MODEL.toml`.
#[derive(clap::Args)]
struct RunArgs {
    /// Name of the model, or MODEL/VERSION.
    #[arg(required = true)]
    model: Option<String>,
    /// The stages to run: functional, statistical, errors, load [default: all].
    #[arg(long, value_delimiter = ',', value_parser = stage, value_name = "STAGES")]
    only: Vec<TestStage>,
    /// The model's tests, as `nobat test init` wrote them [default: tests/MODEL.toml where there is one].
    #[arg(long, value_name = "FILE")]
    tests: Option<PathBuf>,
    /// Golden inputs and outputs [default: those of the tests, or models/MODEL/golden.json].
    #[arg(long, value_name = "FILE")]
    golden: Option<PathBuf>,
    /// The model's profile [default: that of the tests, or models/MODEL/profile.json].
    #[arg(long, value_name = "FILE")]
    profile: Option<PathBuf>,
    /// Fresh rows for the statistical stage: .npz, .npy, .csv, .jsonl, or a folder; a column
    /// `label` tests stated probabilities too. Without, inputs are drawn from the profile.
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// Rows that the statistical stage sends [default: 1000].
    #[arg(long)]
    rows: Option<u64>,
    /// Chance that a right model fails the statistical stage [default: 0.01].
    #[arg(long, value_name = "SHARE")]
    alpha: Option<f64>,
    /// The shift of one class that must be found, such as 0.05 for five points.
    #[arg(long, value_name = "SHARE")]
    shift: Option<f64>,
    /// Chance of finding it [default: 0.9].
    #[arg(long, value_name = "SHARE")]
    power: Option<f64>,
    /// Seed of all that is drawn [default: 1].
    #[arg(long)]
    seed: Option<u64>,
    /// Longest median of a single call, in milliseconds [default: the model's slo].
    #[arg(long, value_name = "MS")]
    latency: Option<f64>,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten, next_help_heading = "Load")]
    load: LoadOptions,
    /// Write the report as one HTML page.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Write the report as JUnit XML.
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// What makes the exit code 1.
    #[arg(long, value_enum, default_value_t = FailOn::Failed, value_name = "VERDICT")]
    fail_on: FailOn,
}

/// How the server is asked.
#[derive(clap::Args)]
struct ServerArgs {
    /// The only protocol to speak: v2, v2-binary, grpc, tfserving, native, job or json
    /// [default: all that the server speaks].
    #[arg(long, value_parser = protocol)]
    protocol: Option<CallProtocol>,
    /// Address of the gRPC port [default: the port after that of --url].
    #[arg(long, value_name = "HOST:PORT")]
    grpc: Option<String>,
    /// A request of protocol json, such as '{"input": $NAME}' with the batch axis or
    /// '{"input": $NAME[0]}' for one row; $input is the only input.
    #[arg(long, value_name = "JSON")]
    request_template: Option<String>,
    /// Where its answer has the outputs: a JSON pointer, or NAME=POINTER,NAME=POINTER.
    #[arg(long, default_value = "/output", value_name = "POINTERS")]
    answer: String,
}

/// What makes a run fail: each includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
enum FailOn {
    /// Nothing.
    Never,
    /// What failed.
    Failed,
    /// What was warned of too.
    Warned,
    /// And what could not be judged.
    NotJudged,
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
        eprintln!("nobat: {error:#}");
        ExitCode::from(COULD_NOT_RUN)
    })
}

impl ServerArgs {
    fn settings(&self, service: &Service, model: &str) -> Result<TargetSettings> {
        let (name, version) = model.split_once('/').map_or((model, None), |(name, version)| (name, Some(version)));
        let template = self.request_template.as_ref();
        let template = template.map(|request| JsonTemplate::parse(None, request, &self.answer)).transpose()?;
        Ok(TargetSettings {
            url: service.server.url().to_owned(),
            grpc: self.grpc.clone(),
            api_key: service.server.api_key().map(str::to_owned),
            model: name.into(),
            version: version.map(Into::into),
            template: template.map(Arc::new),
            patience: PATIENCE,
        })
    }
}

fn stage(name: &str) -> Result<TestStage, String> {
    let found = TestStage::ALL.into_iter().find(|stage| stage.name() == name);
    found.ok_or_else(|| format!("there is no such stage; stages: {}", names(TestStage::ALL.map(TestStage::name))))
}

fn protocol(name: &str) -> Result<CallProtocol, String> {
    let all = CallProtocol::ALL.map(CallProtocol::name);
    CallProtocol::parse(name).ok_or_else(|| format!("there is no such protocol; protocols: {}", names(all)))
}

fn names<const N: usize>(names: [&str; N]) -> String {
    names.join(", ")
}
