//! The lines of a batch's file.

use std::io::{self, BufRead, BufReader, Read};

use tokio::sync::mpsc;

use crate::batch::line::MAX_LINE;

/// Lines with something in them.
pub(crate) fn count_lines(file: impl Read) -> io::Result<u64> {
    let mut reader = BufReader::with_capacity(256 << 10, file);
    let (mut lines, mut has_text) = (0, false);
    loop {
        let piece = reader.fill_buf()?;
        if piece.is_empty() {
            return Ok(lines + u64::from(has_text));
        }
        for &byte in piece {
            if byte == b'\n' {
                lines += u64::from(std::mem::take(&mut has_text));
            } else {
                has_text |= !byte.is_ascii_whitespace();
            }
        }
        let read = piece.len();
        reader.consume(read);
    }
}

/// The lines of a file, read ahead by a few on a thread that may wait for the disk.
pub(crate) fn read_lines(file: impl Read + Send + 'static) -> mpsc::Receiver<io::Result<Vec<u8>>> {
    let (send, lines) = mpsc::channel(4);
    tokio::task::spawn_blocking(move || {
        let mut reader = BufReader::with_capacity(256 << 10, file);
        loop {
            let mut line = Vec::new();
            // A byte too many says that the line is too long; the rest is passed over.
            let read = Read::take(&mut reader, MAX_LINE as u64 + 2).read_until(b'\n', &mut line);
            let read = match read {
                Ok(0) => return,
                Ok(_) if line.last() != Some(&b'\n') && line.len() > MAX_LINE => reader.skip_until(b'\n').map(drop),
                Ok(_) => Ok(()),
                Err(error) => Err(error),
            };
            while line.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
                line.pop();
            }
            let failed = read.is_err();
            if send.blocking_send(read.map(|()| line)).is_err() || failed {
                return;
            }
        }
    });
    lines
}
