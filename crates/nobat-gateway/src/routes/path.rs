//! The one decoder of names in paths.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// A segment of a path as its sender meant it. The router has decoded what it could
/// and left `%25`, `%2B` and `%2F` as they were, so that a path's segments stay its
/// segments; a name may hold any of the three. A `+` is a plus: only queries have it
/// for a space.
pub(crate) fn segment(text: &str) -> Cow<'_, str> {
    if text.contains('%') { percent_decode_str(text).decode_utf8_lossy() } else { text.into() }
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
