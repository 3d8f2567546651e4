//! Chains at work: jobs of a model whose graph is other models.
//!
//! A chain's job is leased like any other and carried out by a [`runner`] beside the
//! session that leased it: [`run`] starts each step as soon as its inputs are there. A step
//! whose model this worker serves goes into that model's own batches through its
//! [`step_queue`]; any other becomes a job of its own ([`remote`]). [`loaded`] is what a
//! version has in the place of a graph, [`site`] what its runs need of the worker.
//!
//! Invariants:
//! - A chain's job holds no thread while its steps wait, so no number of them can keep
//!   each other's steps from running.
//! - Whoever waits for a step holds it: what is dropped is cancelled.

pub(crate) mod loaded;
mod remote;
mod rows;
mod run;
pub(crate) mod runner;
pub(crate) mod site;
mod step_call;
pub(crate) mod step_queue;
