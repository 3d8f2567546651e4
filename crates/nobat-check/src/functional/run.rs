//! The stage's questions, one after the other.

use std::time::Duration;

use nobat_core::tensor::Tensor;

use super::asker::Asker;
use super::{jobs, latency, webhook};
use crate::client::{CallProtocol, Served, ServerKind, Target};
use crate::clock::StageClock;
use crate::data::{Difference, GoldenSet, Tolerances, difference, stack};
use crate::stage::{Finding, StageProgress, StageReport, TestStage, Verdict};

/// What is asked of the stage.
#[derive(Clone, Debug)]
pub struct FunctionalSettings {
    /// How far outputs may be off.
    pub tolerances: Tolerances,
    /// Longest median of a single call, in milliseconds.
    pub latency_ms: Option<f64>,
    /// Longest that a job may take to end.
    pub job_patience: Duration,
    /// Longest that a webhook may take to arrive.
    pub webhook_patience: Duration,
}

impl Default for FunctionalSettings {
    fn default() -> FunctionalSettings {
        FunctionalSettings {
            tolerances: Tolerances { default: 1e-5, named: Default::default() },
            latency_ms: None,
            job_patience: Duration::from_secs(30),
            webhook_patience: Duration::from_secs(10),
        }
    }
}

/// Most rows that are asked in one request.
const MOST_ROWS: usize = 64;
/// Rows that are asked alone, one after the other.
const ALONE: usize = 8;
/// Requests at once, so that the server has what to batch.
const AT_ONCE: usize = 16;
/// Times that the same request is sent.
const AGAIN: usize = 10;

/// Runs the stage. `golden` without outputs is a set of inputs that are good for everything
/// but the golden outputs.
pub async fn run(
    served: &Served,
    golden: &GoldenSet,
    settings: &FunctionalSettings,
    progress: &StageProgress<'_>,
) -> StageReport {
    let clock = StageClock::start(TestStage::Functional);
    let model = &*served.model;
    let one_row = served.targets[0].settings().template.as_ref().is_some_and(|template| template.is_one_row());
    // A server that says none, and a set without rows, are asked about one all the same.
    let most = model.max_rows.map_or(MOST_ROWS, |most| MOST_ROWS.min(most as usize)).max(1);
    let rows = golden.rows(model.batched).clamp(1, most);
    let golden = if model.batched { golden.first(rows) } else { golden.clone() };
    let questions = Questions {
        asker: Asker::new(model),
        main: &served.targets[0],
        alone: if model.batched {
            (0..rows).map(|row| golden.row(row).0).collect()
        } else {
            vec![golden.inputs.clone()]
        },
        rows,
        one_row,
        golden,
        served,
        settings,
    };
    let mut findings = Vec::new();
    let steps = 6 + served.targets.len() as u64;
    let told = |findings: &[Finding], words: &str| progress(findings.len() as u64, steps, words);

    told(&findings, "golden outputs");
    let whole = questions.whole(questions.main).await;
    findings.push(questions.golden(&whole));
    let reference = match whole {
        Ok(reference) => reference,
        Err(why) => {
            for (id, title) in
                [("batched", BATCHED), ("determinism", AGAIN_TITLE), ("latency", "latency of a single call")]
            {
                findings.push(Finding::new(id, title, Verdict::not_judged(format!("there is no answer: {why}"))));
            }
            return clock.stop(findings, vec![]);
        }
    };
    told(&findings, "batched and alone");
    findings.push(questions.batched(&reference).await);
    for target in &served.targets[1..] {
        told(&findings, target.protocol().name());
        findings.push(questions.protocol(target, &reference).await);
    }
    told(&findings, "the same again");
    findings.push(questions.again(&reference).await);
    told(&findings, "latency");
    findings.push(
        questions
            .unless_gone("latency", "latency of a single call", async || {
                latency::single_call(&questions.asker, questions.main, &questions.alone[0], model, settings.latency_ms)
                    .await
            })
            .await,
    );
    if let Some(target) = served.target(CallProtocol::Job) {
        told(&findings, "jobs");
        let wanted: Vec<Vec<Tensor>> =
            (0..questions.alone.len()).map(|row| questions.row_of(&reference, row)).collect();
        let ask = async || {
            let (rows, tolerances) = (&questions.alone, &settings.tolerances);
            jobs::all_end(&questions.asker, target, rows, &wanted, tolerances, settings.job_patience).await
        };
        findings.push(questions.unless_gone("jobs", jobs::TITLE, ask).await);
        if served.kind == ServerKind::Nobat {
            told(&findings, "webhook");
            let ask = async || webhook::arrives(target, &questions.alone[0], settings.webhook_patience).await;
            findings.push(questions.unless_gone("webhook", webhook::TITLE, ask).await);
        }
    }
    let mut notes = Vec::new();
    for (protocol, why) in &served.absent {
        let why = format!("{} is not spoken here: {why}", protocol.name());
        match (&served.kind, protocol) {
            (ServerKind::Nobat, CallProtocol::Grpc) => findings.push(Finding::new(
                "protocol.grpc",
                protocol_title(CallProtocol::Grpc),
                Verdict::needs(why, "--grpc with the address of the gRPC port"),
            )),
            _ => notes.push(why),
        }
    }
    if let Some(why) = questions.asker.gone() {
        notes.push(format!("The server went away: {why}. What was found until then is told."));
    }
    clock.stop(findings, notes)
}

const BATCHED: &str = "batched rows are answered as alone";
const AGAIN_TITLE: &str = "the same request, the same answer";

fn protocol_title(protocol: CallProtocol) -> String {
    format!("{} answers as the others", protocol.name())
}

/// How far numbers are apart, in words.
fn off(farthest: f64) -> String {
    if farthest == 0.0 { "0".into() } else { format!("{farthest:.1e}") }
}

struct Questions<'a> {
    asker: Asker<'a>,
    main: &'a Target,
    golden: GoldenSet,
    /// One request for each row.
    alone: Vec<Vec<Tensor>>,
    rows: usize,
    one_row: bool,
    served: &'a Served,
    settings: &'a FunctionalSettings,
}

impl Questions<'_> {
    fn compare(&self, want: &[Tensor], got: &[Tensor]) -> Difference {
        difference(want, got, &self.settings.tolerances)
    }

    /// All rows' outputs: in one request, or row by row where a request holds one.
    async fn whole(&self, target: &Target) -> Result<Vec<Tensor>, String> {
        if !self.one_row {
            return self.asker.ask(target, &self.golden.inputs).await.map(|(outputs, _)| outputs);
        }
        let answers = self.asker.ask_all(target, &self.alone, 1).await;
        Ok(stack(&answers.into_iter().collect::<Result<Vec<_>, _>>()?))
    }

    /// One row of an answer.
    fn row_of(&self, answer: &[Tensor], row: usize) -> Vec<Tensor> {
        match self.served.model.batched {
            true => answer.iter().map(|tensor| crate::data::slice(tensor, row, 1)).collect(),
            false => answer.to_vec(),
        }
    }

    async fn unless_gone(&self, id: &str, title: &str, ask: impl AsyncFnOnce() -> Finding) -> Finding {
        match self.asker.gone() {
            Some(why) => Finding::new(id, title, Verdict::not_judged(format!("the server went away: {why}"))),
            None => ask().await,
        }
    }

    fn golden(&self, answer: &Result<Vec<Tensor>, String>) -> Finding {
        const TITLE: &str = "golden outputs";
        const NEEDED: &str = "golden.json: `nobat test init MODEL --data FILE` writes one, or --golden FILE";
        let got = match answer {
            Err(why) if self.golden.outputs.is_empty() => {
                let verdict = Verdict::needs(format!("inputs that are made up are not answered: {why}"), NEEDED);
                return Finding::new("golden", TITLE, verdict);
            }
            Err(why) => {
                return Finding::new("golden", TITLE, Verdict::Failed).say(format!("There is no answer: {why}."));
            }
            Ok(_) if self.golden.outputs.is_empty() => {
                return Finding::new("golden", TITLE, Verdict::needs("there are no golden outputs", NEEDED));
            }
            Ok(got) => got,
        };
        let found = self.compare(&self.golden.outputs, got);
        let finding = Finding::new("golden", TITLE, Verdict::of(found.first.is_none()))
            .figure("rows", self.rows)
            .figure("farthest", found.farthest)
            .figure("elements_beyond_tolerance", found.beyond);
        match found.first {
            None => finding.say(format!(
                "All {} rows are answered as they should be; the farthest number is off by {}.",
                self.rows,
                off(found.farthest)
            )),
            Some(first) => finding.say(format!(
                "{} of the outputs' elements are not as they should be, the first: {first}.",
                found.beyond
            )),
        }
    }

    async fn batched(&self, reference: &[Tensor]) -> Finding {
        if self.rows < 2 || self.one_row {
            let why = if self.one_row { "a request holds one row" } else { "there is but one row to ask" };
            let finding = Finding::new("batched", BATCHED, Verdict::not_judged(why));
            return match self.served.model.batched {
                true => finding,
                false => finding.say("The model has no batch axis that callers can use."),
            };
        }
        // One after the other no request shares a run; at once the server batches them as it likes.
        let after = self.asker.ask_all(self.main, &self.alone[..ALONE.min(self.rows)], 1).await;
        let at_once = self.asker.ask_all(self.main, &self.alone, AT_ONCE).await;
        let (mut beyond, mut farthest, mut first) = (0, 0.0f64, None);
        for (how, row, answer) in (after.iter().enumerate().map(|(row, answer)| ("alone", row, answer)))
            .chain(at_once.iter().enumerate().map(|(row, answer)| ("beside others", row, answer)))
        {
            let want = self.row_of(reference, row);
            let why = match answer {
                Err(why) => Some(why.clone()),
                Ok(got) => {
                    let found = self.compare(&want, got);
                    farthest = farthest.max(found.farthest);
                    found.first
                }
            };
            if let Some(why) = why {
                beyond += 1;
                first.get_or_insert(format!("row {row}, asked {how}: {why}"));
            }
        }
        let asked = after.len() + at_once.len();
        let finding = Finding::new("batched", BATCHED, Verdict::of(beyond == 0))
            .figure("requests", asked)
            .figure("requests_that_differ", beyond)
            .figure("farthest", farthest);
        match first {
            None => finding.say(format!(
                "{} rows in one request, {} of them alone one after the other, and all of them in requests of their own, {AT_ONCE} at once: the farthest numbers lie {} apart.",
                self.rows,
                after.len(),
                off(farthest)
            )),
            Some(first) => finding.say(format!(
                "{beyond} of {asked} rows are answered otherwise than in the batch, the first: {first}."
            )),
        }
    }

    async fn protocol(&self, target: &Target, reference: &[Tensor]) -> Finding {
        let id = format!("protocol.{}", target.protocol().name());
        let title = protocol_title(target.protocol());
        if let Err(error) = target.prepare(&self.golden.inputs) {
            return Finding::new(id, title, Verdict::not_judged(error.message));
        }
        self.unless_gone(&id, &title, async || match self.whole(target).await {
            Err(why) => Finding::new(&id, &title, Verdict::Failed).say(format!("There is no answer: {why}.")),
            Ok(got) => {
                let found = self.compare(reference, &got);
                let finding =
                    Finding::new(&id, &title, Verdict::of(found.first.is_none())).figure("farthest", found.farthest);
                finding.say(match found.first {
                    None => format!(
                        "The {} rows lie {} from what {} answers.",
                        self.rows,
                        off(found.farthest),
                        self.main.protocol().name()
                    ),
                    Some(first) => format!("It differs from {}: {first}.", self.main.protocol().name()),
                })
            }
        })
        .await
    }

    async fn again(&self, reference: &[Tensor]) -> Finding {
        let want = self.row_of(reference, 0);
        let answers = self.asker.ask_all(self.main, &vec![self.alone[0].clone(); AGAIN], 1).await;
        let first_answer = answers.iter().find_map(|answer| answer.as_ref().ok()).cloned().unwrap_or(want);
        let (mut other_bytes, mut first) = (0, None);
        for answer in &answers {
            match answer {
                Err(why) => drop(first.get_or_insert(why.clone())),
                Ok(got) => {
                    let found = self.compare(&first_answer, got);
                    other_bytes += u32::from(!found.same_bytes);
                    if let Some(why) = found.first {
                        first.get_or_insert(why);
                    }
                }
            }
        }
        let verdict = match (&first, other_bytes) {
            (Some(_), _) => Verdict::Failed,
            (None, 0) => Verdict::Passed,
            (None, _) => Verdict::Warned,
        };
        Finding::new("determinism", AGAIN_TITLE, verdict)
            .figure("requests", AGAIN)
            .figure("other_bytes", other_bytes)
            .say(match (first, other_bytes) {
                (Some(first), _) => format!("{AGAIN} times the same request: {first}."),
                (None, 0) => format!("{AGAIN} times the same request, {AGAIN} times the same bytes."),
                (None, n) => format!(
                    "{AGAIN} times the same request: {n} answers differ in their last bits, within the tolerance."
                ),
            })
    }
}
