//! Which leased jobs run together, and when.
//!
//! [`planner`], [`triage`] and [`controller`] (with its [`latency`] samples and
//! [`regression`]) are pure: they take `now` and values and return decisions.
//! [`queue`] holds the leased jobs between them and the queue's backend.

pub(crate) mod controller;
pub(crate) mod latency;
pub(crate) mod planner;
pub(crate) mod queue;
pub(crate) mod regression;
pub(crate) mod triage;
