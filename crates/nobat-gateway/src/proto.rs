//! The gRPC messages and service, generated from `proto/grpc_service.proto`
//! by `cargo run -p nobat-codegen`.
#![allow(missing_docs, unreachable_pub, clippy::all)]

include!("generated/inference.rs");

pub use nobat_core::oip::*;

/// The encoded descriptors of the service and its messages, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!("generated/inference.fds");
