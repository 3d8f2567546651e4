//! `nobat compare`: two versions of a model on the same requests.

mod comparison;
mod report;
mod run;

pub use comparison::{CompareSettings, Comparison, PairFigures, VersionAnswer};
pub use report::{ClassCounts, CompareReport, Disagreement, NamedGate};
pub use run::{ReplayedRequest, compare};
