//! Operating real processes: logs, keys, alerts, metrics, drains, overload,
//! guesses.
//!
//! Bounded by default; `NOBAT_OPERATIONS=full` (`just operations`) runs the long
//! form, in a release build, and prints what it counted.

#[path = "../rig/mod.rs"]
mod rig;

mod alerts;
mod cache;
mod drain;
mod guesses;
mod keys;
mod logs;
mod metrics;
mod overload;
mod settings;
mod starts;

/// `bounded` in every test run, `full` in the long form.
pub(crate) fn amount<T>(bounded: T, full: T) -> T {
    match std::env::var("NOBAT_OPERATIONS").as_deref() {
        Ok("full") => full,
        _ => bounded,
    }
}
