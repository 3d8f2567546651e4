//! The keys of a deployment and every change to them: make, rotate, revoke,
//! verify. Pure: `now_s` is passed in, the file is another module's.

use std::collections::HashMap;
use std::sync::Arc;

use nobat_core::{Error, ErrorCode, OwnerId, Result};
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;
use subtle::{Choice, ConstantTimeEq};

use super::key::{self, KeyId, PresentedKey, SecretHash};
use super::scope::Scope;
use super::session::{PresentedSession, Session, SessionSalt};

/// Secrets a key may have in force at once: the current one and one on its way out.
const SECRETS: usize = 2;

/// What a verified caller may do.
#[derive(Clone, Debug, PartialEq)]
pub struct Grant {
    /// Whose jobs its jobs are.
    pub owner: OwnerId,
    /// Its name, for people.
    pub name: SmolStr,
    /// How far it may go.
    pub scope: Scope,
    /// Models it may use: names, or prefixes that end in `*`.
    pub models: Vec<SmolStr>,
    /// Requests per second; 0 takes the gateway's default.
    pub rate_per_s: f64,
    /// Requests at once beyond the rate; 0 takes the gateway's default.
    pub burst: u32,
    /// Requests in flight; 0 takes the gateway's default.
    pub max_in_flight: u32,
    /// Tokens a minute that its texts may have; 0 takes the gateway's default.
    pub tokens_per_min: u32,
    /// Highest priority of its jobs; the gateway's default without one.
    pub max_priority: Option<u8>,
    /// Who is told of the end of jobs that name no webhook and are not waited for.
    pub webhook: Option<SmolStr>,
}

impl Grant {
    /// Refuses what this scope does not cover.
    ///
    /// # Errors
    /// `permission_denied`, naming both scopes.
    pub fn require(&self, scope: Scope) -> Result<()> {
        if self.scope >= scope {
            return Ok(());
        }
        Err(Error::new(
            ErrorCode::PermissionDenied,
            format!("this needs scope `{scope}`; the API key `{}` has `{}`", self.name, self.scope),
        ))
    }

    /// Whether this key may use a model, and see it.
    pub fn covers(&self, model: &str) -> bool {
        self.models.iter().any(|pattern| match pattern.strip_suffix('*') {
            Some(prefix) => model.starts_with(prefix),
            None => pattern == model,
        })
    }

    /// Refuses a model that this key may not use.
    ///
    /// # Errors
    /// `permission_denied`, naming the model and the key.
    pub fn require_model(&self, model: &str) -> Result<()> {
        if self.covers(model) {
            return Ok(());
        }
        Err(Error::new(
            ErrorCode::PermissionDenied,
            format!("the API key `{}` does not cover model `{model}`; it covers {}", self.name, self.models.join(", ")),
        ))
    }
}

/// One key as it is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyRecord {
    /// Its public half.
    pub id: String,
    /// For people.
    pub name: SmolStr,
    /// How far it may go.
    pub scope: Scope,
    /// Models it may use: names, or prefixes that end in `*`.
    pub models: Vec<SmolStr>,
    /// Made, seconds since 1970.
    pub created_at_s: u64,
    /// Not valid from then on, seconds since 1970; never without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at_s: Option<u64>,
    /// Refused from now on; kept so that its id is never another's.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub revoked: bool,
    /// Requests per second; 0 takes the gateway's default.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub rate_per_s: f64,
    /// Requests at once beyond the rate; 0 takes the gateway's default.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub burst: u32,
    /// Requests in flight; 0 takes the gateway's default.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub max_in_flight: u32,
    /// Tokens a minute that its texts may have; 0 takes the gateway's default.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub tokens_per_min: u32,
    /// Highest priority of its jobs; the gateway's default without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_priority: Option<u8>,
    /// Who is told of the end of jobs that name no webhook and are not waited for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<SmolStr>,
    /// Hashes of the secrets in force, the newest first.
    pub secrets: Vec<SecretRecord>,
}

/// One secret as it is stored: its SHA-256.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretRecord {
    /// SHA-256 in hex.
    pub sha256: String,
    /// End of a rotation's overlap, seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_s: Option<u64>,
}

/// What a new key is to be.
#[derive(Clone, Debug)]
pub struct NewKey {
    /// For people.
    pub name: SmolStr,
    /// How far it may go.
    pub scope: Scope,
    /// Models it may use; empty: all.
    pub models: Vec<SmolStr>,
    /// Valid for so many seconds; for ever without.
    pub valid_s: Option<u64>,
    /// Requests per second; 0 takes the gateway's default.
    pub rate_per_s: f64,
    /// Requests at once beyond the rate; 0 takes the gateway's default.
    pub burst: u32,
    /// Requests in flight; 0 takes the gateway's default.
    pub max_in_flight: u32,
    /// Tokens a minute that its texts may have; 0 takes the gateway's default.
    pub tokens_per_min: u32,
    /// Highest priority of its jobs; the gateway's default without one.
    pub max_priority: Option<u8>,
}

/// The keys of a deployment.
#[derive(Clone, Debug, Default)]
pub struct Keyring {
    records: Vec<KeyRecord>,
    index: HashMap<KeyId, Entry>,
}

#[derive(Clone, Debug)]
struct Entry {
    grant: Arc<Grant>,
    /// Padded with secrets that nothing hashes to, so that every key takes the
    /// same number of comparisons.
    secrets: [(SecretHash, u64); SECRETS],
    expires_at_s: u64,
    revoked: bool,
}

/// Nothing is valid until the year 1970, and nothing hashes to zeros.
const NO_SECRET: (SecretHash, u64) = ([0; 32], 0);

impl Keyring {
    /// Checks stored records.
    ///
    /// # Errors
    /// `invalid_parameter`, naming the key and what is wrong with it.
    pub fn new(records: Vec<KeyRecord>) -> Result<Keyring> {
        let mut index = HashMap::with_capacity(records.len());
        for record in &records {
            let id = KeyId::parse(&record.id).ok_or_else(|| wrong(record, "its id is not of a key's form"))?;
            if index.insert(id, Entry::of(id, record)?).is_some() {
                return Err(wrong(record, "it is there twice"));
            }
        }
        Ok(Keyring { records, index })
    }

    /// The keys as they are stored, in the order they were made.
    pub fn records(&self) -> &[KeyRecord] {
        &self.records
    }

    /// Finds the grant of a presented key.
    ///
    /// # Errors
    /// `unauthenticated`; only a caller with the right secret is told that a
    /// key is expired or revoked.
    pub fn verify(&self, presented: &PresentedKey, now_s: u64) -> Result<Arc<Grant>> {
        let found = self.find(presented.id, now_s, |hash| presented.hash.ct_eq(hash))?;
        found.ok_or_else(|| refuse("the API key is not valid; check it, or ask for another"))
    }

    /// Finds the grant of a browser's session.
    ///
    /// # Errors
    /// As [`Keyring::verify`].
    pub fn verify_session(&self, presented: &PresentedSession, salt: &SessionSalt, now_s: u64) -> Result<Arc<Grant>> {
        let found = self.find(presented.session.key, now_s, |hash| presented.is_of(hash, salt))?;
        let current = found.filter(|_| presented.session.is_current(now_s));
        current.ok_or_else(|| refuse("the session is over; sign in again"))
    }

    /// The text of a session that stands in for a key which was just verified.
    pub fn begin_session(&self, verified: &PresentedKey, salt: &SessionSalt, now_s: u64) -> String {
        Session { key: verified.id, began_s: now_s, renewed_s: now_s }.seal(&verified.hash, salt)
    }

    /// The text of a session that was just verified, renewed.
    pub fn renew_session(&self, verified: &PresentedSession, salt: &SessionSalt, now_s: u64) -> Option<String> {
        let entry = self.index.get(&verified.session.key)?;
        let (secret, _) = entry.secrets.iter().find(|(hash, _)| bool::from(verified.is_of(hash, salt)))?;
        Some(Session { renewed_s: now_s, ..verified.session }.seal(secret, salt))
    }

    /// The grant of the key that has a secret in force which `is_it` recognizes; it is
    /// asked as often for an unknown key.
    fn find(&self, id: KeyId, now_s: u64, is_it: impl Fn(&SecretHash) -> Choice) -> Result<Option<Arc<Grant>>> {
        let entry = self.index.get(&id);
        let secrets = entry.map_or(&[NO_SECRET; SECRETS], |entry| &entry.secrets);
        let matches = secrets.iter().fold(Choice::from(0), |matches, (hash, until_s)| {
            matches | (is_it(hash) & Choice::from(u8::from(now_s < *until_s)))
        });
        match entry.filter(|_| bool::from(matches)) {
            None => Ok(None),
            Some(entry) if entry.revoked => Err(refuse("the API key is revoked; ask for another")),
            Some(entry) if now_s >= entry.expires_at_s => Err(refuse("the API key has expired; ask for another")),
            Some(entry) => Ok(Some(Arc::clone(&entry.grant))),
        }
    }

    /// Makes a key and returns its full text, which is stored nowhere.
    ///
    /// # Errors
    /// `invalid_parameter` for an empty name or one that is taken.
    pub fn add(&mut self, new: NewKey, now_s: u64) -> Result<String> {
        if new.name.is_empty() || self.records.iter().any(|record| record.name == new.name && !record.revoked) {
            return Err(Error::invalid(format!("a key needs a name of its own; `{}` is empty or taken", new.name)));
        }
        let (id, secret) = (key::random_id(), key::random_secret());
        let models = if new.models.is_empty() { vec!["*".into()] } else { new.models };
        let mut records = self.records.clone();
        records.push(KeyRecord {
            id: id.to_string(),
            name: new.name,
            scope: new.scope,
            models,
            created_at_s: now_s,
            expires_at_s: new.valid_s.map(|valid_s| now_s.saturating_add(valid_s)),
            revoked: false,
            rate_per_s: new.rate_per_s,
            burst: new.burst,
            max_in_flight: new.max_in_flight,
            tokens_per_min: new.tokens_per_min,
            max_priority: new.max_priority,
            webhook: None,
            secrets: vec![SecretRecord { sha256: key::hex(&key::hash(&secret)), until_s: None }],
        });
        *self = Keyring::new(records)?;
        Ok(key::text(id, &secret))
    }

    /// Gives a key a new secret and returns its full text; the one before stays
    /// valid for `overlap_s` more, so that callers can change over.
    ///
    /// # Errors
    /// `invalid_parameter` when there is no such key, or it is revoked.
    pub fn rotate(&mut self, which: &str, overlap_s: u64, now_s: u64) -> Result<String> {
        let mut records = self.records.clone();
        let record = named(&mut records, which)?;
        let secret = key::random_secret();
        record.secrets.truncate(SECRETS - 1);
        for before in &mut record.secrets {
            let until_s = now_s.saturating_add(overlap_s);
            before.until_s = Some(before.until_s.map_or(until_s, |earlier| earlier.min(until_s)));
        }
        record.secrets.insert(0, SecretRecord { sha256: key::hex(&key::hash(&secret)), until_s: None });
        let id = record.id.clone();
        *self = Keyring::new(records)?;
        Ok(format!("nobat_{id}_{secret}"))
    }

    /// Refuses a key from now on.
    ///
    /// # Errors
    /// `invalid_parameter` when there is no such key, or it is revoked already.
    pub fn revoke(&mut self, which: &str) -> Result<()> {
        let mut records = self.records.clone();
        named(&mut records, which)?.revoked = true;
        *self = Keyring::new(records)?;
        Ok(())
    }
}

impl Entry {
    fn of(id: KeyId, record: &KeyRecord) -> Result<Entry> {
        if record.secrets.is_empty() || record.secrets.len() > SECRETS {
            return Err(wrong(record, "it needs one or two secrets"));
        }
        if !(record.rate_per_s >= 0.0 && record.rate_per_s.is_finite()) {
            return Err(wrong(record, "its rate_per_s is negative or not a number"));
        }
        let mut secrets = [NO_SECRET; SECRETS];
        for (slot, secret) in secrets.iter_mut().zip(&record.secrets) {
            let hash = key::unhex(&secret.sha256).ok_or_else(|| wrong(record, "a sha256 is not 64 hex digits"))?;
            *slot = (hash, secret.until_s.unwrap_or(u64::MAX));
        }
        let grant = Grant {
            owner: id.owner(),
            name: record.name.clone(),
            scope: record.scope,
            models: record.models.clone(),
            rate_per_s: record.rate_per_s,
            burst: record.burst,
            max_in_flight: record.max_in_flight,
            tokens_per_min: record.tokens_per_min,
            max_priority: record.max_priority,
            webhook: record.webhook.clone(),
        };
        let expires_at_s = record.expires_at_s.unwrap_or(u64::MAX);
        Ok(Entry { grant: Arc::new(grant), secrets, expires_at_s, revoked: record.revoked })
    }
}

/// A key in force by its id, or else by its name: a name may be the id of another.
fn named<'a>(records: &'a mut [KeyRecord], which: &str) -> Result<&'a mut KeyRecord> {
    let is_id = records.iter().any(|record| record.id == which);
    let is_it = |record: &&mut KeyRecord| match is_id {
        true => record.id == which,
        false => record.name == which,
    };
    records.iter_mut().filter(|record| !record.revoked).find(is_it).ok_or_else(|| {
        Error::invalid(format!("no key in force has the id or name `{which}`; `nobat keys list` shows them"))
    })
}

fn refuse(why: &str) -> Error {
    Error::new(ErrorCode::Unauthenticated, why)
}

fn wrong(record: &KeyRecord, why: &str) -> Error {
    Error::invalid(format!("key `{}` ({}): {why}", record.id, record.name))
}

fn is_zero<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn new_key(name: &str) -> NewKey {
        NewKey {
            name: name.into(),
            scope: Scope::Predict,
            models: vec!["digits".into(), "vision.*".into()],
            valid_s: Some(100),
            rate_per_s: 0.0,
            burst: 0,
            max_in_flight: 0,
            tokens_per_min: 0,
            max_priority: None,
        }
    }

    fn verify(ring: &Keyring, key: &str, now_s: u64) -> Result<Arc<Grant>> {
        ring.verify(&PresentedKey::parse(&format!("Bearer {key}")).expect("well formed"), now_s)
    }

    #[test]
    fn a_key_is_valid_until_it_expires_and_its_secret_is_stored_nowhere() {
        let mut ring = Keyring::default();
        let key = ring.add(new_key("ci"), NOW).expect("made");
        let grant = verify(&ring, &key, NOW + 99).expect("valid");
        assert_eq!((grant.name.as_str(), grant.scope), ("ci", Scope::Predict));
        assert!(verify(&ring, &key, NOW + 100).expect_err("expired").message.contains("expired"));
        let stored = format!("{:?}", ring.records());
        assert!(!stored.contains(key.rsplit('_').next().expect("a secret")));
    }

    #[test]
    fn unknown_and_wrong_keys_get_one_answer() {
        let mut ring = Keyring::default();
        let key = ring.add(new_key("a"), NOW).expect("made");
        let other = Keyring::default().add(new_key("b"), NOW).expect("made");
        let id = key.split('_').nth(1).expect("an id");
        let mixed = format!("nobat_{id}_{}", other.split('_').nth(2).expect("a secret"));
        let unknown = verify(&ring, &other, NOW).expect_err("unknown id");
        let wrong = verify(&ring, &mixed, NOW).expect_err("wrong secret");
        assert_eq!((unknown.code, unknown.message), (wrong.code, wrong.message.clone()));
        let expired = verify(&ring, &mixed, NOW + 1_000).expect_err("wrong secret of an expired key");
        assert_eq!(expired.message, wrong.message, "only the right secret learns of the expiry");
    }

    #[test]
    fn rotation_overlaps_and_revocation_does_not() {
        let mut ring = Keyring::default();
        let first = ring.add(NewKey { valid_s: None, ..new_key("a") }, NOW).expect("made");
        let second = ring.rotate("a", 60, NOW).expect("rotated");
        assert!(verify(&ring, &first, NOW + 59).is_ok() && verify(&ring, &second, NOW + 59).is_ok());
        assert!(verify(&ring, &first, NOW + 60).is_err() && verify(&ring, &second, NOW + 60).is_ok());
        assert_eq!(
            verify(&ring, &first, NOW).expect("valid").owner,
            verify(&ring, &second, NOW).expect("valid").owner,
            "jobs keep their owner"
        );
        let third = ring.rotate("a", 60, NOW + 10).expect("rotated again");
        assert!(verify(&ring, &first, NOW + 11).is_err(), "at most two secrets are in force");
        assert!(verify(&ring, &second, NOW + 11).is_ok() && verify(&ring, &third, NOW + 11).is_ok());
        ring.revoke("a").expect("revoked");
        assert!(verify(&ring, &third, NOW + 11).expect_err("revoked").message.contains("revoked"));
        assert!(ring.rotate("a", 1, NOW).is_err() && ring.revoke("nobody").is_err());
    }

    #[test]
    fn an_id_is_never_taken_for_the_name_of_another_key() {
        let mut ring = Keyring::default();
        let (first, second) = (ring.add(new_key("a"), NOW).expect("made"), ring.add(new_key("b"), NOW).expect("made"));
        let id = second.split('_').nth(1).expect("an id").to_owned();
        let mut records = ring.records().to_vec();
        records[0].name = id.as_str().into();
        let mut ring = Keyring::new(records).expect("good records");
        ring.revoke(&id).expect("revoked");
        assert!(verify(&ring, &first, NOW).is_ok());
        assert!(verify(&ring, &second, NOW).expect_err("revoked").message.contains("revoked"));
        assert!(ring.revoke(&id).is_err(), "once is enough");
    }

    #[test]
    fn a_grant_covers_its_models_and_scopes_only() {
        let mut ring = Keyring::default();
        let key = ring.add(new_key("a"), NOW).expect("made");
        let grant = verify(&ring, &key, NOW).expect("valid");
        for model in ["digits", "vision.cats"] {
            assert!(grant.require_model(model).is_ok());
        }
        for model in ["digits2", "vision", "text"] {
            assert_eq!(grant.require_model(model).expect_err(model).code, ErrorCode::PermissionDenied);
        }
        assert!(grant.require(Scope::Read).is_ok() && grant.require(Scope::Predict).is_ok());
        assert_eq!(grant.require(Scope::Admin).expect_err("admin").code, ErrorCode::PermissionDenied);
    }

    #[test]
    fn a_malformed_record_is_named() {
        let mut ring = Keyring::default();
        ring.add(new_key("a"), NOW).expect("made");
        let good = ring.records()[0].clone();
        let short = SecretRecord { sha256: "ab".into(), until_s: None };
        for (bad, says) in [
            (KeyRecord { id: "x".into(), ..good.clone() }, "not of a key's form"),
            (KeyRecord { secrets: vec![], ..good.clone() }, "one or two secrets"),
            (KeyRecord { secrets: vec![short], ..good.clone() }, "64 hex digits"),
            (KeyRecord { rate_per_s: -1.0, ..good.clone() }, "rate_per_s"),
        ] {
            let error = Keyring::new(vec![bad]).expect_err(says);
            assert!(error.message.contains(says), "{}", error.message);
        }
        assert!(Keyring::new(vec![good.clone(), good]).expect_err("twice").message.contains("twice"));
    }
}
