//! Numbers as a person reads them.

/// 12345 as `12,345`.
pub(crate) fn count(n: u64) -> String {
    let digits = n.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|group| std::str::from_utf8(group).unwrap_or("")).collect();
    groups.join(",")
}

/// 0.0123 as `1.2 %`, and what is small as small as it is.
pub(crate) fn percent(share: f64) -> String {
    match share * 100.0 {
        0.0 => "0 %".into(),
        small if small.abs() < 0.001 => "under 0.001 %".into(),
        small if small.abs() < 0.1 => format!("{small:.3} %"),
        large => format!("{large:.1} %"),
    }
}

/// 0.05 as `5.0 points`.
pub(crate) fn points(share: f64) -> String {
    format!("{:.1} points", share * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_for_people() {
        assert_eq!([count(7), count(1_000), count(12_345_678)], ["7", "1,000", "12,345,678"]);
        assert_eq!(
            [percent(0.0), percent(0.0123), percent(0.0004), percent(1e-9)],
            ["0 %", "1.2 %", "0.040 %", "under 0.001 %"]
        );
        assert_eq!(points(0.05), "5.0 points");
    }
}
