//! The vocabulary of nobat: jobs, tensors, signatures, identifiers and errors.
//!
//! Owns the types every other crate speaks and the pure arithmetic over them
//! (priority score, retry schedule, validation, encodings). It deliberately
//! knows no HTTP, no Redis, no SQLite and no ONNX Runtime, and reads no clock, file
//! or socket: callers pass `now` and values.
//!
//! Invariants:
//! - A [`tensor::Tensor`] that passed [`signature::ModelSignature::validate`]
//!   has exactly the bytes its shape and datatype call for.
//! - [`error::ErrorCode`] is closed: every refusal in every protocol carries one.
//! - The promise is at-least-once: an attempt may run twice after a crash, a
//!   job reaches exactly one terminal state.

pub mod cell;
pub mod chain;
pub mod data_url;
pub mod error;
#[doc(hidden)]
pub mod fuzz;
pub mod id;
pub mod infer;
pub mod job;
pub mod json;
mod lenient_base64;
pub mod model_name;
pub mod oip;
pub mod parameters;
pub mod request_trace;
pub mod retry;
pub mod score;
pub mod secret;
pub mod signature;
mod spelled;
pub mod statistics;
pub mod tags;
pub mod task;
pub mod tensor;
pub mod timings;
pub mod typed;
pub mod units;
pub mod varint;

pub use error::{Error, ErrorCode, Result, clip};
pub use id::{IdIssuer, JobId, OwnerId};
