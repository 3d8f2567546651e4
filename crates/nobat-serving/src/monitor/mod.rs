//! The monitor: watches the deployment from one gateway and says so when a
//! check's state changes: in the log, at the webhook, in `/readyz?verbose` and
//! `/api/v1/status`, in `nobat_check_failing`.
//!
//! Owns the checks' thresholds ([`MonitorConfig`]), their state machines
//! ([`check`]), what is looked at ([`sampler`]), the looks ([`watch`]), the alerts ([`alert`]) and
//! the last 15 minutes ([`TimeSeries`]).
//! Every gateway watches by itself and tells by itself: a receiver may hear of
//! one failure from each.
//!
//! Invariants:
//! - A look never delays a request; a store that hangs is a look that failed.
//! - It costs the store two commands and one per model, once per `every_s`; where a model has
//!   a profile, or a route a canary or a copy, three more, once per five seconds.

pub mod alert;
pub mod check;
mod roster;
pub mod sampler;
mod series;
mod settings;
mod status;
pub mod watch;

pub use check::{Check, Patience, State};
pub use series::{Point, Standing, TimeSeries};
pub use settings::MonitorConfig;
pub use status::{CheckStatus, Status};
