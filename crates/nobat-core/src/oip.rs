//! The Open Inference Protocol v2 messages, generated from `proto/oip.proto`.
//! `bytes` fields are reference-counted slices of the received buffer.
#![allow(missing_docs, unreachable_pub, clippy::all)]

include!(concat!(env!("OUT_DIR"), "/inference.rs"));
