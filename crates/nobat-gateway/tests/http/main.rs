//! The gateway's HTTP protocols against a real listener, over the embedded
//! queue, with a scripted worker in place of ONNX Runtime.

mod bad_input;
mod harness;
mod jobs;
mod serving;
mod snapshot;
