//! Nested JSON lists into a tensor's final little-endian buffer, in one pass.
//!
//! The shape is found on the way: the first complete list of each level fixes
//! that level's length, and every later one must have it.

use std::borrow::Cow;

use smallvec::SmallVec;
use smol_str::SmolStr;

use super::number::Number;
use super::reader::Reader;
use crate::error::{Error, ErrorCode, Result};
use crate::lenient_base64;
use crate::tensor::{Datatype, Shape, Tensor, put_bytes_element};

/// Most axes a tensor may have.
pub const MAX_RANK: usize = 32;

/// Reads one value (a scalar or nested lists of scalars), appends its elements
/// to `data` and returns its shape. `place` names it in messages.
///
/// # Errors
/// `invalid_json` where the text is not JSON; `invalid_tensor` for ragged rows
/// and for values that `datatype` cannot hold.
pub fn read(reader: &mut Reader<'_>, datatype: Datatype, data: &mut Vec<u8>, place: &str) -> Result<Shape> {
    match datatype {
        Datatype::Bool => read_as::<bool>(reader, data, place),
        Datatype::Uint8 => read_as::<u8>(reader, data, place),
        Datatype::Uint16 => read_as::<u16>(reader, data, place),
        Datatype::Uint32 => read_as::<u32>(reader, data, place),
        Datatype::Uint64 => read_as::<u64>(reader, data, place),
        Datatype::Int8 => read_as::<i8>(reader, data, place),
        Datatype::Int16 => read_as::<i16>(reader, data, place),
        Datatype::Int32 => read_as::<i32>(reader, data, place),
        Datatype::Int64 => read_as::<i64>(reader, data, place),
        Datatype::Fp16 => read_as::<half::f16>(reader, data, place),
        Datatype::Bf16 => read_as::<half::bf16>(reader, data, place),
        Datatype::Fp32 => read_as::<f32>(reader, data, place),
        Datatype::Fp64 => read_as::<f64>(reader, data, place),
        Datatype::Bytes => read_as::<BytesElement>(reader, data, place),
    }
}

/// Reads the `data` of a tensor of this shape: its elements flat, or nested alike up
/// to axes of length 1. Whether they are as many as the shape calls for is left to
/// [`Tensor::check`] and the signature.
///
/// # Errors
/// As [`read`]; `invalid_tensor` for data that is nested otherwise.
pub fn read_data(reader: &mut Reader<'_>, datatype: Datatype, shape: &[i64], place: &str) -> Result<Vec<u8>> {
    let mut data = Vec::with_capacity(capacity(datatype, shape, reader));
    let nested = read(reader, datatype, &mut data, place)?;
    let wide = |shape: &[i64]| shape.iter().copied().filter(|&dim| dim != 1).collect::<Shape>();
    if nested.len() > 1 && !nested.contains(&0) && wide(&nested) != wide(shape) {
        let message = format!("{place} is nested as {:?}; the shape is {shape:?}", nested.as_slice());
        return Err(Error::new(ErrorCode::InvalidTensor, message));
    }
    Ok(data)
}

/// A tensor whose `data` stands as JSON text, as in configuration and files.
///
/// # Errors
/// As [`read_data`] and [`Tensor::check`].
pub fn tensor(name: SmolStr, datatype: Datatype, shape: &[i64], data: &str) -> Result<Tensor> {
    let mut reader = Reader::new(data.as_bytes());
    let data = read_data(&mut reader, datatype, shape, &format!("tensor `{name}`"))?;
    reader.end()?;
    let tensor = Tensor { name, datatype, shape: shape.into(), data: data.into() };
    tensor.check()?;
    Ok(tensor)
}

/// Whether the next value is a `{"b64": …}` object, TensorFlow Serving's form
/// of bytes: its first name says.
pub fn is_b64(reader: &Reader<'_>) -> bool {
    begins_with(reader, "b64")
}

/// Whether the next value is a `{"url": …}` object: where a picture is to be had.
pub fn is_url(reader: &Reader<'_>) -> bool {
    begins_with(reader, "url")
}

fn begins_with(reader: &Reader<'_>, member: &str) -> bool {
    let mut ahead = *reader;
    ahead.take(b'{') && ahead.string("").is_ok_and(|name| name == member)
}

/// As [`read`] of BYTES, whose elements may also be `{"url": "…"}`: the element is that
/// address, as if it were given as a string. Who fetches it tells it by its scheme.
///
/// # Errors
/// As [`read`].
pub fn read_pictures(reader: &mut Reader<'_>, data: &mut Vec<u8>, place: &str) -> Result<Shape> {
    read_as::<PictureElement>(reader, data, place)
}

/// Capacity worth reserving before reading: what the signature says one row
/// takes, but no more than the text that is left can hold.
pub fn capacity(datatype: Datatype, dims: &[i64], reader: &Reader<'_>) -> usize {
    let size = datatype.size().unwrap_or(8);
    let row = dims.iter().filter(|&&dim| dim > 0).try_fold(size, |product, &dim| product.checked_mul(dim as usize));
    // The shortest element, with its comma, takes two bytes of text.
    row.unwrap_or(usize::MAX).min(reader.rest().len() / 2 * size)
}

/// Why one element was refused.
enum Refusal {
    /// Not JSON, or JSON of another kind.
    Kind,
    /// A number that the datatype cannot hold.
    Range,
    /// A fraction or an exponent where integers stand.
    Fraction,
    /// An object or text that is not base64 in its form.
    Base64,
    /// An object that is not an address in its form.
    Url,
}

/// One element of a tensor.
trait Element {
    /// The protocol's name of the datatype.
    const NAME: Datatype;
    /// Takes one element off the front and appends its bytes.
    fn read(reader: &mut Reader<'_>, data: &mut Vec<u8>) -> Result<(), Refusal>;
}

fn read_as<E: Element>(reader: &mut Reader<'_>, data: &mut Vec<u8>, place: &str) -> Result<Shape> {
    // Per open list: how many elements it has so far.
    let mut counts: SmallVec<[usize; 8]> = SmallVec::new();
    // Per level: the length that its first complete list had.
    let mut dims: SmallVec<[Option<usize>; 8]> = SmallVec::new();
    // Level at which elements stand; known from the first one on.
    let mut leaf = None;
    loop {
        let before = *reader;
        if reader.take(b'[') {
            if counts.len() == MAX_RANK {
                let message = format!("{place} is nested deeper than {MAX_RANK} levels");
                return Err(Error::new(ErrorCode::InvalidJson, message));
            }
            if leaf.is_some_and(|leaf| counts.len() >= leaf) {
                return Err(ragged(&at(place, &counts), "is a list, where its neighbours are values"));
            }
            counts.push(0);
            if dims.len() < counts.len() {
                dims.push(None);
            }
            if reader.peek() != Some(b']') {
                continue;
            }
            // An empty list has no element; were there one, it would stand here.
            leaf.get_or_insert(counts.len());
        } else {
            if leaf.is_some_and(|leaf| counts.len() < leaf) {
                // The end, or a comma before a bracket: not JSON, rather than ragged.
                if matches!(reader.peek(), None | Some(b']')) {
                    return Err(reader.unexpected("a list", &at(place, &counts)));
                }
                let has = format!("is `{}`, where its neighbours are lists", reader.shown());
                return Err(ragged(&at(place, &counts), &has));
            }
            leaf = Some(counts.len());
            E::read(reader, data).map_err(|refusal| refuse::<E>(refusal, before, &at(place, &counts)))?;
            let Some(count) = counts.last_mut() else { return Ok(Shape::new()) };
            *count += 1;
        }
        // After a value or a `[` with nothing in it: on to the next value, or
        // out of every list that ends here.
        loop {
            if reader.take(b',') {
                break;
            }
            if !reader.take(b']') {
                return Err(reader.unexpected("`,` or `]`", &at(place, &counts)));
            }
            let level = counts.len() - 1;
            let count = counts[level];
            match dims[level] {
                None => dims[level] = Some(count),
                Some(expected) if expected != count => {
                    counts.pop();
                    let has = format!("has {count} elements, where its neighbours have {expected}");
                    return Err(ragged(&at(place, &counts), &has));
                }
                Some(_) => {}
            }
            counts.pop();
            match counts.last_mut() {
                Some(outer) => *outer += 1,
                None => return Ok(dims.iter().map(|dim| dim.unwrap_or(0) as i64).collect()),
            }
        }
    }
}

/// The place of the next value in the open lists, such as `instances[2][17]`.
fn at(place: &str, counts: &[usize]) -> String {
    counts.iter().fold(place.to_owned(), |place, count| format!("{place}[{count}]"))
}

fn refuse<E: Element>(refusal: Refusal, mut value: Reader<'_>, place: &str) -> Error {
    let name = E::NAME;
    value.peek();
    let why = match refusal {
        Refusal::Kind if { value }.skip_value(place).is_err() => {
            return value.unexpected(&format!("a value of {name}"), place);
        }
        Refusal::Kind => format!("not a value of {name}"),
        Refusal::Range => format!("beyond the range of {name}"),
        Refusal::Fraction => format!("not an integer; {name} takes integers"),
        Refusal::Base64 => "not of the form {\"b64\": \"…\"} with base64 in it".to_owned(),
        Refusal::Url => "not of the form {\"url\": \"https://…\"}".to_owned(),
    };
    Error::new(ErrorCode::InvalidTensor, format!("{place} is `{}`, {why}", value.shown()))
}

fn ragged(place: &str, has: &str) -> Error {
    Error::new(ErrorCode::InvalidTensor, format!("ragged tensor: {place} {has}"))
}

fn number<'a>(reader: &mut Reader<'a>) -> Result<Number<'a>, Refusal> {
    reader.peek();
    Number::take(reader).ok_or(Refusal::Kind)
}

macro_rules! floats {
    ($($kind:ty: $name:ident, $read:expr;)*) => {$(
        impl Element for $kind {
            const NAME: Datatype = Datatype::$name;
            #[inline]
            fn read(reader: &mut Reader<'_>, data: &mut Vec<u8>) -> Result<(), Refusal> {
                let value: $kind = $read(number(reader)?);
                if !value.is_finite() {
                    return Err(Refusal::Range);
                }
                data.extend_from_slice(&value.to_le_bytes());
                Ok(())
            }
        }
    )*};
}

floats! {
    f32: Fp32, Number::to_f32;
    f64: Fp64, Number::to_f64;
    half::f16: Fp16, |number: Number<'_>| half::f16::from_f64(number.to_f64());
    half::bf16: Bf16, |number: Number<'_>| half::bf16::from_f64(number.to_f64());
}

macro_rules! integers {
    ($($kind:ty: $name:ident, $read:ident;)*) => {$(
        impl Element for $kind {
            const NAME: Datatype = Datatype::$name;
            #[inline]
            fn read(reader: &mut Reader<'_>, data: &mut Vec<u8>) -> Result<(), Refusal> {
                let number = number(reader)?;
                let refusal = if number.is_integer() { Refusal::Range } else { Refusal::Fraction };
                let value = number.$read().and_then(|value| <$kind>::try_from(value).ok()).ok_or(refusal)?;
                data.extend_from_slice(&value.to_le_bytes());
                Ok(())
            }
        }
    )*};
}

integers! {
    i8: Int8, to_i64;
    i16: Int16, to_i64;
    i32: Int32, to_i64;
    i64: Int64, to_i64;
    u8: Uint8, to_u64;
    u16: Uint16, to_u64;
    u32: Uint32, to_u64;
    u64: Uint64, to_u64;
}

impl Element for bool {
    const NAME: Datatype = Datatype::Bool;
    fn read(reader: &mut Reader<'_>, data: &mut Vec<u8>) -> Result<(), Refusal> {
        data.push(u8::from(reader.boolean().ok_or(Refusal::Kind)?));
        Ok(())
    }
}

/// A BYTES element: a string (its UTF-8), or `{"b64": …}`.
struct BytesElement;

impl Element for BytesElement {
    const NAME: Datatype = Datatype::Bytes;
    fn read(reader: &mut Reader<'_>, data: &mut Vec<u8>) -> Result<(), Refusal> {
        if reader.peek() != Some(b'{') {
            let text = reader.string("").map_err(|_| Refusal::Kind)?;
            put_bytes_element(data, text.as_bytes());
            return Ok(());
        }
        let text = only_member(reader, "b64").ok_or(Refusal::Base64)?;
        let bytes = lenient_base64::decode(text.as_bytes()).ok_or(Refusal::Base64)?;
        put_bytes_element(data, &bytes);
        Ok(())
    }
}

/// A BYTES element, or the address of one: `{"url": …}`.
struct PictureElement;

impl Element for PictureElement {
    const NAME: Datatype = Datatype::Bytes;
    fn read(reader: &mut Reader<'_>, data: &mut Vec<u8>) -> Result<(), Refusal> {
        if reader.peek() != Some(b'{') || !is_url(reader) {
            return BytesElement::read(reader, data);
        }
        let text = only_member(reader, "url").ok_or(Refusal::Url)?;
        put_bytes_element(data, text.as_bytes());
        Ok(())
    }
}

/// The text of an object's only member, which has this name.
fn only_member<'a>(reader: &mut Reader<'a>, wanted: &str) -> Option<Cow<'a, str>> {
    let mut text = None;
    let whole = reader.object("", |reader, name| {
        let is_only = name == wanted && text.is_none();
        text = Some(reader.string("")?);
        if is_only { Ok(()) } else { Err(reader.unexpected("one member", "")) }
    });
    text.filter(|_| whole.is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    fn parse(datatype: Datatype, text: &str) -> Result<(Vec<i64>, Vec<u8>)> {
        let mut data = Vec::new();
        let mut reader = Reader::new(text.as_bytes());
        let shape = read(&mut reader, datatype, &mut data, "x")?;
        reader.end()?;
        Ok((shape.to_vec(), data))
    }

    #[test]
    fn nested_lists_become_row_major_bytes() {
        let (shape, data) = parse(Datatype::Int16, "[[1, 2, 3],\n [4, 5, -6]]").expect("well formed");
        assert_eq!(shape, [2, 3]);
        assert_eq!(data, [1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 0xfa, 0xff]);
        assert_eq!(parse(Datatype::Fp32, "7").expect("a scalar"), (vec![], 7f32.to_le_bytes().to_vec()));
        assert_eq!(parse(Datatype::Fp32, "[]").expect("empty"), (vec![0], vec![]));
        assert_eq!(parse(Datatype::Fp32, "[[], []]").expect("empty rows"), (vec![2, 0], vec![]));
        assert_eq!(parse(Datatype::Bool, "[true,false]").expect("booleans").1, [1, 0]);
        assert_eq!(parse(Datatype::Fp16, "[1, -2]").expect("halves").1, [0, 0x3c, 0, 0xc0]);
        let (shape, data) = parse(Datatype::Bytes, r#"["hé", {"b64": "AA\nE"}]"#).expect("bytes, base64 in lines");
        assert_eq!((shape, &data[..]), (vec![2], &b"\x03\0\0\0h\xc3\xa9\x02\0\0\0\0\x01"[..]));
    }

    #[test]
    fn data_is_flat_or_nested_as_its_shape_but_for_axes_of_one() {
        let read = |shape: &[i64], data: &str| tensor("x".into(), Datatype::Uint8, shape, data);
        for data in ["[1,2,3,4]", "[[1,2],[3,4]]", "[[[1],[2]],[[3],[4]]]"] {
            assert_eq!(&read(&[2, 2], data).expect(data).data[..], [1, 2, 3, 4], "{data}");
        }
        for (shape, data, expected) in [
            (&[2, 2][..], "[[1,2,3,4]]", "tensor `x` is nested as [1, 4]; the shape is [2, 2]"),
            (&[3], "[1,2]", "tensor `x` has 2 bytes; shape [3] of UINT8 needs 3"),
            (&[1], "[256]", "tensor `x`[0] is `256`, beyond the range of UINT8"),
            (&[1], "[1] 2", "`2` at byte 4 of the body, where the body needs the end of the body"),
        ] {
            assert_eq!(read(shape, data).expect_err(data).message, expected);
        }
        assert_eq!(&read(&[], "7").expect("a scalar").data[..], [7]);
    }

    #[test]
    fn a_picture_may_be_an_address_where_pictures_are_taken() {
        let text = r#"["data:,x", {"url": "https://h/p"}, {"b64": "AAE="}]"#;
        let mut data = Vec::new();
        let shape = read_pictures(&mut Reader::new(text.as_bytes()), &mut data, "x").expect("well formed");
        assert_eq!(shape[..], [3]);
        assert_eq!(data, b"\x07\0\0\0data:,x\x0b\0\0\0https://h/p\x02\0\0\0\0\x01");
        assert!(parse(Datatype::Bytes, text).is_err());
        let refused = |text: &str| {
            read_pictures(&mut Reader::new(text.as_bytes()), &mut Vec::new(), "x").expect_err(text).message
        };
        assert_eq!(refused(r#"[{"url": 3}]"#), r#"x[0] is `{"url":`, not of the form {"url": "https://…"}"#);
        assert!(refused(r#"[{"url": "a", "x": "b"}]"#).contains("not of the form"));
    }

    #[test]
    fn each_refusal_names_value_and_place() {
        let cases = [
            (Datatype::Fp32, "[[1,2],[3]]", "ragged tensor: x[1] has 1 elements, where its neighbours have 2"),
            (Datatype::Fp32, "[[1,2],3]", "ragged tensor: x[1] is `3`, where its neighbours are lists"),
            (Datatype::Fp32, "[1,[2]]", "ragged tensor: x[1] is a list, where its neighbours are values"),
            (Datatype::Fp32, "[[1],[]]", "ragged tensor: x[1] has 0 elements, where its neighbours have 1"),
            (Datatype::Fp32, "[[],[1]]", "ragged tensor: x[1] has 1 elements, where its neighbours have 0"),
            (Datatype::Fp32, "[1,\"a\"]", "x[1] is `\"a\"`, not a value of FP32"),
            (Datatype::Fp32, "[null]", "x[0] is `null`, not a value of FP32"),
            (Datatype::Fp32, "[1e39]", "x[0] is `1e39`, beyond the range of FP32"),
            (Datatype::Int8, "[1,128]", "x[1] is `128`, beyond the range of INT8"),
            (Datatype::Uint8, "[-1]", "x[0] is `-1`, beyond the range of UINT8"),
            (Datatype::Int64, "[1.5]", "x[0] is `1.5`, not an integer; INT64 takes integers"),
            (
                Datatype::Bytes,
                "[{\"b64\":\"?\"}]",
                "x[0] is `{\"b64\":\"?\"`, not of the form {\"b64\": \"…\"} with base64 in it",
            ),
            (
                Datatype::Fp32,
                "[NaN]",
                "`NaN` at byte 1 of the body, where x[0] needs a value of FP32; JSON has no NaN and no Infinity",
            ),
            (Datatype::Fp32, "[1,2", "the body ends inside x[2], after 4 bytes"),
            (Datatype::Fp32, "[1,]", "`]` at byte 3 of the body, where x[1] needs a value of FP32"),
            (Datatype::Fp32, "[1 2]", "`2` at byte 3 of the body, where x[1] needs `,` or `]`"),
            (Datatype::Fp32, "[01]", "`01` at byte 1 of the body, where x[0] needs a value of FP32"),
        ];
        for (datatype, text, message) in cases {
            assert_eq!(parse(datatype, text).expect_err(text).message, message, "{text}");
        }
        let deep = "[".repeat(100_000);
        assert_eq!(parse(Datatype::Fp32, &deep).expect_err("deep").message, "x is nested deeper than 32 levels");
        assert!(parse(Datatype::Fp32, "[\u{e9}]").expect_err("not ASCII").message.contains(r"\xc3\xa9"));
    }

    fn elements(value: &Value, out: &mut Vec<f64>) {
        match value {
            Value::Array(items) => items.iter().for_each(|item| elements(item, out)),
            other => out.push(other.as_f64().expect("a number")),
        }
    }

    fn nested(shape: &[usize], next: &mut impl Iterator<Item = f64>) -> Value {
        match shape.split_first() {
            None => serde_json::json!(next.next()),
            Some((&dim, inner)) => (0..dim).map(|_| nested(inner, next)).collect(),
        }
    }

    proptest! {
        #[test]
        fn a_tensor_reads_as_serde_json_reads_it(
            shape in prop::collection::vec(1usize..4, 0..5),
            values in prop::collection::vec(prop::num::f64::NORMAL | prop::num::f64::ZERO, 81),
            pretty: bool,
        ) {
            let tree = nested(&shape, &mut values.into_iter().cycle());
            let text = if pretty { serde_json::to_string_pretty(&tree) } else { serde_json::to_string(&tree) }.expect("finite");
            let (found, data) = parse(Datatype::Fp64, &text).expect("well formed");
            prop_assert_eq!(found, shape.iter().map(|&dim| dim as i64).collect::<Vec<_>>());
            let mut expected = Vec::new();
            elements(&tree, &mut expected);
            prop_assert_eq!(data, expected.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>());
        }

        #[test]
        fn lists_are_taken_exactly_when_rectangular(text in "[\\[\\], 1]{0,16}") {
            fn shape_of(value: &Value) -> Option<Vec<i64>> {
                let Value::Array(items) = value else { return Some(vec![]) };
                let shapes: Option<Vec<_>> = items.iter().map(shape_of).collect();
                let shapes = shapes?;
                let first = shapes.first().cloned().unwrap_or_default();
                shapes.iter().all(|shape| *shape == first).then(|| [vec![items.len() as i64], first].concat())
            }
            let expected = serde_json::from_str::<Value>(&text).ok().as_ref().and_then(shape_of);
            prop_assert_eq!(parse(Datatype::Uint64, &text).ok().map(|(shape, _)| shape), expected);
        }
    }
}
