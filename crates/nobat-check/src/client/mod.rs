//! A served model as its callers see it, over any of the protocols that servers speak.
//!
//! [`Target::prepare`] makes a request's bytes once, [`Target::send`] sends them as often as
//! wanted over kept connections, and [`Reply::outputs`] reads an answer where someone looks at
//! it: a load test pays for neither. What a server does wrong is part of the reply, never an
//! error of the call.
//!
//! `describe` asks a server what a model takes; `discover` finds the protocols it speaks.

mod answer;
mod ask;
mod body;
mod call;
mod describe;
mod description;
mod discover;
mod grpc;
mod http;
mod protocol;
mod reply;
mod target;
mod template;
mod workers;

pub use call::{HttpCall, Prepared};
pub use description::ModelDescription;
pub use discover::{Served, ServerKind, grpc_beside};
pub use protocol::CallProtocol;
pub use reply::{Reply, ReplyStatus, ServerTimings};
pub use target::{Target, TargetSettings};
pub use template::JsonTemplate;
pub use workers::{HeldVersion, ServingWorker};
