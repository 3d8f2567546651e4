//! Random bits for ids, drawn from the system a page at a time and kept by
//! thread: a system call per id costs as much as the rest of an enqueue.

use std::cell::RefCell;

use nobat_core::{Error, ErrorCode, Result};

struct Entropy {
    pool: [u8; 4096],
    used: usize,
}

thread_local! {
    static POOL: RefCell<Entropy> = const { RefCell::new(Entropy { pool: [0; 4096], used: 4096 }) };
}

/// 128 random bits from the system's generator.
///
/// # Errors
/// `internal` when the system gives none.
pub(crate) fn next_u128() -> Result<u128> {
    POOL.with_borrow_mut(|entropy| {
        if entropy.used == entropy.pool.len() {
            let failed = |e| Error::new(ErrorCode::Internal, format!("the system gives no random bits: {e}"));
            getrandom::fill(&mut entropy.pool).map_err(failed)?;
            entropy.used = 0;
        }
        let slot = &mut entropy.pool[entropy.used..entropy.used + 16];
        let mut bits = [0; 16];
        bits.copy_from_slice(slot);
        // Bits that went into an id are not kept.
        slot.fill(0);
        entropy.used += 16;
        Ok(u128::from_le_bytes(bits))
    })
}

#[cfg(test)]
mod tests {
    use super::next_u128;

    #[test]
    fn ids_differ_across_refills_and_threads() {
        let draw = || (0..1_000).map(|_| next_u128().expect("random bits")).collect::<Vec<_>>();
        let mut all: Vec<u128> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(draw)).collect();
            threads.into_iter().flat_map(|thread| thread.join().expect("a thread")).collect()
        });
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 4_000);
    }
}
