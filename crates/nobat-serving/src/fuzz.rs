//! Entries for the fuzz targets and the replay of their corpora (`fuzz/`).

use crate::routing::{Pattern, Route, Table};

/// A topic pattern and a routing key, on two lines.
pub fn topic(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (pattern, key) = text.split_once('\n').unwrap_or((text, ""));
    if let Ok(pattern) = pattern.parse::<Pattern>() {
        pattern.matches(key);
        assert_eq!(pattern.as_str().parse().ok(), Some(pattern), "a pattern reads back");
    }
}

/// A route, as an administrator posts it.
pub fn route(data: &[u8]) {
    if let Ok(route) = serde_json::from_slice::<Route>(data)
        && route.check().is_ok()
        && let Ok(table) = Table::build([route.clone()])
    {
        assert_eq!(table.get(&route.name), Some(&route));
    }
}
