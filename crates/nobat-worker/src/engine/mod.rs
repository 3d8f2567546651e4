//! What runs a model: one [`Engine`] per session, on one thread.
//!
//! Two implementations stand: ONNX Runtime ([`onnx`]) and the scripted one of the
//! tests. An engine knows no jobs, no queue and no batching.

pub(crate) mod api;
pub(crate) mod buffer;
pub(crate) mod classes;
pub(crate) mod input;
pub mod library;
mod message;
pub mod numbers;
pub(crate) mod onnx;
pub(crate) mod stream;
pub(crate) mod tensors;
pub(crate) mod towers;

pub use onnx::check_provider;

pub(crate) use api::{Engine, InputView, OutputData, OutputView, RunError, RunLimit};
