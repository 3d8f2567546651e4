//! Runs the stages one after the other, whatever becomes of any of them.

use nobat_runtime::streams::tell;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use nobat_check::client::{ModelDescription, Served, ServerKind, Target};
use nobat_check::clock::StageClock;
use nobat_check::data::{Dataset, GoldenSet, ModelInputs, stack, synthetic};
use nobat_check::errors::{self, ErrorSettings};
use nobat_check::functional::{self, FunctionalSettings};
use nobat_check::load::{self, Baseline, LoadReport, LoadSettings};
use nobat_check::stage::{Finding, StageReport, TestReport, TestStage, Verdict};
use nobat_check::statistical;
use nobat_runtime::now_ms;
use nobat_statistics::random::seeded;

use super::args::{COULD_NOT_RUN, FailOn, RunArgs};
use super::outputs::{ReportFiles, progress, show};
use super::plan::Plan;
use crate::client::Service;

/// Rows of made-up inputs.
const MADE_UP: usize = 8;

pub(super) async fn run(args: RunArgs, service: &Service) -> Result<ExitCode> {
    let asked = args.model.as_deref().context("which model? give its name")?;
    let settings = args.server.settings(service, asked)?;
    let plan = Plan::read(&args, &settings.model)?;
    let files = ReportFiles::open(&args)?;
    let (started_at_ms, start) = (now_ms(), Instant::now());
    let described = plan.golden.as_ref().map(|golden| described(golden, &settings.model));
    let served = Served::discover(&settings, args.server.protocol, described.as_ref()).await?;
    let golden = plan.golden.clone().unwrap_or_else(|| made_up(&served.model, &plan));
    // What was named and cannot be used is told before anything is asked.
    let inputs = ModelInputs { specs: &served.model.inputs, batched: served.model.batched };
    let path = plan.data.as_deref().filter(|_| args.wants(TestStage::Statistical));
    let data = path.map(|path| Dataset::read(path, inputs)).transpose()?;
    if let (Some(path), Some(data)) = (path, &data) {
        ensure!(!data.is_empty(), "`{}` holds no row", path.display());
    }
    if args.wants(TestStage::Load) {
        plan.check_baselines(&settings.model, served.targets[0].protocol().name())?;
    }
    let mut report = TestReport {
        model: settings.model.clone(),
        version: served.model.version.clone(),
        server: settings.url.clone(),
        protocol: served.targets[0].protocol().name().into(),
        tool: format!("nobat {}", env!("CARGO_PKG_VERSION")),
        started_at_ms,
        took_ms: 0,
        stages: Vec::new(),
    };
    // Why the run is no whole one.
    let mut broken: Option<anyhow::Error> = None;
    for stage in TestStage::ALL.into_iter().filter(|stage| args.wants(*stage)) {
        tokio::select! {
            done = run_stage(stage, &served, &golden, &plan, data.as_ref()) => match done {
                Ok((done, error)) => {
                    report.stages.push(done);
                    broken = broken.or(error);
                }
                Err(error) => broken = broken.or(Some(error)),
            },
            _ = tokio::signal::ctrl_c() => {
                broken = Some(anyhow::anyhow!("interrupted; what was found until then is told"));
                break;
            }
        }
    }
    report.took_ms = start.elapsed().as_millis() as u64;
    // What was found is shown whatever becomes of the files.
    let shown = show(&report, service);
    files.write(&report)?;
    shown?;
    if let Some(error) = broken {
        return Err(error);
    }
    Ok(code(&report, args.fail_on, plan.statistical.shift.is_some()))
}

/// The exit code, and on stderr what it is for.
fn code(report: &TestReport, fail_on: FailOn, asks_for_a_shift: bool) -> ExitCode {
    let fails = |verdict: &Verdict| match verdict {
        Verdict::Passed => false,
        Verdict::Failed => fail_on >= FailOn::Failed,
        Verdict::Warned => fail_on >= FailOn::Warned,
        Verdict::NotJudged { .. } => fail_on >= FailOn::NotJudged,
    };
    let all = report.stages.iter().flat_map(|stage| stage.findings.iter().map(|finding| (stage.stage.name(), finding)));
    let failing: Vec<String> = all
        .filter(|(_, finding)| fails(&finding.verdict))
        .map(|(stage, finding)| format!("{stage} {}", finding.id))
        .collect();
    if !failing.is_empty() {
        tell(format_args!("nobat: {}; {}", report.summary(), failing.join(", ")));
        return ExitCode::FAILURE;
    }
    let statistical = report.stages.iter().find(|stage| stage.stage == TestStage::Statistical);
    if asks_for_a_shift && statistical.is_some_and(|stage| stage.count(|verdict| !verdict.is_judged()) > 0) {
        tell(format_args!("nobat: {}: whether shares shifted by so much could not be judged", report.model));
        return ExitCode::from(COULD_NOT_RUN);
    }
    if report.count(Verdict::is_judged) == 0 {
        tell(format_args!("nobat: {}: nothing could be judged", report.model));
        return ExitCode::from(COULD_NOT_RUN);
    }
    ExitCode::SUCCESS
}

/// What a stage found, and what it could not do that was asked of it.
async fn run_stage(
    stage: TestStage,
    served: &Served,
    golden: &GoldenSet,
    plan: &Plan,
    data: Option<&Dataset>,
) -> Result<(StageReport, Option<anyhow::Error>)> {
    let bar = progress(0)?;
    let told = |done, of, words: &str| {
        bar.set_length(of);
        bar.set_position(done);
        bar.set_message(format!("{}: {words}", stage.name()));
    };
    let mut error = None;
    let report = match stage {
        TestStage::Functional => {
            let settings = FunctionalSettings {
                tolerances: plan.tolerances.clone(),
                latency_ms: plan.latency_ms,
                ..FunctionalSettings::default()
            };
            functional::run(served, golden, &settings, &told).await
        }
        TestStage::Errors => {
            let settings = ErrorSettings { tolerances: plan.tolerances.clone() };
            errors::run(served, golden, &settings, &told).await
        }
        TestStage::Statistical => statistical_stage(served, plan, data, &told).await,
        TestStage::Load => {
            let report;
            (report, error) = load_stage(served, golden, plan, &told).await;
            report
        }
    };
    bar.finish_and_clear();
    Ok((report, error))
}

async fn statistical_stage(
    served: &Served,
    plan: &Plan,
    data: Option<&Dataset>,
    told: &dyn Fn(u64, u64, &str),
) -> StageReport {
    let clock = StageClock::start(TestStage::Statistical);
    let not_judged = |clock: StageClock, verdict| {
        clock.stop(vec![Finding::new("profile", "the answers' distribution", verdict)], vec![])
    };
    let Some(profile) = &plan.profile else {
        let needed = "a profile: `nobat test init MODEL --data FILE` writes one, or --profile FILE";
        return not_judged(clock, Verdict::needs("there is no profile to hold the answers to", needed));
    };
    let model = &*served.model;
    let target = &served.targets[0];
    let ask = async |inputs: Vec<_>| target.predict(&inputs, model).await;
    let done = |done| told(done, plan.statistical.rows, "answers");
    let name = (model.name.as_str(), model.version.as_str());
    match statistical::run(&ask, profile, data, name, &plan.statistical, done).await {
        Ok(report) => report.into_stage(clock),
        Err(error) => not_judged(clock, Verdict::not_judged(error.message)),
    }
}

/// What was found, and why the baseline could not be kept.
async fn load_stage(
    served: &Served,
    golden: &GoldenSet,
    plan: &Plan,
    told: &dyn Fn(u64, u64, &str),
) -> (StageReport, Option<anyhow::Error>) {
    let clock = StageClock::start(TestStage::Load);
    let not_judged = |clock: StageClock, why: String| {
        (clock.stop(vec![Finding::new("load", "requests under load", Verdict::not_judged(why))], vec![]), None)
    };
    let (target, model) = (&served.targets[0], &*served.model);
    let rows: Vec<_> = match model.batched {
        true => (0..golden.rows(true)).map(|row| golden.row(row).0).collect(),
        false => vec![golden.inputs.clone()],
    };
    let requests = match rows.iter().map(|row| target.prepare(row)).collect::<Result<Vec<_>, _>>() {
        Ok(requests) => requests,
        Err(error) => return not_judged(clock, error.message),
    };
    // A refusal is told once, not measured.
    let Some(first) = requests.first() else { return not_judged(clock, "there is no row to send".into()) };
    let first = target.send(first).await;
    if !first.is_success() {
        return not_judged(clock, first.in_words());
    }
    let settings = LoadSettings { has_workers: served.kind == ServerKind::Nobat, ..plan.load.clone() };
    let report = match load::run(target, model, requests.into(), &settings, told).await {
        Ok(report) => report,
        Err(error) => return not_judged(clock, error.message),
    };
    let stage = report.stage.clone();
    let error = match (&plan.kept, &report.outcome.gone) {
        (Some((path, earlier)), None) => keep(path, earlier.clone(), report, target).err(),
        _ => None,
    };
    (stage, error)
}

/// Writes the baseline with this session.
fn keep(path: &Path, earlier: Option<Baseline>, report: LoadReport, target: &Target) -> Result<()> {
    let baseline = report.into_baseline(earlier, target);
    let baseline = baseline.with_context(|| format!("nothing can be added to `{}`", path.display()))?;
    std::fs::write(path, serde_json::to_vec_pretty(&baseline)?)
        .with_context(|| format!("cannot write the baseline `{}`", path.display()))
}

/// Golden inputs and outputs as what a server says of its model.
fn described(golden: &GoldenSet, model: &str) -> ModelDescription {
    let (inputs, outputs, batched) = golden.specs();
    ModelDescription { name: model.into(), inputs, outputs, batched, ..ModelDescription::default() }
}

/// Inputs where nobody gave any: drawn from the profile, or made of the signature alone.
fn made_up(model: &ModelDescription, plan: &Plan) -> GoldenSet {
    let mut random = seeded(plan.statistical.seed);
    let drawn = plan.profile.as_ref().filter(|profile| profile.model == model.name).and_then(|profile| {
        let rows = if model.batched { MADE_UP } else { 1 };
        let rows: Option<Vec<_>> = (0..rows).map(|_| profile.draw(&mut random).ok()).collect();
        rows.map(|rows| stack(&rows))
    });
    let inputs = drawn.unwrap_or_else(|| synthetic(&model.inputs, model.batched, MADE_UP, plan.statistical.seed));
    GoldenSet { tolerance: plan.tolerances.default, inputs, outputs: vec![] }
}
