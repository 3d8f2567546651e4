//! The text of a key: `nobat_<id>_<secret>`.

use std::fmt;

use nobat_core::OwnerId;
use sha2::{Digest, Sha256};

const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const ID_LEN: usize = 11;
/// 43 base-62 digits hold 256 bits.
const SECRET_LEN: usize = 43;

/// A key's public half: 64 random bits, and the owner of the key's jobs. It
/// survives rotation, so jobs keep their owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId(pub u64);

impl KeyId {
    /// Whose jobs these are.
    pub fn owner(self) -> OwnerId {
        OwnerId(self.0)
    }

    /// Reads the 11 digits of an id.
    pub fn parse(text: &str) -> Option<KeyId> {
        if text.len() != ID_LEN {
            return None;
        }
        let value = text.bytes().try_fold(0u64, |value, byte| {
            let digit = DIGITS.iter().position(|&digit| digit == byte)? as u64;
            value.checked_mul(62)?.checked_add(digit)
        })?;
        // 0 is the owner of everybody's jobs when authentication is off.
        (value != 0).then_some(KeyId(value))
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [b'0'; ID_LEN];
        let mut left = self.0;
        for slot in text.iter_mut().rev() {
            *slot = DIGITS[(left % 62) as usize];
            left /= 62;
        }
        f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

/// SHA-256 of a secret.
pub(super) type SecretHash = [u8; 32];

/// A key as a caller presents it. Shows its id only.
pub struct PresentedKey {
    /// Which key it claims to be.
    pub id: KeyId,
    /// Hash of the secret it came with.
    pub(super) hash: SecretHash,
}

impl PresentedKey {
    /// Reads an `Authorization` header; `None` when it is not of a key's form.
    pub fn parse(header: &str) -> Option<PresentedKey> {
        let (scheme, text) = header.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let (id, secret) = text.trim().strip_prefix("nobat_")?.split_once('_')?;
        let well_formed = secret.len() == SECRET_LEN && secret.bytes().all(|byte| byte.is_ascii_alphanumeric());
        well_formed.then_some(())?;
        Some(PresentedKey { id: KeyId::parse(id)?, hash: hash(secret) })
    }
}

impl fmt::Debug for PresentedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PresentedKey({})", self.id)
    }
}

pub(super) fn hash(secret: &str) -> SecretHash {
    Sha256::digest(secret.as_bytes()).into()
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn unhex(text: &str) -> Option<SecretHash> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(bytes)
}

/// Draws a new id.
pub(super) fn random_id() -> KeyId {
    loop {
        if let Some(bytes) = random::<8>().filter(|bytes| *bytes != [0; 8]) {
            return KeyId(u64::from_le_bytes(bytes));
        }
    }
}

/// Draws a new secret.
pub(super) fn random_secret() -> String {
    // Rejecting bytes from 248 on keeps the 62 digits equally likely.
    let mut secret = String::with_capacity(SECRET_LEN);
    while secret.len() < SECRET_LEN {
        for byte in random::<64>().into_iter().flatten().filter(|&byte| byte < 248) {
            if secret.len() < SECRET_LEN {
                secret.push(char::from(DIGITS[usize::from(byte % 62)]));
            }
        }
    }
    secret
}

/// The full key, shown once when it is made.
pub(super) fn text(id: KeyId, secret: &str) -> String {
    format!("nobat_{id}_{secret}")
}

fn random<const N: usize>() -> Option<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).ok().map(|()| bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_and_zero_is_nobody() {
        for id in [KeyId(1), KeyId(u64::MAX), random_id()] {
            assert_eq!(KeyId::parse(&id.to_string()), Some(id));
        }
        assert_eq!(KeyId::parse(&KeyId(0).to_string()), None);
        assert_eq!(KeyId::parse("zzzzzzzzzzz"), None, "over 64 bits");
    }

    #[test]
    fn only_the_exact_form_is_a_key() {
        let key = text(KeyId(7), &random_secret());
        assert!(PresentedKey::parse(&format!("Bearer {key}")).is_some());
        assert!(PresentedKey::parse(&format!("bearer {key}")).is_some());
        let cut = &key[..key.len() - 1];
        for bad in [
            key.clone(),
            format!("Basic {key}"),
            format!("Bearer {cut}"),
            format!("Bearer {key}x"),
            format!("Bearer {cut}-"),
            "Bearer".into(),
            "Bearer ".into(),
            "Bearer nobat__".into(),
            "Bearer nobat_ä_".into(),
            format!("Bearer {}", key.replace("nobat_", "other_")),
        ] {
            assert!(PresentedKey::parse(&bad).is_none(), "{bad}");
        }
    }
}
