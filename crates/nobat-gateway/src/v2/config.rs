//! A signature as Triton's model configuration: what clients such as
//! perf_analyzer read to learn a model's largest batch and its tensors.

use nobat_core::signature::{ModelSignature, TensorSpec};
use nobat_core::tensor::Datatype;
use serde_json::{Value, json};

use crate::proto::{
    DataType, ModelConfig, ModelDynamicBatching, ModelInput, ModelOutput, ModelTensorReshape, ModelTransactionPolicy,
};

/// The platform name under which clients know ONNX Runtime.
pub(crate) const PLATFORM: &str = "onnxruntime_onnx";
const BACKEND: &str = "onnxruntime";

/// The configuration as the gRPC message.
pub(crate) fn message(signature: &ModelSignature) -> ModelConfig {
    let batched = signature.batched;
    ModelConfig {
        name: signature.name.to_string(),
        platform: PLATFORM.into(),
        max_batch_size: if batched { i32::try_from(signature.max_batch_size).unwrap_or(i32::MAX) } else { 0 },
        input: signature.inputs.iter().map(|spec| input(spec, batched)).collect(),
        output: signature.outputs.iter().map(|spec| output(spec, batched)).collect(),
        dynamic_batching: (batched && signature.max_batch_size > 1).then_some(ModelDynamicBatching {}),
        backend: BACKEND.into(),
        model_transaction_policy: Some(ModelTransactionPolicy { decoupled: false }),
    }
}

/// The configuration as HTTP clients read it: enumerations by name.
pub(crate) fn json(signature: &ModelSignature) -> Value {
    let config = message(signature);
    let reshape =
        |reshape: &Option<ModelTensorReshape>| reshape.as_ref().map(|reshape| json!({"shape": reshape.shape}));
    let mut document = json!({
        "name": config.name,
        "platform": config.platform,
        "backend": config.backend,
        "version_policy": {"latest": {"num_versions": 1}},
        "max_batch_size": config.max_batch_size,
        "input": config.input.iter().map(|input| with_reshape(json!({
            "name": input.name,
            "data_type": input.data_type().as_str_name(),
            "format": "FORMAT_NONE",
            "dims": input.dims,
            "is_shape_tensor": false,
            "allow_ragged_batch": false,
            "optional": input.optional,
        }), reshape(&input.reshape))).collect::<Vec<_>>(),
        "output": config.output.iter().map(|output| with_reshape(json!({
            "name": output.name,
            "data_type": output.data_type().as_str_name(),
            "dims": output.dims,
            "label_filename": "",
            "is_shape_tensor": false,
        }), reshape(&output.reshape))).collect::<Vec<_>>(),
        "model_transaction_policy": {"decoupled": false},
    });
    if config.dynamic_batching.is_some() {
        document["dynamic_batching"] = json!({});
    }
    document
}

fn with_reshape(mut tensor: Value, reshape: Option<Value>) -> Value {
    if let Some(reshape) = reshape {
        tensor["reshape"] = reshape;
    }
    tensor
}

fn input(spec: &TensorSpec, batched: bool) -> ModelInput {
    let (dims, reshape) = dims(spec, batched);
    let data_type = data_type(spec.datatype).into();
    ModelInput { name: spec.name.to_string(), data_type, dims, reshape, optional: spec.optional }
}

fn output(spec: &TensorSpec, batched: bool) -> ModelOutput {
    let (dims, reshape) = dims(spec, batched);
    ModelOutput { name: spec.name.to_string(), data_type: data_type(spec.datatype).into(), dims, reshape }
}

/// Dimensions without the batch axis. Readers take empty `dims` for an error: a
/// scalar is one element, reshaped.
fn dims(spec: &TensorSpec, batched: bool) -> (Vec<i64>, Option<ModelTensorReshape>) {
    match spec.shape.get(usize::from(batched)..) {
        Some(dims) if !dims.is_empty() => (dims.to_vec(), None),
        _ => (vec![1], Some(ModelTensorReshape { shape: vec![] })),
    }
}

fn data_type(datatype: Datatype) -> DataType {
    match datatype {
        Datatype::Bool => DataType::TypeBool,
        Datatype::Uint8 => DataType::TypeUint8,
        Datatype::Uint16 => DataType::TypeUint16,
        Datatype::Uint32 => DataType::TypeUint32,
        Datatype::Uint64 => DataType::TypeUint64,
        Datatype::Int8 => DataType::TypeInt8,
        Datatype::Int16 => DataType::TypeInt16,
        Datatype::Int32 => DataType::TypeInt32,
        Datatype::Int64 => DataType::TypeInt64,
        Datatype::Fp16 => DataType::TypeFp16,
        Datatype::Bf16 => DataType::TypeBf16,
        Datatype::Fp32 => DataType::TypeFp32,
        Datatype::Fp64 => DataType::TypeFp64,
        Datatype::Bytes => DataType::TypeString,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nobat_testkit::signatures::{ready, spec};

    fn signature(batched: bool) -> ModelSignature {
        ModelSignature {
            batched,
            max_batch_size: 32,
            ..ready("m", vec![spec("x", Datatype::Fp32, &[-1, 64])], vec![spec("label", Datatype::Bytes, &[-1])])
        }
    }

    #[test]
    fn the_batch_axis_is_left_out_and_scalars_are_reshaped() {
        let config = json(&signature(true));
        assert_eq!(config["max_batch_size"], 32);
        assert_eq!(config["dynamic_batching"], json!({}));
        assert_eq!(config["input"][0]["dims"], json!([64]));
        assert_eq!(config["input"][0]["data_type"], "TYPE_FP32");
        assert_eq!(config["output"][0]["data_type"], "TYPE_STRING");
        assert_eq!(
            (&config["output"][0]["dims"], &config["output"][0]["reshape"]),
            (&json!([1]), &json!({"shape": []}))
        );
    }

    #[test]
    fn a_model_without_a_batch_axis_states_all_its_dims() {
        let config = json(&signature(false));
        assert_eq!(config["max_batch_size"], 0);
        assert_eq!(config["input"][0]["dims"], json!([-1, 64]));
        assert!(config.get("dynamic_batching").is_none());
    }
}
