//! The load stage: what is measured, in which order.

use std::sync::Arc;
use std::time::Duration;

use nobat_core::{Error, Result};

use super::baseline::{Baseline, Session};
use super::calling::TargetCaller;
use super::engine::{LoadEvent, LoadOutcome, measure};
use super::judge;
use super::memory::{MemoryReading, ServerProcesses, judge_memory, memory_finding};
use super::plan::{Load, LoadPlan, WarmUpLength, default_threads};
use super::progress::{StageTeller, knee_in_words};
use super::schedule::{Arrivals, Pause, Rate};
use super::search::find_knee;
use super::words::{capital, rate};
use super::workers::{WorkerReadings, judge_workers, workers_finding};
use crate::client::{ModelDescription, Prepared, Target};
use crate::clock::StageClock;
use crate::stage::{StageProgress, StageReport, TestStage, Verdict};

/// The closed loop from which a rate is derived.
const DERIVING: (usize, Duration, Duration) = (16, Duration::from_secs(2), Duration::from_secs(1));
/// Of what the closed loop reached, what the open one offers.
const SHARE: f64 = 0.5;
/// Runs times threads.
const MOST_HISTOGRAMS: usize = 400;

/// What is asked of the stage.
#[derive(Clone, Debug)]
pub struct LoadSettings {
    /// How requests come; without, at random, at the baseline's rate or else at half of what
    /// 16 users reach.
    pub load: Option<Load>,
    /// Length of all runs together.
    pub length: Duration,
    /// How many runs.
    pub runs: usize,
    /// What is not counted.
    pub warm_up: WarmUpLength,
    /// Most connections of an open loop.
    pub connections: usize,
    /// Threads that send.
    pub threads: usize,
    /// The latency that is good enough; without, the model's own.
    pub goal: Option<Duration>,
    /// What earlier sessions measured.
    pub baseline: Option<Baseline>,
    /// The share by which a figure may be worse than the baseline.
    pub change: f64,
    /// The server's processes, where they are on this machine; without, those that listen on
    /// the port, where the address is of this machine. What they started is theirs.
    pub processes: Vec<u32>,
    /// Whether the server is nobat's, whose gateway tells the memory of its workers.
    pub has_workers: bool,
    /// Whether to search for the knee afterwards.
    pub knee: bool,
    /// Of all that is drawn.
    pub seed: u64,
    /// Whether to list every request.
    pub samples: bool,
}

impl Default for LoadSettings {
    fn default() -> LoadSettings {
        LoadSettings {
            load: None,
            length: Duration::from_secs(10),
            runs: 5,
            warm_up: WarmUpLength::UntilStable,
            connections: LoadPlan::CONNECTIONS,
            threads: default_threads(),
            goal: None,
            baseline: None,
            change: 0.2,
            processes: Vec::new(),
            has_workers: false,
            knee: false,
            seed: 1,
            samples: false,
        }
    }
}

impl LoadSettings {
    /// # Errors
    /// `invalid_parameter` for what cannot be, naming it.
    pub fn check(&self) -> Result<()> {
        let refuse = |why: String| Err(Error::invalid(why));
        if self.length < Duration::from_millis(100) || self.length > Duration::from_secs(86_400) {
            return refuse(format!("{:?} is no duration; give 0.1 to 86400 seconds", self.length));
        }
        for (name, count, most) in [
            ("runs", self.runs, MOST_HISTOGRAMS),
            ("connections", self.connections, 60_000),
            ("threads", self.threads, 256),
        ] {
            if count == 0 || count > most {
                return refuse(format!("{count} {name} cannot be; give 1 to {most}"));
            }
        }
        // Every thread keeps histograms of its own for every run, of up to 0.7 MB together.
        if self.runs.saturating_mul(self.threads) > MOST_HISTOGRAMS {
            return refuse(format!(
                "{} runs on {} threads cannot be; runs times threads may be {MOST_HISTOGRAMS}: give fewer runs or threads",
                self.runs, self.threads
            ));
        }
        if let WarmUpLength::Fixed(length) = self.warm_up
            && length > Duration::from_secs(86_400)
        {
            return refuse(format!("{length:?} of warm-up cannot be; give 0 to 86400 seconds"));
        }
        if let Some(Load::Closed { users, .. }) = self.load
            && !(1..=60_000).contains(&users)
        {
            return refuse(format!("{users} users cannot be; give 1 to 60000"));
        }
        if !(self.change > 0.0 && self.change.is_finite()) {
            return refuse(format!("{} is no change; give a share over 0, such as 0.2 for a fifth", self.change));
        }
        if let Some(absent) = ServerProcesses::named(&self.processes).and_then(|processes| processes.absent()) {
            return refuse(format!("there is no process {absent} on this machine whose memory can be read"));
        }
        if self.knee && self.goal.is_none_or(|goal| goal.is_zero()) {
            return refuse("the knee needs a goal for the latency; give --slo MS".into());
        }
        Ok(())
    }

    /// The load that is offered, where it is known before anything is sent: what is asked for,
    /// else the baseline's rate.
    ///
    /// # Errors
    /// `invalid_parameter` where the baseline's rate is none.
    pub fn known_load(&self) -> Result<Option<Load>> {
        match (&self.load, &self.baseline) {
            (Some(load), _) => Ok(Some(load.clone())),
            (None, Some(Baseline { rate: Some(rate), .. })) => {
                Ok(Some(Load::Open(Arrivals::Poisson(Rate::per_second(*rate)?))))
            }
            (None, Some(baseline)) => Err(Error::invalid(format!(
                "the baseline was measured with `{}`; ask for the same load to compare with it",
                baseline.load
            ))),
            (None, None) => Ok(None),
        }
    }

    /// Whether the baseline can be compared with, before anything is sent.
    ///
    /// # Errors
    /// `invalid_parameter` where it is of another model, protocol or load.
    pub fn check_baseline(&self, model: &str, protocol: &str) -> Result<()> {
        match (&self.baseline, self.known_load()?) {
            (Some(baseline), Some(load)) => baseline.check(model, protocol, &load.words()),
            _ => Ok(()),
        }
    }

    fn plan(&self, load: Load, goal: Option<Duration>) -> LoadPlan {
        // A trace is played once; its runs are its parts.
        let length = match &load {
            Load::Open(arrivals) => arrivals.length().unwrap_or(self.length),
            Load::Closed { .. } => self.length,
        };
        LoadPlan {
            connections: self.connections,
            threads: self.threads,
            warm_up: self.warm_up,
            runs: self.runs,
            run: length / self.runs as u32,
            goal,
            seed: self.seed,
            samples: self.samples,
            ..LoadPlan::new(load, length)
        }
    }
}

/// What the stage came to.
#[derive(Clone, Debug)]
pub struct LoadReport {
    /// Its findings.
    pub stage: StageReport,
    /// The load that was offered.
    pub load: Load,
    /// The figures behind the findings.
    pub outcome: LoadOutcome,
    /// What a baseline keeps of it.
    pub session: Session,
    /// The goal that it was held to.
    pub goal: Option<Duration>,
}

impl LoadReport {
    /// The baseline with this session; a new one where there is none.
    ///
    /// # Errors
    /// `invalid_parameter` where the earlier sessions are of another model, protocol or load.
    pub fn into_baseline(self, earlier: Option<Baseline>, target: &Target) -> Result<Baseline> {
        if let Some(earlier) = &earlier {
            earlier.check(&target.settings().model, target.protocol().name(), &self.load.words())?;
        }
        let mut baseline = earlier.unwrap_or_else(|| Baseline {
            model: target.settings().model.clone(),
            protocol: target.protocol().name().into(),
            load: self.load.words(),
            rate: match &self.load {
                Load::Open(Arrivals::Poisson(rate)) => Some(rate.get()),
                _ => None,
            },
            sessions: Vec::new(),
        });
        baseline.sessions.push(self.session);
        Ok(baseline)
    }
}

/// Measures and judges. A server that goes away is a finding; what it did before is kept.
///
/// # Errors
/// `invalid_parameter` for settings that cannot be, or a baseline of something else.
pub async fn run(
    target: &Target,
    model: &ModelDescription,
    requests: Arc<[Prepared]>,
    settings: &LoadSettings,
    progress: &StageProgress<'_>,
) -> Result<LoadReport> {
    settings.check()?;
    if requests.is_empty() {
        return Err(Error::invalid("there is no request to send; give inputs"));
    }
    let clock = StageClock::start(TestStage::Load);
    let own = model.slo_ms.map(|ms| Duration::from_secs_f64(ms.max(0.0) / 1e3));
    let goal = settings.goal.or(own);
    let caller = TargetCaller::each(target, requests);
    let mut notes = Vec::new();
    settings.check_baseline(&target.settings().model, target.protocol().name())?;
    let load = match settings.known_load()? {
        Some(load) => load,
        None => {
            let (users, length, warm_up) = DERIVING;
            let deriving = LoadPlan {
                runs: 1,
                run: length,
                warm_up: WarmUpLength::Fixed(warm_up),
                samples: false,
                ..settings.plan(Load::Closed { users, pause: Pause::None }, goal)
            };
            let teller = StageTeller::new("finding a rate", progress);
            let found = measure(&deriving, caller.clone(), |event| teller.hear(&event)).await?;
            let reached = found.whole().latencies.count() as f64 / length.as_secs_f64();
            notes.push(format!(
                "The rate is half of the {} that {users} users without pause reached; give --rate for another.",
                rate(reached)
            ));
            Load::Open(Arrivals::Poisson(Rate::per_second((reached * SHARE).max(1.0))?))
        }
    };
    let closed = load.is_closed();
    let processes = ServerProcesses::named(&settings.processes).or_else(|| local_processes(target));
    let mut readings: Vec<MemoryReading> = Vec::new();
    let mut workers = settings.has_workers.then(|| WorkerReadings::new(target));
    let plan = settings.plan(load.clone(), goal);
    let teller = StageTeller::new("load", progress);
    let outcome = measure(&plan, caller.clone(), |event| {
        if matches!(event, LoadEvent::Begin | LoadEvent::RunEnded(_)) {
            readings.extend(processes.as_ref().and_then(ServerProcesses::read));
            workers.iter_mut().for_each(|workers| workers.read(processes.as_ref()));
        }
        teller.hear(&event);
    })
    .await?;
    let whole = outcome.whole();
    let session = Session::of(&outcome, &model.version, clock.started_at_ms());
    notes.insert(
        0,
        format!(
            "{} in {} runs of {:.1} s, after {:.1} s of warm-up.",
            capital(&load.words()),
            outcome.runs.len(),
            outcome.run.as_secs_f64(),
            outcome.warmed_up.as_secs_f64()
        ),
    );
    let mut findings =
        vec![judge::judge_answers(&outcome, &whole), judge::judge_latency(&outcome, &whole, goal, closed)];
    findings.extend(judge::judge_server_time(&whole));
    let void = judge::void(&outcome, &whole);
    if let Some(baseline) = &settings.baseline {
        let comparisons = baseline.compare(&session, settings.change, closed);
        findings.extend(comparisons.iter().map(|one| judge::judge_baseline(one, settings.change, void.as_ref())));
    }
    // What piles up in a server that is asked too much is no leak.
    let too_much = (whole.failed() * 100 > whole.due)
        .then(|| Verdict::needs("too many requests failed", "a rate that the server can bear"));
    let requests = whole.latencies.count();
    if processes.is_some() && outcome.gone.is_none() {
        findings.push(match &too_much {
            Some(verdict) => memory_finding(verdict.clone()),
            None => judge_memory(&readings, requests),
        });
    }
    if let Some(workers) = workers.filter(|_| outcome.gone.is_none()) {
        match workers.all().await {
            Ok(readings) => findings.extend(judge_workers(&readings, &target.settings().model, requests).map(
                |found| match too_much {
                    Some(verdict) => workers_finding(verdict),
                    None => found,
                },
            )),
            Err(why) => notes.push(format!("What memory its workers take is not told: {why}.")),
        }
    }
    if let Some(goal) = settings.goal.filter(|_| settings.knee && outcome.gone.is_none()) {
        let reached = whole.latencies.count() as f64 / outcome.measured().as_secs_f64().max(1e-9);
        let rates = (Rate::per_second((reached / 4.0).max(1.0))?, Rate::per_second(Rate::MOST)?);
        let found = find_knee(&plan, goal, rates, caller, |found, rate| {
            progress(found.runs.len() as u64, 0, &knee_in_words(found, rate));
        });
        findings.push(judge::judge_knee(&found.await?, goal));
    }
    Ok(LoadReport { stage: clock.stop(findings, notes), load, outcome, session, goal })
}

/// The processes behind an address of this machine.
fn local_processes(target: &Target) -> Option<ServerProcesses> {
    let url: reqwest::Url = target.settings().url.parse().ok()?;
    let host = url.host_str()?.trim_matches(['[', ']']);
    let local = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    local.then(|| ServerProcesses::listening(url.port_or_known_default()?))?
}
