//! Random bits for what is no secret: ids that a log is searched by, which row is looked at.

use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};

/// 64 bits: a counter per thread through a mixing function, from a random start.
pub(crate) fn random_bits() -> u64 {
    thread_local! {
        static NEXT: Cell<u64> = Cell::new(RandomState::new().hash_one(std::thread::current().id()));
    }
    let mut mixed = NEXT.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
    NEXT.set(mixed);
    // The finalizer of SplitMix64.
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
