//! What is expected beside what was seen, as bars: pure.

use nobat_statistics::classes::shares_of;
use nobat_statistics::intervals::wilson;

use crate::stage::ShareBar;

/// Bars of a chart of classes; the rest share one.
const CLASS_BARS: usize = 30;

/// A bar for each class.
pub(super) fn class_bars(names: &[&str], expected: &[u64], seen: &[u64]) -> Vec<ShareBar> {
    if names.len() <= CLASS_BARS {
        return bars(names, expected, seen);
    }
    // The most frequent of the profile, in the order of their names, and the rest together.
    let mut order: Vec<usize> = (0..names.len()).collect();
    order.sort_by_key(|&cell| std::cmp::Reverse(expected[cell]));
    let rest = order.split_off(CLASS_BARS);
    order.sort_unstable();
    let shown = |counts: &[u64]| -> Vec<u64> {
        let own = order.iter().map(|&cell| counts[cell]);
        own.chain([rest.iter().map(|&cell| counts[cell]).sum()]).collect()
    };
    let mut shown_names: Vec<&str> = order.iter().map(|&cell| names[cell]).collect();
    shown_names.push("all others");
    bars(&shown_names, &shown(expected), &shown(seen))
}

/// A bar for each name, but for those that were neither expected nor seen.
pub(super) fn bars(names: &[&str], expected: &[u64], seen: &[u64]) -> Vec<ShareBar> {
    let (shares, found, rows) = (shares_of(expected), shares_of(seen), seen.iter().sum());
    let bar = |(cell, name): (usize, &&str)| ShareBar {
        name: (*name).to_owned(),
        expected: shares[cell],
        seen: found[cell],
        interval: wilson(seen[cell], rows, 0.95),
    };
    names.iter().enumerate().map(bar).filter(|bar| bar.expected + bar.seen > 0.0).collect()
}

/// What the bins between these edges are called: below the first, between each two, from the last on.
pub(super) fn bin_names(edges: &[f64]) -> Vec<String> {
    let digits = telling_digits(edges);
    let name = |cell: usize| match (cell.checked_sub(1).and_then(|i| edges.get(i)), edges.get(cell)) {
        (Some(low), Some(high)) => format!("{low:.digits$}–{high:.digits$}"),
        (None, Some(high)) => format!("under {high:.digits$}"),
        (Some(low), None) => format!("{low:.digits$} and over"),
        (None, None) => "none".into(),
    };
    (0..=edges.len()).map(name).collect()
}

/// Digits after the point that tell edges of bins apart, from three on.
fn telling_digits(edges: &[f64]) -> usize {
    let told = |digits: &usize| {
        edges
            .windows(2)
            .all(|pair| pair[0] == pair[1] || format!("{:.digits$}", pair[0]) != format!("{:.digits$}", pair[1]))
    };
    (3..9).find(told).unwrap_or(9)
}
