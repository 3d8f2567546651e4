//! Which leased jobs run together, and when.
//!
//! [`planner`], [`triage`] and [`controller`] (with its [`latency`] samples and
//! [`regression`]) are pure: they take `now` and values and return decisions.
//! [`queue`] holds the leased jobs between them and the queue's backend.
//!
//! Models that are transformed run rows of unlike length: [`row_pool`] takes them, [`held_rows`] has them,
//! [`lengths`] puts like ones together by what a run costs ([`run_cost`]); the latter are pure.

pub(crate) mod controller;
mod held_job;
pub(crate) mod held_rows;
mod judge;
pub(crate) mod latency;
mod lengths;
pub(crate) mod planner;
pub(crate) mod queue;
pub(crate) mod regression;
pub(crate) mod row_job;
pub(crate) mod row_pool;
pub(crate) mod run_cost;
pub(crate) mod triage;
