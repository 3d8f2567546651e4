//! Logging set-up: log4rs from `config/log4rs.yaml`, the same in every binary.
//!
//! Owns the logger's configuration: console and a file per day ([`daily`]), one
//! line per event as text or JSON ([`line`]), equal lines counted ([`condense`]),
//! levels changed while running ([`signals`]). It does not own what is logged: callers use the `log` crate
//! with a readable message and fields, and never pass tensors, bodies or keys.
//!
//! Invariants:
//! - Logging never takes the service down: a log folder that is missing, full or
//!   not ours costs a line on stderr (at most one a minute), nothing else.
//! - Trouble that repeats costs a few lines a minute, whatever its rate.
//! - A reload that cannot be read leaves the running configuration in place.

mod build;
mod condense;
mod daily;
mod levels;
mod line;
mod logger;
mod settings;
mod signals;

pub use condense::ACCESS;
pub use logger::{Logging, init};
pub use settings::{LogFormat, LogSettings};
pub use signals::LevelChange;
