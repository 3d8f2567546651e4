//! The Open Inference Protocol v2 over gRPC.
//!
//! A thin translation: messages become the same requests that HTTP makes
//! ([`convert`]), the calls are [`service`], and [`server`] runs them on threads
//! of their own, each with its own queue client. What a model says about
//! itself is shared with HTTP and stands in `v2`.

mod admission;
mod codec;
pub(crate) mod convert;
mod server;
mod service;
mod status;
mod tls;

pub(crate) use codec::MessageCodec;
pub use server::GrpcServer;
