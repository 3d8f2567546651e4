//! A file as the buffer that a protobuf decoder reads, in a window of a fixed
//! size: a model of gigabytes is checked and hashed in a mebibyte of memory.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use prost::bytes::Buf;
use sha2::{Digest, Sha256};

const WINDOW: usize = 1 << 20;

/// A file that is read once, from its beginning.
pub(crate) struct Stream<'a> {
    file: File,
    window: Vec<u8>,
    /// How much of the window was taken already.
    taken: usize,
    /// Bytes of the file that were not in the window yet.
    left: u64,
    /// Hashes what goes through the window; without one, what is skipped is not read.
    hasher: Option<&'a mut Sha256>,
    /// A [`Buf`] cannot return an error: after one, the decoder reads zeros.
    failed: Option<io::Error>,
}

impl<'a> Stream<'a> {
    /// Opens a file; `hasher` sees all of its bytes.
    pub(crate) fn open(path: &Path, hasher: Option<&'a mut Sha256>) -> io::Result<Stream<'a>> {
        let file = File::open(path)?;
        let left = file.metadata()?.len();
        let mut stream = Stream { file, window: Vec::new(), taken: 0, left, hasher, failed: None };
        stream.refill();
        Ok(stream)
    }

    /// Reads what is left.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.advance(self.remaining());
        self.failed.map_or(Ok(()), Err)
    }

    fn refill(&mut self) {
        let size = usize::try_from(self.left).map_or(WINDOW, |left| left.min(WINDOW));
        self.window.clear();
        self.window.resize(size, 0);
        if self.failed.is_none() {
            self.failed = self.file.read_exact(&mut self.window).err();
        }
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&self.window);
        }
        (self.left, self.taken) = (self.left - size as u64, 0);
    }

    fn skip(&mut self, count: usize) {
        if self.failed.is_none() {
            self.failed = self.file.seek(SeekFrom::Current(count as i64)).err();
        }
        self.left -= count as u64;
    }
}

impl Buf for Stream<'_> {
    fn remaining(&self) -> usize {
        self.window.len() - self.taken + self.left as usize
    }

    fn chunk(&self) -> &[u8] {
        &self.window[self.taken..]
    }

    fn advance(&mut self, mut count: usize) {
        assert!(count <= self.remaining(), "a decoder skips no more than there is");
        while count >= self.window.len() - self.taken && self.remaining() > 0 {
            count -= self.window.len() - self.taken;
            self.taken = self.window.len();
            if self.hasher.is_none() {
                self.skip(count);
                count = 0;
            }
            self.refill();
        }
        self.taken += count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes() -> Vec<u8> {
        (0..3 * WINDOW + 17).map(|at| (at / 7) as u8).collect()
    }

    #[test]
    fn every_byte_comes_once_in_order_and_is_hashed() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), bytes()).expect("writes");
        let mut hasher = Sha256::new();
        let mut stream = Stream::open(file.path(), Some(&mut hasher)).expect("opens");
        let mut at = 0;
        for step in [0, 1, WINDOW - 1, 5, WINDOW, 2, WINDOW - 3] {
            assert_eq!(stream.remaining(), bytes().len() - at);
            assert_eq!(stream.chunk()[0], bytes()[at], "at {at}");
            stream.advance(step);
            at += step;
        }
        assert_eq!(stream.chunk()[0], bytes()[at]);
        stream.finish().expect("reads");
        assert_eq!(hasher.finalize(), Sha256::digest(bytes()));
    }

    #[test]
    fn what_is_skipped_is_not_read_and_the_rest_is_right() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), bytes()).expect("writes");
        let mut stream = Stream::open(file.path(), None).expect("opens");
        stream.advance(2 * WINDOW + 100);
        assert_eq!(stream.chunk()[0], bytes()[2 * WINDOW + 100]);
        stream.advance(stream.remaining() - 1);
        assert_eq!(stream.chunk(), &bytes()[bytes().len() - 1..]);
        stream.advance(1);
        assert!(!stream.has_remaining() && stream.chunk().is_empty());
        stream.finish().expect("reads");
    }

    #[test]
    fn a_file_that_is_cut_off_under_the_reader_is_an_error() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), bytes()).expect("writes");
        let stream = Stream::open(file.path(), None).expect("opens");
        file.as_file().set_len(WINDOW as u64).expect("cut off");
        assert!(stream.finish().is_ok(), "what nobody reads is not missed");
        std::fs::write(file.path(), bytes()).expect("writes");
        let mut hasher = Sha256::new();
        let stream = Stream::open(file.path(), Some(&mut hasher)).expect("opens");
        file.as_file().set_len(WINDOW as u64).expect("cut off");
        assert!(stream.finish().is_err());
    }
}
