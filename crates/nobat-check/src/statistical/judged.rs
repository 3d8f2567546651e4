//! One test's finding before the others are known.

use super::report::StatisticalFinding;

/// Effect sizes and distances under this do not matter, however sure they are.
pub(super) const LEAST_EFFECT: f64 = 0.05;

/// A finding before the others are known.
pub(super) struct Judged {
    pub(super) finding: StatisticalFinding,
    /// Whether its effect is one to care about.
    pub(super) matters: bool,
    /// Why it says nothing unless it fails, where so little was answered.
    pub(super) blind: Option<String>,
}

impl Judged {
    /// Without an answer there is nothing to say and nothing to draw.
    pub(super) fn of_nothing(finding: StatisticalFinding) -> Judged {
        let blind = Some("no row was answered".into());
        Judged { finding: StatisticalFinding { chart: vec![], ..finding }, matters: false, blind }
    }
}
