//! What the statistical stage found, for programs and in words.

use nobat_statistics::calibration::CalibrationTest;
use nobat_statistics::classes::ClassTest;
use nobat_statistics::intervals::Interval;
use nobat_statistics::reading::Reading;
use nobat_statistics::scores::{ScoreTest, StabilityIndex};
use serde::Serialize;

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
    pub chart: Vec<ChartBar>,
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

/// A class, or a bin of scores.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ChartBar {
    /// The class or the bin.
    pub name: String,
    /// Its share in the profile.
    pub expected: f64,
    /// Its share in the answers.
    pub seen: f64,
    /// Wilson's interval of the latter, at 95 %.
    pub interval: Interval,
}
