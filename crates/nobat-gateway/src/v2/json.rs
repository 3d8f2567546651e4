//! The JSON documents of an inference request and its answer.
//!
//! Reading is one pass: tensor data goes straight into its final buffer (the
//! parser is [`nobat_core::json`]'s). Members may stand in any order; data that
//! stands before its datatype is skipped once and read when the datatype is known.

use bytes::Bytes;
use nobat_core::json::{Number, Reader, decode, encode};
use nobat_core::tensor::{Datatype, Shape, Tensor};
use nobat_core::{Error, ErrorCode, Result, clip};
use smol_str::SmolStr;

use super::binary::Blobs;
use super::outputs::{Output, Requested};
use super::parameters::{OutputParameters, RequestParameters, binary_data_size};

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
    reader.object("the body", |reader, member| {
        if reader.null() {
            return Ok(());
        }
        match &*member {
            "id" => document.id = reader.string("`id`")?.into_owned(),
            "parameters" => {
                document.parameters = RequestParameters::read(&reader.parse("`parameters`")?, false)?;
            }
            "inputs" => {
                has_inputs = true;
                reader.list("`inputs`", |reader, at| {
                    document.inputs.push(input(reader, &format!("inputs[{at}]"), &mut blobs)?);
                    Ok(())
                })?;
            }
            "outputs" => reader.list("`outputs`", |reader, at| {
                document.requested.push(output(reader, &format!("outputs[{at}]"))?);
                Ok(())
            })?,
            _ => reader.skip_value("the body")?,
        }
        Ok(())
    })?;
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
        encode::header(&mut out, tensor);
        if is_binary(output) {
            out.extend_from_slice(b",\"parameters\":{\"binary_data_size\":");
            encode::integer(&mut out, tensor.data.len());
            out.extend_from_slice(b"}}");
        } else {
            out.extend_from_slice(b",\"data\":");
            // The writer reads a meaning into the names of bytes tensors that
            // this protocol does not have.
            encode::flat(&mut out, &Tensor { name: SmolStr::default(), ..tensor.clone() });
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
    encode::string(out, name);
    out.push(b':');
    encode::string(out, value);
}

fn input(reader: &mut Reader<'_>, place: &str, blobs: &mut Blobs) -> Result<Tensor> {
    let mut name: Option<SmolStr> = None;
    let mut datatype = None;
    let mut shape: Option<Shape> = None;
    let mut size = None;
    let mut data = None;
    let mut later = None;
    reader.object(place, |reader, member| {
        if reader.null() {
            return Ok(());
        }
        match &*member {
            "name" => name = Some(SmolStr::new(reader.string(place)?)),
            "datatype" => datatype = Some(parse_datatype(&reader.string(place)?, place)?),
            "shape" => shape = Some(read_shape(reader, &format!("{place}.shape"))?),
            "parameters" => size = binary_data_size(&reader.parse(&format!("{place}.parameters"))?)?,
            "data" => match (datatype, &shape) {
                (Some(datatype), Some(shape)) => data = Some(read_data(reader, datatype, shape, place)?),
                _ => {
                    later = Some(*reader);
                    reader.skip_value(place)?;
                }
            },
            _ => reader.skip_value(place)?,
        }
        Ok(())
    })?;
    let missing = |member: &str| invalid(format!("{place} has no `{member}`"));
    let name = name.ok_or_else(|| missing("name"))?;
    let datatype = datatype.ok_or_else(|| missing("datatype"))?;
    let shape = shape.ok_or_else(|| missing("shape"))?;
    if let Some(mut reader) = later {
        data = Some(read_data(&mut reader, datatype, &shape, place)?);
    }
    let data = match (data, size) {
        (Some(data), None) => data,
        (None, Some(size)) => blobs.take(clip(&name), size)?,
        (Some(_), Some(_)) => {
            return Err(invalid(format!("input `{}` has both data and binary_data_size; send one", clip(&name))));
        }
        (None, None) => return Err(invalid(format!("input `{}` has neither data nor binary_data_size", clip(&name)))),
    };
    Ok(Tensor { name, datatype, shape, data })
}

fn read_data(reader: &mut Reader<'_>, datatype: Datatype, shape: &[i64], place: &str) -> Result<Bytes> {
    if matches!(datatype, Datatype::Fp16 | Datatype::Bf16) {
        return Err(invalid(format!("{place} is {datatype}, which JSON cannot carry; send it as binary data")));
    }
    decode::read_data(reader, datatype, shape, &format!("{place}.data")).map(Bytes::from)
}

fn output(reader: &mut Reader<'_>, place: &str) -> Result<Requested> {
    let mut name: Option<SmolStr> = None;
    let mut read = OutputParameters::default();
    reader.object(place, |reader, member| {
        if reader.null() {
            return Ok(());
        }
        match &*member {
            "name" => name = Some(SmolStr::new(reader.string(place)?)),
            "parameters" => read = OutputParameters::read(&reader.parse(&format!("{place}.parameters"))?)?,
            _ => reader.skip_value(place)?,
        }
        Ok(())
    })?;
    let name = name.ok_or_else(|| Error::new(ErrorCode::InvalidParameter, format!("{place} has no `name`")))?;
    Ok(Requested { name, parameters: read })
}

fn read_shape(reader: &mut Reader<'_>, place: &str) -> Result<Shape> {
    let mut shape = Shape::new();
    reader.list(place, |reader, _| {
        if shape.len() == decode::MAX_RANK {
            return Err(invalid(format!("{place} has more than {} axes", decode::MAX_RANK)));
        }
        reader.peek();
        let before = *reader;
        let dim = Number::take(reader).and_then(Number::to_i64);
        shape.push(dim.ok_or_else(|| {
            invalid(format!("{place} has `{}`; dimensions are whole numbers below 2^63", before.shown()))
        })?);
        Ok(())
    })?;
    Ok(shape)
}

fn parse_datatype(text: &str, place: &str) -> Result<Datatype> {
    Datatype::parse(text).ok_or_else(|| invalid(format!("{place} has unknown datatype `{}`", clip(text))))
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
