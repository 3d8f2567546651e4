//! What a test run is made of and what it found: the one form that the terminal, HTML,
//! JUnit and JSON reports are renderings of.
//!
//! A [`TestReport`] has a [`StageReport`] for each stage that ran, which has a [`Finding`]
//! for each thing that was asked. All of it is data: words are complete sentences, figures
//! are there for programs, charts know no colours.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A kind of test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TestStage {
    /// The expected output for a given input.
    Functional,
    /// The distribution of the answers.
    Statistical,
    /// What bad requests are answered.
    Errors,
    /// Latency and throughput.
    Load,
}

impl TestStage {
    /// All, in the order in which they run.
    pub const ALL: [TestStage; 4] = [TestStage::Functional, TestStage::Statistical, TestStage::Errors, TestStage::Load];

    /// As it is written on command lines and in reports.
    pub const fn name(self) -> &'static str {
        match self {
            TestStage::Functional => "functional",
            TestStage::Statistical => "statistical",
            TestStage::Errors => "errors",
            TestStage::Load => "load",
        }
    }
}

/// How one thing came out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Verdict {
    /// As it should be.
    Passed,
    /// Not as it should be, and nothing that a caller need care about.
    Warned,
    /// Not as it should be.
    Failed,
    /// Nothing can be said.
    NotJudged {
        /// Why not.
        why: String,
        /// What it would take, such as more rows, a file or a flag.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        needed: Option<String>,
    },
}

impl Verdict {
    /// Nothing can be said, and there is no remedy to name.
    pub fn not_judged(why: impl Into<String>) -> Verdict {
        Verdict::NotJudged { why: why.into(), needed: None }
    }

    /// Nothing can be said without what is `needed`.
    pub fn needs(why: impl Into<String>, needed: impl Into<String>) -> Verdict {
        Verdict::NotJudged { why: why.into(), needed: Some(needed.into()) }
    }

    /// Passed or failed.
    pub fn of(right: bool) -> Verdict {
        if right { Verdict::Passed } else { Verdict::Failed }
    }

    /// As it is written in reports.
    pub const fn name(&self) -> &'static str {
        match self {
            Verdict::Passed => "passed",
            Verdict::Warned => "warned",
            Verdict::Failed => "failed",
            Verdict::NotJudged { .. } => "not judged",
        }
    }

    /// Whether something was asked and answered.
    pub const fn is_judged(&self) -> bool {
        !matches!(self, Verdict::NotJudged { .. })
    }
}

/// One thing that was asked, and what was found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// Unique within its stage and the same in every run, such as `golden` or `wrong_rank.grpc`.
    pub id: String,
    /// What was asked, in a few words.
    pub title: String,
    /// How it came out.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// What was tested, what was found and how sure that is, a sentence or two each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub words: Vec<String>,
    /// The figures behind it, for programs; their names carry their units.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub figures: Map<String, Value>,
    /// What is worth seeing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chart: Option<Chart>,
}

impl Finding {
    /// A finding without words yet.
    pub fn new(id: impl Into<String>, title: impl Into<String>, verdict: Verdict) -> Finding {
        let (id, title) = (id.into(), title.into());
        Finding { id, title, verdict, words: Vec::new(), figures: Map::new(), chart: None }
    }

    /// With a sentence more.
    #[must_use]
    pub fn say(mut self, sentence: impl Into<String>) -> Finding {
        self.words.push(sentence.into());
        self
    }

    /// With a figure more.
    #[must_use]
    pub fn figure(mut self, name: &str, value: impl Into<Value>) -> Finding {
        self.figures.insert(name.into(), value.into());
        self
    }

    /// With a chart.
    #[must_use]
    pub fn chart(mut self, chart: Chart) -> Finding {
        self.chart = Some(chart);
        self
    }
}

/// What a person sees better than reads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Chart {
    /// Shares that were expected beside those that were seen.
    Shares {
        /// One class or bin each.
        bars: Vec<ShareBar>,
    },
    /// One value for each name.
    Values {
        /// Unit of the values, such as `ms`.
        unit: String,
        /// Name and value.
        bars: Vec<(String, f64)>,
    },
    /// Lines over a common axis.
    Lines {
        /// What goes to the right, with its unit.
        x: String,
        /// What goes up, with its unit.
        y: String,
        /// Name and points, the points in the order of their x.
        lines: Vec<(String, Vec<(f64, f64)>)>,
        /// How x is measured out.
        #[serde(default)]
        scale: AxisScale,
        /// A value of y that is not to be passed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        limit: Option<f64>,
    },
}

/// How an axis is measured out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AxisScale {
    /// Evenly.
    #[default]
    Linear,
    /// Each doubling as wide as the one before.
    Logarithmic,
    /// Percentages, from 90 to 99 as wide as from 99 to 99.9: the tail drawn out.
    Nines,
}

/// A class, or a bin of scores.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShareBar {
    /// The class or the bin.
    pub name: String,
    /// Its share in the profile.
    pub expected: f64,
    /// Its share in the answers.
    pub seen: f64,
    /// Wilson's interval of the latter, at 95 %.
    pub interval: (f64, f64),
}

/// What one stage found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageReport {
    /// Which.
    pub stage: TestStage,
    /// One for each thing that was asked.
    pub findings: Vec<Finding>,
    /// What a reader should know besides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// When it began: milliseconds since 1970.
    pub started_at_ms: u64,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
}

impl StageReport {
    /// How many findings came out so.
    pub fn count(&self, is: impl Fn(&Verdict) -> bool) -> usize {
        self.findings.iter().filter(|finding| is(&finding.verdict)).count()
    }
}

/// What a whole run found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TestReport {
    /// The model that was asked.
    pub model: String,
    /// The version that answered, where it is known.
    pub version: String,
    /// Where: the server's address.
    pub server: String,
    /// The protocol that was spoken where none is named.
    pub protocol: String,
    /// The program and its version.
    pub tool: String,
    /// When it began: milliseconds since 1970.
    pub started_at_ms: u64,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
    /// The stages that ran.
    pub stages: Vec<StageReport>,
}

impl TestReport {
    /// How many findings of all stages came out so.
    pub fn count(&self, is: impl Fn(&Verdict) -> bool) -> usize {
        self.stages.iter().map(|stage| stage.count(&is)).sum()
    }

    /// The run in one sentence.
    pub fn summary(&self) -> String {
        let counted = [
            (self.count(|v| *v == Verdict::Failed), "failed"),
            (self.count(|v| *v == Verdict::Warned), "warned"),
            (self.count(|v| *v == Verdict::Passed), "passed"),
            (self.count(|v| !v.is_judged()), "not judged"),
        ];
        let told: Vec<String> = counted.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
        let told = if told.is_empty() { "nothing was asked".into() } else { told.join(", ") };
        format!("{}: {told}", self.model)
    }
}

/// Hears how far a stage is: what is done, of how much, and a few words.
pub type StageProgress<'a> = dyn Fn(u64, u64, &str) + 'a;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_reads_back_and_its_verdicts_lie_flat() {
        let shares = Chart::Shares {
            bars: vec![ShareBar { name: "7".into(), expected: 0.5, seen: 0.25, interval: (0.2, 0.3) }],
        };
        let findings = vec![
            Finding::new("golden", "golden outputs", Verdict::of(true)).say("All 64.").figure("rows", 64).chart(shares),
            Finding::new("profile", "classes", Verdict::needs("there is no profile", "`nobat test init`")),
        ];
        let stage = StageReport { stage: TestStage::Functional, findings, notes: vec![], started_at_ms: 1, took_ms: 2 };
        let report = TestReport {
            model: "digits".into(),
            version: "1".into(),
            server: "http://here".into(),
            protocol: "v2".into(),
            tool: "nobat 0".into(),
            started_at_ms: 1,
            took_ms: 3,
            stages: vec![stage],
        };
        let json = serde_json::to_value(&report).expect("serializes");
        assert_eq!(json["stages"][0]["findings"][0]["verdict"], "passed");
        assert_eq!(json["stages"][0]["findings"][1]["needed"], "`nobat test init`");
        assert_eq!(serde_json::from_value::<TestReport>(json).expect("reads back"), report);
        assert_eq!(report.summary(), "digits: 1 passed, 1 not judged");
    }
}
