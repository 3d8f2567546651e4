//! A model's graph as far as the analysis of rows needs it: nodes, the shapes and
//! names of inputs and outputs, and the values of small tensors, no weights.

#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    pub(crate) graph: Graph,
    /// Version of each operator domain; the standard's own is the empty name.
    pub(crate) opsets: Vec<(String, i64)>,
    pub(crate) functions: Vec<Function>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Graph {
    /// Those that are initializers too have a default.
    pub(crate) inputs: Vec<Port>,
    pub(crate) outputs: Vec<Port>,
    pub(crate) initializers: Vec<Tensor>,
    /// In an order in which they can run.
    pub(crate) nodes: Vec<Node>,
}

/// A function of the model's own.
#[derive(Clone, Debug, Default)]
pub(crate) struct Function {
    pub(crate) domain: String,
    pub(crate) name: String,
    pub(crate) inputs: Vec<String>,
    pub(crate) outputs: Vec<String>,
    pub(crate) nodes: Vec<Node>,
    /// Defaults of its attributes.
    pub(crate) defaults: Vec<Attribute>,
    pub(crate) opsets: Vec<(String, i64)>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Port {
    pub(crate) name: String,
    /// Its axes; `None` where the file does not say how many there are.
    pub(crate) axes: Option<Vec<Axis>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Axis {
    Fixed(i64),
    /// Any number, the same wherever the name stands.
    Named(String),
    /// Any number.
    #[default]
    Free,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) dims: Vec<i64>,
    /// Elements of a small tensor of numbers; one that is not whole is `None`.
    pub(crate) values: Option<Vec<Option<i64>>>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) op: String,
    /// The operator's domain; empty for the standard's own.
    pub(crate) domain: String,
    /// Names of its inputs; empty where an optional one is left out.
    pub(crate) inputs: Vec<String>,
    /// Names of its outputs; empty where one is not wanted.
    pub(crate) outputs: Vec<String>,
    pub(crate) attributes: Vec<Attribute>,
}

impl Node {
    pub(crate) fn attribute(&self, name: &str) -> Option<&Attribute> {
        self.attributes.iter().find(|own| own.name == name)
    }

    /// A whole number, or its default.
    pub(crate) fn int(&self, name: &str, default: i64) -> i64 {
        self.attribute(name).map_or(default, |own| own.int)
    }

    /// Graphs in attributes.
    pub(crate) fn graphs(&self) -> impl Iterator<Item = &Graph> {
        self.attributes.iter().flat_map(|own| &own.graphs)
    }
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Attribute {
    pub(crate) name: String,
    /// The attribute of the function that has its value, within a function.
    pub(crate) refers: String,
    pub(crate) int: i64,
    pub(crate) text: String,
    /// Whole numbers; none where there are too many to keep.
    pub(crate) ints: Vec<i64>,
    /// Numbers of a list of floats, as [`Tensor::values`] has them.
    pub(crate) floats: Vec<Option<i64>>,
    pub(crate) tensor: Option<Tensor>,
    pub(crate) graphs: Vec<Graph>,
}
