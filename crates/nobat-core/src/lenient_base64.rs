//! Base64 as programs write it: padded or not, of the standard or the URL-safe alphabet, in lines or in one.
//!
//! Source: RFC 4648; MIME's lines are RFC 2045's.

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

const UNPADDED: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The bytes of a text in base64; `None` where it is none.
pub(crate) fn decode(text: &[u8]) -> Option<Vec<u8>> {
    if let Ok(bytes) = UNPADDED.decode(text) {
        return Some(bytes);
    }
    let standard = |byte: &u8| match byte {
        b'-' => Some(b'+'),
        b'_' => Some(b'/'),
        space if space.is_ascii_whitespace() => None,
        other => Some(*other),
    };
    UNPADDED.decode(text.iter().filter_map(standard).collect::<Vec<u8>>()).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lines_padding_and_alphabet_are_the_writers_choice() {
        for text in ["-_-_AAE=", "+/+/AAE", " -_\n+/\r\nAA\tE=\n"] {
            assert_eq!(decode(text.as_bytes()), Some(vec![0xfb, 0xff, 0xbf, 0, 1]), "{text:?}");
        }
        for wrong in ["?", "AAE=AAE=", "A", "a.b", "%2B"] {
            assert_eq!(decode(wrong.as_bytes()), None, "{wrong}");
        }
        assert_eq!(decode(b""), Some(Vec::new()));
    }

    proptest! {
        #[test]
        fn bytes_come_back(bytes: Vec<u8>, padded: bool, safe: bool, width in 1usize..80) {
            use base64::engine::general_purpose::{STANDARD, URL_SAFE};
            let mut text = if safe { URL_SAFE.encode(&bytes) } else { STANDARD.encode(&bytes) };
            if !padded {
                text.truncate(text.trim_end_matches('=').len());
            }
            let lines: Vec<&[u8]> = text.as_bytes().chunks(width).collect();
            prop_assert_eq!(decode(&lines.join(&b"\r\n"[..])), Some(bytes));
        }
    }
}
