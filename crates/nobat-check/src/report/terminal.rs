//! The report for a terminal.

use std::fmt::Write;

use crate::stage::{Chart, Finding, ShareBar, TestReport, Verdict};

/// Columns of the longest bar.
const BAR: f64 = 30.0;
/// Most bars that are shown of a chart.
const MOST_BARS: usize = 12;

/// The report in lines; with `colour` for a terminal that has some.
pub fn terminal(report: &TestReport, colour: bool) -> String {
    let mut out = String::new();
    let version = if report.version.is_empty() { String::new() } else { format!("/{}", report.version) };
    let _ = writeln!(out, "{}{version} at {} over {}", plain(&report.model), plain(&report.server), report.protocol);
    for stage in &report.stages {
        let seconds = stage.took_ms as f64 / 1e3;
        let _ = writeln!(out, "\n{}", bold(&format!("{} ({seconds:.1} s)", stage.stage.name()), colour));
        for finding in &stage.findings {
            out += &line(finding, colour);
        }
        for note in &stage.notes {
            let _ = writeln!(out, "  note: {}", plain(note));
        }
    }
    let _ = writeln!(out, "\n{}", bold(&plain(&report.summary()), colour));
    out
}

/// A finding: a line where it passed without anything to see, else all of it.
fn line(finding: &Finding, colour: bool) -> String {
    let mark = match &finding.verdict {
        Verdict::Passed => paint("passed    ", "32", colour),
        Verdict::Warned => paint("warned    ", "33", colour),
        Verdict::Failed => paint("FAILED    ", "31", colour),
        Verdict::NotJudged { .. } => paint("not judged", "2", colour),
    };
    let mut out = format!("  {mark}  {}\n", plain(&finding.title));
    if let Verdict::NotJudged { why, needed } = &finding.verdict {
        let needed = needed.as_ref().map(|needed| format!("; needed: {needed}")).unwrap_or_default();
        let _ = writeln!(out, "              {}", plain(&format!("{why}{needed}")));
    }
    for sentence in &finding.words {
        let _ = writeln!(out, "              {}", plain(sentence));
    }
    if let Some(Chart::Shares { bars }) = &finding.chart {
        let widest = bars.iter().map(|bar| bar.name.chars().count()).max().unwrap_or(0);
        let most = bars.iter().map(|bar| bar.expected.max(bar.seen)).fold(f64::MIN_POSITIVE, f64::max);
        for bar in bars.iter().take(MOST_BARS) {
            out += &shares(bar, widest, most);
        }
        if bars.len() > MOST_BARS {
            let _ = writeln!(out, "              and {} more", bars.len() - MOST_BARS);
        }
    }
    out
}

fn shares(ShareBar { name, expected, seen, .. }: &ShareBar, widest: usize, most: f64) -> String {
    let bar = |share: f64, block: &str| block.repeat((share / most * BAR).round() as usize);
    let name = plain(name);
    format!(
        "              {name:>widest$}  expected {:>5.1} % {}\n              {:>widest$}  seen     {:>5.1} % {}\n",
        expected * 100.0,
        bar(*expected, "░"),
        "",
        seen * 100.0,
        bar(*seen, "█")
    )
}

/// What a server or a file says obeys nobody: no control characters.
fn plain(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { '?' } else { letter }).collect()
}

fn paint(text: &str, code: &str, colour: bool) -> String {
    if colour { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.into() }
}

fn bold(text: &str, colour: bool) -> String {
    paint(text, "1", colour)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::stage::{AxisScale, StageReport, TestStage};

    pub(in crate::report) fn report() -> TestReport {
        let bars = vec![
            ShareBar { name: "ca\u{1b}t".into(), expected: 0.5, seen: 0.25, interval: (0.2, 0.3) },
            ShareBar { name: "<b>&\"dog".into(), expected: 0.5, seen: 0.75, interval: (0.7, 0.8) },
        ];
        let lines = Chart::Lines {
            x: "requests/s".into(),
            y: "p99, ms".into(),
            lines: vec![("measured".into(), vec![(10.0, 1.0), (20.0, 2.0), (40.0, 9.0)])],
            scale: AxisScale::Logarithmic,
            limit: Some(5.0),
        };
        let values = Chart::Values { unit: "ms".into(), bars: vec![("median".into(), 1.25), ("p99".into(), 4.0)] };
        let findings = vec![
            Finding::new("golden", "golden outputs", Verdict::Passed).say("All 64 rows.").figure("rows", 64),
            Finding::new("classes.label", "classes of `label`", Verdict::Failed)
                .say("Not alike.")
                .chart(Chart::Shares { bars }),
            Finding::new("knee", "the knee", Verdict::Warned).chart(lines),
            Finding::new("latency", "latency", Verdict::needs("there is no limit", "--latency")).chart(values),
        ];
        let stage = StageReport {
            stage: TestStage::Functional,
            findings,
            notes: vec!["A note.".into()],
            started_at_ms: 1_893_456_000_000,
            took_ms: 1_500,
        };
        TestReport {
            model: "digits".into(),
            version: "1".into(),
            server: "http://127.0.0.1:8000".into(),
            protocol: "v2-binary".into(),
            tool: "nobat 0.1.0".into(),
            started_at_ms: 1_893_456_000_000,
            took_ms: 1_600,
            stages: vec![stage],
        }
    }

    #[test]
    fn lines_have_colours_only_where_there_are_some_and_names_obey_nobody() {
        let plain = terminal(&report(), false);
        assert!(!plain.contains('\u{1b}'), "{plain}");
        assert!(plain.contains("ca?t  expected  50.0 % ") && plain.contains("needed: --latency"), "{plain}");
        assert!(plain.ends_with("digits: 1 failed, 1 warned, 1 passed, 1 not judged\n"), "{plain}");
        assert!(terminal(&report(), true).contains("\u{1b}[31mFAILED"));
    }

    #[test]
    fn bars_are_as_long_as_their_shares() {
        let bar = ShareBar { name: "cat".into(), expected: 0.5, seen: 0.25, interval: (0.2, 0.3) };
        let shown = shares(&bar, 6, 0.5);
        assert_eq!((shown.matches('░').count(), shown.matches('█').count()), (30, 15));
    }
}
