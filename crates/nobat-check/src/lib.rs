//! Functional, statistical, error and load tests of a model's API.
//!
//! Owns what is asked of a model and how the answers are judged. It knows models as a
//! client does, through an async function from inputs to outputs, and nothing of the
//! gateway, the queue or the worker.

pub mod compare;
pub mod data;
pub mod statistical;
