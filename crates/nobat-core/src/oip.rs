//! The Open Inference Protocol v2 messages, generated from `proto/oip.proto`
//! by `cargo run -p nobat-codegen`.
//! `bytes` fields are reference-counted slices of the received buffer.
#![allow(missing_docs, unreachable_pub, clippy::all)]

include!("generated/inference.rs");
