//! Models of `y = x + weights` whose weights a test writes: into the model file
//! or, by a location of the test's choice, into another.

use std::path::Path;

use prost::Message;

/// The parts of an ONNX model that hold an initializer.
#[derive(Clone, PartialEq, Message)]
struct Model {
    #[prost(message, optional, tag = "7")]
    graph: Option<Graph>,
}

#[derive(Clone, PartialEq, Message)]
struct Graph {
    #[prost(message, repeated, tag = "5")]
    initializer: Vec<Initializer>,
}

#[derive(Clone, PartialEq, Message)]
struct Initializer {
    #[prost(int64, repeated, tag = "1")]
    dims: Vec<i64>,
    /// 1 is float.
    #[prost(int32, tag = "2")]
    datatype: i32,
    #[prost(string, tag = "8")]
    name: String,
    #[prost(bytes = "vec", optional, tag = "9")]
    raw: Option<Vec<u8>>,
    #[prost(message, repeated, tag = "13")]
    external: Vec<Entry>,
    /// 1 is external.
    #[prost(int32, tag = "14")]
    location: i32,
}

#[derive(Clone, PartialEq, Message)]
struct Entry {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, tag = "2")]
    value: String,
}

/// Two floats as a weights file holds them.
pub(crate) fn weights(value: f32) -> Vec<u8> {
    [value; 2].iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// A model that adds `value`.
pub(crate) fn adds(value: f32) -> Vec<u8> {
    with(Initializer { raw: Some(weights(value)), ..Initializer::default() })
}

/// A model that adds what is in the file at `location`, with further `entries`.
pub(crate) fn adds_external(location: &str, entries: &[(&str, &str)]) -> Vec<u8> {
    let entry = |(key, value): (&str, &str)| Entry { key: key.into(), value: value.into() };
    let external = [("location", location)].into_iter().chain(entries.iter().copied()).map(entry).collect();
    with(Initializer { external, location: 1, ..Initializer::default() })
}

/// In protobuf what is appended to a message is merged into it.
fn with(weights: Initializer) -> Vec<u8> {
    let initializer = vec![Initializer { dims: vec![2], datatype: 1, name: "weights".into(), ..weights }];
    let mut model = std::fs::read(crate::deployment::test_model("needs_weights")).expect("a test model");
    model.extend(Model { graph: Some(Graph { initializer }) }.encode_to_vec());
    model
}

/// Writes a file as whoever publishes models does: beside, then over the old.
pub(crate) fn publish(path: &Path, bytes: &[u8]) {
    std::fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
    let beside = path.with_extension("tmp");
    std::fs::write(&beside, bytes).expect("a file");
    std::fs::rename(beside, path).expect("a rename");
}
