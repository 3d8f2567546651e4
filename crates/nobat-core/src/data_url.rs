//! `data:` URLs in base64, in which web pages carry pictures.
//!
//! Source: RFC 2397.

use std::borrow::Cow;

use crate::error::{Error, ErrorCode, Result};
use crate::lenient_base64;

/// How much of a URL a message repeats.
const SHOWN: usize = 40;

/// Whether bytes begin as a `data:` URL does.
pub fn is_one(bytes: &[u8]) -> bool {
    bytes.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"data:"))
}

/// The bytes that a `data:…;base64,…` URL holds.
///
/// # Errors
/// `invalid_tensor` for one that is not in base64, or is cut.
pub fn decode(url: &[u8]) -> Result<Vec<u8>> {
    let refused = |what: &str| {
        let shown = String::from_utf8_lossy(&url[..url.len().min(SHOWN)]);
        let more = if url.len() > SHOWN { "…" } else { "" };
        Error::new(ErrorCode::InvalidTensor, format!("is `{shown}{more}`, {what}"))
    };
    let no_base64 = || refused("no data URL in base64, such as data:image/png;base64,…");
    let comma = url.iter().take(256).position(|&byte| byte == b',').ok_or_else(no_base64)?;
    let (head, data) = (&url[..comma], &url[comma + 1..]);
    if !head.to_ascii_lowercase().ends_with(b";base64") {
        return Err(no_base64());
    }
    let broken = || refused("a data URL of which what follows the comma is no base64; encode the bytes again");
    lenient_base64::decode(&unescaped(data)).ok_or_else(broken)
}

/// Without percent-encoding, which some writers put over `+`, `/` and `=`.
fn unescaped(data: &[u8]) -> Cow<'_, [u8]> {
    if !data.contains(&b'%') {
        return Cow::Borrowed(data);
    }
    let (mut plain, mut rest) = (Vec::with_capacity(data.len()), data);
    while let Some((&first, others)) = rest.split_first() {
        let hex = |at: usize| others.get(at).and_then(|&digit| char::from(digit).to_digit(16));
        let (byte, left) = match (first, hex(0), hex(1)) {
            (b'%', Some(high), Some(low)) => ((high * 16 + low) as u8, &others[2..]),
            _ => (first, others),
        };
        plain.push(byte);
        rest = left;
    }
    Cow::Owned(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine;
    use proptest::prelude::*;

    #[test]
    fn what_is_no_data_url_in_base64_is_refused() {
        assert_eq!(decode(b"data:image/png;charset=x;base64,AAE").expect("without padding"), [0, 1]);
        assert_eq!(decode(b"DATA:;BASE64,").expect("nothing"), [0u8; 0]);
        for bad in [&b"data:text/plain,hi"[..], b"data:image/png;base64", b"data:;base64,?!", b"data:,"] {
            assert!(decode(bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
        assert_eq!(decode(b"data:;base64,AA\r\nE%3d").expect("in lines, escaped"), [0, 1]);
        let message = |url: &[u8]| decode(url).expect_err("refused").message;
        assert!(message(b"data:text/plain,hi").starts_with("is `data:text/plain,hi`, no data URL in base64"));
        let broken = message(&[&b"data:image/png;base64,"[..], &[b'?'; 100]].concat());
        assert!(broken.contains("??…`, a data URL of which what follows the comma is no base64"), "{broken}");
        assert!(is_one(b"Data:x") && !is_one(b"dat") && !is_one(b"\xff\xd8\xff\xe0\0"));
    }

    proptest! {
        #[test]
        fn bytes_come_back(bytes: Vec<u8>, padded: bool) {
            let mut text = base64::engine::general_purpose::STANDARD.encode(&bytes);
            if !padded {
                text.truncate(text.trim_end_matches('=').len());
            }
            prop_assert_eq!(decode(format!("data:image/jpeg;base64,{text}").as_bytes()).expect("whole"), bytes);
        }
    }
}
