//! Files with bytes changed; the same ones in every run.

/// Numbers that look random and are the same in every run.
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % end.max(1)
    }
}

/// The bytes with a few of them changed, cut out or doubled, more often at the beginning.
pub(crate) fn mutated(mut bytes: Vec<u8>, numbers: &mut Numbers) -> Vec<u8> {
    for _ in 0..=numbers.below(6) {
        // Headers decide the most, and stand first.
        let reach = if numbers.below(2) == 0 { bytes.len().min(64) } else { bytes.len() };
        let at = numbers.below(reach);
        match numbers.below(5) {
            0 if at < bytes.len() => bytes[at] = numbers.below(256) as u8,
            1 if at < bytes.len() => bytes[at] ^= 1 << numbers.below(8),
            2 if at < bytes.len() => bytes[at] = [0, 0x7F, 0x80, 0xFF][numbers.below(4)],
            3 => {
                let end = (at + numbers.below(16)).min(bytes.len());
                bytes.drain(at.min(end)..end);
            }
            _ => {
                let end = (at + numbers.below(32)).min(bytes.len());
                let part = bytes[at.min(end)..end].to_vec();
                let to = numbers.below(bytes.len());
                bytes.splice(to..to, part);
            }
        }
    }
    bytes
}
