//! The load stage and its engine: how fast a model answers, at which rate, and what it costs.
//!
//! The schedule is decided first, and latency counts from the moment at which a request was
//! due: a server that stalls for a second is seen by the requests that would have met it.
//! Everything that decides is pure (`schedule`, `warm_up`, `knee`, `tally`); `sending` and
//! `engine` put threads, sockets and a clock around it.

mod alarm;
mod baseline;
mod calling;
mod cost;
mod engine;
mod growth;
mod judge;
mod knee;
mod latencies;
mod memory;
mod plan;
mod progress;
mod run;
mod schedule;
mod search;
mod sending;
mod shared;
mod tally;
mod warm_up;
mod words;
mod workers;

pub use baseline::{Baseline, BaselineComparison, RunFigures, Session};
pub use calling::TargetCaller;
pub use engine::{ClientCost, LoadEvent, LoadOutcome, LoadProgress, ServerGone, measure};
pub use knee::{Bracket, Knee};
pub use latencies::Latencies;
pub use plan::{Load, LoadPlan, WarmUpLength, default_threads};
pub use run::{LoadReport, LoadSettings, run};
pub use schedule::{Arrivals, Pause, Rate};
pub use search::{KneeOutcome, KneeRun, find_knee};
pub use sending::Caller;
pub use tally::{Answer, Sample, ServerLatencies, ServerShares, Tally};
pub use words::{ms, rate};
