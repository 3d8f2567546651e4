//! A model's graph as far as the analysis of rows needs it: nodes, the shapes and
//! names of inputs and outputs, and the values of small tensors, no weights.

/// A model file.
#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    /// The main graph.
    pub(super) graph: Graph,
    /// Version of each operator domain; the standard's own is the empty name.
    pub(super) opsets: Vec<(String, i64)>,
    /// Functions that nodes may call.
    pub(super) functions: Vec<Function>,
}

/// A graph, or one in an attribute of a node.
#[derive(Clone, Debug, Default)]
pub(super) struct Graph {
    /// Inputs; those that are initializers too have a default.
    pub(super) inputs: Vec<Port>,
    /// Outputs.
    pub(super) outputs: Vec<Port>,
    /// Constant tensors.
    pub(super) initializers: Vec<Tensor>,
    /// Nodes, in an order in which they can run.
    pub(super) nodes: Vec<Node>,
}

/// A function of the model's own.
#[derive(Clone, Debug, Default)]
pub(super) struct Function {
    /// Its domain.
    pub(super) domain: String,
    /// What nodes call it.
    pub(super) name: String,
    /// Names of its inputs.
    pub(super) inputs: Vec<String>,
    /// Names of its outputs.
    pub(super) outputs: Vec<String>,
    /// Its nodes.
    pub(super) nodes: Vec<Node>,
    /// Defaults of its attributes.
    pub(super) defaults: Vec<Attribute>,
    /// Version of each operator domain.
    pub(super) opsets: Vec<(String, i64)>,
}

/// An input or output of a graph.
#[derive(Clone, Debug, Default)]
pub(super) struct Port {
    /// Its name.
    pub(super) name: String,
    /// Its axes; `None` where the file does not say how many there are.
    pub(super) axes: Option<Vec<Axis>>,
}

/// One axis of an input or output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Axis {
    /// So many.
    Fixed(i64),
    /// Any number, the same wherever the name stands.
    Named(String),
    /// Any number.
    Free,
}

/// A constant tensor.
#[derive(Clone, Debug, Default)]
pub(super) struct Tensor {
    /// Its name.
    pub(super) name: String,
    /// Its dimensions.
    pub(super) dims: Vec<i64>,
    /// Elements of a small tensor of numbers; one that is not whole is `None`.
    pub(super) values: Option<Vec<Option<i64>>>,
}

/// One node.
#[derive(Clone, Debug, Default)]
pub(super) struct Node {
    /// Its name; often empty.
    pub(super) name: String,
    /// Its operator.
    pub(super) op: String,
    /// The operator's domain; empty for the standard's own.
    pub(super) domain: String,
    /// Names of its inputs; empty where an optional one is left out.
    pub(super) inputs: Vec<String>,
    /// Names of its outputs; empty where one is not wanted.
    pub(super) outputs: Vec<String>,
    /// Its attributes.
    pub(super) attributes: Vec<Attribute>,
}

impl Node {
    /// An attribute by name.
    pub(super) fn attribute(&self, name: &str) -> Option<&Attribute> {
        self.attributes.iter().find(|own| own.name == name)
    }

    /// A whole number, or its default.
    pub(super) fn int(&self, name: &str, default: i64) -> i64 {
        self.attribute(name).map_or(default, |own| own.int)
    }

    /// Graphs in attributes.
    pub(super) fn graphs(&self) -> impl Iterator<Item = &Graph> {
        self.attributes.iter().flat_map(|own| &own.graphs)
    }
}

/// One attribute of a node.
#[derive(Clone, Debug, Default)]
pub(super) struct Attribute {
    /// Its name.
    pub(super) name: String,
    /// The attribute of the function that has its value, within a function.
    pub(super) refers: String,
    /// A whole number.
    pub(super) int: i64,
    /// A number with a fraction.
    pub(super) float: f32,
    /// A text.
    pub(super) text: String,
    /// Whole numbers; none where there are too many to keep.
    pub(super) ints: Vec<i64>,
    /// Numbers of a list of floats, as [`Tensor::values`] has them.
    pub(super) floats: Vec<Option<i64>>,
    /// A tensor.
    pub(super) tensor: Option<Tensor>,
    /// Graphs.
    pub(super) graphs: Vec<Graph>,
}
