//! What the statistical stage found, for programs and in words.

use nobat_statistics::calibration::CalibrationTest;
use nobat_statistics::classes::ClassTest;
use nobat_statistics::reading::Reading;
use nobat_statistics::scores::{ScoreTest, StabilityIndex};
use serde::Serialize;

use crate::clock::StageClock;
use crate::stage::{Chart, Finding, ShareBar, StageReport, Verdict};

/// How the stage, or one of its tests, came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StatisticalVerdict {
    /// Nothing is wrong that so many rows can show.
    Passed,
    /// The answers are not distributed as the profile says.
    Failed,
    /// Too little was asked or answered to say.
    NotJudged,
}

/// The whole stage.
#[derive(Clone, Debug, Serialize)]
pub struct StatisticalReport {
    /// Failed when any test failed; else not judged when any was not.
    pub verdict: StatisticalVerdict,
    /// Where the inputs came from.
    pub source: &'static str,
    /// Rows that were answered.
    pub rows: u64,
    /// Rows that were asked for.
    pub asked: u64,
    /// Rows that were sent and not answered.
    pub unanswered: u64,
    /// Rows of the profile.
    pub profile_rows: u64,
    /// One test each.
    pub findings: Vec<StatisticalFinding>,
    /// What a reader should know besides.
    pub notes: Vec<String>,
}

/// One test.
#[derive(Clone, Debug, Serialize)]
pub struct StatisticalFinding {
    /// The output.
    pub output: String,
    /// How it was read; `None` where stated probabilities were held against labels.
    pub reading: Option<Reading>,
    /// The outcome.
    pub verdict: StatisticalVerdict,
    /// Chance of such a difference from a right model, all tests of the stage considered.
    pub p: f64,
    /// What was tested.
    pub tested: String,
    /// What was found.
    pub found: String,
    /// How sure that is: what would have been seen.
    pub sure: String,
    /// Expected against seen, bar by bar.
    pub chart: Vec<ShareBar>,
    /// The figures.
    pub figures: StatisticalFigures,
}

/// The figures of one test.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StatisticalFigures {
    /// Of classes.
    Classes(ClassTest),
    /// Of scores, with their stability index.
    Scores(ScoreTest, StabilityIndex),
    /// Of stated probabilities.
    Calibration(CalibrationTest),
    /// Not judged.
    None,
}

impl StatisticalReport {
    /// The report of the stage that `clock` was started with.
    pub fn into_stage(self, clock: StageClock) -> StageReport {
        // Answers that are missing may be missing for what they are.
        let sent = self.rows + self.unanswered;
        let answers = match self.unanswered {
            _ if sent == 0 => Verdict::not_judged("no row was sent"),
            0 => Verdict::Passed,
            few if few * 100 <= sent => Verdict::Warned,
            _ => Verdict::Failed,
        };
        let answers = Finding::new("answers", "every row is answered", answers)
            .say(format!("{} of {sent} {} were answered.", self.rows, self.source))
            .figure("sent", sent)
            .figure("answered", self.rows);
        let findings = self.findings.into_iter().map(StatisticalFinding::into_finding);
        clock.stop([answers].into_iter().chain(findings).collect(), self.notes)
    }
}

impl StatisticalFinding {
    fn into_finding(self) -> Finding {
        let reading = serde_json::to_value(self.reading).ok();
        let reading = reading.as_ref().and_then(serde_json::Value::as_str).unwrap_or("calibration");
        let title = match self.reading {
            Some(reading) if reading.is_class() => format!("the classes of `{}`", self.output),
            Some(_) => format!("the scores of `{}`", self.output),
            None => "stated probabilities are kept".into(),
        };
        let verdict = match self.verdict {
            StatisticalVerdict::Passed => Verdict::Passed,
            StatisticalVerdict::Failed => Verdict::Failed,
            StatisticalVerdict::NotJudged => Verdict::not_judged(self.found.clone()),
        };
        let words = match self.verdict {
            StatisticalVerdict::NotJudged => vec![self.tested],
            _ => vec![self.tested, self.found, self.sure],
        };
        let mut finding = Finding::new(format!("{}.{reading}", self.output), title, verdict).figure("p", self.p);
        finding.words = words.into_iter().filter(|sentence| !sentence.is_empty()).collect();
        // A figure that is no number, such as that of no rows at all, has no JSON.
        finding = finding.figure("test", serde_json::to_value(&self.figures).unwrap_or_default());
        match self.chart.is_empty() {
            true => finding,
            false => finding.chart(Chart::Shares { bars: self.chart }),
        }
    }
}
