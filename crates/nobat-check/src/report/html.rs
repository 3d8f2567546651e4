//! The report as one HTML page: no script, nothing that is fetched, light and dark.

use std::fmt::Write;

use chrono::{DateTime, Utc};
use serde_json::Value;

use super::chart::chart;
use super::escape::{escape, prose};
use crate::stage::{Finding, TestReport, Verdict};

/// The page.
pub fn html(report: &TestReport) -> String {
    let version = if report.version.is_empty() { String::new() } else { format!("/{}", report.version) };
    let name = escape(&format!("{}{version}", report.model));
    let when = i64::try_from(report.started_at_ms).ok().and_then(DateTime::<Utc>::from_timestamp_millis);
    let when = when.map(|when| when.format("%Y-%m-%d %H:%M UTC").to_string()).unwrap_or_default();
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>Test of {name}</title>\n<style>\n{}</style>\n</head>\n<body>\n<main>\n<header>\n\
         <h1>Test of {name}</h1>\n<p class=\"meta\">{} over {}, {when}, {:.1} s, by {}</p>\n</header>\n<ul class=\"tiles\">\n",
        include_str!("page.css"),
        escape(&report.server),
        escape(&report.protocol),
        report.took_ms as f64 / 1e3,
        escape(&report.tool),
    );
    let tile = |class: &str, count: usize, what: &str| {
        let class = if count == 0 { "none" } else { class };
        format!("<li class=\"{class}\"><b>{count}</b> {what}</li>\n")
    };
    out += &tile("failed", report.count(|verdict| *verdict == Verdict::Failed), "failed");
    out += &tile("warned", report.count(|verdict| *verdict == Verdict::Warned), "warned");
    out += &tile("passed", report.count(|verdict| *verdict == Verdict::Passed), "passed");
    out += &tile("open", report.count(|verdict| !verdict.is_judged()), "not judged");
    out += "</ul>\n";
    for stage in &report.stages {
        let name = stage.stage.name();
        let title = name[..1].to_uppercase() + &name[1..];
        let _ = writeln!(
            out,
            "<section aria-labelledby=\"{name}\">\n<h2 id=\"{name}\">{title} <small>{:.1} s</small></h2>",
            stage.took_ms as f64 / 1e3
        );
        // What is wrong comes first; the order is kept within.
        let mut order: Vec<&Finding> = stage.findings.iter().collect();
        order.sort_by_key(|finding| match finding.verdict {
            Verdict::Failed => 0,
            Verdict::Warned => 1,
            Verdict::Passed | Verdict::NotJudged { .. } => 2,
        });
        order.into_iter().for_each(|finding| out += &card(finding, name));
        stage.notes.iter().for_each(|note| out += &format!("<p class=\"note\">{}</p>\n", prose(note)));
        out += "</section>\n";
    }
    out + "</main>\n</body>\n</html>\n"
}

fn card(finding: &Finding, stage: &str) -> String {
    let class = match finding.verdict {
        Verdict::NotJudged { .. } => "open",
        _ => finding.verdict.name(),
    };
    let mut out = format!(
        "<article class=\"{class}\" id=\"{}\">\n<h3><span>{}</span> <span class=\"verdict\">{}</span></h3>\n",
        escape(&format!("{stage}.{}", finding.id)),
        prose(&finding.title),
        finding.verdict.name()
    );
    if let Verdict::NotJudged { why, needed } = &finding.verdict {
        let needed = needed.as_ref().map(|needed| format!("; needed: {needed}")).unwrap_or_default();
        let _ = writeln!(out, "<p class=\"why\">{}</p>", prose(&format!("{why}{needed}")));
    }
    finding.words.iter().for_each(|sentence| out += &format!("<p>{}</p>\n", prose(sentence)));
    if let Some(shown) = &finding.chart {
        out += &chart(shown, finding.verdict == Verdict::Failed);
    }
    if !finding.figures.is_empty() {
        out += "<details class=\"figures\"><summary>Figures</summary><div class=\"scroll\"><table><tbody>\n";
        for (name, value) in &finding.figures {
            let value = match value {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            let _ = writeln!(out, "<tr><th scope=\"row\">{}</th><td>{}</td></tr>", escape(name), escape(&value));
        }
        out += "</tbody></table></div></details>\n";
    }
    out + "</article>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_page_with_everything_in_it_and_names_that_are_text() {
        let page = html(&crate::report::terminal::tests::report());
        for part in [
            "<b>1</b> failed",
            "<h3><span>classes of <code>label</code></span>",
            "&lt;b&gt;&amp;&quot;dog",
            "class=\"limit\"",
            "needed: --latency",
            "2030-01-01 00:00 UTC",
        ] {
            assert!(page.contains(part), "{part}: {page}");
        }
        for absent in ["<script", "http-equiv", "src=", "href=", "@import", "url(", "\u{1b}", "<b>&"] {
            assert!(!page.contains(absent), "{absent}");
        }
        let failed = page.find("id=\"functional.classes.label\"").expect("it is there");
        assert!(failed < page.find("id=\"functional.golden\"").expect("it is there"), "what is wrong comes first");
    }
}
