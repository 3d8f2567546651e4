//! Keeps a model's external data beneath the model's folder.
//!
//! An ONNX file may name other files for its tensors, and ONNX Runtime opens
//! what it names. So the file is parsed here first (names only, weights are
//! skipped), every form the format allows is walked, and every location is
//! resolved: relative, no `..`, a regular file, beneath the folder after links
//! are followed, and not a hard link to somewhere else.

use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use prost::Message;
use prost::bytes::Buf;
use sha2::Sha256;

use crate::engine::stream::Stream;

#[allow(missing_docs, unreachable_pub, clippy::all)]
mod files {
    include!("../generated/onnx_files.rs");
}
use files::{Attribute, Graph, Model, Node, SparseTensor, Tensor};

/// `TensorProto.DataLocation.EXTERNAL`.
const EXTERNAL: i32 = 1;
/// The most that a protobuf message holds.
const MOST_BYTES: u64 = i32::MAX as u64;

/// Why a file is not handed to ONNX Runtime.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GuardError {
    #[error("cannot be read: {0}")]
    Unreadable(#[from] std::io::Error),
    #[error("is not an ONNX model or is truncated ({0}); export it again")]
    NotOnnx(#[from] prost::DecodeError),
    /// It is larger than the format allows.
    #[error("has {0} bytes, and the format ends at {MOST_BYTES}; export it with its weights as external data")]
    TooLarge(u64),
    /// A tensor's data is outside the model's folder.
    #[error(
        "{tensor} keeps its data in `{location}`, which {reason}; keep external data as plain files beneath the model's folder"
    )]
    Outside {
        /// Which tensor, and where in the model.
        tensor: String,
        location: String,
        reason: String,
    },
}

/// Checks a model file; returns the external files it uses.
///
/// # Errors
/// [`GuardError`], naming tensor, location and remedy.
pub(crate) fn check(file: &Path) -> Result<Vec<PathBuf>, GuardError> {
    check_and_hash(file, None)
}

/// As [`check`]; `hasher` sees every byte of the model file.
pub(super) fn check_and_hash(file: &Path, hasher: Option<&mut Sha256>) -> Result<Vec<PathBuf>, GuardError> {
    let bytes = std::fs::metadata(file)?.len();
    if bytes > MOST_BYTES {
        return Err(GuardError::TooLarge(bytes));
    }
    let mut stream = Stream::open(file, hasher)?;
    let checked = check_model(&mut stream, folder_of(file));
    // A read error comes before a parse error, which it may have caused.
    stream.finish()?;
    checked
}

/// The folder that a model file's external data lies beneath.
fn folder_of(file: &Path) -> &Path {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// As [`check`], for the bytes of a model file in `folder`.
pub(crate) fn check_model(bytes: impl Buf, folder: &Path) -> Result<Vec<PathBuf>, GuardError> {
    let model = Model::decode(bytes)?;
    let mut walk = Walk { folder: folder.canonicalize()?, found: Vec::new() };
    if let Some(graph) = &model.graph {
        walk.graph(graph, "the graph")?;
    }
    for training in &model.training_info {
        for graph in training.initialization.iter().chain(&training.algorithm) {
            walk.graph(graph, "the training graph")?;
        }
    }
    for function in &model.functions {
        let place = format!("function `{}`", function.name);
        walk.nodes(&function.node, &place)?;
        walk.attributes(&function.attribute_proto, &place)?;
    }
    walk.found.sort();
    walk.found.dedup();
    Ok(walk.found)
}

struct Walk {
    folder: PathBuf,
    found: Vec<PathBuf>,
}

impl Walk {
    fn graph(&mut self, graph: &Graph, place: &str) -> Result<(), GuardError> {
        for tensor in &graph.initializer {
            self.tensor(tensor, &format!("initializer of {place}"))?;
        }
        for sparse in &graph.sparse_initializer {
            self.sparse(sparse, &format!("sparse initializer of {place}"))?;
        }
        self.nodes(&graph.node, place)
    }

    fn nodes(&mut self, nodes: &[Node], place: &str) -> Result<(), GuardError> {
        nodes.iter().try_for_each(|node| {
            self.attributes(&node.attribute, &format!("node `{}` ({}) of {place}", node.name, node.op_type))
        })
    }

    fn attributes(&mut self, attributes: &[Attribute], place: &str) -> Result<(), GuardError> {
        for attribute in attributes {
            let place = format!("attribute `{}` of {place}", attribute.name);
            for tensor in attribute.t.iter().chain(&attribute.tensors) {
                self.tensor(tensor, &place)?;
            }
            for sparse in attribute.sparse_tensor.iter().chain(&attribute.sparse_tensors) {
                self.sparse(sparse, &place)?;
            }
            for graph in attribute.g.iter().chain(&attribute.graphs) {
                self.graph(graph, &place)?;
            }
        }
        Ok(())
    }

    fn sparse(&mut self, sparse: &SparseTensor, place: &str) -> Result<(), GuardError> {
        sparse.values.iter().chain(&sparse.indices).try_for_each(|tensor| self.tensor(tensor, place))
    }

    fn tensor(&mut self, tensor: &Tensor, place: &str) -> Result<(), GuardError> {
        if tensor.data_location != EXTERNAL && tensor.external_data.is_empty() {
            return Ok(());
        }
        let outside = |location: &str, reason: &str| GuardError::Outside {
            tensor: format!("tensor `{}` ({place})", tensor.name),
            location: location.to_owned(),
            reason: reason.to_owned(),
        };
        // Every repetition is checked: readers differ in which one they take.
        let mut locations = tensor.external_data.iter().filter(|entry| entry.key == "location").peekable();
        if locations.peek().is_none() {
            return Err(outside("", "is empty"));
        }
        for entry in locations {
            let file = self.resolve(&entry.value).map_err(|reason| outside(&entry.value, &reason))?;
            self.found.push(file);
        }
        Ok(())
    }

    fn resolve(&self, location: &str) -> Result<PathBuf, String> {
        let path = Path::new(location);
        // A path of another operating system is not interpreted.
        if location.is_empty() || location.contains(['\\', '\0']) {
            return Err("is not a relative path".into());
        }
        if !path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
            return Err("is absolute or has `..`".into());
        }
        let joined = self.folder.join(path);
        let real = joined.canonicalize().map_err(|error| format!("cannot be resolved ({error})"))?;
        if !real.starts_with(&self.folder) {
            return Err("is a link that leads out of the model's folder".into());
        }
        let meta = std::fs::metadata(&real).map_err(|error| format!("cannot be read ({error})"))?;
        if !meta.is_file() {
            return Err("is not a regular file".into());
        }
        if meta.nlink() > 1 {
            return Err("is a hard link to a file that may be elsewhere".into());
        }
        Ok(real)
    }
}

#[cfg(test)]
mod tests {
    use super::files::{Entry, Function, Training};
    use super::*;

    fn tensor(location: &str) -> Tensor {
        let entry = Entry { key: "location".into(), value: location.into() };
        Tensor { name: "weights".into(), external_data: vec![entry], data_location: EXTERNAL }
    }

    fn node(attribute: Attribute) -> Node {
        Node { name: "n".into(), op_type: "Constant".into(), attribute: vec![attribute] }
    }

    /// A model that keeps `tensor` in each place the format has for one.
    fn places(tensor: &Tensor) -> Vec<(&'static str, Model)> {
        let t = || tensor.clone();
        let sparse = || SparseTensor { values: Some(t()), indices: None };
        let indices = || SparseTensor { values: None, indices: Some(t()) };
        let initializer = || Graph { initializer: vec![t()], ..Graph::default() };
        let of_graph = |graph: Graph| Model { graph: Some(graph), ..Model::default() };
        let of_attribute = |attribute: Attribute| of_graph(Graph { node: vec![node(attribute)], ..Graph::default() });
        let nested = Attribute { g: Some(initializer()), ..Attribute::default() };
        vec![
            ("initializer", of_graph(initializer())),
            ("sparse values", of_graph(Graph { sparse_initializer: vec![sparse()], ..Graph::default() })),
            ("sparse indices", of_graph(Graph { sparse_initializer: vec![indices()], ..Graph::default() })),
            ("attribute", of_attribute(Attribute { t: Some(t()), ..Attribute::default() })),
            ("attribute list", of_attribute(Attribute { tensors: vec![t()], ..Attribute::default() })),
            ("sparse attribute", of_attribute(Attribute { sparse_tensor: Some(sparse()), ..Attribute::default() })),
            (
                "sparse attribute list",
                of_attribute(Attribute { sparse_tensors: vec![indices()], ..Attribute::default() }),
            ),
            ("subgraph", of_attribute(nested.clone())),
            ("subgraph list", of_attribute(Attribute { graphs: vec![initializer()], ..Attribute::default() })),
            (
                "subgraph of a subgraph",
                of_attribute(Attribute {
                    g: Some(Graph { node: vec![node(nested)], ..Graph::default() }),
                    ..Attribute::default()
                }),
            ),
            (
                "function node",
                Model {
                    functions: vec![Function {
                        name: "f".into(),
                        node: vec![node(Attribute { t: Some(t()), ..Attribute::default() })],
                        attribute_proto: vec![],
                    }],
                    ..Model::default()
                },
            ),
            (
                "function default",
                Model {
                    functions: vec![Function {
                        name: "f".into(),
                        node: vec![],
                        attribute_proto: vec![Attribute { t: Some(t()), ..Attribute::default() }],
                    }],
                    ..Model::default()
                },
            ),
            (
                "training graph",
                Model {
                    training_info: vec![Training { initialization: Some(initializer()), algorithm: None }],
                    ..Model::default()
                },
            ),
        ]
    }

    #[test]
    fn hostile_locations_are_refused_in_every_place() {
        let root = tempfile::tempdir().expect("a temporary folder");
        let folder = root.path().join("model");
        std::fs::create_dir_all(folder.join("inner")).expect("folders");
        let secret = root.path().join("secret");
        std::fs::write(&secret, b"secret").expect("a file");
        std::os::unix::fs::symlink(&secret, folder.join("symlink")).expect("a symlink");
        std::os::unix::fs::symlink(root.path(), folder.join("linked_folder")).expect("a symlink");
        std::fs::hard_link(&secret, folder.join("hardlink")).expect("a hard link");
        let absolute = secret.display().to_string();
        let hostile = [
            absolute.as_str(),
            "../secret",
            "inner/../../secret",
            "./../secret",
            "symlink",
            "linked_folder/secret",
            "hardlink",
            "",
            "missing",
            "inner",
            "..\\secret",
            "*/_ORT_MEM_ADDR_/*",
        ];
        let mut refused = 0;
        for location in hostile {
            for (place, model) in places(&tensor(location)) {
                let file = folder.join("model.onnx");
                std::fs::write(&file, model.encode_to_vec()).expect("a model");
                let error = check(&file).expect_err(&format!("`{location}` in {place}")).to_string();
                assert!(
                    error.contains("`weights`") && error.contains("beneath the model's folder"),
                    "{place}: {error}"
                );
                refused += 1;
            }
        }
        assert!(refused >= 150);
    }

    #[test]
    fn data_beneath_the_folder_is_allowed_and_listed() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::create_dir(folder.path().join("data")).expect("a folder");
        std::fs::write(folder.path().join("data/weights.bin"), b"1234").expect("a file");
        for (place, model) in places(&tensor("data/weights.bin")) {
            let file = folder.path().join("model.onnx");
            std::fs::write(&file, model.encode_to_vec()).expect("a model");
            assert_eq!(check(&file).expect(place).len(), 1, "{place}");
        }
    }

    #[test]
    fn a_file_larger_than_the_format_allows_is_not_read() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("model.onnx");
        std::fs::File::create(&path).and_then(|file| file.set_len(3 << 30)).expect("a file of holes");
        let error = check(&path).expect_err("3 GiB").to_string();
        assert!(error.contains("3221225472 bytes") && error.contains("external data"), "{error}");
    }

    #[test]
    fn a_location_given_twice_is_checked_twice() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(folder.path().join("good"), b"1").expect("a file");
        let mut twice = tensor("good");
        twice.external_data.push(Entry { key: "location".into(), value: "/etc/hostname".into() });
        let file = folder.path().join("model.onnx");
        std::fs::write(&file, places(&twice)[0].1.encode_to_vec()).expect("a model");
        assert!(check(&file).expect_err("the second leads out").to_string().contains("/etc/hostname"));
    }

    #[test]
    fn rubbish_and_endless_nesting_are_refused() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("model.onnx");
        std::fs::write(&file, b"\xff\xff\xff not a model").expect("a file");
        assert!(check(&file).expect_err("rubbish").to_string().contains("is not an ONNX model"));
        let mut graph = Graph::default();
        for _ in 0..200 {
            let attribute = Attribute { g: Some(graph), ..Attribute::default() };
            graph = Graph { node: vec![node(attribute)], ..Graph::default() };
        }
        std::fs::write(&file, Model { graph: Some(graph), ..Model::default() }.encode_to_vec()).expect("a file");
        assert!(check(&file).expect_err("too deep").to_string().contains("is not an ONNX model"));
    }
}
