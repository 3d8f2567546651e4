//! The statistical stage: fresh inputs through a model, its answers against its profile.
//!
//! [`make_profile`] asks a model about rows that it was not trained on; [`run`] asks it again
//! about fresh ones, and [`judge`] says in words what was tested, what was found and how
//! sure that is. A profile is a sample: 1,000 rows taken as exact would fail three right
//! models in ten.

mod bars;
mod judge;
mod judged;
mod report;
mod run;
mod scores;
pub(crate) mod words;

pub use judge::{StatisticalSettings, judge};
pub use report::{StatisticalFigures, StatisticalFinding, StatisticalReport, StatisticalVerdict};
pub use run::{DRAWN_ROWS, make_profile, run};
