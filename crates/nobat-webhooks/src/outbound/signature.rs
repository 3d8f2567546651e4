//! Standard Webhooks signatures: HMAC-SHA256 over `{id}.{timestamp}.{body}`.
//!
//! Source: the Standard Webhooks specification, "Signature scheme" and
//! "Symmetric signatures" (`v1`); the test holds its published vector.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use nobat_core::{Error, Result};
use sha2::Sha256;

/// How far a timestamp may lie from the verifier's clock, in seconds.
pub const TOLERANCE_S: u64 = 5 * 60;

/// Signs and verifies with one shared secret, `whsec_` and base64. Shows nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct WebhookSecret {
    key: Vec<u8>,
}

impl WebhookSecret {
    /// Reads `whsec_<base64>`.
    ///
    /// # Errors
    /// `invalid_parameter` when the prefix or the base64 is wrong, or the key
    /// is not of 24 to 64 bytes. The message never holds the secret.
    pub fn parse(text: &str) -> Result<WebhookSecret> {
        let refuse = |why: &str| {
            Error::invalid(format!("webhook secret {why}; give `whsec_` and 24 to 64 random bytes in base64"))
        };
        let encoded = text.strip_prefix("whsec_").ok_or_else(|| refuse("does not begin with `whsec_`"))?;
        let key = STANDARD.decode(encoded).map_err(|_| refuse("is not base64 after its prefix"))?;
        match key.len() {
            24..=64 => Ok(WebhookSecret { key }),
            other => Err(refuse(&format!("has {other} bytes"))),
        }
    }

    /// The value of the `webhook-signature` header: `v1,<base64>`.
    pub fn sign(&self, id: &str, timestamp_s: u64, body: &[u8]) -> String {
        format!("v1,{}", STANDARD.encode(self.mac(id, timestamp_s, body).finalize().into_bytes()))
    }

    /// Whether one of the signatures in `header` (space separated) is ours and
    /// `timestamp_s` lies within [`TOLERANCE_S`] of `now_s`. Constant time in
    /// the signature.
    pub fn verify(&self, id: &str, timestamp_s: u64, body: &[u8], header: &str, now_s: u64) -> bool {
        timestamp_s.abs_diff(now_s) <= TOLERANCE_S
            && header
                .split(' ')
                .filter_map(|one| one.strip_prefix("v1,"))
                .filter_map(|encoded| STANDARD.decode(encoded).ok())
                .any(|tag| self.mac(id, timestamp_s, body).verify_slice(&tag).is_ok())
    }

    fn mac(&self, id: &str, timestamp_s: u64, body: &[u8]) -> Hmac<Sha256> {
        #[allow(clippy::expect_used)]
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).expect("HMAC takes a key of any length");
        mac.update(id.as_bytes());
        mac.update(b".");
        mac.update(timestamp_s.to_string().as_bytes());
        mac.update(b".");
        mac.update(body);
        mac
    }
}

impl fmt::Debug for WebhookSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WebhookSecret(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nobat_core::ErrorCode;

    const SECRET: &str = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3";
    const ID: &str = "msg_2KWPBgLlAfxdpx2AI54pPJ85f4W";
    const AT: u64 = 1_674_087_231;
    const BODY: &[u8] =
        br#"{"type":"job.completed","timestamp":"2022-11-03T20:26:10.344522Z","data":{"id":"1f81eb52"}}"#;
    const SIGNATURE: &str = "v1,7x0vQI1mLwCDrZSx8Ofi1X0gmvb9Hkt7BnwDtsizG0A=";

    #[test]
    fn the_published_vector_signs_and_verifies() {
        let secret = WebhookSecret::parse(SECRET).expect("a good secret");
        assert_eq!(secret.sign(ID, AT, BODY), SIGNATURE);
        assert!(secret.verify(ID, AT, BODY, SIGNATURE, AT));
        assert!(secret.verify(ID, AT, BODY, &format!("v1,AAAA v2,x {SIGNATURE}"), AT + TOLERANCE_S));
    }

    #[test]
    fn another_id_time_body_or_an_old_stamp_does_not_verify() {
        let secret = WebhookSecret::parse(SECRET).expect("a good secret");
        assert!(!secret.verify("msg_other", AT, BODY, SIGNATURE, AT));
        assert!(!secret.verify(ID, AT + 1, BODY, SIGNATURE, AT));
        assert!(!secret.verify(ID, AT, b"{}", SIGNATURE, AT));
        assert!(!secret.verify(ID, AT, BODY, SIGNATURE, AT + TOLERANCE_S + 1));
        assert!(!secret.verify(ID, AT, BODY, "", AT));
        assert!(!secret.verify(ID, AT, BODY, "v1,", AT));
    }

    #[test]
    fn a_bad_secret_is_refused_without_being_repeated() {
        for bad in ["MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3", "whsec_c2hvcnQ=", "whsec_!!!"] {
            let error = WebhookSecret::parse(bad).expect_err("a bad secret");
            assert_eq!(error.code, ErrorCode::InvalidParameter);
            assert!(!error.message.contains(bad.trim_start_matches("whsec_")), "{}", error.message);
        }
        assert_eq!(format!("{:?}", WebhookSecret::parse(SECRET).expect("good")), "WebhookSecret(..)");
    }
}
