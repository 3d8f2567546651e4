//! The error stage: bad requests derived from a model's signature, and what they are answered.
//!
//! [`case`] lists the ways to be wrong, [`bad`] makes each of them of a good request,
//! [`expect`] says what is right: by the documents and to the code of nobat, by their
//! protocol alone of others. [`run`] sends each beside a good request, and the good one again
//! after it: a refusal may cost its neighbours nothing.

mod bad;
mod case;
mod expect;
mod oversize;
mod run;

pub use case::BadCase;
pub use run::{ErrorSettings, run};
