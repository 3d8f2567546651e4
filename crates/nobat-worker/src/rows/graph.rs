//! A model's graph as far as the analysis of rows needs it: nodes, the shapes and
//! names of inputs and outputs, and the values of small tensors, no weights.

/// A model file.
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// The main graph.
    pub graph: Graph,
    /// Version of each operator domain; the standard's own is the empty name.
    pub opsets: Vec<(String, i64)>,
    /// Functions that nodes may call.
    pub functions: Vec<Function>,
}

/// A graph, or one in an attribute of a node.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    /// Inputs; those that are initializers too have a default.
    pub inputs: Vec<Port>,
    /// Outputs.
    pub outputs: Vec<Port>,
    /// Constant tensors.
    pub initializers: Vec<Tensor>,
    /// Nodes, in an order in which they can run.
    pub nodes: Vec<Node>,
}

/// A function of the model's own.
#[derive(Clone, Debug, Default)]
pub struct Function {
    /// Its domain.
    pub domain: String,
    /// What nodes call it.
    pub name: String,
    /// Names of its inputs.
    pub inputs: Vec<String>,
    /// Names of its outputs.
    pub outputs: Vec<String>,
    /// Its nodes.
    pub nodes: Vec<Node>,
    /// Defaults of its attributes.
    pub defaults: Vec<Attribute>,
    /// Version of each operator domain.
    pub opsets: Vec<(String, i64)>,
}

/// An input or output of a graph.
#[derive(Clone, Debug, Default)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// Its axes; `None` where the file does not say how many there are.
    pub axes: Option<Vec<Axis>>,
}

/// One axis of an input or output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Axis {
    /// So many.
    Fixed(i64),
    /// Any number, the same wherever the name stands.
    Named(String),
    /// Any number.
    Free,
}

/// A constant tensor.
#[derive(Clone, Debug, Default)]
pub struct Tensor {
    /// Its name.
    pub name: String,
    /// Its dimensions.
    pub dims: Vec<i64>,
    /// Elements of a small tensor of numbers; one that is not whole is `None`.
    pub values: Option<Vec<Option<i64>>>,
}

/// One node.
#[derive(Clone, Debug, Default)]
pub struct Node {
    /// Its name; often empty.
    pub name: String,
    /// Its operator.
    pub op: String,
    /// The operator's domain; empty for the standard's own.
    pub domain: String,
    /// Names of its inputs; empty where an optional one is left out.
    pub inputs: Vec<String>,
    /// Names of its outputs; empty where one is not wanted.
    pub outputs: Vec<String>,
    /// Its attributes.
    pub attributes: Vec<Attribute>,
}

impl Node {
    /// An attribute by name.
    pub fn attribute(&self, name: &str) -> Option<&Attribute> {
        self.attributes.iter().find(|own| own.name == name)
    }

    /// A whole number, or its default.
    pub fn int(&self, name: &str, default: i64) -> i64 {
        self.attribute(name).map_or(default, |own| own.int)
    }

    /// Graphs in attributes.
    pub fn graphs(&self) -> impl Iterator<Item = &Graph> {
        self.attributes.iter().flat_map(|own| &own.graphs)
    }
}

/// One attribute of a node.
#[derive(Clone, Debug, Default)]
pub struct Attribute {
    /// Its name.
    pub name: String,
    /// The attribute of the function that has its value, within a function.
    pub refers: String,
    /// A whole number.
    pub int: i64,
    /// A number with a fraction.
    pub float: f32,
    /// A text.
    pub text: String,
    /// Whole numbers; none where there are too many to keep.
    pub ints: Vec<i64>,
    /// Numbers of a list of floats, as [`Tensor::values`] has them.
    pub floats: Vec<Option<i64>>,
    /// A tensor.
    pub tensor: Option<Tensor>,
    /// Graphs.
    pub graphs: Vec<Graph>,
}
