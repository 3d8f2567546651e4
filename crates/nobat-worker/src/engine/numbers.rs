//! Elements as numbers and back, for synthetic input and for comparing outputs.

use nobat_core::tensor::Datatype;

use super::buffer::Buffer;

/// Appends one element: `float` for a datatype with fractions, else `whole`.
pub(crate) fn push(buffer: &mut Buffer, datatype: Datatype, float: f64, whole: i64) {
    match datatype {
        Datatype::Fp16 => buffer.push(&half::f16::from_f64(float).to_le_bytes()),
        Datatype::Bf16 => buffer.push(&half::bf16::from_f64(float).to_le_bytes()),
        Datatype::Fp32 => buffer.push(&(float as f32).to_le_bytes()),
        Datatype::Fp64 => buffer.push(&float.to_le_bytes()),
        Datatype::Bool => buffer.push(&[(whole & 1) as u8]),
        Datatype::Uint8 => buffer.push(&[whole.min(255) as u8]),
        Datatype::Int8 => buffer.push(&[whole.min(127) as u8]),
        Datatype::Uint16 | Datatype::Int16 => buffer.push(&(whole as u16).to_le_bytes()),
        Datatype::Uint32 | Datatype::Int32 => buffer.push(&(whole as u32).to_le_bytes()),
        Datatype::Uint64 | Datatype::Int64 => buffer.push(&whole.to_le_bytes()),
        Datatype::Bytes => {}
    }
}

/// Elements of an output as numbers.
pub fn numbers(datatype: Datatype, raw: &[u8]) -> Vec<f64> {
    macro_rules! read {
        ($type:ty, $size:literal) => {
            raw.as_chunks::<$size>().0.iter().map(|&bytes| <$type>::from_le_bytes(bytes) as f64).collect()
        };
    }
    match datatype {
        Datatype::Bool | Datatype::Uint8 => raw.iter().map(|&byte| f64::from(byte)).collect(),
        Datatype::Int8 => read!(i8, 1),
        Datatype::Uint16 => read!(u16, 2),
        Datatype::Int16 => read!(i16, 2),
        Datatype::Uint32 => read!(u32, 4),
        Datatype::Int32 => read!(i32, 4),
        Datatype::Uint64 => read!(u64, 8),
        Datatype::Int64 => read!(i64, 8),
        Datatype::Fp16 => raw.as_chunks::<2>().0.iter().map(|&b| half::f16::from_le_bytes(b).to_f64()).collect(),
        Datatype::Bf16 => raw.as_chunks::<2>().0.iter().map(|&b| half::bf16::from_le_bytes(b).to_f64()).collect(),
        Datatype::Fp32 => read!(f32, 4),
        Datatype::Fp64 => read!(f64, 8),
        Datatype::Bytes => Vec::new(),
    }
}
