//! Requests of any number of rows: cut into jobs of a fair size that run in the
//! background, a few at a time, and answered in order as one.
//!
//! [`parts`] is pure and cuts; [`run`] carries the parts out.
//!
//! Invariants:
//! - A part is answered before later ones: answers keep the order of the rows.
//! - So many parts are in flight at once, whatever the size of the request: that
//!   bounds the memory of what is answered and not yet sent.
//! - A part that fails is tried again alone.

mod parts;
mod run;

pub use parts::{PartSize, Parts};
pub use run::{PartAnswer, is_bulk};
