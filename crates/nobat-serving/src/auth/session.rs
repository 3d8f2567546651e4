//! A browser's session: what stands in for a key that a person typed in once. Pure.
//!
//! A session is a text of which key it is, when it began and when it was last renewed, under
//! a keyed hash (HMAC-SHA256). The hash's key is the stored hash of the API key's secret
//! together with a salt that only the deployment knows. So no gateway stores sessions and
//! every one can judge them, a copy of the file of keys alone makes none, and a session ends
//! with its key: when that is revoked, expires, or has its secret changed for another.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use super::key::{KeyId, SecretHash, hex, unhex};

/// A session ends so long after it began, in seconds.
pub const LONGEST_S: u64 = 12 * 3600;
/// A session ends so long after it was last renewed, in seconds.
pub const IDLE_S: u64 = 3600;
/// Gateways' clocks may differ by this much, in seconds.
const SKEW_S: u64 = 60;

/// What only this deployment knows.
pub type SessionSalt = [u8; 32];

/// What a session says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// The key that it stands in for.
    pub key: KeyId,
    /// When the key was typed in, seconds since 1970.
    pub began_s: u64,
    /// When it was last renewed, seconds since 1970.
    pub renewed_s: u64,
}

/// A session as a browser presents it: what it says, and the proof.
pub struct PresentedSession {
    /// What it says.
    pub session: Session,
    proof: [u8; 32],
}

impl Session {
    /// The text that a browser keeps: letters, digits and dots.
    pub(super) fn seal(&self, secret: &SecretHash, salt: &SessionSalt) -> String {
        format!("{}.{}.{}.{}", self.key, self.began_s, self.renewed_s, hex(&self.proof(secret, salt)))
    }

    /// Whether its time is not over.
    pub(super) fn is_current(&self, now_s: u64) -> bool {
        let is_past = self.began_s <= self.renewed_s && self.renewed_s <= now_s.saturating_add(SKEW_S);
        is_past && now_s < self.began_s.saturating_add(LONGEST_S) && now_s < self.renewed_s.saturating_add(IDLE_S)
    }

    fn proof(&self, secret: &SecretHash, salt: &SessionSalt) -> [u8; 32] {
        let key = [secret.as_slice(), salt].concat();
        // HMAC takes keys of any length.
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&key) else { return [0; 32] };
        for part in [self.key.0, self.began_s, self.renewed_s] {
            mac.update(&part.to_be_bytes());
        }
        mac.finalize().into_bytes().into()
    }
}

impl PresentedSession {
    /// Reads a session's text; `None` when it is not of that form.
    pub fn parse(text: &str) -> Option<PresentedSession> {
        let mut parts = text.split('.');
        let mut part = || parts.next();
        let (key, began_s, renewed_s) = (KeyId::parse(part()?)?, part()?.parse().ok()?, part()?.parse().ok()?);
        let proof = unhex(part()?)?;
        parts.next().is_none().then_some(PresentedSession { session: Session { key, began_s, renewed_s }, proof })
    }

    /// Whether it was sealed under this secret; takes the same time whatever differs.
    pub(super) fn is_of(&self, secret: &SecretHash, salt: &SessionSalt) -> subtle::Choice {
        self.proof.ct_eq(&self.session.proof(secret, salt))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SALT: SessionSalt = [7; 32];

    #[test]
    fn a_session_lasts_while_it_is_used_and_no_longer_than_half_a_day() {
        let session = Session { key: KeyId(5), began_s: 1_000, renewed_s: 1_000 };
        assert!(session.is_current(1_000) && session.is_current(1_000 + IDLE_S - 1));
        assert!(!session.is_current(1_000 + IDLE_S), "unused for an hour");
        let renewed = Session { renewed_s: 1_000 + LONGEST_S - 10, ..session };
        assert!(renewed.is_current(1_000 + LONGEST_S - 1) && !renewed.is_current(1_000 + LONGEST_S));
        assert!(!Session { renewed_s: 900, ..session }.is_current(1_000), "renewed before it began");
        assert!(!Session { began_s: 2_000, renewed_s: 2_000, ..session }.is_current(1_000), "of the future");
    }

    proptest! {
        #[test]
        fn what_was_sealed_is_read_again_and_nothing_else_is(key in 1u64.., began_s: u64, renewed_s: u64, secret: [u8; 32], other: [u8; 32], at in 0usize..64) {
            let session = Session { key: KeyId(key), began_s, renewed_s };
            let text = session.seal(&secret, &SALT);
            let read = PresentedSession::parse(&text).expect("its own form");
            prop_assert_eq!(read.session, session);
            prop_assert!(bool::from(read.is_of(&secret, &SALT)));
            prop_assert!(secret == other || !bool::from(read.is_of(&other, &SALT)));
            prop_assert!(!bool::from(read.is_of(&secret, &[8; 32])));
            let mut forged = text.clone().into_bytes();
            let place = forged.len() - 1 - at;
            forged[place] = if forged[place] == b'0' { b'1' } else { b'0' };
            let forged = PresentedSession::parse(std::str::from_utf8(&forged).expect("ASCII")).expect("its form");
            prop_assert!(!bool::from(forged.is_of(&secret, &SALT)));
            let later = PresentedSession { session: Session { renewed_s: renewed_s ^ 1, ..session }, ..read };
            prop_assert!(!bool::from(later.is_of(&secret, &SALT)));
        }

        #[test]
        fn no_text_makes_reading_fail_otherwise_than_by_none(text in "\\PC{0,120}") {
            let _ = PresentedSession::parse(&text);
        }
    }
}
