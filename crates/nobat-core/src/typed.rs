//! Tensors whose elements travel as typed numbers of the Open Inference Protocol's
//! messages, the narrower ones in wider fields, to their little-endian bytes.

use bytes::Bytes;

use crate::error::{Error, ErrorCode, Result};
use crate::oip::InferTensorContents;
use crate::tensor::{Datatype, put_bytes_element};

/// Reads the contents of the input that `name` is; the field that its datatype uses
/// may be filled, and no other.
///
/// # Errors
/// `invalid_tensor` for another field, a number that the datatype cannot hold, and a
/// datatype that has no field.
pub fn read(name: &str, datatype: Datatype, contents: &InferTensorContents) -> Result<Bytes> {
    macro_rules! numbers {
        ($field:ident, $number:ty) => {
            (
                stringify!($field),
                narrowed(&contents.$field, |&value| <$number>::try_from(value).ok().map(<$number>::to_le_bytes)),
            )
        };
    }
    let (field, data) = match datatype {
        Datatype::Bool => ("bool_contents", Ok(contents.bool_contents.iter().map(|&value| u8::from(value)).collect())),
        Datatype::Uint8 => numbers!(uint_contents, u8),
        Datatype::Uint16 => numbers!(uint_contents, u16),
        Datatype::Uint32 => numbers!(uint_contents, u32),
        Datatype::Uint64 => numbers!(uint64_contents, u64),
        Datatype::Int8 => numbers!(int_contents, i8),
        Datatype::Int16 => numbers!(int_contents, i16),
        Datatype::Int32 => numbers!(int_contents, i32),
        Datatype::Int64 => numbers!(int64_contents, i64),
        Datatype::Fp32 => numbers!(fp32_contents, f32),
        Datatype::Fp64 => numbers!(fp64_contents, f64),
        Datatype::Bytes => {
            let mut out = Vec::with_capacity(contents.bytes_contents.iter().map(|element| element.len() + 4).sum());
            contents.bytes_contents.iter().for_each(|element| put_bytes_element(&mut out, element));
            ("bytes_contents", Ok(out))
        }
        Datatype::Fp16 | Datatype::Bf16 => {
            let why = "which has no typed contents; send it in raw_input_contents";
            return Err(invalid(format!("input `{name}` is {datatype}, {why}")));
        }
    };
    if let Some(other) = filled(contents).find(|&other| other != field) {
        return Err(invalid(format!("input `{name}` is {datatype} and has {other}; it takes {field}")));
    }
    let data = data.map_err(|value| invalid(format!("input `{name}` has {value}, which {datatype} cannot hold")))?;
    Ok(data.into())
}

/// Each value's bytes, or the first value that has none.
fn narrowed<W: ToString, const SIZE: usize>(
    values: &[W],
    bytes: impl Fn(&W) -> Option<[u8; SIZE]>,
) -> Result<Vec<u8>, String> {
    let mut out = Vec::with_capacity(values.len() * SIZE);
    for value in values {
        out.extend_from_slice(&bytes(value).ok_or_else(|| value.to_string())?);
    }
    Ok(out)
}

/// Names of the fields that hold anything.
fn filled(contents: &InferTensorContents) -> impl Iterator<Item = &'static str> + use<> {
    let fields = [
        ("bool_contents", contents.bool_contents.len()),
        ("uint_contents", contents.uint_contents.len()),
        ("uint64_contents", contents.uint64_contents.len()),
        ("int_contents", contents.int_contents.len()),
        ("int64_contents", contents.int64_contents.len()),
        ("fp32_contents", contents.fp32_contents.len()),
        ("fp64_contents", contents.fp64_contents.len()),
        ("bytes_contents", contents.bytes_contents.len()),
    ];
    fields.into_iter().filter(|(_, count)| *count > 0).map(|(name, _)| name)
}

fn invalid(message: String) -> Error {
    Error::new(ErrorCode::InvalidTensor, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ints(values: &[i32]) -> InferTensorContents {
        InferTensorContents { int_contents: values.to_vec(), ..Default::default() }
    }

    #[test]
    fn typed_contents_become_little_endian_bytes() {
        let typed = |datatype, contents: InferTensorContents| read("x", datatype, &contents).expect("fits");
        let uints = InferTensorContents { uint_contents: vec![1, 65535], ..Default::default() };
        assert_eq!(typed(Datatype::Int8, ints(&[-1, 2])), &[255, 2][..]);
        assert_eq!(typed(Datatype::Int32, ints(&[1, -2])), &[1, 0, 0, 0, 254, 255, 255, 255][..]);
        assert_eq!(typed(Datatype::Uint16, uints), &[1, 0, 255, 255][..]);
        let text = vec![Bytes::from_static(b"hi"), Bytes::new()];
        let text = InferTensorContents { bytes_contents: text, ..Default::default() };
        assert_eq!(typed(Datatype::Bytes, text), &[2, 0, 0, 0, b'h', b'i', 0, 0, 0, 0][..]);
        let bools = InferTensorContents { bool_contents: vec![true, false], ..Default::default() };
        assert_eq!(typed(Datatype::Bool, bools), &[1, 0][..]);
    }

    #[test]
    fn typed_contents_that_do_not_fit_are_named() {
        let refused = |datatype| read("x", datatype, &ints(&[200, 1])).expect_err("refused").message;
        assert_eq!(refused(Datatype::Int8), "input `x` has 200, which INT8 cannot hold");
        assert_eq!(refused(Datatype::Fp32), "input `x` is FP32 and has int_contents; it takes fp32_contents");
        assert!(refused(Datatype::Fp16).contains("raw_input_contents"));
    }

    proptest! {
        #[test]
        fn narrow_integers_are_taken_exactly_when_they_fit(value: i32, small in -200i32..200) {
            for value in [value, small] {
                let found = read("x", Datatype::Int8, &ints(&[value])).ok();
                prop_assert_eq!(found, i8::try_from(value).ok().map(|value| Bytes::from(value.to_le_bytes().to_vec())));
            }
        }

        #[test]
        fn floats_keep_their_bits(values: Vec<f32>) {
            let expected: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            let contents = InferTensorContents { fp32_contents: values, ..Default::default() };
            prop_assert_eq!(read("x", Datatype::Fp32, &contents).expect("floats"), expected);
        }
    }
}
