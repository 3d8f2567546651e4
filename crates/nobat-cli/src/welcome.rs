//! What `nobat serve` prints once it serves: the addresses, the documentation, a line to paste.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use nobat_core::signature::{ModelSignature, ModelState};
use nobat_core::tensor::Datatype;
use nobat_gateway::GatewayHandle;
use nobat_worker::WorkerHandle;
use nobat_worker::example::{Example, TEXT};
use serde_json::{Value, json};

use crate::client::segment;

/// The text, with its last line's end.
pub(crate) fn welcome(gateway: &GatewayHandle, worker: &WorkerHandle, models: &[PathBuf], took: Duration) -> String {
    let url = gateway.url();
    let mut ready: Vec<ModelSignature> = worker.signatures();
    ready.retain(|model| model.state == ModelState::Ready);
    ready.sort_by(|a, b| a.name.cmp(&b.name));
    let mut names: Vec<&str> = ready.iter().map(|model| model.name.as_str()).collect();
    names.dedup();
    let mut text = match names[..] {
        [] => format!("nobat is ready after {} ms, and no model is served yet\n", took.as_millis()),
        _ => format!("nobat is ready after {} ms, serving {}\n", took.as_millis(), names.join(", ")),
    };
    let _ = writeln!(text, "  http  {url}\n  docs  {url}/docs");
    if let Some(address) = gateway.grpc_addr() {
        let _ = writeln!(text, "  grpc  {address}");
    }
    if let Some((model, body)) = ready.iter().find_map(|model| Some((model, body(model, worker, models)?))) {
        let _ = writeln!(text, "  try   curl -s {url}/v1/models/{}:predict -d {}", segment(&model.name), quoted(&body));
    } else if let Some(name) = names.first() {
        let _ = writeln!(text, "  look  curl -s {url}/v2/models/{} (what it takes and gives)", segment(name));
    }
    text
}

/// A request worth sending: the owner's `example.json`, else what the model answered at
/// load.
fn body(model: &ModelSignature, worker: &WorkerHandle, models: &[PathBuf]) -> Option<String> {
    let places = |folder: &PathBuf| [folder.join(&*model.name).join("example.json"), folder.join("example.json")];
    if let Some(file) = models.iter().flat_map(places).find(|path| path.is_file()) {
        return Some(format!("@{}", file.display()));
    }
    worker.example(&model.name).map(|example| request(&example, model.batched).to_string())
}

/// An example as TensorFlow Serving has it: rows where the model has them, else whole
/// tensors.
fn request(example: &Example, batched: bool) -> Value {
    let (member, skipped) = if batched { ("instances", 1) } else { ("inputs", 0) };
    let tensors = example.inputs.iter().map(|(name, datatype, shape)| {
        let element = match datatype {
            Datatype::Bytes => json!(TEXT),
            Datatype::Bool => json!(false),
            _ => json!(0),
        };
        let nest = |inner: Value, &dim: &i64| Value::Array(vec![inner; usize::try_from(dim).unwrap_or(0)]);
        (name.to_string(), shape[skipped..].iter().rev().fold(element, nest))
    });
    let tensors: serde_json::Map<String, Value> = tensors.collect();
    let only = if tensors.len() == 1 { tensors.values().next().cloned() } else { None };
    let given = only.unwrap_or(Value::Object(tensors));
    if batched { json!({ member: [given] }) } else { json!({ member: given }) }
}

/// An argument as every shell takes it.
pub(crate) fn quoted(argument: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"@./_-+:,".contains(&byte);
    match argument.bytes().all(plain) {
        true => argument.to_owned(),
        false => format!("'{}'", argument.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(inputs: &[(&str, Datatype, &[i64])]) -> Example {
        let input = |&(name, datatype, shape): &(&str, Datatype, &[i64])| (name.into(), datatype, shape.into());
        Example { inputs: inputs.iter().map(input).collect() }
    }

    #[test]
    fn an_example_has_rows_where_the_model_has_them() {
        let one = example(&[("x", Datatype::Fp32, &[1, 2])]);
        assert_eq!(request(&one, true), json!({ "instances": [[0, 0]] }));
        assert_eq!(request(&one, false), json!({ "inputs": [[0, 0]] }));
        let table = example(&[("age", Datatype::Int64, &[1, 1]), ("city", Datatype::Bytes, &[1, 1])]);
        assert_eq!(request(&table, true), json!({ "instances": [{ "age": [0], "city": ["text"] }] }));
        let flag = example(&[("flag", Datatype::Bool, &[]), ("x", Datatype::Fp32, &[0])]);
        assert_eq!(request(&flag, false), json!({ "inputs": { "flag": false, "x": [] } }));
    }

    #[test]
    fn a_line_can_be_pasted_whatever_is_in_it() {
        assert_eq!(quoted("@models/digits/example.json"), "@models/digits/example.json");
        assert_eq!(quoted("@my models/it's.json"), r"'@my models/it'\''s.json'");
        assert_eq!(segment("naïve+model-1"), "na%C3%AFve%2Bmodel-1");
    }
}
