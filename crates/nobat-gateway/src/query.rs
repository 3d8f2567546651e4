//! Query strings: known names only, each at most once, values with units.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use actix_web::HttpRequest;
use nobat_core::job::JobOptions;
use nobat_core::{Error, ErrorCode, Result};
use smol_str::SmolStr;

use crate::prefer;

/// The options of a job that every predicting route takes.
pub(crate) const JOB_OPTIONS: &[&str] = &[
    "priority",
    "result_ttl",
    "max_retries",
    "retry_delay",
    "deadline",
    "delay",
    "run_at",
    "version",
    "label",
    "webhook",
    "tag",
];
/// The same, for those that can wait for the answer.
pub(crate) const WITH_WAIT: &[&str] = &[
    "priority",
    "result_ttl",
    "max_retries",
    "retry_delay",
    "deadline",
    "delay",
    "run_at",
    "version",
    "label",
    "webhook",
    "tag",
    "wait",
];
/// What may be given several times.
const REPEATED: &str = "tag";
/// Longest duration taken: ten years.
const MAX_DURATION: Duration = Duration::from_secs(10 * 365 * 86_400);

/// What a predicting route's query says.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct JobQuery {
    /// The job's options.
    pub options: JobOptions,
    /// The version asked for.
    pub version: Option<SmolStr>,
    /// The label asked for.
    pub label: Option<SmolStr>,
    /// How long to wait for the answer.
    pub wait: Option<Duration>,
}

impl JobQuery {
    /// Reads a query string of `known` options; `now` turns `run_at` into a delay.
    ///
    /// # Errors
    /// `invalid_parameter` naming the parameter, its value and what it takes.
    pub(crate) fn read(query: &str, known: &[&'static str], now: SystemTime) -> Result<JobQuery> {
        let mut read = JobQuery::default();
        let options = &mut read.options;
        each(query, known, |name, value| {
            match name {
                "priority" => options.priority = number(name, value, 0, u8::MAX)?,
                "result_ttl" => options.result_ttl = positive(name, value)?,
                "max_retries" => options.retry.max_retries = number(name, value, 0, u8::MAX)?,
                "retry_delay" => options.retry.delay_ms = milliseconds(name, value)?,
                "deadline" => options.deadline = Some(positive(name, value)?),
                "delay" | "run_at" if options.delay.is_some() => {
                    return Err(invalid("give `delay` or `run_at`, not both".into()));
                }
                "delay" => options.delay = Some(duration(name, value)?),
                "run_at" => options.delay = Some(run_at(value, now)?),
                "version" => read.version = Some(value.into()),
                "label" => read.label = Some(value.into()),
                "webhook" if value.is_empty() => {
                    return Err(invalid("webhook is empty; give the address that is told, or leave it out".to_owned()));
                }
                "webhook" => options.webhook = Some(value.into()),
                "tag" => options.tags.add(value)?,
                _ => read.wait = Some(wait(value)?),
            }
            Ok(())
        })?;
        if read.version.is_some() && read.label.is_some() {
            return Err(invalid("give `version` or `label`, not both".into()));
        }
        Ok(read)
    }
}

/// Refuses any parameter.
///
/// # Errors
/// `invalid_parameter`, naming it.
pub(crate) fn none(request: &HttpRequest) -> Result<()> {
    each(request.query_string(), &[], |_, _| Ok(()))
}

/// Calls `read` for each parameter.
///
/// # Errors
/// `invalid_parameter` for a name that is not `known` or comes twice, and
/// whatever `read` refuses.
pub(crate) fn each(
    query: &str,
    known: &[&'static str],
    mut read: impl FnMut(&'static str, &str) -> Result<()>,
) -> Result<()> {
    let mut seen = 0u32;
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        let Some(at) = known.iter().position(|known| *known == name) else {
            let takes = if known.is_empty() { "no parameters".to_owned() } else { known.join(", ") };
            return Err(invalid(format!("unknown query parameter `{}`; this route takes {takes}", clip(&name))));
        };
        if seen & 1 << at != 0 && name != REPEATED {
            return Err(invalid(format!("query parameter `{name}` is given twice")));
        }
        seen |= 1 << at;
        read(known[at], &value)?;
    }
    Ok(())
}

/// A whole number within bounds.
///
/// # Errors
/// `invalid_parameter`.
pub(crate) fn number<N: std::str::FromStr + PartialOrd + std::fmt::Display>(
    name: &str,
    value: &str,
    least: N,
    most: N,
) -> Result<N> {
    let digits = value.bytes().all(|byte| byte.is_ascii_digit());
    let parsed = value.parse().ok().filter(|parsed| digits && *parsed >= least && *parsed <= most);
    parsed
        .ok_or_else(|| invalid(format!("{name} is `{}`; it takes a whole number from {least} to {most}", clip(value))))
}

/// Seconds to wait, fractions allowed, units allowed.
///
/// # Errors
/// `invalid_parameter`.
pub(crate) fn wait(value: &str) -> Result<Duration> {
    duration("wait", value)
}

/// A duration such as `500ms`, `2s`, `1.5m`, `1h`, `1d`; a bare number is seconds.
///
/// # Errors
/// `invalid_parameter`.
pub(crate) fn duration(name: &str, value: &str) -> Result<Duration> {
    let digits = value.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(value.len());
    let (amount, unit) = value.split_at(digits);
    let factor = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3_600.0,
        "d" => 86_400.0,
        _ => 0.0,
    };
    prefer::seconds(amount)
        .filter(|_| factor > 0.0)
        .and_then(|amount| Duration::try_from_secs_f64(amount.as_secs_f64() * factor).ok())
        .filter(|duration| *duration <= MAX_DURATION)
        .ok_or_else(|| {
            let shown = clip(value);
            invalid(format!(
                "{name} is `{shown}`; it takes a duration such as 500ms, 2s, 1.5m, 1h or 7d, up to ten years"
            ))
        })
}

fn positive(name: &str, value: &str) -> Result<Duration> {
    let duration = duration(name, value)?;
    if duration < Duration::from_millis(1) {
        return Err(invalid(format!("{name} is `{}`; it takes 1ms or more", clip(value))));
    }
    Ok(duration)
}

fn milliseconds(name: &str, value: &str) -> Result<u32> {
    let ms = duration(name, value)?.as_millis();
    u32::try_from(ms).map_err(|_| invalid(format!("{name} is `{}`; it takes up to 49 days", clip(value))))
}

/// An instant: of RFC 3339, or so long before `now_ms`, such as `15m`; milliseconds since 1970.
///
/// # Errors
/// `invalid_parameter`.
pub(crate) fn instant(name: &str, value: &str, now_ms: u64) -> Result<u64> {
    if let Ok(before) = duration(name, value) {
        return Ok(now_ms.saturating_sub(u64::try_from(before.as_millis()).unwrap_or(u64::MAX)));
    }
    let at = chrono::DateTime::parse_from_rfc3339(&value.replace(' ', "+")).map_err(|_| {
        let shown = clip(value);
        invalid(format!("{name} is `{shown}`; it takes an instant of RFC 3339, or a duration before now such as 15m"))
    })?;
    Ok(at.timestamp_millis().max(0) as u64)
}

/// An instant (RFC 3339) as the delay from `now`; the past is now.
fn run_at(value: &str, now: SystemTime) -> Result<Duration> {
    // `+` of an offset is a space in a query string that was not escaped.
    let text = value.replace(' ', "+");
    let at = chrono::DateTime::parse_from_rfc3339(&text).map_err(|_| {
        invalid(format!("run_at is `{}`; it takes an instant of RFC 3339, such as 2030-01-31T12:00:00Z", clip(value)))
    })?;
    let delay = SystemTime::from(at).duration_since(now).unwrap_or_default();
    if delay > MAX_DURATION {
        return Err(invalid(format!("run_at is `{}`; it takes an instant within ten years", clip(value))));
    }
    Ok(delay)
}

/// A caller's text, short enough to repeat in a message.
fn clip(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(40) {
        None => text.into(),
        Some((end, _)) => format!("{}…", &text[..end]).into(),
    }
}

fn invalid(message: String) -> Error {
    Error::new(ErrorCode::InvalidParameter, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &str) -> Result<JobQuery> {
        JobQuery::read(query, WITH_WAIT, SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000))
    }

    #[test]
    fn every_option_is_read() {
        let query =
            "priority=10&result_ttl=60s&max_retries=3&retry_delay=250ms&deadline=500ms&delay=1.5m&version=2&wait=0.5";
        let read = read(query).expect("well formed");
        assert_eq!((read.options.priority, read.options.retry.max_retries, read.options.retry.delay_ms), (10, 3, 250));
        assert_eq!(read.options.result_ttl, Duration::from_secs(60));
        assert_eq!(read.options.deadline, Some(Duration::from_millis(500)));
        assert_eq!(read.options.delay, Some(Duration::from_secs(90)));
        assert_eq!((read.version.as_deref(), read.wait), (Some("2"), Some(Duration::from_millis(500))));
    }

    #[test]
    fn tags_may_be_several_and_are_checked() {
        let tags = read("tag=team%3Da&tag=b&tag=b").expect("tags").options.tags;
        assert_eq!(tags.iter().collect::<Vec<_>>(), ["team=a", "b"]);
        for query in ["tag=", "tag=a%0Ab", "tag=1&tag=2&tag=3&tag=4&tag=5&tag=6&tag=7&tag=8&tag=9"] {
            assert_eq!(read(query).expect_err(query).code, ErrorCode::InvalidParameter);
        }
    }

    #[test]
    fn an_instant_is_a_date_or_so_long_ago() {
        let at = |value| instant("since", value, 1_000_000_000_000);
        assert_eq!(at("15m").expect("ago"), 1_000_000_000_000 - 900_000);
        assert_eq!(at("2001-09-09T02:46:40+01:00").expect("a date"), 1_000_000_000_000);
        assert!(at("yesterday").expect_err("no date").message.contains("since is `yesterday`"));
    }

    #[test]
    fn run_at_is_a_delay_from_now_and_the_past_is_now() {
        assert_eq!(
            read("run_at=2001-09-09T01:46:45Z").expect("in five seconds").options.delay,
            Some(Duration::from_secs(5))
        );
        assert_eq!(
            read("run_at=2001-09-09T02:46:45+01:00").expect("an offset").options.delay,
            Some(Duration::from_secs(5))
        );
        assert_eq!(read("run_at=1990-01-01T00:00:00Z").expect("the past").options.delay, Some(Duration::ZERO));
    }

    #[test]
    fn each_bad_value_is_named_with_what_is_taken() {
        for query in [
            "priority=256",
            "priority=-1",
            "priority=+1",
            "priority=",
            "priority=1.5",
            "priority=1&priority=2",
            "deadline=0",
            "deadline=1y",
            "deadline=-5s",
            "deadline=1e3s",
            "deadline=inf",
            "deadline=..5s",
            "result_ttl=99999d",
            "retry_delay=50d",
            "run_at=tomorrow",
            "run_at=9999-01-01T00:00:00Z",
            "delay=1s&run_at=2001-09-09T01:46:45Z",
            "version=1&label=a",
            "prioritty=1",
            "wait=soon",
            "webhook=",
            "=1",
        ] {
            assert_eq!(read(query).expect_err(query).code, ErrorCode::InvalidParameter);
        }
        assert_eq!(
            read("priority=x").expect_err("x").message,
            "priority is `x`; it takes a whole number from 0 to 255"
        );
    }
}
