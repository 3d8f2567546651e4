//! The report as JUnit XML: a suite for each stage, a case for each finding.

use std::time::Duration;

use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};

use crate::stage::{Finding, TestReport, Verdict};

/// The XML. What was warned of passes with its words in `system-out`, what was not judged is skipped.
pub fn junit(report: &TestReport) -> String {
    let mut xml = Report::new(format!("nobat test {}", report.model));
    xml.set_time(Duration::from_millis(report.took_ms));
    for stage in &report.stages {
        let mut suite = TestSuite::new(stage.stage.name());
        suite.set_time(Duration::from_millis(stage.took_ms));
        suite.add_property(("server", report.server.as_str()));
        suite.add_property(("version", report.version.as_str()));
        let cases = stage.findings.iter().map(|finding| case(finding, &report.model, stage.stage.name()));
        suite.add_test_cases(cases);
        if !stage.notes.is_empty() {
            suite.set_system_out(stage.notes.join("\n"));
        }
        xml.add_test_suite(suite);
    }
    // Writing to memory fails for nothing but a date that no calendar has.
    xml.to_string().unwrap_or_default()
}

fn case(finding: &Finding, model: &str, stage: &str) -> TestCase {
    let words = finding.words.join("\n");
    let status = match &finding.verdict {
        Verdict::Passed | Verdict::Warned => TestCaseStatus::success(),
        Verdict::Failed => {
            let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
            status.set_type("failed").set_message(finding.title.clone()).set_description(words.clone());
            status
        }
        Verdict::NotJudged { why, needed } => {
            let needed = needed.as_ref().map(|needed| format!("; needed: {needed}")).unwrap_or_default();
            let mut status = TestCaseStatus::skipped();
            status.set_message(format!("{why}{needed}"));
            status
        }
    };
    let mut case = TestCase::new(format!("{}: {}", finding.id, finding.title), status);
    case.set_classname(format!("{model}.{stage}"));
    if !words.is_empty() {
        let warned = if finding.verdict == Verdict::Warned { "warned: " } else { "" };
        case.set_system_out(format!("{warned}{words}"));
    }
    case
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_and_what_was_not_judged_are_told_and_escaped() {
        let mut report = crate::report::terminal::tests::report();
        report.stages[0].findings[1].words.push("a < b & \u{1b}[31m".into());
        let xml = junit(&report);
        assert!(
            xml.contains("<testsuite name=\"functional\" tests=\"4\" skipped=\"1\" errors=\"0\" failures=\"1\""),
            "{xml}"
        );
        assert!(xml.contains("<skipped message=\"there is no limit; needed: --latency\"/>"), "{xml}");
        assert!(xml.contains("a &lt; b &amp; ") && !xml.contains('\u{1b}'), "{xml}");
    }
}
