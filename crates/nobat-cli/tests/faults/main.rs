//! The fault suite: real processes killed, stopped and cut off under load, and a
//! ledger kept by the clients alone: what was answered 202 must be readable,
//! with its own answer, whatever happened to anyone.
//!
//! Bounded by default; `NOBAT_FAULTS=full` (`just faults`) runs the long form.
//! Each test prints what it counted. Lease lengths are shortened by the setting
//! `queue.lease_ms`, so that hundreds of deaths fit into minutes.

#[path = "../rig/mod.rs"]
mod rig;

mod batches;
mod chains;
mod gateways;
mod ledger;
mod network;
mod poison;
mod redis;
mod stopped;
mod workers;

/// How often a fault is done: `bounded` in every test run, `full` in the long form.
pub(crate) fn rounds(bounded: u32, full: u32) -> u32 {
    match std::env::var("NOBAT_FAULTS").as_deref() {
        Ok("full") => full,
        _ => bounded,
    }
}
