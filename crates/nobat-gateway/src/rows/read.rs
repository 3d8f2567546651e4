//! A body to its tensors.

use nobat_core::infer::InferRequest;
use nobat_core::json::{Reader, decode};
use nobat_core::parameters::{Parameter, Parameters};
use nobat_core::signature::{ModelSignature, TensorSpec};
use nobat_core::tensor::{Shape, Tensor};
use nobat_core::{Error, ErrorCode, Result, clip};
use smol_str::SmolStr;

use super::format::Format;
use crate::table::records;

/// The one signature that an ONNX model has, by TensorFlow's name.
const SIGNATURE_NAME: &str = "serving_default";

/// Reads a whole body. `rows` is the member that holds row form: `instances`,
/// or `examples`.
///
/// # Errors
/// `invalid_json`, `invalid_tensor`, `invalid_parameter`, each naming value and
/// place.
pub fn read(body: &[u8], signature: &ModelSignature, rows: &'static str) -> Result<(InferRequest, Format)> {
    let mut reader = Reader::new(body);
    let request = read_from(&mut reader, signature, rows, "the body")?;
    reader.end()?;
    Ok(request)
}

/// Reads one request object off the front of `reader`; `place` names it.
///
/// # Errors
/// As [`read`].
pub fn read_from(
    reader: &mut Reader<'_>,
    signature: &ModelSignature,
    rows: &'static str,
    place: &str,
) -> Result<(InferRequest, Format)> {
    if reader.peek().is_none() {
        let message = format!("{place} is empty; send {{\"{rows}\": […]}}");
        return Err(Error::new(ErrorCode::InvalidJson, message));
    }
    let mut inputs: Option<(Vec<Tensor>, Format)> = None;
    let (mut outputs, mut parameters) = (Vec::new(), Parameters::default());
    reader.object(place, |reader, member| {
        let form = match &*member {
            member if member == rows => Format::Row,
            "inputs" => Format::Column,
            "records" | "dataframe_records" | "dataframe_split" if rows == "instances" => Format::Record,
            "outputs" => return read_names(reader).map(|names| outputs = names),
            "parameters" => return read_parameters(reader).map(|read| parameters = read),
            "signature_name" => return read_signature_name(reader),
            unknown => {
                let table = if rows == "instances" { ", `inputs` or `records`" } else { " or `inputs`" };
                let message = format!(
                    "unknown member `{}` in {place}; give `{rows}`{table}, and optionally `outputs`, `parameters`, `signature_name`",
                    clip(unknown)
                );
                return Err(Error::new(ErrorCode::InvalidJson, message));
            }
        };
        if inputs.is_some() {
            let message = format!("{place} gives its tensors twice; give `{rows}` or `inputs`, once");
            return Err(Error::new(ErrorCode::InvalidJson, message));
        }
        let tensors = match form {
            Format::Row => read_rows(reader, signature, rows)?,
            Format::Column => read_columns(reader, signature)?,
            Format::Record if member == "dataframe_split" => records::read_split(reader, signature, &member)?,
            Format::Record => records::read(reader, signature, &member)?,
        };
        inputs = Some((tensors, form));
        Ok(())
    })?;
    let neither = || Error::new(ErrorCode::InvalidJson, format!("{place} has neither `{rows}` nor `inputs`"));
    let (inputs, form) = inputs.ok_or_else(neither)?;
    Ok((InferRequest { version: SmolStr::default(), inputs, outputs, parameters }, form))
}

fn read_rows(reader: &mut Reader<'_>, signature: &ModelSignature, place: &str) -> Result<Vec<Tensor>> {
    let mut ahead = *reader;
    if !ahead.take(b'[') {
        return Err(reader.unexpected("a list", place));
    }
    if ahead.peek() == Some(b'{') && !is_element(&ahead, signature) {
        return read_objects(reader, signature, place);
    }
    // An object that is a value is a picture's where any is: its bytes or its address.
    let picture = signature.picture_input().filter(|_| ahead.peek() == Some(b'{'));
    let spec = picture.map_or_else(|| bare_input(signature, place), Ok)?;
    read_tensor(reader, spec, signature, place).map(|tensor| vec![tensor])
}

/// Whether an object is a value rather than a row of names: bytes, or a picture's address.
fn is_element(reader: &Reader<'_>, signature: &ModelSignature) -> bool {
    decode::is_b64(reader) || (signature.picture_input().is_some() && decode::is_url(reader))
}

/// Whether this input takes pictures, which may be addresses.
fn takes_pictures(spec: &TensorSpec, signature: &ModelSignature) -> bool {
    signature.picture_input().is_some_and(|input| input.name == spec.name)
}

fn read_value(
    reader: &mut Reader<'_>,
    spec: &TensorSpec,
    pictures: bool,
    data: &mut Vec<u8>,
    place: &str,
) -> Result<Shape> {
    match pictures {
        true => decode::read_pictures(reader, data, place),
        false => decode::read(reader, spec.datatype, data, place),
    }
}

/// Row form with names: a list of objects, one per row.
fn read_objects(reader: &mut Reader<'_>, signature: &ModelSignature, place: &str) -> Result<Vec<Tensor>> {
    let column = |spec| {
        let pictures = takes_pictures(spec, signature);
        Column { spec, pictures, data: Vec::new(), row_shape: None, rows: 0 }
    };
    let mut columns: Vec<Column> = signature.inputs.iter().map(column).collect();
    let mut rows = 0;
    reader.list(place, |reader, row| {
        let mut expected = 0;
        reader.object(place, |reader, name| {
            // Rows usually name their inputs in one order.
            let at = (expected..columns.len()).chain(0..expected).find(|&at| columns[at].spec.name == *name);
            let at = at.ok_or_else(|| unknown_input(signature, &name, &format!("{place}[{row}]")))?;
            expected = at + 1;
            columns[at].read_row(reader, row, place)
        })?;
        rows = row + 1;
        let lacks = |column: &&Column| column.rows != rows && (column.rows > 0 || !column.spec.optional);
        match columns.iter().find(lacks) {
            Some(missing) => Err(invalid(format!("{place}[{row}] lacks input `{}`", missing.spec.name))),
            None => Ok(()),
        }
    })?;
    Ok(columns.into_iter().filter(|column| column.rows > 0).map(|column| column.finish(rows)).collect())
}

/// One input, gathered row by row.
struct Column<'a> {
    spec: &'a TensorSpec,
    pictures: bool,
    data: Vec<u8>,
    row_shape: Option<Shape>,
    rows: usize,
}

impl Column<'_> {
    fn read_row(&mut self, reader: &mut Reader<'_>, row: usize, place: &str) -> Result<()> {
        let name = &self.spec.name;
        if self.rows > row {
            return Err(invalid(format!("{place}[{row}] gives input `{name}` twice")));
        }
        if self.rows < row {
            return Err(invalid(format!("{place}[{row}] gives input `{name}`, which the rows before it lack")));
        }
        if row == 0 {
            self.data.reserve(decode::capacity(self.spec.datatype, &self.spec.shape, reader));
        }
        let place_of_row = format!("{place}[{row}].{name}");
        let mut shape = read_value(reader, self.spec, self.pictures, &mut self.data, &place_of_row)?;
        add_ones(&mut shape, self.spec.shape.get(1..).unwrap_or_default());
        match &self.row_shape {
            None => self.row_shape = Some(shape),
            Some(first) if *first != shape => {
                return Err(invalid(format!(
                    "ragged tensor: {place}[{row}].{name} has shape {:?}, where the rows before it have {:?}",
                    shape.as_slice(),
                    first.as_slice()
                )));
            }
            Some(_) => {}
        }
        self.rows += 1;
        Ok(())
    }

    fn finish(self, rows: usize) -> Tensor {
        let mut shape = self.row_shape.unwrap_or_default();
        shape.insert(0, rows as i64);
        Tensor { name: self.spec.name.clone(), datatype: self.spec.datatype, shape, data: self.data.into() }
    }
}

/// Column form: an object of tensors by name, or one bare tensor.
fn read_columns(reader: &mut Reader<'_>, signature: &ModelSignature) -> Result<Vec<Tensor>> {
    const PLACE: &str = "inputs";
    if reader.peek() != Some(b'{') || is_element(reader, signature) {
        let spec = bare_input(signature, PLACE)?;
        return read_tensor(reader, spec, signature, PLACE).map(|tensor| vec![tensor]);
    }
    let mut tensors: Vec<Tensor> = Vec::with_capacity(signature.inputs.len());
    reader.object(PLACE, |reader, name| {
        let spec = signature.inputs.iter().find(|spec| spec.name == *name);
        let spec = spec.ok_or_else(|| unknown_input(signature, &name, PLACE))?;
        if tensors.iter().any(|tensor| tensor.name == spec.name) {
            return Err(invalid(format!("inputs gives input `{}` twice", spec.name)));
        }
        tensors.push(read_tensor(reader, spec, signature, &format!("{PLACE}.{name}"))?);
        Ok(())
    })?;
    Ok(tensors)
}

fn read_tensor(reader: &mut Reader<'_>, spec: &TensorSpec, signature: &ModelSignature, place: &str) -> Result<Tensor> {
    let mut data = Vec::with_capacity(decode::capacity(spec.datatype, &spec.shape, reader));
    let mut shape = read_value(reader, spec, takes_pictures(spec, signature), &mut data, place)?;
    add_ones(&mut shape, &spec.shape);
    Ok(Tensor { name: spec.name.clone(), datatype: spec.datatype, shape, data: data.into() })
}

/// Adds the last axes that a value leaves out where each can only be 1: a table's
/// column is `[-1, 1]` to a model, and a record says `70` for it rather than `[70]`.
fn add_ones(shape: &mut Shape, wanted: &[i64]) {
    if let Some(left_out) = wanted.get(shape.len()..)
        && left_out.iter().all(|&dim| dim == 1)
    {
        shape.extend_from_slice(left_out);
    }
}

/// The input that values without a name belong to.
fn bare_input<'a>(signature: &'a ModelSignature, place: &str) -> Result<&'a TensorSpec> {
    let mut required = signature.inputs.iter().filter(|spec| !spec.optional);
    match (required.next(), required.next(), &signature.inputs[..]) {
        (Some(only), None, _) | (None, _, [only]) => Ok(only),
        _ => Err(invalid(format!(
            "{place} has bare values, but model `{}` takes several inputs ({}); name each one",
            signature.name,
            input_names(signature)
        ))),
    }
}

fn read_names(reader: &mut Reader<'_>) -> Result<Vec<SmolStr>> {
    let mut names = Vec::new();
    reader.list("outputs", |reader, _| {
        names.push(SmolStr::new(reader.string("outputs")?));
        Ok(())
    })?;
    Ok(names)
}

/// What is set for the model.
fn read_parameters(reader: &mut Reader<'_>) -> Result<Parameters> {
    let members: serde_json::Map<String, serde_json::Value> = reader.parse("`parameters`")?;
    let named = members.iter().filter_map(|(name, value)| Some((name.into(), Parameter::of_json(value)?)));
    Ok(named.collect())
}

fn read_signature_name(reader: &mut Reader<'_>) -> Result<()> {
    let name = reader.string("signature_name")?;
    if name.is_empty() || name == SIGNATURE_NAME {
        return Ok(());
    }
    let message = format!("there is no signature `{}`; a model has one, `{SIGNATURE_NAME}`", clip(&name));
    Err(Error::new(ErrorCode::InvalidParameter, message))
}

fn unknown_input(signature: &ModelSignature, name: &str, place: &str) -> Error {
    let takes = input_names(signature);
    invalid(format!("{place} names input `{}`; model `{}` takes {takes}", clip(name), signature.name))
}

fn input_names(signature: &ModelSignature) -> String {
    let names: Vec<_> = signature.inputs.iter().map(|spec| spec.name.as_str()).collect();
    names.join(", ")
}

fn invalid(message: String) -> Error {
    Error::new(ErrorCode::InvalidTensor, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_models::model;
    use nobat_core::task::{ImageTask, Task, TaskKind};
    use nobat_core::tensor::Datatype;

    fn one() -> ModelSignature {
        model(&[("x", Datatype::Uint8, &[-1, 2], false)])
    }

    fn two() -> ModelSignature {
        model(&[
            ("a", Datatype::Uint8, &[-1, 2], false),
            ("b", Datatype::Bytes, &[-1], false),
            ("c", Datatype::Uint8, &[-1], true),
        ])
    }

    fn message(signature: &ModelSignature, body: &str) -> String {
        read(body.as_bytes(), signature, "instances").expect_err(body).message
    }

    #[test]
    fn rows_and_columns_give_the_same_tensor() {
        for (body, form) in [
            (r#"{"instances": [[1,2],[3,4]]}"#, Format::Row),
            (r#"{"instances": [{"x":[1,2]},{"x":[3,4]}]}"#, Format::Row),
            (r#"{"inputs": [[1,2],[3,4]]}"#, Format::Column),
            (r#" {"signature_name":"serving_default", "inputs": {"x": [[1,2],[3,4]]}} "#, Format::Column),
        ] {
            let (request, found) = read(body.as_bytes(), &one(), "instances").expect(body);
            assert_eq!(found, form);
            assert_eq!((&request.inputs[0].shape[..], &request.inputs[0].data[..]), (&[2, 2][..], &[1, 2, 3, 4][..]));
        }
    }

    #[test]
    fn bare_bytes_are_a_picture_where_texts_may_come_as_well() {
        let mut both = model(&[("image", Datatype::Bytes, &[-1], true), ("text", Datatype::Bytes, &[-1], true)]);
        both.task = Some(Task { image: Some(ImageTask::Embed), ..Task::new(TaskKind::Embed) });
        let body = r#"{"instances": [{"b64": "aGk="}, {"b64": "aGE="}]}"#;
        let (request, _) = read(body.as_bytes(), &both, "instances").expect("pictures");
        assert_eq!((request.inputs[0].name.as_str(), &request.inputs[0].shape[..]), ("image", &[2][..]));
        let (request, _) = read(br#"{"instances": [{"text": "a cat"}]}"#, &both, "instances").expect("a text");
        assert_eq!((request.inputs.len(), request.inputs[0].name.as_str()), (1, "text"));
        assert!(message(&both, r#"{"instances": ["a cat"]}"#).contains("name each one"));
    }

    #[test]
    fn a_scalar_stands_for_a_list_of_one_where_the_model_takes_no_other() {
        let table = model(&[("age", Datatype::Uint8, &[-1, 1], false), ("city", Datatype::Bytes, &[-1, 1], false)]);
        let lists = r#"{"instances": [{"age":[70],"city":["Paris"]},{"age":[7],"city":["Rome"]}]}"#;
        let expected = read(lists.as_bytes(), &table, "instances").expect("lists").0.inputs;
        assert_eq!(expected[1].shape[..], [2, 1]);
        for body in [
            r#"{"instances": [{"age":70,"city":"Paris"},{"age":7,"city":"Rome"}]}"#,
            r#"{"instances": [{"age":70,"city":["Paris"]},{"age":[7],"city":"Rome"}]}"#,
            r#"{"inputs": {"age":[70,7],"city":["Paris","Rome"]}}"#,
        ] {
            assert_eq!(read(body.as_bytes(), &table, "instances").expect(body).0.inputs, expected, "{body}");
        }
        let column = model(&[("x", Datatype::Uint8, &[-1, 1, 1], false)]);
        for body in [r#"{"instances": [1,2]}"#, r#"{"inputs": [[1],[2]]}"#, r#"{"instances": [{"x":1},{"x":2}]}"#] {
            let shape = &read(body.as_bytes(), &column, "instances").expect(body).0.inputs[0].shape;
            assert_eq!(shape[..], [2, 1, 1], "{body}");
        }
        // Where more could stand, nothing is guessed: the signature refuses it later.
        let wide = model(&[("x", Datatype::Uint8, &[-1, -1], false), ("y", Datatype::Uint8, &[-1, 2], false)]);
        let (request, _) = read(br#"{"instances": [{"x":1,"y":2}]}"#, &wide, "instances").expect("well formed");
        assert_eq!((&request.inputs[0].shape[..], &request.inputs[1].shape[..]), (&[1][..], &[1][..]));
    }

    #[test]
    fn rows_of_several_inputs_are_gathered_by_name() {
        let body = r#"{"instances": [{"a":[1,2],"b":"hi"},{"b":{"b64":"AA=="},"a":[3,4]}], "outputs": ["y"]}"#;
        let (request, _) = read(body.as_bytes(), &two(), "instances").expect("well formed");
        assert_eq!(request.outputs, ["y"]);
        assert_eq!(&request.inputs[0].data[..], [1, 2, 3, 4]);
        assert_eq!(
            (&request.inputs[1].shape[..], &request.inputs[1].data[..]),
            (&[2][..], &b"\x02\0\0\0hi\x01\0\0\0\0"[..])
        );
        assert_eq!(request.inputs.len(), 2);
    }

    #[test]
    fn each_misuse_is_named() {
        for (body, expected) in [
            ("", "the body is empty; send {\"instances\": […]}"),
            ("[1]", "`[1` at byte 0 of the body, where the body needs `{`"),
            ("{}", "the body has neither `instances` nor `inputs`"),
            (
                r#"{"instance": []}"#,
                "unknown member `instance` in the body; give `instances`, `inputs` or `records`, and optionally `outputs`, `parameters`, `signature_name`",
            ),
            (
                r#"{"instances": [[1,2]], "inputs": [[1,2]]}"#,
                "the body gives its tensors twice; give `instances` or `inputs`, once",
            ),
            (r#"{"instances": 3}"#, "`3` at byte 14 of the body, where instances needs a list"),
            (r#"{"instances": [[1,2]]} x"#, "`x` at byte 23 of the body, where the body needs the end of the body"),
            (r#"{"instances": [[1,300]]}"#, "instances[0][1] is `300`, beyond the range of UINT8"),
            (r#"{"instances": [{"y":[1,2]}]}"#, "instances[0] names input `y`; model `m` takes x"),
            (
                r#"{"instances": [{"x":[1,2]},{"x":[1]}]}"#,
                "ragged tensor: instances[1].x has shape [1], where the rows before it have [2]",
            ),
            (r#"{"instances": [{"x":[1,2],"x":[1,2]}]}"#, "instances[0] gives input `x` twice"),
            (r#"{"inputs": {"x":[[1,2]],"x":[[1,2]]}}"#, "inputs gives input `x` twice"),
            (
                r#"{"signature_name": "other", "inputs": [[1,2]]}"#,
                "there is no signature `other`; a model has one, `serving_default`",
            ),
        ] {
            assert_eq!(message(&one(), body), expected);
        }
        assert_eq!(
            message(&two(), r#"{"instances": [[1,2]]}"#),
            "instances has bare values, but model `m` takes several inputs (a, b, c); name each one"
        );
        assert_eq!(message(&two(), r#"{"instances": [{"a":[1,2]}]}"#), "instances[0] lacks input `b`");
        assert_eq!(
            message(&two(), r#"{"instances": [{"a":[1,2],"b":""},{"a":[1,2],"b":"","c":1}]}"#),
            "instances[1] gives input `c`, which the rows before it lack"
        );
    }
}
