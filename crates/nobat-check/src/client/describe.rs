//! What a model takes and gives, as its server describes it.

use nobat_core::signature::TensorSpec;
use nobat_core::tensor::Datatype;
use serde_json::Value;

use super::answer::datatype;
use super::description::ModelDescription;
use super::protocol::CallProtocol;
use super::target::Target;
use super::{grpc, http};

impl Target {
    /// Asks the server what the model takes and gives.
    ///
    /// # Errors
    /// In words: what the server answered instead.
    pub async fn describe(&self) -> Result<ModelDescription, String> {
        let settings = self.settings();
        let model = settings.model.as_str();
        let version = settings.version.as_deref();
        match self.protocol() {
            CallProtocol::Native | CallProtocol::Job => {
                of_native(&http::get(self, &["api", "v1", "models", model]).await?, model, version)
            }
            CallProtocol::TfServing => {
                let mut path = vec!["v1", "models", model];
                path.extend(version.into_iter().flat_map(|version| ["versions", version]));
                path.push("metadata");
                of_tfserving(&http::get(self, &path).await?, model)
            }
            CallProtocol::V2 | CallProtocol::V2Binary => {
                let mut path = vec!["v2", "models", model];
                path.extend(version.into_iter().flat_map(|version| ["versions", version]));
                of_v2(&http::get(self, &path).await?, model, version)
            }
            CallProtocol::Grpc => {
                let metadata = grpc::metadata(self).await?;
                let spec = |tensor: grpc::TensorMetadata| spec(&tensor.name, &tensor.datatype, tensor.shape);
                let specs =
                    |tensors: Vec<grpc::TensorMetadata>| tensors.into_iter().map(spec).collect::<Result<Vec<_>, _>>();
                let newest = newest(metadata.versions.iter().map(String::as_str));
                Ok(described(model, version.unwrap_or(newest), specs(metadata.inputs)?, specs(metadata.outputs)?))
            }
            CallProtocol::Json => Err("a server's own JSON has no description of its models".into()),
        }
    }
}

fn described(model: &str, version: &str, inputs: Vec<TensorSpec>, outputs: Vec<TensorSpec>) -> ModelDescription {
    let is_batch = |spec: &TensorSpec| spec.shape.first() == Some(&-1);
    ModelDescription {
        name: model.into(),
        version: version.into(),
        batched: !inputs.is_empty() && inputs.iter().chain(&outputs).all(is_batch),
        inputs,
        outputs,
        ..ModelDescription::default()
    }
}

/// The greatest of version numbers.
fn newest<'a>(versions: impl Iterator<Item = &'a str>) -> &'a str {
    versions.max_by_key(|version| version.parse::<u64>().unwrap_or(0)).unwrap_or_default()
}

fn of_native(json: &Value, model: &str, version: Option<&str>) -> Result<ModelDescription, String> {
    let wanted = version.or(json["default_version"].as_str()).unwrap_or_default();
    let versions = json["versions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let found = versions.iter().find(|found| found["version"] == wanted);
    let found = found.ok_or_else(|| format!("model `{model}` has no version `{wanted}`"))?;
    let specs = |key: &str| -> Result<Vec<TensorSpec>, String> {
        serde_json::from_value(found[key].clone()).map_err(|e| format!("its {key} cannot be read: {e}"))
    };
    Ok(ModelDescription {
        batched: found["batched"].as_bool().unwrap_or(false),
        max_rows: found["max_rows"].as_u64().and_then(|rows| u32::try_from(rows).ok()),
        slo_ms: found["settings"]["slo_ms"].as_f64(),
        ..described(model, wanted, specs("inputs")?, specs("outputs")?)
    })
}

fn of_v2(json: &Value, model: &str, version: Option<&str>) -> Result<ModelDescription, String> {
    let specs = |key: &str| -> Result<Vec<TensorSpec>, String> {
        let tensors = json[key].as_array().map(Vec::as_slice).unwrap_or_default();
        let tensor = |tensor: &Value| {
            let text = |key: &str| tensor[key].as_str().ok_or_else(|| format!("one of its tensors has no {key}"));
            spec(text("name")?, text("datatype")?, dims(&tensor["shape"]))
        };
        tensors.iter().map(tensor).collect()
    };
    let versions = json["versions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let newest = newest(versions.iter().filter_map(Value::as_str));
    Ok(described(model, version.unwrap_or(newest), specs("inputs")?, specs("outputs")?))
}

fn of_tfserving(json: &Value, model: &str) -> Result<ModelDescription, String> {
    let signatures = &json["metadata"]["signature_def"]["signature_def"];
    let signature = signatures.get("serving_default").ok_or("its metadata has no signature `serving_default`")?;
    let specs = |key: &str| -> Result<Vec<TensorSpec>, String> {
        let Some(tensors) = signature[key].as_object() else { return Ok(vec![]) };
        let tensor = |(name, tensor): (&String, &Value)| {
            let own = tensor["dtype"].as_str().unwrap_or_default();
            let shape = tensor["tensor_shape"]["dim"].as_array().map(Vec::as_slice).unwrap_or_default();
            let sizes: Vec<Value> = shape.iter().map(|dim| dim["size"].clone()).collect();
            spec(name, tensorflow(own), dims(&Value::from(sizes)))
        };
        tensors.iter().map(tensor).collect()
    };
    let version = &json["model_spec"]["version"];
    let version = version.as_str().map_or_else(|| version.to_string(), str::to_owned);
    Ok(described(model, &version, specs("inputs")?, specs("outputs")?))
}

fn spec(name: &str, own: &str, shape: Vec<i64>) -> Result<TensorSpec, String> {
    Ok(TensorSpec { name: name.into(), datatype: datatype(own)?, shape, optional: false })
}

/// Dimensions as numbers, or as text as protobuf's JSON has them.
fn dims(value: &Value) -> Vec<i64> {
    let dim = |dim: &Value| dim.as_i64().or_else(|| dim.as_str()?.parse().ok()).unwrap_or(-1);
    value.as_array().map(Vec::as_slice).unwrap_or_default().iter().map(dim).collect()
}

/// TensorFlow's name of a datatype as the Open Inference Protocol's.
fn tensorflow(name: &str) -> &str {
    let known = [
        ("DT_BOOL", Datatype::Bool),
        ("DT_UINT8", Datatype::Uint8),
        ("DT_UINT16", Datatype::Uint16),
        ("DT_UINT32", Datatype::Uint32),
        ("DT_UINT64", Datatype::Uint64),
        ("DT_INT8", Datatype::Int8),
        ("DT_INT16", Datatype::Int16),
        ("DT_INT32", Datatype::Int32),
        ("DT_INT64", Datatype::Int64),
        ("DT_HALF", Datatype::Fp16),
        ("DT_BFLOAT16", Datatype::Bf16),
        ("DT_FLOAT", Datatype::Fp32),
        ("DT_DOUBLE", Datatype::Fp64),
        ("DT_STRING", Datatype::Bytes),
    ];
    known.iter().find(|(known, _)| *known == name).map_or(name, |(_, datatype)| datatype.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_protocols_description_says_the_same() {
        let native = json!({"default_version": "2", "versions": [{
            "version": "2", "batched": true, "max_rows": 1024, "settings": {"slo_ms": 5},
            "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4], "optional": false}],
            "outputs": [{"name": "y", "datatype": "INT64", "shape": [-1], "optional": false}],
        }]});
        let v2 = json!({"versions": ["1", "2"],
            "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}],
            "outputs": [{"name": "y", "datatype": "INT64", "shape": [-1]}]});
        let size = |size: &str| json!({"size": size});
        let tf = json!({"model_spec": {"version": "2"}, "metadata": {"signature_def": {"signature_def": {"serving_default": {
            "inputs": {"x": {"dtype": "DT_FLOAT", "tensor_shape": {"dim": [size("-1"), size("4")]}}},
            "outputs": {"y": {"dtype": "DT_INT64", "tensor_shape": {"dim": [size("-1")]}}},
        }}}}});
        let native = of_native(&native, "m", None).expect("reads");
        assert_eq!((native.max_rows, native.slo_ms, native.batched), (Some(1024), Some(5.0), true));
        let plain = ModelDescription { max_rows: None, slo_ms: None, ..native };
        assert_eq!(of_v2(&v2, "m", None).expect("reads"), plain);
        assert_eq!(of_tfserving(&tf, "m").expect("reads"), plain);
        assert!(of_native(&json!({"versions": []}), "m", Some("9")).expect_err("none").contains("no version `9`"));
        let odd = json!({"inputs": [{"name": "x", "datatype": "FP7", "shape": []}]});
        assert!(of_v2(&odd, "m", None).expect_err("odd").contains("FP7"));
    }
}
