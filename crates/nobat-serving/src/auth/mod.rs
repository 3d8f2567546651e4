//! Who may ask for what: API keys, their scopes, and the routes that need them.
//!
//! Owns the [`Keyring`] (the file of keys and every change to it), the look-up
//! of a presented key and the [`scope`] each route needs. It does not own whose
//! a job is: ids carry a MAC over the owner (`nobat_core::id`), so a foreign id
//! fails before any store is asked.
//!
//! Invariants:
//! - A secret is 256 random bits and only its SHA-256 is stored. A slow hash
//!   defends secrets that can be guessed; 2^256 cannot, and a slow hash on every
//!   request would be a way to exhaust us.
//! - An unknown key and a wrong secret take the same path, compare the same
//!   number of bytes in constant time, and get the same answer.
//! - A session stands in for a key and ends with it; no gateway stores one.
//! - A file that stops being readable leaves the last good keys in force.

mod file;
mod key;
pub mod keyring;
pub mod scope;
pub mod session;

use std::sync::Arc;

use arc_swap::ArcSwap;
use nobat_core::{Error, ErrorCode, Result};
use serde::{Deserialize, Serialize};

pub use file::{change, load, load_or_none, store};
pub use key::{KeyId, PresentedKey};
pub use keyring::{KeyRecord, Keyring, NewKey};
pub use scope::Scope;
pub use session::PresentedSession;

use keyring::Grant;
use session::SessionSalt;

/// How callers are told apart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthConfig {
    /// File of API keys (`nobat keys`); empty: everybody may do everything.
    pub keys: String,
    /// Serve a public address without keys all the same.
    pub insecure: bool,
}

/// What a request says of who it is from.
#[derive(Clone, Copy)]
pub enum Credential<'a> {
    /// Nothing.
    None,
    /// An `Authorization` header.
    Authorization(&'a str),
    /// A browser's session.
    Session(&'a str),
}

impl<'a> From<Option<&'a str>> for Credential<'a> {
    fn from(authorization: Option<&'a str>) -> Credential<'a> {
        authorization.map_or(Credential::None, Credential::Authorization)
    }
}

/// Checks credentials. A clone-able handle over the keys in force.
#[derive(Clone)]
pub struct Authenticator {
    current: Option<Arc<ArcSwap<Keyring>>>,
    /// Without it no session is begun or taken.
    salt: Option<SessionSalt>,
}

impl Authenticator {
    /// Reads the keys that `config` names.
    ///
    /// # Errors
    /// `invalid_parameter` when the file cannot be read or is malformed.
    pub fn new(config: &AuthConfig) -> Result<Authenticator> {
        let current = match config.keys.as_str() {
            "" => None,
            path => Some(Arc::new(ArcSwap::from_pointee(file::load(path.as_ref())?))),
        };
        Ok(Authenticator { current, salt: None })
    }

    /// Takes browsers' sessions too, sealed with what only this deployment knows.
    pub fn with_sessions(self, salt: SessionSalt) -> Authenticator {
        Authenticator { salt: Some(salt), ..self }
    }

    /// Whether callers need a key at all.
    pub fn is_on(&self) -> bool {
        self.current.is_some()
    }

    /// Refuses to serve a public address to everybody, unless told to.
    ///
    /// # Errors
    /// `invalid_parameter`, naming the address and the remedies.
    pub fn check_address(&self, config: &AuthConfig, address: std::net::SocketAddr) -> Result<()> {
        if self.is_on() || config.insecure || address.ip().is_loopback() {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "`{address}` is reachable from outside and no API keys are set; make keys with `nobat keys new` and \
                 name their file in `auth.keys`, listen on 127.0.0.1, or say `--insecure`"
        )))
    }

    /// Finds the grant of a request with this credential; `None` when authentication is off.
    ///
    /// # Errors
    /// `unauthenticated`, the same for an unknown key and a wrong secret.
    pub fn authenticate(&self, credential: Credential<'_>) -> Result<Option<Arc<Grant>>> {
        let Some(current) = &self.current else { return Ok(None) };
        match credential {
            Credential::None => Err(refuse("no API key; send `Authorization: Bearer nobat_<id>_<secret>`")),
            Credential::Authorization(header) => current.load().verify(&presented(header)?, now_s()).map(Some),
            Credential::Session(text) => {
                let presented = PresentedSession::parse(text).zip(self.salt.as_ref());
                let (session, salt) = presented.ok_or_else(|| refuse(NO_SESSION))?;
                current.load().verify_session(&session, salt, now_s()).map(Some)
            }
        }
    }

    /// Begins a session for a browser that has this `Authorization`: its text, and what it
    /// may do; `None` when authentication is off.
    ///
    /// # Errors
    /// As [`Authenticator::authenticate`].
    pub fn begin_session(&self, authorization: &str) -> Result<Option<(String, Arc<Grant>)>> {
        let (Some(current), Some(salt)) = (&self.current, &self.salt) else { return Ok(None) };
        let (ring, presented, now_s) = (current.load(), presented(authorization)?, now_s());
        let grant = ring.verify(&presented, now_s)?;
        Ok(Some((ring.begin_session(&presented, salt, now_s), grant)))
    }

    /// The session of a request, its idle time begun anew, and what it may do; `None` when
    /// authentication is off.
    ///
    /// # Errors
    /// As [`Authenticator::authenticate`]; what is no session is not renewed.
    pub fn renew_session(&self, credential: Credential<'_>) -> Result<Option<(String, Arc<Grant>)>> {
        let (Some(current), Some(salt)) = (&self.current, &self.salt) else { return Ok(None) };
        let Credential::Session(text) = credential else { return Err(refuse("no session; sign in with an API key")) };
        let session = PresentedSession::parse(text).ok_or_else(|| refuse(NO_SESSION))?;
        let (ring, now_s) = (current.load(), now_s());
        let grant = ring.verify_session(&session, salt, now_s)?;
        Ok(ring.renew_session(&session, salt, now_s).map(|session| (session, grant)))
    }

    /// Changes the file of keys, and takes the change over at once; other gateways that read
    /// the file do within seconds. Reads and writes the file: not on a thread that serves.
    ///
    /// # Errors
    /// `unsupported` where no keys are asked for; what `change` refuses; `internal` when the
    /// file cannot be written.
    pub fn change<T>(&self, config: &AuthConfig, change: impl FnOnce(&mut Keyring) -> Result<T>) -> Result<T> {
        let Some(current) = &self.current else {
            let message =
                "no API keys are asked for here; make one with `nobat keys new` and name the file in `auth.keys`";
            return Err(Error::new(ErrorCode::Unsupported, message));
        };
        let (changed, ring) = file::change(config.keys.as_ref(), file::load, change)?;
        current.store(Arc::new(ring));
        Ok(changed)
    }

    /// The keys in force; `None` where none are asked for.
    pub fn keys(&self) -> Option<Arc<Keyring>> {
        self.current.as_ref().map(|current| current.load_full())
    }

    /// Watches the file for ever and takes its changes over; ends at once when
    /// authentication is off.
    pub async fn follow(self, config: AuthConfig) {
        let Some(current) = self.current else { return };
        file::follow(config.keys.into(), file::LOOK_EVERY, |ring| current.store(Arc::new(ring))).await;
    }
}

const NO_SESSION: &str = "the session is malformed; sign in again";

fn presented(authorization: &str) -> Result<PresentedKey> {
    let malformed = || refuse("the Authorization header is malformed; send `Bearer nobat_<id>_<secret>`");
    PresentedKey::parse(authorization).ok_or_else(malformed)
}

fn refuse(why: &str) -> Error {
    Error::new(ErrorCode::Unauthenticated, why)
}

/// Seconds since 1970 by this host's clock: expiry is a matter of days.
pub fn now_s() -> u64 {
    nobat_runtime::now_ms() / 1000
}
