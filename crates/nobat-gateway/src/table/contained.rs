//! Arrow's readers panic over some damaged files, deep in what they index. Such a file is refused as any other that
//! cannot be read, and nothing is printed: a caller's bad file is no fault of the server's.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

use nobat_core::Result;

use super::layout::invalid;

thread_local! {
    /// Whether this thread is in a reader whose panics are refusals.
    static CONTAINED: Cell<bool> = const { Cell::new(false) };
}

/// Reads; a panic of the reader is `invalid_tensor`.
pub(super) fn contained<T>(read: impl FnOnce() -> Result<T>) -> Result<T> {
    static HOOK: Once = Once::new();
    // The hook that the process has stays in charge of all other panics.
    HOOK.call_once(|| {
        let others = take_hook();
        set_hook(Box::new(move |panic| {
            if !CONTAINED.get() {
                others(panic);
            }
        }));
    });
    CONTAINED.set(true);
    // What it borrows is read only, and what it made is dropped.
    let read = catch_unwind(AssertUnwindSafe(read));
    CONTAINED.set(false);
    read.unwrap_or_else(|_| {
        Err(invalid("the table cannot be read: its parts do not fit together; write it again".into()))
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn a_readers_panic_is_a_refusal_that_nobody_is_told_of_and_others_are_told() {
        static TOLD: AtomicUsize = AtomicUsize::new(0);
        let before = take_hook();
        set_hook(Box::new(move |panic| {
            TOLD.fetch_add(1, Ordering::Relaxed);
            before(panic);
        }));
        let refused = contained(|| -> Result<()> { panic!("an index that is out of bounds") }).expect_err("a panic");
        assert!(refused.message.contains("write it again"), "{}", refused.message);
        assert_eq!((TOLD.load(Ordering::Relaxed), contained(|| Ok(7)).expect("a table")), (0, 7));
        assert!(catch_unwind(|| panic!("this one is told")).is_err());
        assert_eq!(TOLD.load(Ordering::Relaxed), 1);
    }
}
