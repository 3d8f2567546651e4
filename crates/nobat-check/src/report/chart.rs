//! Charts as SVG and, for who cannot see them, as tables. Colours are classes of the page.

use std::fmt::Write;

use super::escape::escape;
use crate::stage::{Chart, ShareBar};

/// Height of one class's two bars, in pixels.
const ROW: usize = 40;
/// Share of the width, in per cent, where bars begin and end.
const FROM: f64 = 24.0;
const TO: f64 = 80.0;

/// The chart, and a table of the same figures.
pub(super) fn chart(chart: &Chart) -> String {
    match chart {
        Chart::Shares { bars } => shares(bars),
        Chart::Values { unit, bars } => values(unit, bars),
        Chart::Lines { x, y, lines: all, limit } => lines(x, y, all, *limit),
    }
}

/// Bars in per cent of the width: the letters keep their size on a narrow screen.
fn shares(bars: &[ShareBar]) -> String {
    let most = bars.iter().map(|bar| bar.expected.max(bar.interval.1)).fold(f64::MIN_POSITIVE, f64::max);
    let place = |share: f64| FROM + share / most * (TO - FROM);
    let mut out = format!(
        "<p class=\"key\"><span class=\"swatch expected\"></span> expected <span class=\"swatch seen\"></span> seen, with its 95 % interval</p>\n<svg class=\"chart\" width=\"100%\" height=\"{}\" role=\"img\" aria-label=\"Expected and seen shares of {} classes or bins\">\n",
        bars.len() * ROW,
        bars.len()
    );
    for (at, bar) in bars.iter().enumerate() {
        let top = at * ROW;
        let outside = bar.expected < bar.interval.0 || bar.expected > bar.interval.1;
        let seen = if outside { "seen off" } else { "seen" };
        let _ = writeln!(
            out,
            "<text x=\"{:.1}%\" y=\"{}\" text-anchor=\"end\">{}</text>\
             <rect class=\"expected\" x=\"{FROM}%\" y=\"{}\" width=\"{:.2}%\" height=\"13\" rx=\"2\"/>\
             <rect class=\"{seen}\" x=\"{FROM}%\" y=\"{}\" width=\"{:.2}%\" height=\"13\" rx=\"2\"/>\
             <line class=\"whisker\" x1=\"{:.2}%\" x2=\"{:.2}%\" y1=\"{y}\" y2=\"{y}\"/>\
             <text class=\"value\" x=\"99%\" y=\"{}\" text-anchor=\"end\">{:.1} %</text>\
             <text class=\"value dim\" x=\"99%\" y=\"{}\" text-anchor=\"end\">{:.1} %</text>",
            FROM - 1.5,
            top + 24,
            escape(&short(&bar.name)),
            top + 5,
            bar.expected / most * (TO - FROM),
            top + 19,
            bar.seen / most * (TO - FROM),
            place(bar.interval.0),
            place(bar.interval.1),
            top + 30,
            bar.seen * 100.0,
            top + 16,
            bar.expected * 100.0,
            y = top + 26,
        );
    }
    out += "</svg>\n";
    let rows = bars.iter().map(|bar| {
        let share = |share: f64| format!("{:.2} %", share * 100.0);
        vec![
            bar.name.clone(),
            share(bar.expected),
            share(bar.seen),
            format!("{} to {}", share(bar.interval.0), share(bar.interval.1)),
        ]
    });
    out + &table(&["class or bin", "expected", "seen", "interval of what was seen"], rows)
}

fn values(unit: &str, bars: &[(String, f64)]) -> String {
    let most = bars.iter().map(|(_, value)| *value).filter(|value| value.is_finite()).fold(f64::MIN_POSITIVE, f64::max);
    let mut out = format!(
        "<svg class=\"chart\" width=\"100%\" height=\"{}\" role=\"img\" aria-label=\"{} values in {}\">\n",
        bars.len() * 26,
        bars.len(),
        escape(unit)
    );
    for (at, (name, value)) in bars.iter().enumerate() {
        let top = at * 26;
        let _ = writeln!(
            out,
            "<text x=\"{:.1}%\" y=\"{}\" text-anchor=\"end\">{}</text>\
             <rect class=\"seen\" x=\"{FROM}%\" y=\"{}\" width=\"{:.2}%\" height=\"15\" rx=\"2\"/>\
             <text class=\"value\" x=\"99%\" y=\"{}\" text-anchor=\"end\">{}</text>",
            FROM - 1.5,
            top + 17,
            escape(&short(name)),
            top + 5,
            (value / most).clamp(0.0, 1.0) * (TO - FROM - 6.0),
            top + 17,
            escape(&format!("{} {unit}", figure(*value))),
        );
    }
    out += "</svg>\n";
    let rows = bars.iter().map(|(name, value)| vec![name.clone(), format!("{} {unit}", figure(*value))]);
    out + &table(&["", "value"], rows)
}

/// Lines in a box that stretches; their letters stand outside of it and do not.
fn lines(x: &str, y: &str, all: &[(String, Vec<(f64, f64)>)], limit: Option<f64>) -> String {
    let points = || all.iter().flat_map(|(_, points)| points).filter(|(x, y)| x.is_finite() && y.is_finite());
    let left = points().map(|point| point.0).fold(f64::INFINITY, f64::min);
    let right = points().map(|point| point.0).fold(f64::NEG_INFINITY, f64::max);
    let top = points().map(|point| point.1).chain(limit).fold(0.0, f64::max) * 1.05;
    if !(left.is_finite() && top > 0.0) {
        return String::new();
    }
    let width = (right - left).max(f64::MIN_POSITIVE);
    let at = |(px, py): (f64, f64)| format!("{:.2},{:.2}", (px - left) / width * 100.0, 100.0 - py / top * 100.0);
    let mut out = format!(
        "<figure class=\"plot\"><figcaption>{}</figcaption><div class=\"y\"><span>{}</span><span>0</span></div>\
         <svg viewBox=\"0 0 100 100\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{} over {}\">",
        escape(y),
        figure(top),
        escape(y),
        escape(x)
    );
    if let Some(limit) = limit {
        let place = 100.0 - limit / top * 100.0;
        let _ = write!(out, "<line class=\"limit\" x1=\"0\" x2=\"100\" y1=\"{place:.2}\" y2=\"{place:.2}\"/>");
    }
    for (line, (_, points)) in all.iter().enumerate() {
        let finite = points.iter().copied().filter(|(x, y)| x.is_finite() && y.is_finite());
        let path: Vec<String> = finite.map(at).collect();
        let _ = write!(out, "<polyline class=\"line l{}\" points=\"{}\"/>", line % 4, path.join(" "));
    }
    let _ = writeln!(
        out,
        "</svg><div class=\"x\"><span>{}</span><span>{}</span><span>{}</span></div></figure>",
        figure(left),
        escape(x),
        figure(right)
    );
    let mut keys: Vec<String> = all
        .iter()
        .enumerate()
        .filter(|_| all.len() > 1)
        .map(|(line, (name, _))| format!("<span class=\"swatch l{}\"></span> {}", line % 4, escape(name)))
        .collect();
    keys.extend(limit.map(|limit| format!("<span class=\"swatch limit\"></span> limit {}", figure(limit))));
    if !keys.is_empty() {
        let _ = writeln!(out, "<p class=\"key\">{}</p>", keys.join(" "));
    }
    let rows = all
        .iter()
        .flat_map(|(name, points)| points.iter().map(move |(px, py)| vec![name.clone(), figure(*px), figure(*py)]));
    out + &table(&["line", x, y], rows)
}

/// The figures for who reads rather than looks.
fn table(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut out = String::from(
        "<details class=\"figures\"><summary>The chart as a table</summary><div class=\"scroll\"><table><thead><tr>",
    );
    head.iter().for_each(|name| out += &format!("<th scope=\"col\">{}</th>", escape(name)));
    out += "</tr></thead><tbody>\n";
    for row in rows {
        out += "<tr>";
        row.iter().for_each(|cell| out += &format!("<td>{}</td>", escape(cell)));
        out += "</tr>\n";
    }
    out + "</tbody></table></div></details>\n"
}

/// A number with as many digits as a reader wants.
pub(super) fn figure(value: f64) -> String {
    match value.abs() {
        _ if !value.is_finite() => "none".into(),
        0.0 => "0".into(),
        large if large >= 100.0 => format!("{value:.0}"),
        middle if middle >= 1.0 => format!("{value:.2}"),
        small if small >= 0.001 => format!("{value:.4}"),
        _ => format!("{value:.1e}"),
    }
}

fn short(name: &str) -> String {
    let short: String = name.chars().take(18).collect();
    if short.len() < name.len() { short + "…" } else { short }
}
