//! `data:` URLs in base64, in which web pages carry pictures.
//!
//! Source: RFC 2397.

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use crate::error::{Error, ErrorCode, Result};

/// Padding may be left out, as some writers do.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Whether bytes begin as a `data:` URL does.
pub fn is_one(bytes: &[u8]) -> bool {
    bytes.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"data:"))
}

/// The bytes that a `data:…;base64,…` URL holds.
///
/// # Errors
/// `invalid_tensor` for one that is not in base64, or is cut.
pub fn decode(url: &[u8]) -> Result<Vec<u8>> {
    let refused = || Error::new(ErrorCode::InvalidTensor, "is no data URL in base64, such as data:image/png;base64,…");
    let comma = url.iter().take(256).position(|&byte| byte == b',').ok_or_else(refused)?;
    let (head, data) = (&url[..comma], &url[comma + 1..]);
    if !head.to_ascii_lowercase().ends_with(b";base64") {
        return Err(refused());
    }
    LENIENT.decode(data.trim_ascii()).map_err(|_| refused())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_no_data_url_in_base64_is_refused() {
        assert_eq!(decode(b"data:image/png;charset=x;base64,AAE").expect("without padding"), [0, 1]);
        assert_eq!(decode(b"DATA:;BASE64,").expect("nothing"), [0u8; 0]);
        for bad in [&b"data:text/plain,hi"[..], b"data:image/png;base64", b"data:;base64,?!", b"data:,"] {
            assert!(decode(bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
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
