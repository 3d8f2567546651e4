//! A stored request: the Open Inference Protocol's JSON with its tensors' `data`
//! flat or nested, as configuration holds it.

use nobat_core::infer::InferRequest;
use nobat_core::json::{decode, encode};
use nobat_core::parameters::Parameter;
use nobat_core::tensor::{Datatype, Tensor};
use nobat_core::{Error, ErrorCode, Result};
use serde::Deserialize;
use serde_json::Value;
use smol_str::SmolStr;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredRequest {
    inputs: Vec<StoredTensor>,
    #[serde(default)]
    outputs: Vec<StoredOutput>,
    #[serde(default)]
    parameters: serde_json::Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredTensor {
    name: SmolStr,
    datatype: Datatype,
    shape: Vec<i64>,
    data: Value,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredOutput {
    name: SmolStr,
}

/// Reads a stored request.
///
/// # Errors
/// `invalid_json`, `invalid_tensor`, naming the tensor and what it needs.
pub(crate) fn decode(value: &Value) -> Result<InferRequest> {
    let stored = StoredRequest::deserialize(value)
        .map_err(|error| Error::new(ErrorCode::InvalidJson, format!("not an inference request: {error}")))?;
    let tensor =
        |tensor: StoredTensor| decode::tensor(tensor.name, tensor.datatype, &tensor.shape, &tensor.data.to_string());
    let inputs = stored.inputs.into_iter().map(tensor).collect::<Result<_>>()?;
    let outputs = stored.outputs.into_iter().map(|output| output.name).collect();
    let parameter = |(name, value): (&String, &Value)| Some((name.into(), Parameter::of_json(value)?));
    let parameters = stored.parameters.iter().filter_map(parameter).collect();
    Ok(InferRequest { inputs, outputs, parameters, ..InferRequest::default() })
}

/// A tensor's elements as JSON, flat.
pub(crate) fn values(tensor: &Tensor) -> Value {
    let mut text = Vec::new();
    encode::flat(&mut text, tensor);
    serde_json::from_slice(&text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn nested_data_and_strings_are_read_and_written() {
        let request = decode(&json!({"inputs": [
            {"name": "x", "datatype": "FP32", "shape": [2, 2], "data": [[1, 2], [3, 4.5]]},
            {"name": "s", "datatype": "BYTES", "shape": [1], "data": ["é"]}]}))
        .expect("reads");
        assert_eq!(&request.inputs[0].data[12..], 4.5f32.to_le_bytes());
        assert_eq!(&request.inputs[1].data[..], b"\x02\0\0\0\xc3\xa9");
        assert_eq!(values(&request.inputs[0]), json!([1.0, 2.0, 3.0, 4.5]));
        assert_eq!(values(&request.inputs[1]), json!(["é"]));
    }

    #[test]
    fn values_that_do_not_fit_are_named() {
        let refused = |datatype: &str, value: Value| {
            let request = json!({"inputs": [{"name": "x", "datatype": datatype, "shape": [1], "data": [value]}]});
            decode(&request).expect_err("refused").message
        };
        assert!(refused("UINT8", json!(256)).contains("tensor `x`[0] is `256`, beyond the range of UINT8"));
        assert!(refused("INT64", json!(1.5)).contains("`1.5`"));
        assert!(refused("FP99", json!(1)).contains("not an inference request"));
    }
}
