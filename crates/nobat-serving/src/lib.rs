//! Serving: one prediction's way, whatever its protocol.
//!
//! Owns who may come in ([`admission`], [`auth`], [`limits`]), which models there are
//! ([`registry`], [`loading`], [`statistics`]), whether their rows still look like their profiles ([`drift`]), what a name means ([`routing`]), the
//! result caches ([`cache`]), the way of a prediction into the queue and back
//! ([`predictor`]), the recording of requests ([`record`]), jobs and queues as protocols see them ([`jobs`], [`operations`], [`queues`]), the log of changes ([`audit`]) and the watch over
//! the deployment ([`monitor`], [`readiness`], [`metrics`]). It deliberately knows no
//! HTTP, no gRPC and no ONNX Runtime; a protocol knows this crate and no queue.
//!
//! Invariants:
//! - Whatever enqueues goes through [`predictor::Predictor`].
//! - What is known of a model is the signature that workers publish.
//! - A bad tensor never reaches the queue, and every refusal carries a code.
//! - Hot paths hold no lock: the registry is read through one atomic load.

pub mod admission;
pub mod audit;
pub mod auth;
pub mod bulk;
pub mod cache;
pub mod context;
pub mod dead_letters;
pub mod drift;
#[doc(hidden)]
pub mod fuzz;
pub mod jobs;
pub mod limits;
pub mod loading;
pub mod metrics;
mod model_calls;
pub mod monitor;
pub mod notes;
pub mod operations;
mod pictures;
pub mod prediction;
pub mod predictor;
pub mod queues;
mod random_bits;
pub mod readiness;
pub mod record;
pub mod registry;
pub mod routing;
pub mod serving;
pub mod settings;
mod shared_counts;
pub mod state;
pub mod statistics;
pub mod store;
pub mod timing;
pub mod tokens;

pub use context::RequestContext;
pub use nobat_queue::route_jobs::{queue_of as queue_of_route, shown as shown_model};
pub use nobat_queue::{Accepted, Counts, JobCount, ListFilter, Page, WorkerInfo};
pub use prediction::{Answer, Prediction};
pub use predictor::Predictor;
pub use serving::Serving;
