//! The HTTP and gRPC edge of nobat.

pub mod body;
pub mod outbound;
