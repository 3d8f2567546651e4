//! Standard output and standard error of a program whose reader may be gone: `println!`
//! and `eprintln!` panic then (`nobat inspect m.onnx | head -1`), these do not.

use std::fmt::Display;
use std::io::{ErrorKind, Result, Write, stderr, stdout};

/// Writes a line to standard output.
///
/// # Errors
/// As [`print_bytes`].
pub fn print(line: impl Display) -> Result<()> {
    print_bytes(format!("{line}\n").as_bytes())
}

/// Writes to standard output; a reader that had enough is no fault of ours.
///
/// # Errors
/// When it cannot be written for another reason, such as a full disk.
pub fn print_bytes(bytes: &[u8]) -> Result<()> {
    let mut out = stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        done => done,
    }
}

/// Writes a line to standard error, where it can be written: there is nowhere else to say that it cannot.
pub fn tell(line: impl Display) {
    drop(stderr().lock().write_all(format!("{line}\n").as_bytes()));
}
