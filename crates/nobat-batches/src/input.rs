//! The lines of a batch's file. Those that count and those that are asked are told apart in one
//! place, [`is_blank`]: a line that is counted and never asked would be in neither file.

use std::io::{self, BufRead, BufReader, Read};

use tokio::sync::mpsc;

use crate::batch::line::MAX_LINE;

/// What editors of some systems put before the first line of a text.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// Lines with something in them.
pub(crate) fn count_lines(file: impl Read) -> io::Result<u64> {
    let mut count = 0;
    for line in lines(file) {
        count += u64::from(!is_blank(&line?));
    }
    Ok(count)
}

/// The lines of a file, read ahead by a few on a thread that may wait for the disk.
pub(crate) fn read_lines(file: impl Read + Send + 'static) -> mpsc::Receiver<io::Result<Vec<u8>>> {
    let (send, received) = mpsc::channel(4);
    tokio::task::spawn_blocking(move || {
        for line in lines(file) {
            let failed = line.is_err();
            if send.blocking_send(line).is_err() || failed {
                return;
            }
        }
    });
    received
}

/// Whether a line asks for nothing. What is too long was not read to its end.
pub(crate) fn is_blank(line: &[u8]) -> bool {
    line.len() <= MAX_LINE && line.iter().all(u8::is_ascii_whitespace)
}

/// The lines without their ends, each of [`MAX_LINE`] bytes and a little more at most.
fn lines(file: impl Read) -> impl Iterator<Item = io::Result<Vec<u8>>> {
    let mut reader = BufReader::with_capacity(256 << 10, file);
    let mut is_first = true;
    std::iter::from_fn(move || {
        let mut line = Vec::new();
        // A byte too many says that the line is too long; the rest is passed over.
        let read = Read::take(&mut reader, MAX_LINE as u64 + 2).read_until(b'\n', &mut line);
        let read = match read {
            Ok(0) => return None,
            Ok(_) if line.last() != Some(&b'\n') && line.len() > MAX_LINE => reader.skip_until(b'\n').map(drop),
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        };
        if std::mem::take(&mut is_first) && line.starts_with(BYTE_ORDER_MARK) {
            line.drain(..BYTE_ORDER_MARK.len());
        }
        while line.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
            line.pop();
        }
        Some(read.map(|()| line))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(file: &[u8]) -> Vec<Vec<u8>> {
        let all: io::Result<Vec<_>> = lines(file).collect();
        all.expect("memory is read").into_iter().filter(|line| !is_blank(line)).collect()
    }

    #[test]
    fn what_is_counted_is_asked_however_the_file_was_written() {
        let long = [&b" ".repeat(MAX_LINE + 100)[..], b"{}\n{}"].concat();
        let as_long_as_may_be = [&b"a".repeat(MAX_LINE)[..], b"\r\n{}"].concat();
        for (file, count) in [
            (&b""[..], 0),
            (b"\n\r\n \t\n", 0),
            (b"{}\r\n\r\n{}\r\n", 2),
            (b"{}\n{}", 2),
            ("\u{feff}".as_bytes(), 0),
            ("\u{feff}\n{}".as_bytes(), 1),
            (&long, 2),
            (&as_long_as_may_be, 2),
        ] {
            let shown = String::from_utf8_lossy(&file[..file.len().min(20)]);
            assert_eq!(count_lines(file).expect("memory is read"), count, "{shown:?}");
            assert_eq!(asked(file).len() as u64, count, "{shown:?}");
        }
        assert_eq!(asked("\u{feff}{}\n\u{feff}".as_bytes()), [b"{}".to_vec(), "\u{feff}".as_bytes().to_vec()]);
    }
}
