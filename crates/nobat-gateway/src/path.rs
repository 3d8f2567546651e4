//! The one decoder of names in paths, and what a slash at their end means.

use std::borrow::Cow;

use actix_web::dev::ServiceRequest;
use actix_web::http::Uri;
use actix_web::http::uri::PathAndQuery;
use percent_encoding::percent_decode_str;

/// A segment of a path as its sender meant it. The router has decoded what it could
/// and left `%25`, `%2B` and `%2F` as they were, so that a path's segments stay its
/// segments; a name may hold any of the three. A `+` is a plus: only queries have it
/// for a space.
pub(crate) fn segment(text: &str) -> Cow<'_, str> {
    if text.contains('%') { percent_decode_str(text).decode_utf8_lossy() } else { text.into() }
}

/// Takes a slash off the end of a request's path, before it is matched: no resource has
/// one but the folder of the documentation's page.
pub(crate) fn without_slash(request: &mut ServiceRequest) {
    let uri = request.uri();
    let plain = match uri.path().strip_suffix('/') {
        Some(plain) if !plain.is_empty() && !plain.ends_with('/') && !uri.path().starts_with("/docs/") => plain,
        _ => return,
    };
    let target = match uri.query() {
        Some(query) => format!("{plain}?{query}"),
        None => plain.to_owned(),
    };
    let mut parts = uri.clone().into_parts();
    // A part of a valid target is one.
    parts.path_and_query = PathAndQuery::try_from(target).ok();
    if let Ok(uri) = Uri::from_parts(parts) {
        request.match_info_mut().get_mut().update(&uri);
        request.head_mut().uri = uri;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_decoded_once() {
        for (text, name) in [
            ("digits", "digits"),
            ("a+b", "a+b"),
            ("a%2Bb", "a+b"),
            ("per%25cent", "per%cent"),
            ("a%252Fb", "a%2Fb"),
            ("a%2Fb", "a/b"),
            ("na%C3%AFve-%E6%A8%A1%E5%9E%8B", "naïve-模型"),
            ("half%2", "half%2"),
            ("%ff", "\u{fffd}"),
        ] {
            assert_eq!(segment(text), name, "{text}");
        }
    }
}
