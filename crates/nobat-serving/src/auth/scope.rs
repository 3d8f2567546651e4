//! How far a key may go. What each route needs stands where it is registered
//! by the protocol. Pure.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Each scope covers those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Look: models, statistics, status, its own jobs.
    Read,
    /// Also predict, and cancel its own jobs.
    Predict,
    /// Everything: pause, redrive, load, routes, periodic tasks.
    Admin,
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Scope::Read => "read",
            Scope::Predict => "predict",
            Scope::Admin => "admin",
        })
    }
}

impl std::str::FromStr for Scope {
    type Err = String;

    fn from_str(text: &str) -> Result<Scope, String> {
        [Scope::Read, Scope::Predict, Scope::Admin]
            .into_iter()
            .find(|scope| scope.to_string() == text)
            .ok_or_else(|| format!("there is no scope `{text}`; scopes: read, predict, admin"))
    }
}
