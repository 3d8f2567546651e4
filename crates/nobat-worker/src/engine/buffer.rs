//! A reused byte buffer aligned for any tensor datatype and for vector loads.

use bytemuck::{Pod, Zeroable};

/// One cache line; gives the allocation its alignment.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// Largest allocation kept between batches; one rare huge batch must not hold
/// its memory for ever.
const KEEP_BYTES: usize = 32 << 20;

/// Bytes to fill from the front, 64-byte aligned.
#[derive(Default)]
pub(crate) struct Buffer {
    lines: Vec<Line>,
    len: usize,
}

impl Buffer {
    /// Empties the buffer and makes room for `bytes`.
    pub(crate) fn reset(&mut self, bytes: usize) {
        let lines = bytes.div_ceil(64);
        if self.lines.len() > KEEP_BYTES / 64 && lines <= self.lines.len() / 2 {
            self.lines = Vec::new();
        }
        if self.lines.len() < lines {
            self.lines.resize(lines, Line::zeroed());
        }
        self.len = 0;
    }

    /// Appends bytes within the room that [`Buffer::reset`] made.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        let all: &mut [u8] = bytemuck::cast_slice_mut(&mut self.lines);
        all[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.lines)[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pushed_bytes_read_back_aligned_and_a_reset_empties() {
        let mut buffer = Buffer::default();
        buffer.reset(100);
        buffer.push(&[1; 60]);
        buffer.push(&[2; 40]);
        assert_eq!(buffer.bytes()[..60], [1; 60]);
        assert_eq!(buffer.bytes()[60..], [2; 40]);
        assert_eq!(buffer.bytes().as_ptr() as usize % 64, 0);
        buffer.reset(1);
        assert!(buffer.bytes().is_empty());
    }

    #[test]
    fn a_huge_batch_does_not_keep_its_memory() {
        let mut buffer = Buffer::default();
        buffer.reset(2 * KEEP_BYTES);
        buffer.reset(64);
        assert_eq!(buffer.lines.len(), 1);
    }
}
