//! The gRPC messages and service, generated from `proto/grpc_service.proto`.
#![allow(missing_docs, unreachable_pub, clippy::all)]

tonic::include_proto!("inference");

pub use nobat_core::oip::*;

/// The encoded descriptors of the service and its messages, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/inference.fds"));
