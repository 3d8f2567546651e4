//! Job identifiers: unguessable, bound to their owner, and self-describing
//! enough that nothing needs to be stored for a result that has expired.
//!
//! A public id is `random(22) tombstone(5) mac(6) locator(1..)` in base 62:
//! - `random`: 128 random bits, the job's key in the store (on Redis 96, which keeps
//!   keys short; the MAC makes up for them);
//! - `tombstone`: when its tombstone expires: the minute (since 1970) until which a
//!   missing record means "expired" (410) rather than "never existed" (404);
//! - `mac`: 32 bits of SipHash-2-4 over the other fields and the owner, keyed
//!   by the deployment's secret: another caller's id and a made-up id look the
//!   same, and neither reaches the store;
//! - `locator`: where the job lives: the queue's number on Redis, the row on
//!   SQLite (so that no index on random ids is needed).

use std::fmt;
use std::hash::Hasher;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use siphasher::sip::SipHasher24;

const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const RANDOM: usize = 22;
const TOMBSTONE: usize = 5;
const MAC: usize = 6;

/// Length of the random part, which is the job's key in a store.
pub const KEY_LEN: usize = RANDOM;

/// The caller a job belongs to: the id of its API key, 0 without authentication.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct OwnerId(pub u64);

impl OwnerId {
    /// The owner of every job when authentication is off.
    pub const ANONYMOUS: OwnerId = OwnerId(0);
}

/// A job's public identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobId {
    /// 128 random bits.
    pub random: u128,
    /// Minute since 1970 after which a missing job is "not found", not "expired".
    /// Below 62^5 (the year 3711).
    pub tombstone_min: u32,
    /// Truncated keyed hash over the other fields and the owner.
    pub mac: u32,
    /// The queue's number (Redis) or the row id (SQLite).
    pub locator: u64,
}

/// Issues and checks identifiers with the deployment's secret.
#[derive(Clone, Copy)]
pub struct IdIssuer {
    secret: [u8; 16],
}

impl fmt::Debug for IdIssuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IdIssuer(..)")
    }
}

impl IdIssuer {
    /// Makes an issuer over the deployment's 128-bit secret.
    pub fn new(secret: [u8; 16]) -> IdIssuer {
        IdIssuer { secret }
    }

    /// Issues an id around `random`; see the module for the fields.
    pub fn issue(&self, random: u128, tombstone_min: u32, locator: u64, owner: OwnerId) -> JobId {
        let mac = self.mac(random, tombstone_min, locator, owner);
        JobId { random, tombstone_min, mac, locator }
    }

    /// Whether this deployment issued `id` to `owner`. Constant time in the id.
    pub fn verify(&self, id: JobId, owner: OwnerId) -> bool {
        self.mac(id.random, id.tombstone_min, id.locator, owner) ^ id.mac == 0
    }

    /// A number that only this deployment can compute, for `purpose`.
    pub fn derive(&self, purpose: &str) -> u64 {
        let mut hasher = SipHasher24::new_with_key(&self.secret);
        hasher.write(purpose.as_bytes());
        hasher.finish()
    }

    fn mac(&self, random: u128, tombstone_min: u32, locator: u64, owner: OwnerId) -> u32 {
        let mut hasher = SipHasher24::new_with_key(&self.secret);
        hasher.write_u128(random);
        hasher.write_u32(tombstone_min);
        hasher.write_u64(locator);
        hasher.write_u64(owner.0);
        hasher.finish() as u32
    }
}

impl JobId {
    /// The random part as text: the job's key in a store.
    pub fn key(&self) -> [u8; KEY_LEN] {
        let mut out = [0; KEY_LEN];
        put_fixed(self.random, &mut out);
        out
    }

    /// Reads a [`JobId::key`] back into its 128 bits.
    pub fn parse_key(key: &[u8]) -> Option<u128> {
        (key.len() == KEY_LEN).then(|| take_fixed(key)).flatten()
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = [0u8; RANDOM + TOMBSTONE + MAC + 11];
        put_fixed(self.random, &mut out[..RANDOM]);
        put_fixed(u128::from(self.tombstone_min), &mut out[RANDOM..RANDOM + TOMBSTONE]);
        put_fixed(u128::from(self.mac), &mut out[RANDOM + TOMBSTONE..RANDOM + TOMBSTONE + MAC]);
        let head = RANDOM + TOMBSTONE + MAC;
        let mut digits = 1;
        let mut left = self.locator / 62;
        while left > 0 {
            digits += 1;
            left /= 62;
        }
        put_fixed(u128::from(self.locator), &mut out[head..head + digits]);
        f.write_str(std::str::from_utf8(&out[..head + digits]).map_err(|_| fmt::Error)?)
    }
}

/// The text is not of a job id's form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a job id")]
pub struct ParseJobIdError;

impl FromStr for JobId {
    type Err = ParseJobIdError;

    fn from_str(text: &str) -> Result<JobId, ParseJobIdError> {
        let bytes = text.as_bytes();
        let head = RANDOM + TOMBSTONE + MAC;
        if bytes.len() <= head || bytes.len() > head + 11 {
            return Err(ParseJobIdError);
        }
        let field = |from: usize, to: usize| take_fixed(&bytes[from..to]).ok_or(ParseJobIdError);
        let id = JobId {
            random: field(0, RANDOM)?,
            tombstone_min: u32::try_from(field(RANDOM, RANDOM + TOMBSTONE)?).map_err(|_| ParseJobIdError)?,
            mac: u32::try_from(field(RANDOM + TOMBSTONE, head)?).map_err(|_| ParseJobIdError)?,
            locator: u64::try_from(field(head, bytes.len())?).map_err(|_| ParseJobIdError)?,
        };
        // One spelling per id: leading zeros in the locator would make aliases.
        if bytes.len() > head + 1 && bytes[head] == b'0' {
            return Err(ParseJobIdError);
        }
        Ok(id)
    }
}

impl Serialize for JobId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for JobId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<JobId, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

fn put_fixed(mut value: u128, out: &mut [u8]) {
    // Two 64-bit halves: 128-bit division is an order slower.
    const CHUNK: u128 = 62u128.pow(10);
    let mut end = out.len();
    while end > 0 {
        let start = end.saturating_sub(10);
        let mut low = (value % CHUNK) as u64;
        value /= CHUNK;
        for slot in out[start..end].iter_mut().rev() {
            *slot = DIGITS[(low % 62) as usize];
            low /= 62;
        }
        end = start;
    }
}

fn take_fixed(text: &[u8]) -> Option<u128> {
    let mut value = 0u128;
    for &byte in text {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'A'..=b'Z' => byte - b'A' + 10,
            b'a'..=b'z' => byte - b'a' + 36,
            _ => return None,
        };
        value = value.checked_mul(62)?.checked_add(u128::from(digit))?;
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_id_reads_back(random in any::<u128>(), tombstone in 0u32..916_132_832, locator in any::<u64>(), owner in any::<u64>()) {
            let issuer = IdIssuer::new([7; 16]);
            let id = issuer.issue(random, tombstone, locator, OwnerId(owner));
            let text = id.to_string();
            prop_assert_eq!(text.parse::<JobId>(), Ok(id));
            prop_assert!(issuer.verify(id, OwnerId(owner)));
            prop_assert!(!issuer.verify(id, OwnerId(owner ^ 1)));
            prop_assert_eq!(JobId::parse_key(&id.key()), Some(random));
            prop_assert!(text.as_bytes().starts_with(&id.key()));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,60}") {
            let _ = text.parse::<JobId>();
        }
    }

    #[test]
    fn another_deployment_does_not_accept_the_id() {
        let id = IdIssuer::new([1; 16]).issue(5, 6, 7, OwnerId::ANONYMOUS);
        assert!(!IdIssuer::new([2; 16]).verify(id, OwnerId::ANONYMOUS));
    }
}
