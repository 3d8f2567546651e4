//! The statistics of model tests, of comparisons and of drift.
//!
//! Owns the tests themselves ([`classes`], [`scores`], [`calibration`], [`pairs`],
//! [`anytime`], [`runs`], [`drift`], [`rollout`]), what they need to be trusted ([`power`], [`intervals`],
//! [`holm`]), and the profile of a model that they compare with ([`profile`], [`sketch`]). It
//! reads no file, clock or socket: callers pass counts, values and a seeded source of
//! randomness, so that a run can be repeated to the last digit.
//!
//! Invariants, each held by a simulation in `tests/calibration.rs`:
//! - A right model fails a test at level `alpha` in no more than a share `alpha` of runs,
//!   also where expected counts are small and where the profile is itself a sample.
//! - An anytime-valid test keeps that promise over all looks taken together.
//!
//! Distributions come from statrs; no table and no approximation of our own.

pub mod anytime;
pub mod building;
pub mod calibration;
pub mod classes;
pub mod drift;
pub mod holm;
pub mod intervals;
pub mod pairs;
pub mod power;
pub mod profile;
pub mod random;
pub mod reading;
pub mod rollout;
pub mod runs;
pub mod scores;
pub mod sketch;
