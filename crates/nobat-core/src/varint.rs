//! LEB128 varints and length-prefixed bytes over plain slices.

use prost::encoding::{decode_varint, encode_varint};

/// Appends a varint.
pub fn put_u64(out: &mut Vec<u8>, value: u64) {
    encode_varint(value, out);
}

/// Appends bytes behind their length.
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_u64(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Takes a varint off the front; `None` when truncated or over 64 bits.
pub fn take_u64(input: &mut &[u8]) -> Option<u64> {
    decode_varint(input).ok()
}

/// Takes length-prefixed bytes off the front; `None` when truncated.
pub fn take_bytes<'a>(input: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = usize::try_from(take_u64(input)?).ok()?;
    if len > input.len() {
        return None;
    }
    let (head, tail) = input.split_at(len);
    *input = tail;
    Some(head)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_varint_reads_back(value in any::<u64>()) {
            let mut out = Vec::new();
            put_u64(&mut out, value);
            prop_assert_eq!(take_u64(&mut &out[..]), Some(value));
            prop_assert_eq!(take_u64(&mut &out[..out.len() - 1]), None);
        }
    }
}
