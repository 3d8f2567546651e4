//! A run's report as people and programs read it: renderings of a [`TestReport`], all pure.
//!
//! JSON is the report itself. [`terminal`] is what a person reads at once, [`html`] one page
//! without anything beside it, [`junit`] what continuous integration shows.
//!
//! [`TestReport`]: crate::stage::TestReport

mod axis;
mod chart;
mod escape;
mod html;
mod junit;
mod terminal;

pub use html::html;
pub use junit::junit;
pub use terminal::terminal;
