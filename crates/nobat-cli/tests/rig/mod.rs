//! What the end-to-end and fault tests stand on: real processes on free ports,
//! a plain HTTP client, and models whose answers are known.
//!
//! Every process started here is killed by its id when its handle goes.

#![allow(dead_code, reason = "each test binary uses its part")]

pub(crate) mod chain;
pub(crate) mod golden;
pub(crate) mod http;
pub(crate) mod onnx;
pub(crate) mod process;
pub(crate) mod proxy;

use std::time::{Duration, Instant};

/// Waits until `done`, with a generous bound for slow machines.
pub(crate) fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < end, "not within a minute: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A small random generator, seeded by the test so that a failure repeats.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}
