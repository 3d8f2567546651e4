//! The HTTP and gRPC edge of nobat.
