//! How a look is drawn: as a picture of a terminal, or as plain text. Pure.

use std::fmt::Write;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Cell, Paragraph, Row, Sparkline, Table};

use super::look::{Look, Point, QueueLine, span_ms};

/// Below this there is room for no chart.
const SMALL: u16 = 20;
const BAD: Style = Style::new().fg(Color::Red).add_modifier(Modifier::BOLD);
const DIM: Style = Style::new().add_modifier(Modifier::DIM);
const HEAD: Style = Style::new().add_modifier(Modifier::BOLD);

/// Draws one look, or that there is none yet.
pub(super) fn draw(frame: &mut Frame<'_>, look: Option<&Look>, trouble: Option<&str>, paused: bool, url: &str) {
    let area = frame.area();
    let Some(look) = look else {
        let text = trouble.map_or_else(|| format!("asking {url} …"), ToOwned::to_owned);
        return frame.render_widget(Paragraph::new(text), area);
    };
    let ill = look.ill.len().min(5) as u16;
    let charts = if area.height >= SMALL { 4 } else { 0 };
    let workers = (look.workers.len().min(6) + 2) as u16;
    let [head, trouble_at, ill_at, charts_at, queues_at, workers_at, foot] = Layout::vertical([
        Constraint::Length(2),
        Constraint::Length(u16::from(trouble.is_some())),
        Constraint::Length(ill),
        Constraint::Length(charts),
        Constraint::Min(3),
        Constraint::Length(workers),
        Constraint::Length(1),
    ])
    .areas(area);
    frame.render_widget(Paragraph::new(head_lines(look, url)), head);
    if let Some(why) = trouble {
        frame.render_widget(
            Paragraph::new(Line::styled(format!("cannot be asked, trying again: {why}"), BAD)),
            trouble_at,
        );
    }
    let lines = look.ill.iter().map(|(check, detail)| Line::styled(format!("▲ {check}: {detail}"), BAD));
    frame.render_widget(Paragraph::new(lines.collect::<Vec<_>>()), ill_at);
    if charts > 0 {
        draw_charts(frame, charts_at, &look.points);
    }
    draw_queues(frame, queues_at, &look.queues);
    draw_workers(frame, workers_at, look);
    let keys = if paused { "paused · p go on · q quit" } else { "q quit · p pause" };
    frame.render_widget(Paragraph::new(Line::styled(keys, DIM)), foot);
}

/// The figures that are looked at first.
fn figures(look: &Look) -> Vec<(&'static str, String)> {
    let last = look.last();
    let rate =
        |of: fn(Point) -> Option<f64>| last.and_then(of).map_or_else(|| "–".to_owned(), |rate| format!("{rate:.1}"));
    let ms = |of: fn(Point) -> Option<f64>| last.and_then(of).map_or_else(|| "–".to_owned(), span_ms);
    let queued = look.sum(|queue| queue.queued);
    vec![
        ("answers/s", rate(|point| Some(point.answers_per_s))),
        ("jobs in/s", rate(|point| point.entered_per_s)),
        ("out/s", rate(|point| point.left_per_s)),
        ("errors/s", rate(|point| Some(point.failed_per_s))),
        ("p50", ms(|point| point.p50_ms)),
        ("p99", ms(|point| point.p99_ms)),
        ("queued", queued.to_string()),
        ("oldest", if queued > 0 { span_ms(look.oldest_ms() as f64) } else { "–".into() }),
        ("running", look.sum(|queue| queue.leased).to_string()),
        ("dead", look.sum(|queue| queue.dead).to_string()),
        ("in flight", look.in_flight.to_string()),
    ]
}

fn head_lines(look: &Look, url: &str) -> Vec<Line<'static>> {
    let state = if look.state == "ok" { Span::raw("● ok") } else { Span::styled("▲ failing", BAD) };
    let about = format!("  nobat {} at {url}  {} workers", look.version, look.workers.len());
    let mut shown = Vec::new();
    for (name, value) in figures(look) {
        let is_bad = matches!(name, "errors/s" | "dead") && !matches!(value.as_str(), "0" | "0.0" | "–");
        shown.push(Span::styled(format!("{name} "), DIM));
        shown.push(Span::styled(format!("{value}  "), if is_bad { BAD } else { HEAD }));
    }
    vec![Line::from(vec![state, Span::raw(about)]), Line::from(shown)]
}

fn draw_charts(frame: &mut Frame<'_>, area: Rect, points: &[Point]) {
    let [rates, times] = Layout::horizontal([Constraint::Fill(1), Constraint::Fill(1)]).areas(area);
    let width = usize::from(rates.width);
    let newest = |of: fn(&Point) -> f64| -> Vec<u64> {
        let from = points.len().saturating_sub(width);
        points[from..].iter().map(|point| (of(point) * 100.0).max(0.0) as u64).collect()
    };
    let chart = |title, values: &[u64]| Sparkline::default().block(Block::new().title(title)).data(values.to_vec());
    let (ended, p99) =
        (newest(|point| point.left_per_s.unwrap_or_default()), newest(|point| point.p99_ms.unwrap_or_default()));
    frame.render_widget(chart("jobs out per second", &ended), rates);
    frame.render_widget(chart("p99 of an answer", &p99), times);
}

const QUEUE_HEADS: [&str; 9] = ["QUEUE", "QUEUED", "RUNNING", "SCHEDULED", "DEAD", "IN/S", "OUT/S", "OLDEST", ""];

fn queue_cells(queue: &QueueLine) -> [String; 9] {
    let rate =
        |of: fn((f64, f64)) -> f64| queue.rates.map_or_else(|| "–".to_owned(), |rates| format!("{:.1}", of(rates)));
    [
        queue.name.clone(),
        queue.queued.to_string(),
        queue.leased.to_string(),
        queue.scheduled.to_string(),
        queue.dead.to_string(),
        rate(|rates| rates.0),
        rate(|rates| rates.1),
        if queue.queued > 0 { span_ms(queue.oldest_ms as f64) } else { "–".into() },
        if queue.paused { "‖ paused".into() } else { String::new() },
    ]
}

fn draw_queues(frame: &mut Frame<'_>, area: Rect, queues: &[QueueLine]) {
    let rows = queues.iter().map(|queue| {
        let cells = queue_cells(queue).into_iter().enumerate().map(|(at, text)| {
            let is_bad = at == 4 && text != "0";
            Cell::new(text).style(if is_bad { BAD } else { Style::new() })
        });
        Row::new(cells)
    });
    let widths = [Constraint::Fill(3)].into_iter().chain([Constraint::Length(10); 8]);
    frame.render_widget(Table::new(rows, widths).header(Row::new(QUEUE_HEADS).style(HEAD)), area);
}

fn draw_workers(frame: &mut Frame<'_>, area: Rect, look: &Look) {
    let rows = look.workers.iter().map(|worker| {
        let since = span_ms(look.at_ms.saturating_sub(worker.started_at_ms) as f64);
        Row::new([worker.host.clone(), worker.sessions.to_string(), since, worker.models.clone()])
    });
    let widths = [Constraint::Fill(2), Constraint::Length(9), Constraint::Length(10), Constraint::Fill(4)];
    let heads = Row::new(["WORKER", "SESSIONS", "SINCE", "MODELS"]).style(HEAD);
    frame.render_widget(Table::new(rows, widths).header(heads).block(Block::new()), area);
}

/// A look as plain text.
pub(super) fn plain(look: &Look) -> String {
    let mut out = format!("nobat {}: {}\n", look.version, look.state);
    // Writing into a string does not fail.
    for (check, detail) in &look.ill {
        let _ = writeln!(out, "ill: {check}: {detail}");
    }
    let figures: Vec<String> = figures(look).into_iter().map(|(name, value)| format!("{name} {value}")).collect();
    let _ = writeln!(out, "{}\n", figures.join("  "));
    let rows: Vec<[String; 9]> = look.queues.iter().map(queue_cells).collect();
    let heads = QUEUE_HEADS.map(str::to_owned);
    let all: Vec<&[String; 9]> = std::iter::once(&heads).chain(&rows).collect();
    let width = |column: usize| all.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    for row in &all {
        let cells =
            row.iter().enumerate().map(|(at, text)| format!("{text}{}", " ".repeat(width(at) - text.chars().count())));
        let _ = writeln!(out, "{}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
    out.push('\n');
    for worker in &look.workers {
        let _ = writeln!(out, "worker {}  sessions {}  {}", worker.host, worker.sessions, worker.models);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::top::look::WorkerLine;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    fn look() -> Look {
        let queue = |name: &str, queued, dead, paused| QueueLine {
            name: name.into(),
            queued,
            leased: 1,
            scheduled: 0,
            dead,
            oldest_ms: 90_000,
            paused,
            rates: Some((12.5, 3.0)),
        };
        Look {
            at_ms: 100_000,
            version: "1.2.3".into(),
            state: "failing".into(),
            in_flight: 7,
            ill: vec![("queue_age".into(), "the oldest job waits".into())],
            queues: vec![queue("digits", 42, 3, true), queue("سلام", 0, 0, false)],
            workers: vec![WorkerLine {
                host: "host-1".into(),
                sessions: 2,
                models: "digits".into(),
                started_at_ms: 40_000,
            }],
            points: vec![Point { left_per_s: Some(3.0), p99_ms: Some(12.0), ..Point::default() }],
        }
    }

    fn drawn(width: u16, height: u16, look: Option<&Look>, trouble: Option<&str>) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
        terminal.draw(|frame| draw(frame, look, trouble, false, "http://x")).expect("drawn");
        let buffer = terminal.backend().buffer();
        let rows = buffer.content().chunks(usize::from(width));
        rows.map(|row| row.iter().map(ratatui::buffer::Cell::symbol).collect::<String>() + "\n").collect()
    }

    #[test]
    fn the_picture_and_the_text_say_the_same() {
        let look = look();
        let (picture, text) = (drawn(140, 30, Some(&look), None), plain(&look));
        for said in ["failing", "queue_age", "digits", "42", "paused", "12.5", "2 min", "host-1", "12 ms"] {
            assert!(picture.contains(said), "{said} is not in\n{picture}");
            assert!(text.contains(said), "{said} is not in\n{text}");
        }
    }

    #[test]
    fn any_size_of_terminal_is_drawn_in() {
        let look = look();
        for (width, height) in [(1, 1), (10, 3), (80, 24), (300, 100), (20, 200)] {
            drawn(width, height, Some(&look), Some("away"));
            drawn(width, height, None, Some("away"));
        }
        assert!(drawn(60, 3, None, Some("cannot be reached")).contains("cannot be reached"));
    }
}
