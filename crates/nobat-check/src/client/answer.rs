//! An answer's tensors as each protocol carries them: pure.

use bytes::Bytes;
use nobat_core::json::{Reader, decode};
use nobat_core::oip::ModelInferResponse;
use nobat_core::signature::TensorSpec;
use nobat_core::tensor::{Datatype, Tensor};
use nobat_core::typed;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Of gRPC.
pub(super) fn of_message(message: &ModelInferResponse) -> Result<Vec<Tensor>, String> {
    let raw = &message.raw_output_contents;
    if !raw.is_empty() && raw.len() != message.outputs.len() {
        return Err(format!("{} outputs have {} raw contents", message.outputs.len(), raw.len()));
    }
    let tensor = |(at, output): (usize, &nobat_core::oip::model_infer_response::InferOutputTensor)| {
        let datatype = datatype(&output.datatype)?;
        let data = match (raw.get(at), &output.contents) {
            (Some(raw), _) => raw.clone(),
            (None, Some(contents)) => typed::read(&output.name, datatype, contents).map_err(|e| e.message)?,
            (None, None) => Bytes::new(),
        };
        whole(Tensor { name: output.name.as_str().into(), datatype, shape: output.shape.as_slice().into(), data })
    };
    message.outputs.iter().enumerate().map(tensor).collect()
}

#[derive(Deserialize)]
struct V2Answer<'a> {
    #[serde(borrow)]
    outputs: Vec<V2Output<'a>>,
}

#[derive(Deserialize)]
struct V2Output<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow)]
    datatype: Cow<'a, str>,
    shape: Vec<i64>,
    #[serde(default)]
    parameters: V2Parameters,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
struct V2Parameters {
    binary_data_size: Option<usize>,
}

/// The JSON document is `length` bytes long, or all of the body.
pub(super) fn of_v2(body: &Bytes, length: Option<usize>) -> Result<Vec<Tensor>, String> {
    let length = length.unwrap_or(body.len());
    let document = body.get(..length).ok_or("it is shorter than its header says")?;
    let answer: V2Answer = serde_json::from_slice(document).map_err(|e| e.to_string())?;
    let mut rest = body.slice(length..);
    let mut tensors = Vec::with_capacity(answer.outputs.len());
    for output in answer.outputs {
        let datatype = datatype(&output.datatype)?;
        let name = &*output.name;
        tensors.push(match (output.parameters.binary_data_size, output.data) {
            (Some(size), _) if size <= rest.len() => {
                let data = rest.split_to(size);
                whole(Tensor { name: name.into(), datatype, shape: output.shape.into(), data })?
            }
            (Some(_), _) => return Err(format!("output `{name}` is cut off")),
            (None, Some(data)) => {
                decode::tensor(name.into(), datatype, &output.shape, data.get()).map_err(|e| e.message)?
            }
            (None, None) => return Err(format!("output `{name}` has no data")),
        });
    }
    Ok(tensors)
}

#[derive(Deserialize)]
struct ColumnAnswer<'a> {
    #[serde(borrow, alias = "predictions")]
    outputs: &'a RawValue,
}

/// `{"outputs": {name: …}}`, or the only output's value in its place.
pub(super) fn of_columns(body: &[u8], specs: &[TensorSpec]) -> Result<Vec<Tensor>, String> {
    let answer: ColumnAnswer = serde_json::from_slice(body).map_err(|e| e.to_string())?;
    let text = answer.outputs.get();
    if let [only] = specs
        && !text.trim_start().starts_with('{')
    {
        return Ok(vec![nested(only, text)?]);
    }
    let named: BTreeMap<Cow<'_, str>, &RawValue> = serde_json::from_str(text).map_err(|e| e.to_string())?;
    let mut tensors = Vec::with_capacity(specs.len());
    for spec in specs {
        match named.get(spec.name.as_str()) {
            Some(text) => tensors.push(nested(spec, text.get())?),
            None if spec.optional => {}
            None => return Err(format!("it has no output `{}`", spec.name)),
        }
    }
    Ok(tensors)
}

/// A tensor from nested lists, whose datatype the model's description says.
pub(super) fn nested(spec: &TensorSpec, text: &str) -> Result<Tensor, String> {
    let (mut reader, mut data) = (Reader::new(text.as_bytes()), Vec::new());
    let shape = decode::read(&mut reader, spec.datatype, &mut data, &spec.name).map_err(|e| e.message)?;
    reader.end().map_err(|e| e.message)?;
    whole(Tensor { name: spec.name.clone(), datatype: spec.datatype, shape, data: data.into() })
}

pub(super) fn datatype(name: &str) -> Result<Datatype, String> {
    Datatype::parse(name).ok_or_else(|| format!("`{name}` is no datatype of the Open Inference Protocol"))
}

fn whole(tensor: Tensor) -> Result<Tensor, String> {
    tensor.check().map_err(|e| e.message)?;
    Ok(tensor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binary_and_json_answers_give_the_same_tensors() {
        let json = br#"{"outputs":[{"name":"y","datatype":"FP32","shape":[1,2],"data":[1.5,2.0]}]}"#;
        let head = br#"{"outputs":[{"name":"y","datatype":"FP32","shape":[1,2],"parameters":{"binary_data_size":8}}]}"#;
        let binary: Vec<u8> = [&head[..], &1.5f32.to_le_bytes(), &2f32.to_le_bytes()].concat();
        let a = of_v2(&Bytes::from_static(json), None).expect("reads");
        let b = of_v2(&Bytes::from(binary.clone()), Some(head.len())).expect("reads");
        assert_eq!(a, b);
        assert!(of_v2(&Bytes::from(binary[..head.len() + 4].to_vec()), Some(head.len())).is_err());
        assert!(of_v2(&Bytes::from_static(b"{}"), Some(3)).expect_err("short").contains("shorter"));
    }

    #[test]
    fn columns_come_by_name_or_alone() {
        let spec = |name: &str, datatype, shape: &[i64]| TensorSpec {
            name: name.into(),
            datatype,
            shape: shape.to_vec(),
            optional: false,
        };
        let both = [spec("label", Datatype::Int64, &[-1]), spec("p", Datatype::Fp32, &[-1, 2])];
        let read = of_columns(br#"{"id":"x","outputs":{"p":[[0.5,0.5]],"label":[3]}}"#, &both).expect("reads");
        assert_eq!((read[0].shape.as_slice(), &read[0].data[..]), (&[1][..], &3i64.to_le_bytes()[..]));
        assert_eq!(read[1].shape.as_slice(), [1, 2]);
        let alone = of_columns(br#"{"outputs":[[0.5,0.5]]}"#, &both[1..]).expect("reads");
        assert_eq!(alone[0], read[1]);
        assert!(of_columns(br#"{"outputs":{"p":[[0.5,0.5]]}}"#, &both).expect_err("missing").contains("`label`"));
        assert!(of_columns(br#"{"outputs":[["a"]]}"#, &both[1..]).is_err());
    }
}
