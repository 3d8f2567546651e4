//! The Open Inference Protocol v2, over HTTP and gRPC, against real listeners.

mod grpc;
mod http;
mod support;
