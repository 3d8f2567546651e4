//! The gateway: HTTP and gRPC in front of serving.
//!
//! One request's way is the order of the modules: a protocol under [`routes`], [`v2`]
//! or [`grpc`] decodes into `InferRequest` ([`body`], `json`), `nobat_serving` predicts,
//! the protocol encodes the answer or the [`error`].
//!
//! Invariants:
//! - No protocol knows the queue: whatever enqueues goes through
//!   [`nobat_serving::Predictor`].
//! - The gateway never links ONNX Runtime and never depends on the worker.
//! - Every refusal carries a code and the request id.

mod access;
mod bodies;
pub mod body;
mod changes;
pub mod config;
mod connection;
mod console;
pub mod context;
mod cookie;
mod docs;
mod endpoint;
pub mod error;
pub mod exporter;
#[doc(hidden)]
pub mod fuzz;
pub mod grpc;
mod health;
mod http;
mod idempotency;
mod large;
pub mod metrics;
pub mod middleware;
mod native;
mod openai;
mod openapi;
pub mod origin;
mod path;
mod prefer;
mod process;
pub mod proto;
mod query;
mod rerank;
mod respond;
mod root;
pub mod routes;
pub mod rows;
mod sagemaker;
pub mod server;
mod shape;
pub mod state;
mod table;
mod tei;
#[cfg(test)]
mod test_models;
mod text;
mod tfserving;
pub mod tls;
pub mod v2;

pub use config::GatewayConfig;
pub use process::{Args, GatewayFlags, run};
pub use server::{Gateway, GatewayHandle};
