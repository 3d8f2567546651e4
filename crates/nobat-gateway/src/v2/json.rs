//! The JSON documents of an inference request and its answer.
//!
//! Reading is one pass: tensor data goes straight into its final buffer (the
//! parser is [`crate::json`]'s). Members may stand in any order; data that
//! stands before its datatype is skipped once and read when the datatype is known.

use std::borrow::Cow;

use bytes::Bytes;
use nobat_core::tensor::{Datatype, Shape, Tensor};
use nobat_core::{Error, ErrorCode, Result};
use smol_str::SmolStr;

use super::binary::Blobs;
use super::outputs::{Output, Requested};
use super::parameters::{OutputParameters, RequestParameters, Value, binary_data_size, clip};
use crate::json::{Number, Reader, tensor, write};

/// A request's document with its tensors, binary ones included.
#[derive(Debug, PartialEq)]
pub(crate) struct Document {
    pub id: String,
    pub parameters: RequestParameters,
    pub inputs: Vec<Tensor>,
    pub requested: Vec<Requested>,
}

/// Reads a document; binary tensors are taken from `blobs`, all of it.
///
/// # Errors
/// `invalid_json`, `invalid_parameter`, `invalid_tensor`, `unsupported`.
pub(crate) fn read(text: &[u8], mut blobs: Blobs) -> Result<Document> {
    let mut reader = Reader::new(text);
    let mut document =
        Document { id: String::new(), parameters: RequestParameters::default(), inputs: vec![], requested: vec![] };
    let mut has_inputs = false;
    reader.expect(b'{', "the body")?;
    let mut first = true;
    while let Some(key) = reader.next_key(&mut first, "the body")? {
        if reader.null() {
            continue;
        }
        match &*key {
            "id" => document.id = reader.string("`id`")?.into_owned(),
            "parameters" => {
                let values = parameters(&mut reader, "`parameters`")?;
                document.parameters = RequestParameters::read(given(&values), false)?;
            }
            "inputs" => {
                has_inputs = true;
                each(&mut reader, "`inputs`", |reader, place| {
                    document.inputs.push(input(reader, place, &mut blobs)?);
                    Ok(())
                })?;
            }
            "outputs" => each(&mut reader, "`outputs`", |reader, place| {
                document.requested.push(output(reader, place)?);
                Ok(())
            })?,
            _ => reader.skip_value("the body")?,
        }
    }
    reader.end()?;
    blobs.finish()?;
    if !has_inputs {
        return Err(Error::new(ErrorCode::InvalidJson, "the body has no `inputs`; it takes a list of tensors"));
    }
    Ok(document)
}

/// An answer's body.
#[derive(Debug, PartialEq)]
pub(crate) struct Body {
    pub bytes: Vec<u8>,
    /// Length of the document when tensor bytes follow it.
    pub document: Option<usize>,
}

/// Writes an answer, the tensors that are wanted in binary after its document.
/// `binary` is the wish for outputs that say nothing themselves; an empty `id`
/// is left out.
pub(crate) fn write(id: &str, model: &str, version: &str, outputs: &[Output], binary: bool) -> Body {
    let is_binary = |output: &Output| output.binary.unwrap_or(binary);
    let room: usize =
        outputs.iter().map(|output| 160 + output.tensor.data.len() * if is_binary(output) { 1 } else { 4 }).sum();
    let mut out = Vec::with_capacity(room + 160);
    out.push(b'{');
    if !id.is_empty() {
        member(&mut out, "id", id);
        out.push(b',');
    }
    member(&mut out, "model_name", model);
    out.push(b',');
    member(&mut out, "model_version", version);
    out.extend_from_slice(b",\"outputs\":[");
    for (at, output) in outputs.iter().enumerate() {
        let tensor = &output.tensor;
        out.extend_from_slice(if at == 0 { b"{" } else { b",{" });
        member(&mut out, "name", &tensor.name);
        out.push(b',');
        member(&mut out, "datatype", tensor.datatype.as_str());
        out.extend_from_slice(b",\"shape\":[");
        let mut digits = itoa::Buffer::new();
        for (axis, &dim) in tensor.shape.iter().enumerate() {
            out.extend_from_slice(if axis == 0 { b"" } else { b"," });
            out.extend_from_slice(digits.format(dim).as_bytes());
        }
        if is_binary(output) {
            out.extend_from_slice(b"],\"parameters\":{\"binary_data_size\":");
            out.extend_from_slice(digits.format(tensor.data.len()).as_bytes());
            out.extend_from_slice(b"}}");
        } else {
            out.extend_from_slice(b"],\"data\":");
            // The writer reads a meaning into the names of bytes tensors that
            // this protocol does not have.
            write::flat(&mut out, &Tensor { name: SmolStr::default(), ..tensor.clone() });
            out.push(b'}');
        }
    }
    out.extend_from_slice(b"]}");
    let document = out.len();
    outputs.iter().filter(|output| is_binary(output)).for_each(|output| out.extend_from_slice(&output.tensor.data));
    // With nothing after the document there is no header: clients then read the
    // whole body as JSON, and find binary sizes of 0 in it.
    Body { document: (out.len() > document).then_some(document), bytes: out }
}

fn member(out: &mut Vec<u8>, name: &str, value: &str) {
    write::string(out, name);
    out.push(b':');
    write::string(out, value);
}

/// Steps through a list, naming each element's place.
fn each(reader: &mut Reader<'_>, place: &str, mut step: impl FnMut(&mut Reader<'_>, &str) -> Result<()>) -> Result<()> {
    reader.expect(b'[', place)?;
    let mut first = true;
    let mut at = 0usize;
    let name = place.trim_matches('`');
    while reader.next_element(&mut first, place)? {
        step(reader, &format!("{name}[{at}]"))?;
        at += 1;
    }
    Ok(())
}

fn input(reader: &mut Reader<'_>, place: &str, blobs: &mut Blobs) -> Result<Tensor> {
    let mut name: Option<SmolStr> = None;
    let mut datatype = None;
    let mut shape: Option<Shape> = None;
    let mut size = None;
    let mut data: Option<(Shape, Vec<u8>)> = None;
    let mut later = None;
    reader.expect(b'{', place)?;
    let mut first = true;
    while let Some(key) = reader.next_key(&mut first, place)? {
        if reader.null() {
            continue;
        }
        match &*key {
            "name" => name = Some(SmolStr::new(reader.string(place)?)),
            "datatype" => datatype = Some(parse_datatype(&reader.string(place)?, place)?),
            "shape" => shape = Some(read_shape(reader, &format!("{place}.shape"))?),
            "parameters" => size = binary_data_size(given(&parameters(reader, &format!("{place}.parameters"))?))?,
            "data" => match (datatype, &shape) {
                (Some(datatype), Some(shape)) => data = Some(read_data(reader, datatype, shape, place)?),
                _ => {
                    later = Some(*reader);
                    reader.skip_value(place)?;
                }
            },
            _ => reader.skip_value(place)?,
        }
    }
    let missing = |member: &str| Error::new(ErrorCode::InvalidTensor, format!("{place} has no `{member}`"));
    let name = name.ok_or_else(|| missing("name"))?;
    let datatype = datatype.ok_or_else(|| missing("datatype"))?;
    let shape = shape.ok_or_else(|| missing("shape"))?;
    if let Some(mut reader) = later {
        data = Some(read_data(&mut reader, datatype, &shape, place)?);
    }
    let data = match (data, size) {
        (Some(_), Some(_)) => {
            return Err(invalid(format!("input `{}` has both data and binary_data_size; send one", clip(&name))));
        }
        (None, None) => return Err(invalid(format!("input `{}` has neither data nor binary_data_size", clip(&name)))),
        (None, Some(size)) => blobs.take(clip(&name), size)?,
        (Some((nested, data)), None) => {
            if !fits(&nested, &shape) {
                return Err(invalid(format!(
                    "input `{}` has data nested as {:?}; its shape is {:?}",
                    clip(&name),
                    nested.as_slice(),
                    shape.as_slice()
                )));
            }
            Bytes::from(data)
        }
    };
    Ok(Tensor { name, datatype, shape, data })
}

fn read_data(reader: &mut Reader<'_>, datatype: Datatype, shape: &[i64], place: &str) -> Result<(Shape, Vec<u8>)> {
    if matches!(datatype, Datatype::Fp16 | Datatype::Bf16) {
        return Err(invalid(format!("{place} is {datatype}, which JSON cannot carry; send it as binary data")));
    }
    let mut data = Vec::with_capacity(tensor::capacity(datatype, shape, reader));
    let nested = tensor::read(reader, datatype, &mut data, &format!("{place}.data"))?;
    Ok((nested, data))
}

/// Whether data nested so is of this shape: flat, or nested alike up to axes of
/// length 1. The count of elements is checked with the signature.
fn fits(nested: &[i64], shape: &[i64]) -> bool {
    let wide = |shape: &[i64]| shape.iter().copied().filter(|&dim| dim != 1).collect::<Shape>();
    nested.len() <= 1 || nested.contains(&0) || wide(nested) == wide(shape)
}

fn output(reader: &mut Reader<'_>, place: &str) -> Result<Requested> {
    let mut name: Option<SmolStr> = None;
    let mut read = OutputParameters::default();
    reader.expect(b'{', place)?;
    let mut first = true;
    while let Some(key) = reader.next_key(&mut first, place)? {
        if reader.null() {
            continue;
        }
        match &*key {
            "name" => name = Some(SmolStr::new(reader.string(place)?)),
            "parameters" => {
                read = OutputParameters::read(given(&parameters(reader, &format!("{place}.parameters"))?))?;
            }
            _ => reader.skip_value(place)?,
        }
    }
    let name = name.ok_or_else(|| Error::new(ErrorCode::InvalidParameter, format!("{place} has no `name`")))?;
    Ok(Requested { name, parameters: read })
}

fn read_shape(reader: &mut Reader<'_>, place: &str) -> Result<Shape> {
    let mut shape = Shape::new();
    reader.expect(b'[', place)?;
    let mut first = true;
    while reader.next_element(&mut first, place)? {
        if shape.len() == tensor::MAX_RANK {
            return Err(invalid(format!("{place} has more than {} axes", tensor::MAX_RANK)));
        }
        reader.peek();
        let before = *reader;
        let dim = Number::take(reader).and_then(Number::to_i64).ok_or_else(|| {
            invalid(format!("{place} has `{}`; dimensions are whole numbers below 2^63", before.shown()))
        })?;
        shape.push(dim);
    }
    Ok(shape)
}

fn parse_datatype(text: &str, place: &str) -> Result<Datatype> {
    Datatype::parse(text).ok_or_else(|| invalid(format!("{place} has unknown datatype `{}`", clip(text))))
}

type Parameters<'a> = Vec<(Cow<'a, str>, Value)>;

/// A flat object of scalars. Nulls are left out.
fn parameters<'a>(reader: &mut Reader<'a>, place: &str) -> Result<Parameters<'a>> {
    let mut values = Vec::new();
    reader.expect(b'{', place)?;
    let mut first = true;
    while let Some(key) = reader.next_key(&mut first, place)? {
        if !reader.null() {
            values.push((key, scalar(reader, place)?));
        }
    }
    Ok(values)
}

fn scalar(reader: &mut Reader<'_>, place: &str) -> Result<Value> {
    if let Some(value) = reader.boolean() {
        return Ok(Value::Bool(value));
    }
    if reader.peek() == Some(b'"') {
        return Ok(Value::Text(reader.string(place)?.into_owned()));
    }
    match Number::take(reader) {
        Some(number) => Ok(match (number.to_u64(), number.to_i64()) {
            (Some(value), _) => Value::Uint(value),
            (None, Some(value)) => Value::Int(value),
            (None, None) => Value::Double(number.to_f64()),
        }),
        None => Err(reader.unexpected("a number, a string, true or false", place)),
    }
}

fn given<'a>(values: &'a Parameters<'_>) -> impl Iterator<Item = (&'a str, Option<&'a Value>)> {
    values.iter().map(|(name, value)| (&**name, Some(value)))
}

fn invalid(message: String) -> Error {
    Error::new(ErrorCode::InvalidTensor, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v2::binary::{self, Parts};
    use actix_web::http::header::{HeaderMap, HeaderValue};
    use proptest::prelude::*;

    fn parse(json: &str, tail: &[u8]) -> Result<Document> {
        let mut headers = HeaderMap::new();
        headers.insert(binary::HEADER_LENGTH, HeaderValue::from(json.len()));
        match binary::split(&headers, Bytes::from([json.as_bytes(), tail].concat()))? {
            Parts::Document(document, blobs) => read(&document, blobs),
            Parts::Raw(_) => panic!("the document is not empty"),
        }
    }

    fn refusal(json: &str) -> String {
        parse(json, b"").expect_err(json).message
    }

    #[test]
    fn members_may_stand_in_any_order_and_data_flat_or_nested() {
        let flat = r#"{"inputs":[{"name":"x","shape":[2,2],"datatype":"FP32","data":[1,2,3.5,4]}]}"#;
        let nested =
            r#"{"inputs":[{"data":[[1,2],[3.5,4]],"datatype":"FP32","shape":[2,2],"name":"x"}],"id":"a","extra":[{}]}"#;
        let document = parse(nested, b"").expect("nested");
        assert_eq!(document.id, "a");
        assert_eq!(document.inputs, parse(flat, b"").expect("flat").inputs);
        assert!(document.inputs[0].check().is_ok());
        assert!(parse(r#"{"inputs":[{"name":"x","shape":[1,2,1],"datatype":"INT8","data":[[1],[2]]}]}"#, b"").is_ok());
    }

    #[test]
    fn json_and_binary_tensors_mix_and_every_byte_is_accounted_for() {
        let json = r#"{"inputs":[
            {"name":"a","shape":[4],"datatype":"FP16","parameters":{"binary_data_size":8}},
            {"name":"b","shape":[1],"datatype":"BYTES","data":["hi"]},
            {"name":"c","shape":[2],"datatype":"BOOL","parameters":{"binary_data_size":2}}],
            "outputs":[{"name":"y","parameters":{"binary_data":true,"classification":3}},{"name":"z"}],
            "parameters":{"priority":1,"timeout":1000,"binary_data_output":true,"custom":-1.5}}"#;
        let document = parse(json, b"AAAAAAAA\x01\x00").expect("mixed");
        assert_eq!(document.inputs[0].data, "AAAAAAAA");
        assert_eq!(document.inputs[1].data, &b"\x02\0\0\0hi"[..]);
        assert_eq!(document.inputs[2].data, &[1, 0][..]);
        assert_eq!(document.requested[0].parameters, OutputParameters { binary_data: Some(true), classification: 3 });
        assert_eq!((document.parameters.priority, document.parameters.binary_data_output), (255, true));
        assert!(parse(json, b"AAAAAAAA\x01").expect_err("one short").message.contains("1 bytes of the body are left"));
        assert!(parse(json, b"AAAAAAAA\x01\x00\x00").expect_err("one over").message.contains("has 1 more"));
    }

    #[test]
    fn misfits_are_named() {
        let input = |members: &str| format!(r#"{{"inputs":[{{"name":"x",{members}}}]}}"#);
        for (members, wanted) in [
            (r#""shape":[1],"datatype":"FP16","data":[1]"#, "FP16, which JSON cannot carry"),
            (r#""shape":[1],"datatype":"FLOAT","data":[1]"#, "unknown datatype `FLOAT`"),
            (
                r#""shape":[9223372036854775808],"datatype":"FP32","data":[1]"#,
                "dimensions are whole numbers below 2^63",
            ),
            (r#""shape":[1.5],"datatype":"FP32","data":[1]"#, "dimensions are whole numbers"),
            (r#""shape":[2,2],"datatype":"FP32","data":[[1,2,3,4]]"#, "nested as [1, 4]"),
            (r#""shape":[1],"datatype":"FP32""#, "neither data nor binary_data_size"),
            (
                r#""shape":[1],"datatype":"FP32","data":[1],"parameters":{"binary_data_size":4}"#,
                "both data and binary_data_size",
            ),
            (r#""shape":[1],"datatype":"FP32","parameters":{"binary_data_size":-4}"#, "binary_data_size` is -4"),
            (
                r#""shape":[1],"datatype":"FP32","parameters":{"shared_memory_region":"r"}"#,
                "shared memory is not supported",
            ),
            (r#""shape":[1],"data":[1]"#, "inputs[0] has no `datatype`"),
            (r#""datatype":"FP32","data":[1]"#, "inputs[0] has no `shape`"),
        ] {
            let message = refusal(&input(members));
            assert!(message.contains(wanted), "{members}: {message}");
        }
        assert!(refusal(r#"{"id":"a"}"#).contains("no `inputs`"));
        assert!(refusal(r#"{"inputs":[],"parameters":{"triton_x":1}}"#).contains("`triton_x` is not known"));
        let deep = format!(r#"{{"inputs":[{{"name":"x","shape":[1],"datatype":"FP32","data":{}"#, "[".repeat(100_000));
        assert!(refusal(&deep).contains("nested deeper"));
    }

    #[test]
    fn answers_are_json_then_the_binary_tensors_in_order() {
        let output = |name: &str, datatype, data: &'static [u8], binary| Output {
            tensor: Tensor {
                name: name.into(),
                datatype,
                shape: [data.len() as i64].into_iter().collect(),
                data: data.into(),
            },
            binary,
        };
        let outputs = [
            output("a", Datatype::Uint8, &[1, 2], None),
            output("b", Datatype::Bool, &[1], Some(false)),
            output("c\"", Datatype::Int8, &[255], Some(true)),
        ];
        let body = write("i", "m", "1", &outputs, true);
        let at = body.document.expect("tensors follow");
        let json: serde_json::Value = serde_json::from_slice(&body.bytes[..at]).expect("JSON");
        assert_eq!(&body.bytes[at..], [1, 2, 255]);
        assert_eq!(json["id"], "i");
        assert_eq!(json["outputs"][0]["parameters"]["binary_data_size"], 2);
        assert_eq!(json["outputs"][1]["data"], serde_json::json!([true]));
        assert_eq!(json["outputs"][2]["name"], "c\"");
        let plain = write("", "m", "1", &outputs[1..2], true);
        assert_eq!(plain.document, None);
        assert!(!String::from_utf8(plain.bytes).expect("text").contains("\"id\""));
    }

    proptest! {
        #[test]
        fn rubbish_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..64), at in 0usize..64) {
            let mut headers = HeaderMap::new();
            headers.insert(binary::HEADER_LENGTH, HeaderValue::from(at.max(1)));
            if let Ok(Parts::Document(document, blobs)) = binary::split(&headers, bytes.into()) {
                let _ = read(&document, blobs);
            }
        }
    }
}
