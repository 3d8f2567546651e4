//! Charts as SVG and, for who cannot see them, as tables. Colours are classes of the page.

use std::fmt::Write;

use super::axis::{Axis, label};
use super::escape::escape;
use crate::stage::{AxisScale, Chart, ShareBar};

/// Height of one class's two bars, and of a single bar, in pixels.
const PAIR: usize = 40;
const SINGLE: usize = 26;
/// Share of the width, in per cent, where bars end.
const TO: f64 = 80.0;

/// The chart, and a table of the same figures. `is_wrong`: what is off stands out, which among
/// many bars some are by chance.
pub(super) fn chart(chart: &Chart, is_wrong: bool) -> String {
    match chart {
        Chart::Shares { bars } => shares(bars, is_wrong),
        Chart::Values { unit, bars } => values(unit, bars),
        Chart::Lines { x, y, lines: all, scale, limit } => lines(x, y, all, *scale, *limit),
    }
}

/// Bars in per cent of the width: the letters keep their size on a narrow screen.
fn shares(bars: &[ShareBar], is_wrong: bool) -> String {
    let most = bars.iter().map(|bar| bar.expected.max(bar.interval.1)).fold(f64::MIN_POSITIVE, f64::max);
    let names = Names::of(bars.iter().map(|bar| bar.name.as_str()));
    let length = |share: f64| share / most * (TO - names.from);
    let row = PAIR + names.above;
    let mut out = format!(
        "<p class=\"key\"><span class=\"swatch expected\"></span> expected <span class=\"swatch seen\"></span> seen, with its 95 % interval</p>\n<svg class=\"chart\" width=\"100%\" height=\"{}\" role=\"img\" aria-label=\"Expected and seen shares of {} classes or bins\">\n",
        bars.len() * row,
        bars.len()
    );
    for (at, bar) in bars.iter().enumerate() {
        let top = at * row + names.above;
        let outside = bar.expected < bar.interval.0 || bar.expected > bar.interval.1;
        let seen = if outside && is_wrong { "seen off" } else { "seen" };
        let _ = writeln!(
            out,
            "{}\
             <rect class=\"expected\" x=\"{from}%\" y=\"{}\" width=\"{:.2}%\" height=\"13\" rx=\"2\"/>\
             <rect class=\"{seen}\" x=\"{from}%\" y=\"{}\" width=\"{:.2}%\" height=\"13\" rx=\"2\"/>\
             <line class=\"whisker\" x1=\"{:.2}%\" x2=\"{:.2}%\" y1=\"{y}\" y2=\"{y}\"/>\
             <text class=\"value\" x=\"99%\" y=\"{}\" text-anchor=\"end\">{:.1} %</text>\
             <text class=\"value dim\" x=\"99%\" y=\"{}\" text-anchor=\"end\">{:.1} %</text>",
            names.text(&bar.name, top, 24),
            top + 5,
            length(bar.expected),
            top + 19,
            length(bar.seen),
            names.from + length(bar.interval.0),
            names.from + length(bar.interval.1),
            top + 30,
            bar.seen * 100.0,
            top + 16,
            bar.expected * 100.0,
            from = names.from,
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
    let names = Names::of(bars.iter().map(|(name, _)| name.as_str()));
    let row = SINGLE + names.above;
    let mut out = format!(
        "<svg class=\"chart\" width=\"100%\" height=\"{}\" role=\"img\" aria-label=\"{} values in {}\">\n",
        bars.len() * row,
        bars.len(),
        escape(unit)
    );
    for (at, (name, value)) in bars.iter().enumerate() {
        let top = at * row + names.above;
        let _ = writeln!(
            out,
            "{}\
             <rect class=\"seen\" x=\"{from}%\" y=\"{}\" width=\"{:.2}%\" height=\"15\" rx=\"2\"/>\
             <text class=\"value\" x=\"99%\" y=\"{}\" text-anchor=\"end\">{}</text>",
            names.text(name, top, 17),
            top + 5,
            (value / most).clamp(0.0, 1.0) * (TO - names.from - 6.0),
            top + 17,
            escape(&format!("{} {unit}", figure(*value))),
            from = names.from,
        );
    }
    out += "</svg>\n";
    let rows = bars.iter().map(|(name, value)| vec![name.clone(), format!("{} {unit}", figure(*value))]);
    out + &table(&["", "value"], rows)
}

/// Lines in a box that stretches; their letters stand outside of it and do not.
fn lines(x: &str, y: &str, all: &[(String, Vec<(f64, f64)>)], scale: AxisScale, limit: Option<f64>) -> String {
    let points = || all.iter().flat_map(|(_, points)| points).filter(|(x, y)| x.is_finite() && y.is_finite());
    // One point is no line.
    if points().count() < 2 {
        return String::new();
    }
    let across = Axis::of(points().map(|point| point.0), scale);
    let (Some(across), Some(up)) = (across, Axis::from_zero(points().map(|point| point.1).chain(limit))) else {
        return String::new();
    };
    let mut out =
        format!("<figure class=\"plot\"><figcaption>{}</figcaption><div class=\"y\" aria-hidden=\"true\">", escape(y));
    for tick in up.ticks() {
        let _ = write!(out, "<span style=\"bottom:{:.2}%\">{}</span>", up.place(tick), label(tick));
    }
    let _ = write!(
        out,
        "</div><svg viewBox=\"0 0 100 100\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{} over {}\">",
        escape(y),
        escape(x)
    );
    let level = |value: f64| 100.0 - up.place(value);
    for tick in up.ticks() {
        let _ = write!(out, "<line class=\"grid\" x1=\"0\" x2=\"100\" y1=\"{y:.2}\" y2=\"{y:.2}\"/>", y = level(tick));
    }
    for tick in across.ticks() {
        let _ = write!(
            out,
            "<line class=\"grid\" x1=\"{x:.2}\" x2=\"{x:.2}\" y1=\"0\" y2=\"100\"/>",
            x = across.place(tick)
        );
    }
    if let Some(limit) = limit {
        let _ =
            write!(out, "<line class=\"limit\" x1=\"0\" x2=\"100\" y1=\"{y:.2}\" y2=\"{y:.2}\"/>", y = level(limit));
    }
    for (line, (_, points)) in all.iter().enumerate() {
        let finite = points.iter().filter(|(x, y)| x.is_finite() && y.is_finite());
        let path: Vec<String> = finite.map(|(px, py)| format!("{:.2},{:.2}", across.place(*px), level(*py))).collect();
        let _ = write!(out, "<polyline class=\"line l{}\" points=\"{}\"/>", line % 4, path.join(" "));
    }
    out += "</svg><div class=\"x\" aria-hidden=\"true\">";
    for tick in across.ticks() {
        let _ = write!(out, "<span style=\"left:{:.2}%\">{}</span>", across.place(tick), label(tick));
    }
    let _ = writeln!(out, "</div><div class=\"axis\">{}</div></figure>", escape(x));
    let mut keys: Vec<String> = all
        .iter()
        .enumerate()
        .filter(|_| all.len() > 1)
        .map(|(line, (name, _))| format!("<span class=\"swatch l{}\"></span> {}", line % 4, escape(name)))
        .collect();
    keys.extend(limit.map(|limit| format!("<span class=\"swatch limit\"></span> limit {}", label(limit))));
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

/// The names of bars: beside them where all are short, else above, where a phone shows them too.
struct Names {
    /// Where bars begin, in per cent of the width.
    from: f64,
    /// Height that a name takes above its bars, in pixels.
    above: usize,
    most_letters: usize,
}

impl Names {
    fn of<'a>(mut names: impl Iterator<Item = &'a str>) -> Names {
        const SHORT: usize = 9;
        match names.all(|name| name.chars().count() <= SHORT) {
            true => Names { from: 24.0, above: 0, most_letters: SHORT },
            false => Names { from: 0.0, above: 16, most_letters: 40 },
        }
    }

    /// A name whose bars begin at `top`, or its baseline that far below it where it stands beside them.
    fn text(&self, name: &str, top: usize, baseline: usize) -> String {
        let mut short: String = name.chars().take(self.most_letters).collect();
        if short.len() < name.len() {
            short.push('…');
        }
        match self.above {
            0 => format!(
                "<text x=\"{:.1}%\" y=\"{}\" text-anchor=\"end\">{}</text>",
                self.from - 1.5,
                top + baseline,
                escape(&short)
            ),
            _ => format!("<text x=\"0\" y=\"{top}\">{}</text>", escape(&short)),
        }
    }
}
