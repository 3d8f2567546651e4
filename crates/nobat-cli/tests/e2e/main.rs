//! End to end: real processes, a real Redis, the real digits model.

#[path = "../rig/mod.rs"]
mod rig;

mod answers;
mod bad_input;
mod bench;
mod canaries;
mod chains;
mod demo;
mod doctor;
mod drift;
mod first_day;
mod life;
mod recording;
mod rollouts;
mod scheduled;
mod tables;
mod testing;
mod texts;
mod tools;
