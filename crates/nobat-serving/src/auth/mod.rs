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
//! - A file that stops being readable leaves the last good keys in force.

mod file;
mod key;
pub mod keyring;
pub mod scope;

use std::sync::Arc;

use arc_swap::ArcSwap;
use nobat_core::{Error, ErrorCode, Result};
use serde::{Deserialize, Serialize};

pub use file::{load, store};
pub use key::{KeyId, PresentedKey};
pub use keyring::{KeyRecord, Keyring, NewKey};
pub use scope::Scope;

use keyring::Grant;

/// How callers are told apart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthConfig {
    /// File of API keys (`nobat keys`); empty: everybody may do everything.
    pub keys: String,
    /// Serve a public address without keys all the same.
    pub insecure: bool,
}

/// Checks credentials. A clone-able handle over the keys in force.
#[derive(Clone)]
pub struct Authenticator {
    current: Option<Arc<ArcSwap<Keyring>>>,
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
        Ok(Authenticator { current })
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

    /// Finds the grant of a request with this `Authorization` header; `None`
    /// when authentication is off.
    ///
    /// # Errors
    /// `unauthenticated`, the same for an unknown key and a wrong secret.
    pub fn authenticate(&self, authorization: Option<&str>) -> Result<Option<Arc<Grant>>> {
        let Some(current) = &self.current else { return Ok(None) };
        let refuse = |why: &str| Error::new(ErrorCode::Unauthenticated, why);
        let header =
            authorization.ok_or_else(|| refuse("no API key; send `Authorization: Bearer nobat_<id>_<secret>`"))?;
        let presented = PresentedKey::parse(header)
            .ok_or_else(|| refuse("the Authorization header is malformed; send `Bearer nobat_<id>_<secret>`"))?;
        current.load().verify(&presented, now_s()).map(Some)
    }

    /// Watches the file for ever and takes its changes over; ends at once when
    /// authentication is off.
    pub async fn follow(self, config: AuthConfig) {
        let Some(current) = self.current else { return };
        file::follow(config.keys.into(), file::LOOK_EVERY, |ring| current.store(Arc::new(ring))).await;
    }
}

/// Seconds since 1970 by this host's clock: expiry is a matter of days.
pub fn now_s() -> u64 {
    nobat_runtime::now_ms() / 1000
}
