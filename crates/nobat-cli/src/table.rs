//! Answers as people read them: tables of lists, lines of objects. Pure; who asks
//! says how wide the terminal is and what time it is.
//!
//! A value's name says how it is shown, as it says its unit: `oldest_ms` is a
//! duration, `created_at_ms` and `created_at` are ages, `queued_bytes` is a size.
//! Text of others is shown without control characters: a terminal obeys them.

use chrono::DateTime;
use serde_json::{Map, Value};

/// Which members of a list's items become columns, in this order.
#[derive(Clone, Copy)]
pub(crate) struct Columns {
    /// The member that holds the list.
    pub(crate) list: &'static str,
    /// Paths into an item, such as `last_run.outcome`; several by `|`, the first that
    /// is there. `?a|b` shows which of these members there is.
    pub(crate) paths: &'static [&'static str],
    /// What is said of an empty list.
    pub(crate) empty: &'static str,
}

/// An answer as lines; `columns` says how its list is shown, if it has it.
pub(crate) fn render(answer: &Value, columns: Option<&Columns>, width: usize, now_ms: u64) -> String {
    match columns.and_then(|columns| Some((columns, answer.get(columns.list)?.as_array()?))) {
        Some((columns, items)) if items.is_empty() => format!("{}\n", columns.empty),
        Some((columns, items)) => table(items, columns.paths, width, now_ms),
        None => {
            let mut out = String::new();
            lines(&mut out, answer, 0, width, now_ms);
            out
        }
    }
}

fn table(items: &[Value], paths: &[&str], width: usize, now_ms: u64) -> String {
    let shown: Vec<(&str, Vec<String>)> = paths
        .iter()
        .map(|path| (head(path), items.iter().map(|item| cell(item, path, now_ms)).collect::<Vec<_>>()))
        // A column nobody has anything in says nothing.
        .filter(|(_, cells)| cells.iter().any(|cell| cell != "-"))
        .collect();
    let widths: Vec<usize> = shown
        .iter()
        .map(|(head, cells)| cells.iter().map(|cell| count(cell)).chain([count(head)]).max().unwrap_or(0))
        .collect();
    let mut out = String::new();
    let heads = shown.iter().map(|(head, _)| head.to_uppercase()).collect();
    let rows = (0..items.len()).map(|row| shown.iter().map(|(_, cells)| cells[row].clone()).collect());
    for row in std::iter::once(heads).chain(rows) {
        let row: Vec<String> = row;
        let padded: Vec<String> = row.iter().zip(&widths).map(|(cell, &width)| pad(cell, width)).collect();
        out += clip(padded.join("  ").trim_end(), width).as_str();
        out.push('\n');
    }
    out
}

fn head(path: &str) -> &str {
    let last = path.trim_start_matches('?').split('|').next().unwrap_or(path);
    if path.starts_with('?') {
        return "kind";
    }
    let name = match last {
        "last_run.outcome" => "last run",
        "last_run.tick" => "at",
        "error.message" => "error",
        other => other.rsplit('.').next().unwrap_or(other),
    };
    name.trim_end_matches("_at_ms").trim_end_matches("_at").trim_end_matches("_ms").trim_end_matches("_bytes")
}

fn cell(item: &Value, path: &str, now_ms: u64) -> String {
    if let Some(names) = path.strip_prefix('?') {
        let named = names.split('|').find(|name| item.get(name).is_some_and(|value| !value.is_null()));
        return named.unwrap_or("-").to_owned();
    }
    let found = path.split('|').find_map(|path| {
        let value = path.split('.').try_fold(item, |value, name| value.get(name))?;
        Some((path.rsplit('.').next().unwrap_or(path), value))
    });
    found.map_or_else(|| "-".to_owned(), |(name, value)| shown(name, value, now_ms))
}

/// One value in one line.
fn shown(name: &str, value: &Value, now_ms: u64) -> String {
    let age = |at_ms: u64| match at_ms {
        0 => "-".to_owned(),
        at if at > now_ms => format!("in {}", span((at - now_ms) as f64 / 1e3)),
        at => format!("{} ago", span((now_ms - at) as f64 / 1e3)),
    };
    match value {
        Value::Null => "-".to_owned(),
        Value::Bool(yes) => (if *yes { "yes" } else { "no" }).to_owned(),
        Value::Number(number) => match (number.as_f64(), number.as_u64()) {
            (_, Some(at)) if name.ends_with("_at_ms") => age(at),
            // Unix seconds of the periodic tasks.
            (_, Some(at)) if matches!(name, "next" | "tick") => age(at * 1000),
            (Some(ms), _) if name.ends_with("_ms") => span(ms / 1e3),
            (Some(us), _) if name.ends_with("_us") => span(us / 1e6),
            (Some(s), _) if name.ends_with("_s") && !name.ends_with("_per_s") => span(s),
            (Some(bytes), _) if name.ends_with("_bytes") => size(bytes),
            _ => number.to_string(),
        },
        Value::String(text) if name.ends_with("_at") || name == "timestamp" => {
            match DateTime::parse_from_rfc3339(text) {
                Ok(at) => age(at.timestamp_millis().max(0) as u64),
                Err(_) => plain(text),
            }
        }
        Value::String(text) if text.is_empty() => "-".to_owned(),
        Value::String(text) => plain(text),
        Value::Array(items) if items.is_empty() => "-".to_owned(),
        Value::Array(items) if items.iter().all(|item| item.get("version").is_some()) => {
            let one = |item: &Value| match item.get("state").and_then(Value::as_str) {
                Some("ready") | None => shown("version", &item["version"], now_ms),
                Some(state) => format!("{} ({})", shown("version", &item["version"], now_ms), plain(state)),
            };
            items.iter().map(one).collect::<Vec<_>>().join(", ")
        }
        Value::Array(items) if items.iter().all(|item| !item.is_array() && !item.is_object()) => {
            items.iter().map(|item| shown("", item, now_ms)).collect::<Vec<_>>().join(", ")
        }
        nested => plain(&nested.to_string()),
    }
}

/// An object, a line a member; what is nested is indented under it.
fn lines(out: &mut String, value: &Value, indent: usize, width: usize, now_ms: u64) {
    let Some(members) = value.as_object() else {
        *out += &format!("{:indent$}{}\n", "", shown("", value, now_ms));
        return;
    };
    let twice = |name: &str| name.strip_suffix("_ms").is_some_and(|other| members.contains_key(other));
    let widest = members.iter().filter(|(_, value)| !is_nested(value)).map(|(name, _)| count(name)).max().unwrap_or(0);
    for (name, value) in members.iter().filter(|(name, value)| !is_nested(value) && !twice(name)) {
        *out += &format!("{:indent$}{}  {}\n", "", pad(&plain(name), widest), shown(name, value, now_ms));
    }
    for (name, value) in members.iter().filter(|(_, value)| is_nested(value)) {
        *out += &format!("{:indent$}{}\n", "", plain(name));
        match value {
            Value::Array(items) => {
                let names = scalar_members(items);
                let paths: Vec<&str> = names.iter().map(String::as_str).collect();
                for line in table(items, &paths, width.saturating_sub(indent + 2), now_ms).lines() {
                    *out += &format!("{:1$}{line}\n", "", indent + 2);
                }
            }
            nested => lines(out, nested, indent + 2, width, now_ms),
        }
    }
}

/// Whether a value takes lines of its own: an object, or a list of them.
fn is_nested(value: &Value) -> bool {
    match value {
        Value::Object(members) => !members.is_empty(),
        Value::Array(items) => !items.is_empty() && items.iter().all(Value::is_object),
        _ => false,
    }
}

/// The members of these objects that fit into a cell, in their order.
fn scalar_members(items: &[Value]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    let empty = Map::new();
    for (name, value) in items.iter().flat_map(|item| item.as_object().unwrap_or(&empty)) {
        // A dot or bar would be read as a path.
        if !is_nested(value) && !names.contains(name) && !name.contains(['.', '|', '?']) {
            names.push(name.clone());
        }
    }
    // `started_at_ms` says again what `started_at` does.
    let all = names.clone();
    names.retain(|name| !name.strip_suffix("_ms").is_some_and(|other| all.iter().any(|name| name == other)));
    names
}

/// A duration in its two largest units at most.
fn span(seconds: f64) -> String {
    let whole = seconds as u64;
    match seconds {
        0.0 => "0 s".to_owned(),
        s if s < 1e-3 => format!("{:.0} µs", s * 1e6),
        s if s < 1.0 => format!("{:.0} ms", s * 1e3),
        s if s < 10.0 => format!("{s:.1} s"),
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7_200.0 => format!("{} min", whole / 60),
        s if s < 172_800.0 => format!("{} h", whole / 3_600),
        _ => format!("{} d", whole / 86_400),
    }
}

fn size(bytes: f64) -> String {
    let (amount, unit) = match bytes {
        b if b < 1024.0 => return format!("{b:.0} B"),
        b if b < 1024f64.powi(2) => (b / 1024.0, "KiB"),
        b if b < 1024f64.powi(3) => (b / 1024f64.powi(2), "MiB"),
        b => (b / 1024f64.powi(3), "GiB"),
    };
    format!("{amount:.1} {unit}")
}

/// Text of others without what a terminal would obey.
pub(crate) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn count(text: &str) -> usize {
    text.chars().count()
}

fn pad(text: &str, width: usize) -> String {
    format!("{text}{:1$}", "", width.saturating_sub(count(text)))
}

/// A line that fits, with a mark where it was cut.
fn clip(line: &str, width: usize) -> String {
    if count(line) <= width {
        return line.to_owned();
    }
    line.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const NOW: u64 = 1_700_000_000_000;
    const JOBS: Columns =
        Columns { list: "jobs", paths: &["id", "state", "created_at_ms", "error.message"], empty: "no jobs" };

    #[test]
    fn a_list_is_a_table_as_wide_as_it_needs_and_no_wider_than_the_terminal() {
        let answer = json!({"jobs": [
            {"id": "a", "state": "succeeded", "created_at_ms": NOW - 90_000, "error": null},
            {"id": "bb", "state": "dead", "created_at_ms": NOW - 7_300_000, "error": {"message": "the model\u{1b}[31m refuses"}},
        ]});
        assert_eq!(
            render(&answer, Some(&JOBS), 80, NOW),
            "ID  STATE      CREATED   ERROR\n\
             a   succeeded  90 s ago  -\n\
             bb  dead       2 h ago   the model [31m refuses\n"
        );
        let narrow = render(&answer, Some(&JOBS), 30, NOW);
        assert!(narrow.lines().all(|line| line.chars().count() <= 30) && narrow.contains('…'), "{narrow}");
        assert_eq!(render(&json!({"jobs": []}), Some(&JOBS), 80, NOW), "no jobs\n");
    }

    #[test]
    fn a_column_that_nobody_fills_is_left_out_and_a_kind_is_named() {
        let columns = Columns { list: "routes", paths: &["name", "?direct|topic", "reason"], empty: "" };
        let answer = json!({"routes": [{"name": "r", "topic": "a.*", "direct": null, "reason": ""}]});
        assert_eq!(render(&answer, Some(&columns), 80, NOW), "NAME  KIND\nr     topic\n");
    }

    #[test]
    fn an_object_is_a_line_a_member_and_what_is_in_it_is_under_it() {
        let answer = json!({
            "name": "digits", "ready": true, "at": "x", "at_ms": 5, "predictions": [[0.5, 1.0]], "queue": {"queued_bytes": 2048, "oldest_ms": 1500},
            "versions": [{"version": "1", "state": "ready", "inputs": [{"name": "x"}]}],
        });
        assert_eq!(
            render(&answer, None, 80, NOW),
            "at           x\nname         digits\npredictions  [[0.5,1.0]]\nready        yes\n\
             queue\n  oldest_ms     1.5 s\n  queued_bytes  2.0 KiB\n\
             versions\n  STATE  VERSION\n  ready  1\n"
        );
    }

    #[test]
    fn versions_in_a_cell_are_told_with_their_state_when_it_is_not_ready() {
        let versions = json!([{"version": "2", "state": "failed"}, {"version": "1", "state": "ready"}]);
        assert_eq!(shown("versions", &versions, NOW), "2 (failed), 1");
        assert_eq!(shown("next", &json!(NOW / 1000 + 7_200), NOW), "in 2 h");
        assert_eq!(shown("created_at", &json!("2023-11-14T22:13:10Z"), NOW), "10 s ago");
    }
}
