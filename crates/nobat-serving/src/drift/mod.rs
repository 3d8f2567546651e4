//! Whether live traffic still looks like the profile that a model was published with.
//!
//! Owns which versions are followed and the counting of their rows ([`Drift`], on the
//! request's way), and the looks at the counts with what they tell (`watch`). The counting
//! and the statistics are nobat-statistics'.
//!
//! Invariants:
//! - A model without a profile costs a request one atomic load and a comparison; what one
//!   with a profile costs `nobat-statistics/examples/sketch_speed.rs` prints.
//! - A row is counted once: cache hits and followers of another's run are none, nor is a
//!   request with an idempotency key, which may be a repetition.
//! - Nothing of a request is kept but counters.

mod follow;
mod status;
mod watch;

pub use follow::{Drift, FollowedModel, hide_setting};
pub use status::{DriftState, DriftStatus};
pub(crate) use watch::DriftLooks;
pub use watch::acknowledge;
