//! The `Prefer` header (RFC 7240): whether and how long a caller waits.

use std::time::Duration;

use actix_web::http::header::{HeaderMap, HeaderName};

/// The header's name.
pub(crate) const PREFER: HeaderName = HeaderName::from_static("prefer");
/// The header of an answer that says which preferences were kept.
pub(crate) const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// A caller's preferences. What is unknown or malformed is ignored, as the RFC
/// asks.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Prefer {
    /// Answer 202 rather than wait.
    pub respond_async: bool,
    /// Wait this long; seconds, fractions allowed.
    pub wait: Option<Duration>,
}

impl Prefer {
    /// Reads every `Prefer` header.
    pub(crate) fn of(headers: &HeaderMap) -> Prefer {
        let mut prefer = Prefer::default();
        for value in headers.get_all(PREFER) {
            for item in value.to_str().unwrap_or_default().split(',') {
                let preference = item.split(';').next().unwrap_or_default();
                let (name, value) = preference.split_once('=').unwrap_or((preference, ""));
                match name.trim().to_ascii_lowercase().as_str() {
                    "respond-async" => prefer.respond_async = true,
                    // The first of several counts (RFC 7240 section 2).
                    "wait" if prefer.wait.is_none() => prefer.wait = seconds(value.trim().trim_matches('"')),
                    _ => {}
                }
            }
        }
        prefer
    }
}

/// Non-negative seconds with an optional fraction; `None` for anything else.
pub(crate) fn seconds(text: &str) -> Option<Duration> {
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    plain.then(|| text.parse().ok()).flatten().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::http::header::HeaderValue;

    fn prefer(values: &[&'static str]) -> Prefer {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(PREFER, HeaderValue::from_static(value));
        }
        Prefer::of(&headers)
    }

    #[test]
    fn preferences_are_read_from_one_or_several_headers() {
        let both = Prefer { respond_async: true, wait: Some(Duration::from_secs(10)) };
        assert_eq!(prefer(&["respond-async, wait=10"]), both);
        assert_eq!(prefer(&["Respond-Async", "wait = \"10\"; foo"]), both);
        assert_eq!(prefer(&["wait=0.25"]).wait, Some(Duration::from_millis(250)));
        assert_eq!(prefer(&["wait=1", "wait=2"]).wait, Some(Duration::from_secs(1)));
    }

    #[test]
    fn what_is_malformed_is_ignored() {
        for text in ["wait=-1", "wait=soon", "wait", "wait=1e9", "wait=inf", "handling=lenient"] {
            assert_eq!(prefer(&[text]), Prefer::default(), "{text}");
        }
    }
}
