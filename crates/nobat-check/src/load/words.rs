//! Figures of a load test as a person reads them.

use std::time::Duration;

use crate::statistical::words::count;

/// 3.42 ms, 0.051 ms, 1,250 ms: three digits, and whole ones from 100 on.
pub fn ms(latency: Duration) -> String {
    let ms = latency.as_secs_f64() * 1e3;
    match ms {
        ..1.0 => format!("{ms:.3} ms"),
        1.0..10.0 => format!("{ms:.2} ms"),
        10.0..100.0 => format!("{ms:.1} ms"),
        _ => format!("{} ms", count(ms.round() as u64)),
    }
}

/// Requests a second.
pub fn rate(per_s: f64) -> String {
    match per_s {
        ..1.0 => format!("{per_s:.2}/s"),
        1.0..100.0 => format!("{per_s:.1}/s"),
        _ => format!("{}/s", count(per_s.round() as u64)),
    }
}

/// The words as a sentence begins.
pub(super) fn capital(words: &str) -> String {
    let mut letters = words.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// Bytes.
pub(super) fn size(bytes: f64) -> String {
    match bytes {
        ..1024.0 => format!("{bytes:.0} bytes"),
        1024.0..1_048_576.0 => format!("{:.1} KiB", bytes / 1024.0),
        _ => format!("{:.1} MiB", bytes / 1_048_576.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_as_many_digits_as_are_of_use() {
        let us = |us| ms(Duration::from_micros(us));
        assert_eq!([us(51), us(3_421), us(42_250), us(1_250_400)], ["0.051 ms", "3.42 ms", "42.2 ms", "1,250 ms"]);
        assert_eq!([rate(0.5), rate(12.34), rate(12_345.6)], ["0.50/s", "12.3/s", "12,346/s"]);
        assert_eq!([size(100.0), size(2_048.0), size(3_145_728.0)], ["100 bytes", "2.0 KiB", "3.0 MiB"]);
    }
}
