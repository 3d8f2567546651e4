//! The `Idempotency-Key` header, wherever a call becomes a job: the same request under
//! the same key is the same job, whatever became of the caller's connection.

use actix_web::http::header::HeaderMap;
use nobat_core::job::Idempotency;
use nobat_core::{Error, ErrorCode, Result};
use xxhash_rust::xxh3::Xxh3;

use crate::v2::binary::HEADER_LENGTH;

const MAX_LENGTH: usize = 255;
/// The header's name.
pub(crate) const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// The `Idempotency-Key` header (draft -07), quoted or bare, and the fingerprint of what
/// it came with: the model (with the version, where its path names one), the body as sent
/// and where it is split, and the parameters that make the job, in whatever order and
/// spelling. How long this caller waits is no part of it.
///
/// # Errors
/// `invalid_parameter` for a key that is empty, too long or not visible ASCII.
pub(crate) fn read(headers: &HeaderMap, model: &str, query: &str, body: &[u8]) -> Result<Option<Idempotency>> {
    let Some(key) = key(headers)? else { return Ok(None) };
    let mut options: Vec<_> = form_urlencoded::parse(query.as_bytes()).filter(|(name, _)| name != "wait").collect();
    options.sort_unstable();
    let options = form_urlencoded::Serializer::new(String::new()).extend_pairs(options).finish();
    let split = headers.get(HEADER_LENGTH).map(|value| value.as_bytes());
    let mut hasher = Xxh3::new();
    for part in [model.as_bytes(), options.as_bytes(), body].into_iter().chain(split) {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    Ok(Some(Idempotency { key: key.into(), fingerprint: hasher.digest128() }))
}

fn key(headers: &HeaderMap) -> Result<Option<&str>> {
    let Some(value) = headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
    let text = value.to_str().unwrap_or_default().trim();
    let key = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    if key.is_empty() || key.len() > MAX_LENGTH || !key.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ') {
        return Err(Error::new(
            ErrorCode::InvalidParameter,
            format!("Idempotency-Key takes 1 to {MAX_LENGTH} visible ASCII characters"),
        ));
    }
    Ok(Some(key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::http::header::{HeaderName, HeaderValue};

    fn fingerprint_of(query: &str, body: &str, split: Option<u16>) -> u128 {
        let mut headers = HeaderMap::new();
        headers.insert(HeaderName::from_static(IDEMPOTENCY_KEY), HeaderValue::from_static("k"));
        split.into_iter().for_each(|at| drop(headers.insert(HEADER_LENGTH, HeaderValue::from(at))));
        let found = read(&headers, "m", query, body.as_bytes()).expect("a key");
        found.expect("a key").fingerprint
    }

    fn fingerprint(query: &str, body: &str) -> u128 {
        fingerprint_of(query, body, None)
    }

    #[test]
    fn the_wait_and_the_spelling_of_a_request_are_no_part_of_its_fingerprint() {
        let plain = fingerprint("", "{}");
        assert_eq!(fingerprint("wait=3", "{}"), plain);
        assert_ne!(fingerprint("", "{ }"), plain);
        let options = fingerprint("priority=3&deadline=5s", "{}");
        assert_ne!(options, plain, "another job");
        for same in ["deadline=5s&priority=3", "priority=3&wait=1s&deadline=5s", "deadline=5%73&priority=%33"] {
            assert_eq!(fingerprint(same, "{}"), options, "{same}");
        }
        assert_ne!(fingerprint("priority=3", "{}"), fingerprint("priority=4", "{}"));
    }

    #[test]
    fn one_body_that_is_split_elsewhere_is_another_request() {
        assert_eq!(fingerprint_of("", "{}{}", Some(2)), fingerprint_of("wait=3", "{}{}", Some(2)));
        assert_ne!(fingerprint_of("", "{}{}", Some(2)), fingerprint_of("", "{}{}", Some(4)));
        assert_ne!(fingerprint_of("", "{}", Some(2)), fingerprint("", "{}"));
    }
}
