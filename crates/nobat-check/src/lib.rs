//! Functional, statistical, error and load tests of a model's API.
//!
//! Owns what is asked of a model and how the answers are judged. It knows models as a
//! client does: [`client`] speaks the protocols, [`stage`] is the form of what was found.
//! It knows nothing of the gateway, the queue or the worker.

pub mod client;
pub mod clock;
pub mod compare;
pub mod data;
pub mod errors;
pub mod functional;
pub mod load;
pub mod report;
pub mod stage;
pub mod statistical;
