//! The gateway: protocols in front of the queue.
//!
//! One request's way is the order of the modules: a protocol under [`routes`]
//! decodes into `InferRequest` ([`body`], `json`), [`predict`] resolves the
//! model in the [`registry`], validates, caches, admits and enqueues, the
//! protocol encodes the answer or the [`error`].
//!
//! Invariants:
//! - No protocol knows the queue: whatever enqueues goes through
//!   [`predict::Predictor`].
//! - The gateway never links ONNX Runtime and never depends on the worker: what
//!   it knows of a model is the signature that workers publish.
//! - A bad tensor never reaches the queue, and every refusal carries a code and
//!   the request id.
//! - Hot paths hold no lock: the registry is read through one atomic load.

mod access;
pub mod auth;
pub mod body;
pub mod caches;
pub mod config;
mod connection;
pub mod context;
pub mod edge;
pub mod error;
pub mod exposition;
#[doc(hidden)]
pub mod fuzz;
pub mod grpc;
mod health;
mod http;
pub mod json;
pub mod limits;
pub mod meters;
pub mod monitor;
pub mod origin;
pub mod outbound;
mod periodic;
pub mod predict;
pub mod readiness;
pub mod registry;
pub mod routes;
pub mod routing;
pub mod server;
pub mod state;
mod timing;
pub mod tls;
pub mod v2;
pub mod webhook;

pub use config::GatewayConfig;
pub use server::{Gateway, GatewayHandle};
