//! A model as a function from inputs to outputs, over the Open Inference Protocol with
//! binary tensors: nothing is rounded on the way. For the tools that send many rows.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use nobat_core::signature::TensorSpec;
use nobat_core::tensor::{Datatype, Tensor};
use reqwest::{Method, header};
use serde_json::{Value, json};

use crate::client::{Client, Server, refusal, segment};

/// The header that says where the JSON document ends and the tensors begin.
const HEADER_LENGTH: &str = "inference-header-content-length";
/// Longest that an answer may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A model, or one version of it, that a server serves.
pub(crate) struct ServedModel {
    client: Client,
    path: String,
    /// What it takes.
    pub(crate) inputs: Vec<TensorSpec>,
    /// Whether the first axis of every input is the batch axis.
    pub(crate) batched: bool,
}

impl ServedModel {
    /// Asks the server what `reference`, `MODEL` or `MODEL/VERSION`, takes.
    pub(crate) async fn open(server: &Server, reference: &str) -> Result<ServedModel> {
        let client = server.client(PATIENCE)?;
        let (name, version) =
            reference.split_once('/').map_or((reference, None), |(name, version)| (name, Some(version)));
        let mut path = format!("/v2/models/{}", segment(name));
        if let Some(version) = version {
            path += &format!("/versions/{}", segment(version));
        }
        let metadata = client.json(client.request(Method::GET, &path)).await?.1;
        let inputs = metadata["inputs"].as_array().context("the model's metadata has no inputs")?;
        let inputs: Vec<TensorSpec> = inputs.iter().map(spec).collect::<Result<_>>()?;
        Ok(ServedModel {
            client,
            path: path + "/infer",
            batched: inputs.iter().all(|input| input.shape.first() == Some(&-1)),
            inputs,
        })
    }

    /// Sends one request; a refusal is an error that says it. Answers come from the model,
    /// not from a cache.
    pub(crate) async fn infer(&self, inputs: Vec<Tensor>) -> Result<Vec<Tensor>> {
        let described: Vec<Value> = inputs
            .iter()
            .map(|tensor| {
                json!({
                    "name": tensor.name, "datatype": tensor.datatype.as_str(), "shape": tensor.shape.as_slice(),
                    "parameters": {"binary_data_size": tensor.data.len()},
                })
            })
            .collect();
        let mut body = serde_json::to_vec(&json!({"inputs": described, "parameters": {"binary_data_output": true}}))?;
        let length = body.len();
        inputs.iter().for_each(|tensor| body.extend_from_slice(&tensor.data));
        let request = self
            .client
            .request(Method::POST, &self.path)
            .header(header::CONTENT_TYPE, "application/octet-stream")
            .header(header::CACHE_CONTROL, "no-cache")
            .header(HEADER_LENGTH, length)
            .body(body);
        let response = self.client.send(request).await?;
        let status = response.status();
        let length = response.headers().get(HEADER_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        let body = response.bytes().await.context("the answer broke off")?;
        if !status.is_success() {
            bail!("{}", refusal(status, &serde_json::from_slice(&body).unwrap_or_default()));
        }
        outputs(body, length)
    }
}

/// A model as the function that tests and comparisons ask.
pub(crate) fn asked(model: &ServedModel) -> impl AsyncFn(Vec<Tensor>) -> Result<Vec<Tensor>, String> {
    async move |inputs| model.infer(inputs).await.map_err(|error| format!("{error:#}"))
}

fn spec(described: &Value) -> Result<TensorSpec> {
    let text = |key: &str| described[key].as_str().with_context(|| format!("an input has no {key}"));
    let datatype = Datatype::parse(text("datatype")?)
        .with_context(|| format!("an input has a datatype that is unknown: {described}"))?;
    let shape = described["shape"].as_array().context("an input has no shape")?;
    Ok(TensorSpec {
        name: text("name")?.into(),
        datatype,
        shape: shape.iter().filter_map(Value::as_i64).collect(),
        optional: false,
    })
}

/// The tensors of an answer whose JSON document is `length` bytes long, or all of it.
fn outputs(mut body: Bytes, length: Option<usize>) -> Result<Vec<Tensor>> {
    let length = length.unwrap_or(body.len());
    ensure!(length <= body.len(), "the answer is shorter than its header says");
    let document: Value = serde_json::from_slice(&body.split_to(length)).context("the answer is not JSON")?;
    let outputs = document["outputs"].as_array().context("the answer has no outputs")?;
    let tensor = |output: &Value| -> Result<Tensor> {
        let TensorSpec { name, datatype, shape, .. } = spec(output)?;
        let size = output["parameters"]["binary_data_size"].as_u64().map(|size| size as usize);
        let data = match size {
            Some(size) => {
                ensure!(size <= body.len(), "output `{name}` is cut off");
                body.split_to(size)
            }
            None => elements(&output["data"], datatype).with_context(|| format!("output `{name}` has no data"))?.into(),
        };
        let tensor = Tensor { name, datatype, shape: shape.as_slice().into(), data };
        tensor.check()?;
        Ok(tensor)
    };
    let mut tensor = tensor;
    outputs.iter().map(&mut tensor).collect()
}

/// JSON data, nested or flat, as a tensor's bytes.
fn elements(data: &Value, datatype: Datatype) -> Option<Vec<u8>> {
    match data {
        Value::Array(values) => {
            let parts: Option<Vec<Vec<u8>>> = values.iter().map(|value| elements(value, datatype)).collect();
            parts.map(|parts| parts.concat())
        }
        Value::String(text) => Some([&(text.len() as u32).to_le_bytes(), text.as_bytes()].concat()),
        Value::Bool(yes) => Some(vec![u8::from(*yes)]),
        value => nobat_statistics::reading::element(value.as_f64()?, datatype),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binary_and_json_answers_give_the_same_tensors() {
        let described = r#"{"outputs":[{"name":"y","datatype":"FP32","shape":[1,2],"parameters":{"binary_data_size":8}},
            {"name":"z","datatype":"BYTES","shape":[1],"parameters":{"binary_data_size":6}}]}"#;
        let mut body = described.as_bytes().to_vec();
        body.extend([1.5f32, -2.0].iter().flat_map(|x| x.to_le_bytes()));
        body.extend(b"\x02\0\0\0hi");
        let binary = outputs(body.into(), Some(described.len())).expect("reads");
        let plain = r#"{"outputs":[{"name":"y","datatype":"FP32","shape":[1,2],"data":[[1.5,-2]]},
            {"name":"z","datatype":"BYTES","shape":[1],"data":["hi"]}]}"#;
        assert_eq!(outputs(plain.into(), None).expect("reads"), binary);
    }

    #[test]
    fn an_answer_that_is_none_is_told() {
        let why = |body: &'static str, length| outputs(body.into(), length).expect_err("refused").to_string();
        assert!(why("<html>", None).contains("not JSON"));
        assert!(why("{}", None).contains("no outputs"));
        assert!(why("{}", Some(9)).contains("shorter"));
        let cut = r#"{"outputs":[{"name":"y","datatype":"FP32","shape":[1],"parameters":{"binary_data_size":4}}]}"#;
        assert!(why(cut, Some(cut.len())).contains("`y` is cut off"));
        let short = r#"{"outputs":[{"name":"y","datatype":"FP32","shape":[2],"data":[1]}]}"#;
        assert!(why(short, None).contains("needs 8"));
    }
}
