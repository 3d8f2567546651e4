//! Sends each bad request beside a good one, and the good one again after it.

use nobat_core::tensor::Tensor;
use nobat_runtime::now_ms;
use serde_json::Value;
use std::time::Duration;

use super::bad::bad;
use super::case::BadCase;
use super::expect::judge;
use super::oversize::{NoStatus, declared};
use crate::client::{CallProtocol, Prepared, Reply, ReplyStatus, Served, ServerKind, Target};
use crate::clock::StageClock;
use crate::data::{GoldenSet, Tolerances, difference};
use crate::stage::{Finding, StageProgress, StageReport, TestStage, Verdict};

/// What is asked of the stage.
#[derive(Clone, Debug)]
pub struct ErrorSettings {
    /// How far the good request's outputs may be off after a bad one.
    pub tolerances: Tolerances,
}

/// Runs the stage with the first row of `golden` as the good request.
pub async fn run(
    served: &Served,
    golden: &GoldenSet,
    settings: &ErrorSettings,
    progress: &StageProgress<'_>,
) -> StageReport {
    let clock = StageClock::start(TestStage::Errors);
    let row = if served.model.batched { golden.row(0).0 } else { golden.inputs.clone() };
    let mut asked = Vec::new();
    let mut good = Vec::new();
    // A job is asked for as the native API is.
    for target in served.targets.iter().filter(|target| target.protocol() != CallProtocol::Job) {
        match Neighbour::new(served, target, &row, settings).await {
            Ok(neighbour) => {
                good.push((target.protocol(), Outcome::answered()));
                asked.push(neighbour);
            }
            Err(outcome) => good.push((target.protocol(), outcome)),
        }
    }
    // What is made up may be what the model does not take, unless another protocol takes it.
    if golden.outputs.is_empty() && asked.is_empty() {
        for (_, outcome) in &mut good {
            if let Some(wrong) = outcome.wrong.take() {
                outcome.verdict = Verdict::not_judged(format!("inputs that are made up are not answered: {wrong}"));
            }
        }
    }
    let mut notes = Vec::new();
    let mut findings = vec![finding("good_request", "the good request is answered", good)];
    let mut gone = None;
    for (at, case) in BadCase::ALL.into_iter().enumerate() {
        progress(at as u64, BadCase::ALL.len() as u64, case.title());
        if let Some(why) = &gone {
            let why = format!("the server went away: {why}");
            findings.push(Finding::new(case.id(), case.title(), Verdict::not_judged(why)));
            continue;
        }
        let mut outcomes = Vec::new();
        for neighbour in &asked {
            outcomes.push((neighbour.target.protocol(), neighbour.ask(case).await));
        }
        gone = outcomes.iter().find_map(|(_, outcome)| outcome.gone.clone());
        findings.push(finding(case.id(), case.title(), outcomes));
    }
    if let Some(why) = gone {
        notes.push(format!("The server went away: {why}. What was found until then is told."));
    }
    clock.stop(findings, notes)
}

/// How one case came out over one protocol.
struct Outcome {
    verdict: Verdict,
    /// What was answered, in short.
    answered: String,
    /// What is wrong with it.
    wrong: Option<String>,
    /// Why the server counts as gone.
    gone: Option<String>,
}

impl Outcome {
    fn answered() -> Outcome {
        Outcome { verdict: Verdict::Passed, answered: "answered".into(), wrong: None, gone: None }
    }

    fn refused(why: String) -> Outcome {
        Outcome { verdict: Verdict::Failed, answered: String::new(), wrong: Some(why), gone: None }
    }

    fn not_derived(why: impl Into<String>) -> Outcome {
        Outcome { verdict: Verdict::not_judged(why), answered: String::new(), wrong: None, gone: None }
    }
}

fn finding(id: &str, title: &str, outcomes: Vec<(CallProtocol, Outcome)>) -> Finding {
    let any = |verdict: Verdict| outcomes.iter().any(|(_, outcome)| outcome.verdict == verdict);
    let verdict = match () {
        () if any(Verdict::Failed) => Verdict::Failed,
        () if any(Verdict::Warned) => Verdict::Warned,
        () if any(Verdict::Passed) => Verdict::Passed,
        () => {
            let mut whys: Vec<String> = outcomes
                .iter()
                .filter_map(|(_, outcome)| match &outcome.verdict {
                    Verdict::NotJudged { why, .. } => Some(why.clone()),
                    _ => None,
                })
                .collect();
            whys.dedup();
            Verdict::not_judged(if whys.is_empty() { "nothing could be asked".into() } else { whys.join("; ") })
        }
    };
    let mut finding = Finding::new(id, title, verdict);
    let right: Vec<String> = outcomes
        .iter()
        .filter(|(_, outcome)| outcome.verdict == Verdict::Passed)
        .map(|(protocol, outcome)| format!("{} {}", protocol.name(), outcome.answered))
        .collect();
    if !right.is_empty() {
        finding = finding.say(format!("As it should be: {}.", right.join(", ")));
    }
    for (protocol, outcome) in &outcomes {
        if let Some(wrong) = &outcome.wrong {
            finding = finding.say(format!("{}: {wrong}.", protocol.name()));
        }
        if !outcome.answered.is_empty() {
            finding = finding.figure(protocol.name(), outcome.answered.clone());
        }
    }
    finding
}

/// The good request over one protocol, and what it is answered.
struct Neighbour<'a> {
    served: &'a Served,
    target: &'a Target,
    row: &'a [Tensor],
    good: Prepared,
    reference: Vec<Tensor>,
    tolerances: &'a Tolerances,
}

impl<'a> Neighbour<'a> {
    async fn new(
        served: &'a Served,
        target: &'a Target,
        row: &'a [Tensor],
        settings: &'a ErrorSettings,
    ) -> Result<Neighbour<'a>, Outcome> {
        // What the protocol cannot carry is no fault of the server.
        let good = target.prepare(row).map_err(|error| Outcome::not_derived(error.message))?;
        let reference = target.send(&good).await.outputs(&served.model).map_err(Outcome::refused)?;
        Ok(Neighbour { served, target, row, good, reference, tolerances: &settings.tolerances })
    }

    async fn ask(&self, case: BadCase) -> Outcome {
        let kind = &self.served.kind;
        let over_http = self.good.http().is_some();
        let bad_alone = async {
            match case {
                BadCase::Oversize if over_http => self.oversize().await,
                BadCase::OtherBodySameKey => self.same_key().await,
                _ => match bad(case, kind, self.target, &self.served.model, self.row) {
                    Ok(Ok((target, prepared))) => Ok(target.send(&prepared).await),
                    Ok(Err(why)) => Err(Outcome::not_derived(why)),
                    Err(error) => Err(Outcome::not_derived(error.message)),
                },
            }
        };
        let (reply, beside) = futures::join!(bad_alone, self.target.send(&self.good));
        let reply = match reply {
            Ok(reply) => reply,
            Err(outcome) => return outcome,
        };
        let after = self.target.send(&self.good).await;
        let (mut verdict, mut wrong) = judge(kind, self.target.protocol(), case, &reply);
        for (when, good) in [("beside", &beside), ("after", &after)] {
            if let Some(why) = self.differs(good) {
                verdict = Verdict::Failed;
                let also = wrong.take().map(|wrong| format!("{wrong}; and ")).unwrap_or_default();
                wrong = Some(format!("{also}the good request {when} it: {why}"));
            }
        }
        let code = reply.code.as_ref().map(|code| format!(" {code}")).unwrap_or_default();
        let gone = (!beside.status.is_answer() && !after.status.is_answer()).then(|| after.in_words());
        Outcome { verdict, answered: format!("{}{code}", reply.status), wrong, gone }
    }

    fn differs(&self, good: &Reply) -> Option<String> {
        match good.outputs(&self.served.model) {
            Ok(outputs) => difference(&self.reference, &outputs, self.tolerances).first,
            Err(why) => Some(why),
        }
    }

    async fn oversize(&self) -> Result<Reply, Outcome> {
        let call = self.good.http().ok_or_else(|| Outcome::not_derived("asked over HTTP"))?;
        let protocol = self.target.protocol();
        match declared(self.target, call).await {
            Ok((status, kind, body)) => {
                let mut reply = Reply::new(protocol, status, Duration::ZERO);
                reply.content_type = kind;
                let json: Value = serde_json::from_str(&body).unwrap_or_default();
                reply.code = json["code"].as_str().map(str::to_owned);
                reply.message = json["detail"].as_str().or(json["error"].as_str()).unwrap_or_default().to_owned();
                reply.body = body.into();
                Ok(reply)
            }
            Err(NoStatus::Tls) => Err(Outcome::not_derived("a body of a terabyte is declared without TLS alone")),
            Err(NoStatus::Waits) if self.served.kind != ServerKind::Nobat => Err(Outcome {
                verdict: Verdict::Warned,
                answered: "no answer".into(),
                wrong: Some("the server waits for a body of a terabyte; nothing bounds what it reads".into()),
                gone: None,
            }),
            Err(NoStatus::Waits) => Ok(Reply::new(protocol, ReplyStatus::TimedOut, Duration::ZERO)),
            Err(NoStatus::Broke(why)) => {
                let mut reply = Reply::new(protocol, ReplyStatus::Unreachable, Duration::ZERO);
                reply.message = why;
                Ok(reply)
            }
        }
    }

    async fn same_key(&self) -> Result<Reply, Outcome> {
        if self.served.kind != ServerKind::Nobat || self.target.protocol() != CallProtocol::Native {
            return Err(Outcome::not_derived("the native API alone has idempotency keys"));
        }
        let call = self.good.http().ok_or_else(|| Outcome::not_derived("asked over HTTP"))?;
        let key = format!("nobat-test-{}-{}", std::process::id(), now_ms());
        let first = call.clone().header("idempotency-key", &key);
        // The same JSON with a space more is another body.
        let other = first.clone().body([&first.body[..], b" "].concat());
        let accepted = self.target.send(&first.into()).await;
        match accepted.is_success() {
            true => Ok(self.target.send(&other.into()).await),
            false => Ok(accepted),
        }
    }
}
