//! Outputs that are a map from class to probability for each row, as scikit-learn's
//! exporters make them with a ZipMap, served as a tensor.
//!
//! No protocol carries a map. So such an output is FP32 of shape `[rows, classes]`,
//! and the classes' names, in the tensor's order, are published with the model. The
//! order is the ZipMap's own.

use std::collections::BTreeMap;
use std::path::Path;

use ort::value::{DynMapValueType, DynValue, TensorElementType, ValueType};
use prost::Message;

use crate::engine::stream::Stream;

#[allow(missing_docs, unreachable_pub, clippy::all)]
mod messages {
    include!("../generated/onnx_classes.rs");
}
use messages::{Model, Node};

/// The classes of one output, in the order of its columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Classes {
    Numbers(Vec<i64>),
    Names(Vec<String>),
}

/// Whether a value is a map from class to probability for each row.
pub(super) fn is_class_map(value: &ValueType) -> bool {
    let ValueType::Sequence(row) = value else { return false };
    matches!(
        **row,
        ValueType::Map { key: TensorElementType::Int64 | TensorElementType::String, value: TensorElementType::Float32 }
    )
}

/// Operators that hand numbers on as they are.
const HAND_ON: [&str; 5] = ["Identity", "Cast", "Squeeze", "Flatten", "Reshape"];
/// Most of them in a row that are looked through.
const MOST_HANDS: usize = 16;

/// By output of the graph, the operator that makes its numbers; nothing where the file cannot be read.
pub(crate) fn operators(file: &Path) -> BTreeMap<String, String> {
    let model = Stream::open(file, None).ok().and_then(|mut stream| Model::decode(&mut stream).ok());
    makers(&model.and_then(|model| model.graph).map(|graph| graph.node).unwrap_or_default())
}

fn makers(nodes: &[Node]) -> BTreeMap<String, String> {
    let mut made_by: BTreeMap<&str, &Node> = BTreeMap::new();
    for node in nodes {
        made_by.extend(node.output.iter().map(|name| (name.as_str(), node)));
    }
    let maker = |(name, node): (&&str, &&Node)| {
        let mut node = *node;
        for _ in 0..MOST_HANDS {
            let before = node.input.first().and_then(|input| made_by.get(input.as_str()));
            match before.filter(|_| HAND_ON.contains(&node.op_type.as_str())) {
                Some(before) => node = before,
                None => break,
            }
        }
        ((*name).to_owned(), node.op_type.clone())
    };
    made_by.iter().map(maker).collect()
}

impl Classes {
    /// Reads the classes of `output` from the model file; `None` where no ZipMap names them.
    pub(super) fn read(file: &Path, output: &str) -> Option<Classes> {
        let mut stream = Stream::open(file, None).ok()?;
        let model = Model::decode(&mut stream).ok()?;
        let nodes = model.graph?.node;
        let zip = nodes.iter().find(|node| node.op_type == "ZipMap" && node.output.iter().any(|own| own == output))?;
        let attribute = |name: &str| zip.attribute.iter().find(|own| own.name == name);
        if let Some(names) = attribute("classlabels_strings").filter(|own| !own.strings.is_empty()) {
            let names = names.strings.iter().map(|name| String::from_utf8_lossy(name).into_owned());
            return Some(Classes::Names(names.collect()));
        }
        attribute("classlabels_int64s").map(|own| Classes::Numbers(own.ints.clone()))
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Classes::Numbers(numbers) => numbers.len(),
            Classes::Names(names) => names.len(),
        }
    }

    pub(super) fn names(&self) -> Vec<String> {
        match self {
            Classes::Numbers(numbers) => numbers.iter().map(i64::to_string).collect(),
            Classes::Names(names) => names.clone(),
        }
    }

    /// The probabilities of every row; a class that a row's map lacks has 0.
    pub(super) fn rows(&self, value: &DynValue) -> ort::Result<ClassRows> {
        let rows = value.try_extract_sequence::<DynMapValueType>()?;
        let mut values = vec![0.0; rows.len() * self.len()];
        for (row, map) in values.chunks_mut(self.len().max(1)).zip(&rows) {
            match self {
                Classes::Numbers(numbers) => fill_row(row, numbers, map.try_extract_key_values::<i64, f32>()?),
                Classes::Names(names) => fill_row(row, names, map.try_extract_key_values::<String, f32>()?),
            }
        }
        Ok(ClassRows { shape: [rows.len() as i64, self.len() as i64], values })
    }
}

/// The probabilities of a run.
pub(super) struct ClassRows {
    pub(super) shape: [i64; 2],
    pub(super) values: Vec<f32>,
}

fn fill_row<K: PartialEq>(row: &mut [f32], classes: &[K], map: Vec<(K, f32)>) {
    for (class, probability) in map {
        if let Some(at) = classes.iter().position(|own| *own == class) {
            row[at] = probability;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_the_zipmaps_own_in_its_order() {
        let model = |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/models/{name}.onnx"));
        assert_eq!(Classes::read(&model("map_output"), "y"), Some(Classes::Numbers(vec![0, 1])));
        let names = ["versicolor", "setosa", "virginica"].map(String::from).to_vec();
        assert_eq!(Classes::read(&model("classifier"), "output_probability"), Some(Classes::Names(names)));
        assert_eq!(Classes::read(&model("classifier"), "output_label"), None);
    }

    #[test]
    fn what_hands_numbers_on_is_looked_through() {
        let node = |op: &str, input: &str, output: &str| Node {
            input: vec![input.to_owned()],
            output: vec![output.to_owned()],
            op_type: op.to_owned(),
            attribute: Vec::new(),
        };
        let nodes = [
            node("Softmax", "x", "p"),
            node("Cast", "p", "q"),
            node("Identity", "q", "y"),
            node("Identity", "x", "z"),
            node("Add", "p", "w"),
            // No graph is so, but a file may be.
            node("Identity", "round", "round"),
        ];
        let found = makers(&nodes);
        let of = |name: &str| found.get(name).map(String::as_str);
        assert_eq!((of("y"), of("z"), of("w")), (Some("Softmax"), Some("Identity"), Some("Add")));
        assert_eq!(of("round"), Some("Identity"));
    }

    #[test]
    fn a_row_has_each_class_at_its_place() {
        let mut row = [0.0; 3];
        fill_row(&mut row, &["b", "a", "c"], vec![("a", 0.25), ("b", 0.5), ("other", 9.0)]);
        assert_eq!(row, [0.5, 0.25, 0.0]);
    }
}
