//! What `nobat test` is told on the command line.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;
use nobat_check::client::{CallProtocol, JsonTemplate, TargetSettings};
use nobat_check::stage::TestStage;

use crate::client::Service;
use crate::load::LoadOptions;
use crate::target;

/// The exit code of what could not be run.
pub(super) const COULD_NOT_RUN: u8 = 2;

/// What a run is told on the command line; the rest is in `tests/MODEL.toml`.
#[derive(clap::Args)]
pub(super) struct RunArgs {
    /// Name of the model, or MODEL/VERSION.
    #[arg(required = true)]
    pub(super) model: Option<String>,
    /// The stages to run: functional, statistical, errors, load [default: all].
    #[arg(long, value_delimiter = ',', value_parser = stage, value_name = "STAGES")]
    pub(super) only: Vec<TestStage>,
    /// The model's tests, as `nobat test init` wrote them [default: tests/MODEL.toml where there is one].
    #[arg(long, value_name = "FILE")]
    pub(super) tests: Option<PathBuf>,
    /// Golden inputs and outputs [default: those of the tests, or models/MODEL/golden.json].
    #[arg(long, value_name = "FILE")]
    pub(super) golden: Option<PathBuf>,
    /// The model's profile [default: that of the tests, or models/MODEL/profile.json].
    #[arg(long, value_name = "FILE")]
    pub(super) profile: Option<PathBuf>,
    /// Fresh rows for the statistical stage: .npz, .npy, .csv, .jsonl, or a folder; a column
    /// `label` tests stated probabilities too. Without, inputs are drawn from the profile.
    #[arg(long, value_name = "FILE")]
    pub(super) data: Option<PathBuf>,
    /// Rows that the statistical stage sends [default: 1000].
    #[arg(long)]
    pub(super) rows: Option<u64>,
    /// Chance that a right model fails the statistical stage [default: 0.01].
    #[arg(long, value_name = "SHARE")]
    pub(super) alpha: Option<f64>,
    /// The shift of one class that must be found, such as 0.05 for five points.
    #[arg(long, value_name = "SHARE")]
    pub(super) shift: Option<f64>,
    /// Chance of finding it [default: 0.9].
    #[arg(long, value_name = "SHARE")]
    pub(super) power: Option<f64>,
    /// Seed of all that is drawn [default: 1].
    #[arg(long)]
    pub(super) seed: Option<u64>,
    /// Longest median of a single call, in milliseconds [default: the model's slo].
    #[arg(long, value_name = "MS")]
    pub(super) latency: Option<f64>,
    #[command(flatten)]
    pub(super) server: ServerArgs,
    #[command(flatten, next_help_heading = "Load")]
    pub(super) load: LoadOptions,
    /// Write the report as one HTML page.
    #[arg(long, value_name = "FILE")]
    pub(super) report: Option<PathBuf>,
    /// Write the report as JUnit XML.
    #[arg(long, value_name = "FILE")]
    pub(super) junit: Option<PathBuf>,
    /// What makes the exit code 1.
    #[arg(long, value_enum, default_value_t = FailOn::Failed, value_name = "VERDICT")]
    pub(super) fail_on: FailOn,
}

impl RunArgs {
    /// Whether a stage is to run.
    pub(super) fn wants(&self, stage: TestStage) -> bool {
        self.only.is_empty() || self.only.contains(&stage)
    }
}

/// How the server is asked.
#[derive(clap::Args)]
pub(super) struct ServerArgs {
    /// The only protocol to speak: v2, v2-binary, grpc, tfserving, native, job or json
    /// [default: all that the server speaks].
    #[arg(long, value_parser = protocol)]
    pub(super) protocol: Option<CallProtocol>,
    /// Address of the gRPC port [default: the port after that of --url].
    #[arg(long, value_name = "HOST:PORT")]
    pub(super) grpc: Option<String>,
    /// A request of protocol json, such as `{"input": $NAME}` with the batch axis or
    /// `{"input": $NAME[0]}` for one row; $input is the only input.
    #[arg(long, value_name = "JSON")]
    pub(super) request_template: Option<String>,
    /// Where its answer has the outputs: a JSON pointer, or NAME=POINTER,NAME=POINTER.
    #[arg(long, default_value = "/output", value_name = "POINTERS")]
    pub(super) answer: String,
}

/// What makes a run fail: each includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(super) enum FailOn {
    /// Nothing.
    Never,
    /// What failed.
    Failed,
    /// What was warned of too.
    Warned,
    /// And what could not be judged.
    NotJudged,
}

impl ServerArgs {
    /// Where the model is and how it is asked.
    pub(super) fn settings(&self, service: &Service, model: &str) -> Result<TargetSettings> {
        let template = self.request_template.as_ref();
        let template = template.map(|request| JsonTemplate::parse(None, request, &self.answer)).transpose()?;
        let (grpc, template) = (self.grpc.clone(), template.map(Arc::new));
        Ok(TargetSettings { grpc, template, ..target::settings(&service.server, model) })
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
