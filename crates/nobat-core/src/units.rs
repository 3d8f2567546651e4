//! Durations, sizes, addresses and URLs as people write them, and instants as numbers. Pure.
//!
//! A setting's name says its unit (`lease_ms`, `max_body_bytes`), and its value is a
//! number of them. Here is what else is taken for one, `"3s"` or `"64MiB"`, and what
//! is said of a value that is neither.

use std::time::SystemTime;

use crate::error::{Error, Result};

/// Endings of settings' names, what one of the unit is in seconds, and its name.
const DURATIONS: [(&str, f64, &str); 3] =
    [("_ms", 1e-3, "milliseconds"), ("_us", 1e-6, "microseconds"), ("_s", 1.0, "seconds")];
/// The ending of settings that are sizes.
const SIZE: &str = "_bytes";
/// What such a setting's name does not mean.
const RATE: &str = "_per_s";

/// A value for the setting `key` that was written with a unit, in the setting's own
/// unit; `None` where the setting has none, or the text is no duration or size.
pub fn in_unit_of(key: &str, text: &str) -> Option<f64> {
    if key.ends_with(RATE) {
        return None;
    }
    if key.ends_with(SIZE) {
        return bytes(text);
    }
    let (_, unit_s, _) = DURATIONS.iter().find(|(ending, ..)| key.ends_with(ending))?;
    let value = seconds(text)? / unit_s;
    // 0.3 s are 300 ms, not 299.99999999999994.
    let whole = value.round();
    Some(if (value - whole).abs() <= whole.abs() * 1e-9 { whole } else { value })
}

/// What the setting `key` takes, for one who wrote something else.
pub fn remedy(key: &str) -> Option<String> {
    // An item of a list is named by its place: `retry_s.0`.
    let key = key.trim_end_matches(|c: char| c.is_ascii_digit()).trim_end_matches('.');
    if key.ends_with(RATE) {
        return None;
    }
    if key.ends_with(SIZE) {
        return Some("write a number of bytes, or a size such as \"64MiB\" or \"1GB\"".to_owned());
    }
    let (.., unit) = DURATIONS.iter().find(|(ending, ..)| key.ends_with(ending))?;
    Some(format!("write a number of {unit}, or a duration such as \"500ms\", \"3s\", \"5m\", \"1h\" or \"7d\""))
}

/// A duration with its unit (`500ms`, `3s`, `1.5m`, `1h`, `7d`), in seconds.
pub fn seconds(text: &str) -> Option<f64> {
    let (amount, unit) = amount(text)?;
    let unit = match unit {
        "us" | "µs" => 1e-6,
        "ms" => 1e-3,
        "s" | "sec" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3_600.0,
        "d" => 86_400.0,
        _ => return None,
    };
    Some(amount * unit)
}

/// Milliseconds from 1970 to `at`; 0 before.
pub fn unix_ms(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// A duration of a command line: whole seconds, or a duration with its unit.
///
/// # Errors
/// `invalid_parameter` with what it takes.
pub fn whole_seconds(text: &str) -> Result<u64> {
    let value = text.trim().parse::<u64>().ok().or_else(|| {
        let value = seconds(text)?;
        (value.fract() == 0.0 && value <= 1e9).then_some(value as u64)
    });
    value.ok_or_else(|| Error::invalid(format!("`{text}` is no time; give whole seconds, such as 90, or 90s, 5m, 1h")))
}

fn bytes(text: &str) -> Option<f64> {
    let (amount, unit) = amount(text)?;
    let unit = match unit.to_ascii_lowercase().as_str() {
        "b" => 1.0,
        "k" | "kb" => 1e3,
        "m" | "mb" => 1e6,
        "g" | "gb" => 1e9,
        "t" | "tb" => 1e12,
        "ki" | "kib" => f64::from(1u32 << 10),
        "mi" | "mib" => f64::from(1u32 << 20),
        "gi" | "gib" => f64::from(1u32 << 30),
        "ti" | "tib" => f64::from(1u32 << 30) * f64::from(1u32 << 10),
        _ => return None,
    };
    let value = amount * unit;
    Some(if value.fract() < 1e-6 { value.trunc() } else { value })
}

/// `1.5 GiB` as its number and its unit.
fn amount(text: &str) -> Option<(f64, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (amount, unit) = text.split_at(end);
    // `.` and `1.` are no numbers here.
    if !amount.starts_with(|c: char| c.is_ascii_digit()) || amount.ends_with('.') {
        return None;
    }
    Some((amount.parse().ok()?, unit.trim()))
}

/// The address of a listener: `host:port`, `[::1]:port`, a port alone (the host stays
/// `default`'s) or `:port` (every address). Empty stays empty.
///
/// # Errors
/// `invalid_parameter` with what to write.
pub fn listen_address(text: &str, default: &str) -> Result<String> {
    let text = text.trim();
    let port = |port: &str| port.parse::<u16>().is_ok() && port.bytes().all(|byte| byte.is_ascii_digit());
    if text.is_empty() {
        return Ok(String::new());
    }
    if port(text) {
        let host = default.rsplit_once(':').map_or("127.0.0.1", |(host, _)| host);
        return Ok(format!("{host}:{text}"));
    }
    match text.rsplit_once(':') {
        Some(("", number)) if port(number) => Ok(format!("0.0.0.0:{number}")),
        Some((host, number)) if port(number) && is_host(host) => Ok(text.to_owned()),
        _ => Err(Error::invalid(format!(
            "`{text}` is no address to listen on; write host and port, such as 127.0.0.1:9000 or [::1]:9000, a port alone, or :9000 for every address"
        ))),
    }
}

fn is_host(host: &str) -> bool {
    match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').is_some_and(|address| address.parse::<std::net::Ipv6Addr>().is_ok()),
        None => host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_')),
    }
}

/// A Redis URL as it is used: `host:port` is one too.
///
/// # Errors
/// `invalid_parameter` with the forms there are; the message shows no password.
pub fn redis_url(text: &str) -> Result<String> {
    const SCHEMES: [&str; 11] = [
        "redis",
        "rediss",
        "redis+unix",
        "unix",
        "redis+cluster",
        "rediss+cluster",
        "redis+sentinel",
        "rediss+sentinel",
        "valkey",
        "valkeys",
        "valkey+unix",
    ];
    let text = text.trim();
    let forms = "write redis://[user:password@]host:port/db, rediss://… for TLS, redis+cluster://host1,host2 or redis+sentinel://host1,host2/service";
    match text.split_once("://") {
        None => {
            let (host, db) = text.rsplit_once('@').map_or(text, |(_, host)| host).split_once('/').unwrap_or((text, ""));
            let (host, port) =
                host.rsplit_once('@').map_or(host, |(_, host)| host).split_once(':').unwrap_or((host, "6379"));
            let plain = !host.is_empty() && is_host(host) && port.parse::<u16>().is_ok();
            if !plain || !db.chars().all(|c| c.is_ascii_digit()) {
                return Err(Error::invalid(format!("the redis url has no `redis://` before its host; {forms}")));
            }
            Ok(format!("redis://{text}"))
        }
        Some((scheme, _)) if SCHEMES.contains(&scheme) => Ok(text.to_owned()),
        Some((scheme, _)) => Err(Error::invalid(format!("`{scheme}://` is no redis url; {forms}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_with_a_unit_is_taken_in_the_settings_own() {
        assert_eq!(in_unit_of("lease_ms", "3s"), Some(3_000.0));
        assert_eq!(in_unit_of("lease_ms", "0.3s"), Some(300.0));
        assert_eq!(in_unit_of("max_queue_delay_ms", "1.5ms"), Some(1.5));
        assert_eq!(in_unit_of("idempotency_ttl_s", "1d"), Some(86_400.0));
        assert_eq!(in_unit_of("every_s", "500ms"), Some(0.5));
        assert_eq!(in_unit_of("max_body_bytes", "64MiB"), Some(67_108_864.0));
        assert_eq!(in_unit_of("max_body_bytes", "1.5 GB"), Some(1.5e9));
        for (key, text) in [
            ("lease_ms", "soon"),
            ("lease_ms", "3"),
            ("lease_ms", "-3s"),
            ("lease_ms", ".s"),
            ("lease_ms", "1.2.3s"),
            ("max_body_bytes", "3s"),
            ("rate_per_s", "3s"),
            ("listen", "3s"),
            ("max_jobs", "3s"),
        ] {
            assert_eq!(in_unit_of(key, text), None, "{key} = {text}");
        }
        assert!(
            remedy("queue.lease_ms").is_some_and(|remedy| remedy.contains("milliseconds") && remedy.contains("\"3s\""))
        );
        assert!(remedy("max_bytes").is_some_and(|remedy| remedy.contains("64MiB")));
        assert_eq!(remedy("listen"), None);
    }

    #[test]
    fn a_flag_takes_seconds_with_and_without_their_unit() {
        assert_eq!(whole_seconds("90").ok(), Some(90));
        assert_eq!(whole_seconds("5m").ok(), Some(300));
        assert!(whole_seconds("soon").is_err_and(|error| error.message.contains("90s, 5m, 1h")));
        assert!(whole_seconds("500ms").is_err());
    }

    #[test]
    fn a_port_alone_is_an_address_and_what_is_none_is_told_how_to_be_one() {
        let address = |text| listen_address(text, "127.0.0.1:8000").map_err(|error| error.message);
        assert_eq!(address("9000").as_deref(), Ok("127.0.0.1:9000"));
        assert_eq!(address(":9000").as_deref(), Ok("0.0.0.0:9000"));
        for same in ["localhost:9000", "0.0.0.0:0", "[::]:80", "my-host.internal:1"] {
            assert_eq!(address(same).as_deref(), Ok(same));
        }
        assert_eq!(address("").as_deref(), Ok(""));
        for wrong in
            ["nine", "localhost", "1.2.3.4", "host:70000", "host:", "http://host:80", "::1:80", "host:-1", "host:+1"]
        {
            assert!(
                address(wrong).is_err_and(|said| said.contains(wrong) && said.contains("127.0.0.1:9000")),
                "{wrong}"
            );
        }
    }

    #[test]
    fn a_redis_url_without_its_scheme_is_one_and_no_password_is_shown() {
        assert_eq!(redis_url("db:6379").ok().as_deref(), Some("redis://db:6379"));
        assert_eq!(redis_url("db").ok().as_deref(), Some("redis://db"));
        assert_eq!(redis_url("me:secret@db:6379/2").ok().as_deref(), Some("redis://me:secret@db:6379/2"));
        assert_eq!(redis_url("redis+sentinel://a,b/main").ok().as_deref(), Some("redis+sentinel://a,b/main"));
        for wrong in ["http://me:secret@db:6379", "redis//me:secret@db", "me:secret@db:port", "", "a b"] {
            let error = redis_url(wrong).expect_err("refused").message;
            assert!(error.contains("redis://[user:password@]host:port/db") && !error.contains("secret"), "{error}");
        }
    }
}
