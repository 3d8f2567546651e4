//! The functional stage: the expected output for a given input, by every way there is to ask.
//!
//! Golden outputs within their tolerances; rows in a batch answered as they are alone, one
//! after the other and at once; every protocol the same answer; the same answer again; how
//! long a single call takes; jobs that all end; a webhook that arrives. What one step finds never keeps the
//! next from being asked, except a server that is gone.

mod asker;
mod jobs;
mod latency;
mod run;
mod webhook;

pub use run::{FunctionalSettings, run};
