//! Tensors to JSON, printed straight into one buffer.
//!
//! Floats print in their shortest form and whole ones with `.0`, as TensorFlow
//! Serving prints them. NaN and infinities, which JSON has not, print as
//! `null`: an answer is always JSON. Bytes print as text when they are UTF-8
//! and the output's name does not end in `_bytes`, else as `{"b64": …}`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::tensor::{Datatype, Tensor, take_bytes_element};

/// One tensor, nested by its shape.
pub fn tensor(out: &mut Vec<u8>, tensor: &Tensor) {
    Printer::new(tensor).nested(out, &tensor.shape);
}

/// One tensor's elements as a flat list.
pub fn flat(out: &mut Vec<u8>, tensor: &Tensor) {
    let count = tensor.elements().unwrap_or(0);
    Printer::new(tensor).list(out, count);
}

/// The members with which a tensor begins in the Open Inference Protocol: its name,
/// datatype and shape, without braces.
pub fn header(out: &mut Vec<u8>, tensor: &Tensor) {
    out.extend_from_slice(b"\"name\":");
    string(out, &tensor.name);
    out.extend_from_slice(b",\"datatype\":\"");
    out.extend_from_slice(tensor.datatype.as_str().as_bytes());
    out.extend_from_slice(b"\",\"shape\":[");
    for (axis, &dim) in tensor.shape.iter().enumerate() {
        out.extend_from_slice(if axis == 0 { b"" } else { b"," });
        integer(out, dim);
    }
    out.push(b']');
}

/// A JSON string.
pub fn string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let mut plain = 0;
    for (at, &byte) in text.as_bytes().iter().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.extend_from_slice(&text.as_bytes()[plain..at]);
        plain = at + 1;
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            _ => {
                out.extend_from_slice(b"\\u00");
                out.extend([byte >> 4, byte & 15].map(|digit| b"0123456789abcdef"[usize::from(digit)]));
            }
        }
    }
    out.extend_from_slice(&text.as_bytes()[plain..]);
    out.push(b'"');
}

/// A tensor's elements, taken off the front one after the other.
pub struct Printer<'a> {
    datatype: Datatype,
    always_b64: bool,
    rest: &'a [u8],
}

impl<'a> Printer<'a> {
    /// Begins with the first element.
    pub fn new(tensor: &'a Tensor) -> Printer<'a> {
        Printer { datatype: tensor.datatype, always_b64: tensor.name.ends_with("_bytes"), rest: &tensor.data }
    }

    /// The next elements that this shape calls for, nested by it.
    pub fn nested(&mut self, out: &mut Vec<u8>, shape: &[i64]) {
        match *shape {
            [] => self.elements(out, 1),
            [count] => self.list(out, count as usize),
            [count, ref inner @ ..] => {
                out.push(b'[');
                for at in 0..count {
                    if at > 0 {
                        out.push(b',');
                    }
                    self.nested(out, inner);
                }
                out.push(b']');
            }
        }
    }

    fn list(&mut self, out: &mut Vec<u8>, count: usize) {
        out.push(b'[');
        self.elements(out, count);
        out.push(b']');
    }

    /// `count` elements with commas between them.
    fn elements(&mut self, out: &mut Vec<u8>, count: usize) {
        match self.datatype {
            Datatype::Bool => self.each(out, count, |out, [byte]| {
                out.extend_from_slice(if byte == 0 { b"false" } else { b"true" });
            }),
            Datatype::Uint8 => self.each(out, count, |out, bytes| integer(out, u8::from_le_bytes(bytes))),
            Datatype::Uint16 => self.each(out, count, |out, bytes| integer(out, u16::from_le_bytes(bytes))),
            Datatype::Uint32 => self.each(out, count, |out, bytes| integer(out, u32::from_le_bytes(bytes))),
            Datatype::Uint64 => self.each(out, count, |out, bytes| integer(out, u64::from_le_bytes(bytes))),
            Datatype::Int8 => self.each(out, count, |out, bytes| integer(out, i8::from_le_bytes(bytes))),
            Datatype::Int16 => self.each(out, count, |out, bytes| integer(out, i16::from_le_bytes(bytes))),
            Datatype::Int32 => self.each(out, count, |out, bytes| integer(out, i32::from_le_bytes(bytes))),
            Datatype::Int64 => self.each(out, count, |out, bytes| integer(out, i64::from_le_bytes(bytes))),
            Datatype::Fp16 => self.each(out, count, |out, bytes| float(out, half::f16::from_le_bytes(bytes).to_f32())),
            Datatype::Bf16 => self.each(out, count, |out, bytes| float(out, half::bf16::from_le_bytes(bytes).to_f32())),
            Datatype::Fp32 => self.each(out, count, |out, bytes| float(out, f32::from_le_bytes(bytes))),
            Datatype::Fp64 => self.each(out, count, |out, bytes| float(out, f64::from_le_bytes(bytes))),
            Datatype::Bytes => {
                for at in 0..count {
                    if at > 0 {
                        out.push(b',');
                    }
                    // The tensor was checked when it was decoded: its framing is whole.
                    let element = take_bytes_element(&mut self.rest).unwrap_or_default();
                    match std::str::from_utf8(element) {
                        Ok(text) if !self.always_b64 => string(out, text),
                        _ => {
                            out.extend_from_slice(b"{\"b64\":");
                            string(out, &STANDARD.encode(element));
                            out.push(b'}');
                        }
                    }
                }
            }
        }
    }

    #[inline]
    fn each<const SIZE: usize>(&mut self, out: &mut Vec<u8>, count: usize, print: impl Fn(&mut Vec<u8>, [u8; SIZE])) {
        let (these, rest) = self.rest.split_at(count * SIZE);
        self.rest = rest;
        for (at, &element) in these.as_chunks().0.iter().enumerate() {
            if at > 0 {
                out.push(b',');
            }
            print(out, element);
        }
    }
}

/// An integer.
#[inline]
pub fn integer(out: &mut Vec<u8>, value: impl itoa::Integer) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// A float in its shortest form, whole ones with `.0`, NaN and infinities as `null`.
#[inline]
pub fn float<F: ryu::Float + Into<f64> + Copy>(out: &mut Vec<u8>, value: F) {
    if value.into().is_finite() {
        out.extend_from_slice(ryu::Buffer::new().format_finite(value).as_bytes());
    } else {
        out.extend_from_slice(b"null");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::{Reader, decode};
    use crate::tensor::put_bytes_element;
    use proptest::prelude::*;

    fn fp32(name: &str, shape: &[i64], values: &[f32]) -> Tensor {
        let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Tensor { name: name.into(), datatype: Datatype::Fp32, shape: shape.into(), data: data.into() }
    }

    fn print(output: &Tensor) -> String {
        let mut out = Vec::new();
        super::tensor(&mut out, output);
        String::from_utf8(out).expect("JSON is UTF-8")
    }

    #[test]
    fn an_answer_is_json_whatever_the_model_says() {
        let floats = fp32("x", &[4], &[f32::NAN, f32::INFINITY, -0.0, 1e-7]);
        assert_eq!(print(&floats), "[null,null,-0.0,1e-7]");
        let mut data = Vec::new();
        for element in [&b"a\"\n\x01"[..], b"\xff"] {
            put_bytes_element(&mut data, element);
        }
        let bytes = Tensor { name: "text".into(), datatype: Datatype::Bytes, shape: [2][..].into(), data: data.into() };
        assert_eq!(print(&bytes), r#"["a\"\n\u0001",{"b64":"/w=="}]"#);
        let named = Tensor { name: "image_bytes".into(), ..bytes };
        assert_eq!(print(&named), r#"[{"b64":"YSIKAQ=="},{"b64":"/w=="}]"#);
    }

    proptest! {
        #[test]
        fn a_tensor_reads_back(
            datatype in prop::sample::select(&[Datatype::Bool, Datatype::Uint64, Datatype::Int64, Datatype::Int8, Datatype::Fp16, Datatype::Fp32, Datatype::Fp64][..]),
            shape in prop::collection::vec(1i64..4, 0..4), seed: u64,
        ) {
            let count = shape.iter().product::<i64>() as usize;
            let mut state = seed;
            let mut data: Vec<u8> = (0..count * datatype.size().expect("fixed")).map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 56) as u8
            }).collect();
            if datatype == Datatype::Bool {
                data.iter_mut().for_each(|byte| *byte &= 1);
            }
            let tensor = Tensor { name: "x".into(), datatype, shape: shape[..].into(), data: data.clone().into() };
            prop_assume!(tensor.first_non_finite().is_none());
            let mut text = Vec::new();
            super::tensor(&mut text, &tensor);
            let mut found = Vec::new();
            let found_shape = decode::read(&mut Reader::new(&text), datatype, &mut found, "x").expect("well formed");
            prop_assert_eq!(&found_shape[..], &shape[..]);
            prop_assert_eq!(found, data);
        }

        #[test]
        fn strings_print_as_serde_json_reads_them(text in "\\PC*|[\\x00-\\x7f]*") {
            let mut out = Vec::new();
            string(&mut out, &text);
            prop_assert_eq!(serde_json::from_slice::<String>(&out).expect("valid"), text);
        }
    }
}
