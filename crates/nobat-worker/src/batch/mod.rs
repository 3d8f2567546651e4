//! Which leased jobs run together, and when.
//!
//! [`planner`], [`triage`] and [`controller`] (with its [`evidence`] and
//! [`regression`]) are pure: they take `now` and values and return decisions.
//! [`intake`] holds the leased jobs between them and the queue's backend.

pub mod controller;
pub mod evidence;
pub mod intake;
pub mod planner;
pub mod regression;
pub mod triage;
