//! How far a key may go, and what each route needs. Pure.

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

/// Routes that need no key: what load balancers, probes and people without one
/// may see. Nothing here tells of models, jobs or callers.
const OPEN: &[&str] = &["/", "/livez", "/readyz", "/ping", "/v2/health/live", "/v2/health/ready"];
const OPEN_UNDER: &[&str] = &["/docs", "/openapi"];
/// Where a write is a prediction or its job's end.
const PREDICT_UNDER: &[&str] = &["/api/v1/predict", "/api/v1/jobs", "/v1", "/v2/models", "/predict", "/invocations"];
/// Writes among those that are not.
const ADMIN_ENDS: &[&str] = &["/load", "/unload", "/reload", "/pause", "/resume", "/redrive", "/purge"];

/// What only administrators may read: it shows every caller's.
const ADMIN_UNDER: &[&str] = &["/api/v1/webhooks", "/api/v1/periodic"];

/// The scope a route needs; `None` is open to everybody. What is not known to
/// be less needs [`Scope::Admin`] to write.
pub fn required(is_write: bool, path: &str) -> Option<Scope> {
    if !is_write && (OPEN.contains(&path) || OPEN_UNDER.iter().any(|prefix| path.starts_with(prefix))) {
        return None;
    }
    let under = |prefixes: &[&str]| {
        let is_under =
            |prefix: &&str| path.strip_prefix(*prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        prefixes.iter().any(is_under)
    };
    if under(ADMIN_UNDER) {
        return Some(Scope::Admin);
    }
    if !is_write || path == "/v2/repository/index" {
        return Some(Scope::Read);
    }
    let administers = ADMIN_ENDS.iter().any(|end| path.ends_with(end));
    Some(if under(PREDICT_UNDER) && !administers { Scope::Predict } else { Scope::Admin })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_route_needs_its_scope() {
        for (is_write, path, scope) in [
            (false, "/livez", None),
            (false, "/v2/health/ready", None),
            (false, "/docs/index.html", None),
            (true, "/livez", Some(Scope::Admin)),
            (false, "/api/v1/status", Some(Scope::Read)),
            (false, "/v2/models/m/stats", Some(Scope::Read)),
            (true, "/v2/repository/index", Some(Scope::Read)),
            (true, "/v1/models/m:predict", Some(Scope::Predict)),
            (true, "/v1/embeddings", Some(Scope::Predict)),
            (true, "/v2/models/m/infer", Some(Scope::Predict)),
            (true, "/api/v1/predict/m", Some(Scope::Predict)),
            (true, "/api/v1/jobs/x/cancel", Some(Scope::Predict)),
            (true, "/api/v1/predictions", Some(Scope::Admin)),
            (true, "/api/v1/jobs/redrive", Some(Scope::Admin)),
            (true, "/v2/repository/models/m/load", Some(Scope::Admin)),
            (true, "/api/v1/queues/m/pause", Some(Scope::Admin)),
            (true, "/api/v1/periodic", Some(Scope::Admin)),
            (false, "/api/v1/periodic/refresh", Some(Scope::Admin)),
            (false, "/api/v1/routes", Some(Scope::Read)),
            (true, "/api/v1/routes/both", Some(Scope::Admin)),
            (false, "/api/v1/webhooks/deliveries", Some(Scope::Admin)),
            (true, "/api/v1/webhooks/deliveries/msg_x/redeliver", Some(Scope::Admin)),
            (true, "/anything/new", Some(Scope::Admin)),
        ] {
            assert_eq!(required(is_write, path), scope, "{path}");
        }
    }
}
