//! A stored request: the Open Inference Protocol's JSON with its tensors' `data`
//! flat or nested, as configuration holds it.

use bytes::Bytes;
use nobat_core::infer::InferRequest;
use nobat_core::tensor::{Datatype, Tensor};
use nobat_core::{Error, ErrorCode, Result};
use serde::Deserialize;
use serde_json::Value;
use smol_str::SmolStr;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    inputs: Vec<StoredTensor>,
    #[serde(default)]
    outputs: Vec<StoredOutput>,
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
    let stored = Stored::deserialize(value)
        .map_err(|error| Error::new(ErrorCode::InvalidJson, format!("not an inference request: {error}")))?;
    let inputs = stored.inputs.into_iter().map(|tensor| {
        let mut data = Vec::new();
        put_all(&mut data, &tensor.name, tensor.datatype, &tensor.data)?;
        let tensor = Tensor {
            name: tensor.name,
            datatype: tensor.datatype,
            shape: tensor.shape.into(),
            data: Bytes::from(data),
        };
        tensor.check()?;
        Ok(tensor)
    });
    let outputs = stored.outputs.into_iter().map(|output| output.name).collect();
    Ok(InferRequest { version: SmolStr::default(), inputs: inputs.collect::<Result<_>>()?, outputs })
}

fn put_all(out: &mut Vec<u8>, name: &str, datatype: Datatype, value: &Value) -> Result<()> {
    if let Value::Array(values) = value {
        return values.iter().try_for_each(|value| put_all(out, name, datatype, value));
    }
    put_one(out, datatype, value).ok_or_else(|| {
        Error::new(ErrorCode::InvalidTensor, format!("tensor `{name}` has `{value}`, which is no {datatype}"))
    })
}

fn put_one(out: &mut Vec<u8>, datatype: Datatype, value: &Value) -> Option<()> {
    let (int, uint, float) = (value.as_i64(), value.as_u64(), value.as_f64());
    match datatype {
        Datatype::Bool => out.push(u8::from(value.as_bool()?)),
        Datatype::Int8 => out.extend(i8::try_from(int?).ok()?.to_le_bytes()),
        Datatype::Int16 => out.extend(i16::try_from(int?).ok()?.to_le_bytes()),
        Datatype::Int32 => out.extend(i32::try_from(int?).ok()?.to_le_bytes()),
        Datatype::Int64 => out.extend(int?.to_le_bytes()),
        Datatype::Uint8 => out.extend(u8::try_from(uint?).ok()?.to_le_bytes()),
        Datatype::Uint16 => out.extend(u16::try_from(uint?).ok()?.to_le_bytes()),
        Datatype::Uint32 => out.extend(u32::try_from(uint?).ok()?.to_le_bytes()),
        Datatype::Uint64 => out.extend(uint?.to_le_bytes()),
        Datatype::Fp32 => out.extend((float? as f32).to_le_bytes()),
        Datatype::Fp64 => out.extend(float?.to_le_bytes()),
        Datatype::Bytes => {
            let text = value.as_str()?;
            out.extend((text.len() as u32).to_le_bytes());
            out.extend(text.as_bytes());
        }
        // Half floats have no JSON form in the protocol.
        Datatype::Fp16 | Datatype::Bf16 => return None,
    }
    Some(())
}

/// A tensor's elements as JSON, flat; NaN and infinities as null, bytes lossily
/// as text, half floats as null.
pub(crate) fn values(tensor: &Tensor) -> Vec<Value> {
    let data = &tensor.data[..];
    macro_rules! all {
        ($number:ty) => {
            data.as_chunks().0.iter().map(|&bytes| Value::from(<$number>::from_le_bytes(bytes))).collect()
        };
    }
    match tensor.datatype {
        Datatype::Bool => data.iter().map(|&byte| Value::from(byte != 0)).collect(),
        Datatype::Int8 => all!(i8),
        Datatype::Int16 => all!(i16),
        Datatype::Int32 => all!(i32),
        Datatype::Int64 => all!(i64),
        Datatype::Uint8 => all!(u8),
        Datatype::Uint16 => all!(u16),
        Datatype::Uint32 => all!(u32),
        Datatype::Uint64 => all!(u64),
        Datatype::Fp32 => all!(f32),
        Datatype::Fp64 => all!(f64),
        Datatype::Fp16 | Datatype::Bf16 => vec![Value::Null; data.len() / 2],
        Datatype::Bytes => {
            let mut rest = data;
            let mut found = Vec::new();
            while let Some((length, tail)) = rest.split_first_chunk::<4>() {
                let (text, tail) = tail.split_at(tail.len().min(u32::from_le_bytes(*length) as usize));
                found.push(String::from_utf8_lossy(text).into());
                rest = tail;
            }
            found
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn nested_data_and_strings_are_read() {
        let request = decode(&json!({"inputs": [
            {"name": "x", "datatype": "FP32", "shape": [2, 2], "data": [[1, 2], [3, 4.5]]},
            {"name": "s", "datatype": "BYTES", "shape": [1], "data": ["é"]}]}))
        .expect("reads");
        assert_eq!(&request.inputs[0].data[12..], 4.5f32.to_le_bytes());
        assert_eq!(&request.inputs[1].data[..], b"\x02\0\0\0\xc3\xa9");
    }

    #[test]
    fn values_that_do_not_fit_are_named() {
        let refused = |datatype: &str, value: Value| {
            let request = json!({"inputs": [{"name": "x", "datatype": datatype, "shape": [1], "data": [value]}]});
            decode(&request).expect_err("refused").message
        };
        assert!(refused("UINT8", json!(256)).contains("tensor `x` has `256`, which is no UINT8"));
        assert!(refused("INT64", json!(1.5)).contains("`1.5`"));
        assert!(refused("FP16", json!(1)).contains("no FP16"));
        assert!(refused("FP99", json!(1)).contains("not an inference request"));
    }
}
