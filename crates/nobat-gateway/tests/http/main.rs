//! The gateway's HTTP protocols against a real listener, over the embedded
//! queue, with a scripted worker in place of ONNX Runtime.

mod bad_input;
mod bodies;
mod connections;
mod console;
mod every_route;
mod harness;
mod jobs;
mod names;
mod search;
mod serving;
mod snapshot;
mod tables;
