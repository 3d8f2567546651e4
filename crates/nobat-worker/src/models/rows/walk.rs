//! Goes through the nodes in their order and gives each tensor a [`Value`].

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use super::dim::{Size, Symbols};
use super::graph::{Attribute, Function, Graph, Model, Node, Tensor};
use super::ops::{Context, Ruled, Stop, is_suspect, rule};
use super::value::{Kind, Value, Why};

/// Deepest nesting of functions and of graphs in nodes.
const MOST_DEPTH: u32 = 32;
/// Most nodes that are looked at: functions that call each other may be many more than there are.
const MOST_NODES: usize = 2_000_000;

/// Operators that answer something else each time.
const RANDOM: [&str; 6] =
    ["RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial"];

/// The tensors of a graph by name, over those of the graph around it.
pub(super) struct Scope<'p> {
    values: HashMap<String, Value>,
    around: Option<&'p Scope<'p>>,
}

impl<'p> Scope<'p> {
    pub(super) fn new(around: Option<&'p Scope<'p>>) -> Scope<'p> {
        Scope { values: HashMap::new(), around }
    }

    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.values.get(name).or_else(|| self.around?.get(name))
    }

    pub(super) fn set(&mut self, name: &str, value: Value) {
        self.values.insert(name.to_owned(), value);
    }
}

type Opsets = [(String, i64)];

/// One analysis.
pub(super) struct Walk<'m> {
    model: &'m Model,
    pub(super) symbols: Symbols,
    /// The first node on a way that is not known, which no trial may judge.
    pub(super) suspect: Option<Why>,
    depth: u32,
    looked_at: usize,
}

impl<'m> Walk<'m> {
    pub(super) fn new(model: &'m Model) -> Walk<'m> {
        Walk { model, symbols: Symbols::default(), suspect: None, depth: 0, looked_at: 0 }
    }

    /// Constants and nodes of a graph, into `scope`, which has its inputs.
    pub(super) fn graph(&mut self, graph: &Graph, opsets: &Opsets, scope: &mut Scope<'_>) {
        for tensor in &graph.initializers {
            let value = self.constant(tensor);
            scope.set(&tensor.name, value);
        }
        self.nodes(&graph.nodes, opsets, scope);
    }

    fn constant(&mut self, tensor: &Tensor) -> Value {
        let dims = tensor.dims.iter().map(|&dim| Size::of(dim)).collect();
        match &tensor.values {
            Some(values) => {
                let elements = values.iter().map(|own| Some(own.map_or_else(|| self.symbols.any(), Size::of)));
                Value::of_elements(dims, elements.collect())
            }
            None => Value::same(Some(dims)),
        }
    }

    fn nodes(&mut self, nodes: &[Node], opsets: &Opsets, scope: &mut Scope<'_>) {
        for node in nodes {
            let values = self.node(node, opsets, scope);
            let mut values = values.into_iter();
            for name in &node.outputs {
                let value = values.next().unwrap_or_else(|| {
                    let why = why(node, "gives an output that is not followed");
                    Value { kind: Kind::Unknown(Rc::new(why)), dims: None, elements: None }
                });
                if !name.is_empty() {
                    scope.set(name, value);
                }
            }
        }
    }

    /// The values of a node's outputs.
    fn node(&mut self, node: &Node, opsets: &Opsets, scope: &Scope<'_>) -> Vec<Value> {
        self.looked_at += 1;
        let mut inputs: Vec<Option<Value>> = Vec::new();
        for name in &node.inputs {
            inputs.push(match name.as_str() {
                "" => None,
                name => Some(scope.get(name).cloned().unwrap_or_else(|| {
                    let why = why(node, &format!("takes `{name}`, which is not there"));
                    Value { kind: Kind::Unknown(Rc::new(why)), dims: None, elements: None }
                })),
            });
        }
        let captured: Vec<Value> = captured(node).iter().filter_map(|name| scope.get(name).cloned()).collect();
        let all = || inputs.iter().flatten().chain(&captured);
        let same = all().all(Value::is_same);
        if let Some(stopped) = stopped(all()) {
            if is_suspect(&node.op) && matches!(stopped, Kind::Unknown(_)) {
                self.suspects(node);
            }
            return vec![Value { kind: stopped, dims: None, elements: None }; node.outputs.len()];
        }
        let counts = !same && all().all(|value| matches!(value.kind, Kind::Same | Kind::Counts));
        let ruled = self.ruled(node, &inputs, opsets, scope, same);
        let count = node.outputs.len();
        match ruled {
            // Whatever a rule makes of what is the same, it is the same.
            Ok(values) if same => values.into_iter().map(|value| Value { kind: Kind::Same, ..value }).collect(),
            Ok(values) => values,
            Err(_) if same && !RANDOM.contains(&node.op.as_str()) => vec![Value::same(None); count],
            Err(Stop::Unknown(_)) if counts => vec![Value::counts(None); count],
            Err(Stop::Mixed(what)) => {
                let kind = Kind::Mixed(Rc::new(why(node, &what)));
                vec![Value { kind, dims: None, elements: None }; count]
            }
            Err(Stop::Unknown(what)) => {
                if is_suspect(&node.op) {
                    self.suspects(node);
                }
                let kind = Kind::Unknown(Rc::new(why(node, &what)));
                vec![Value { kind, dims: None, elements: None }; count]
            }
        }
    }

    fn suspects(&mut self, node: &Node) {
        self.suspect.get_or_insert_with(|| why(node, "hangs on the data in a way that no trial shows"));
    }

    fn ruled(
        &mut self,
        node: &Node,
        inputs: &[Option<Value>],
        opsets: &Opsets,
        scope: &Scope<'_>,
        same: bool,
    ) -> Ruled {
        if self.looked_at > MOST_NODES || self.depth > MOST_DEPTH {
            return Err(Stop::Unknown("is too deep, or one of too many".into()));
        }
        let function = self.model.functions.iter().find(|own| own.name == node.op && own.domain == node.domain);
        if let Some(function) = function {
            return Ok(self.call(node, function, inputs));
        }
        match node.op.as_str() {
            "If" => return self.either(node, inputs, opsets, scope),
            "Loop" | "Scan" if same => return Ok(vec![Value::same(None); node.outputs.len()]),
            "Loop" | "Scan" => return Err(Stop::Unknown("repeats what is not followed".into())),
            op if RANDOM.contains(&op) => return Err(Stop::Unknown("answers something else each time".into())),
            _ => {}
        }
        let Some(rule) = rule(&node.domain, &node.op) else {
            let domain = if node.domain.is_empty() { "ai.onnx" } else { &node.domain };
            return Err(Stop::Unknown(format!("is of an operator without a rule (domain {domain})")));
        };
        if node.attributes.iter().any(|own| !own.refers.is_empty()) {
            return Err(Stop::Unknown("has an attribute of the function's caller that is not there".into()));
        }
        let opset = opsets.iter().find(|(domain, _)| *domain == node.domain).map_or(1, |(_, version)| *version);
        let mut cx = Context { node, opset, inputs, symbols: &mut self.symbols };
        rule(&mut cx)
    }

    /// A function's nodes in the place of the node that calls it.
    fn call(&mut self, node: &Node, function: &Function, inputs: &[Option<Value>]) -> Vec<Value> {
        let mut scope = Scope::new(None);
        for (at, name) in function.inputs.iter().enumerate() {
            if let Some(value) = inputs.get(at).cloned().flatten() {
                scope.set(name, value);
            }
        }
        let absent: HashSet<&String> = function
            .inputs
            .iter()
            .enumerate()
            .filter(|(at, _)| inputs.get(*at).is_none_or(Option::is_none))
            .map(|(_, name)| name)
            .collect();
        let nodes: Vec<Node> = function.nodes.iter().map(|own| filled_in(own, node, function, &absent)).collect();
        self.depth += 1;
        self.nodes(&nodes, &function.opsets, &mut scope);
        self.depth -= 1;
        let unknown = |name: &String| {
            let why = why(node, &format!("gives `{name}`, which is not followed"));
            Value { kind: Kind::Unknown(Rc::new(why)), dims: None, elements: None }
        };
        function.outputs.iter().map(|name| scope.get(name).cloned().unwrap_or_else(|| unknown(name))).collect()
    }

    /// `If`: one branch where it is known which, else what both agree on.
    fn either(&mut self, node: &Node, inputs: &[Option<Value>], opsets: &Opsets, scope: &Scope<'_>) -> Ruled {
        let Some(Some(condition)) = inputs.first() else { return Err(Stop::Unknown("has no condition".into())) };
        match &condition.kind {
            Kind::Same => {}
            Kind::Counts if condition.scalar().is_none() => {
                return Err(Stop::Mixed("does something else for another number of rows".into()));
            }
            Kind::Counts => {}
            _ => return Err(Stop::Mixed("goes one way for all rows together".into())),
        }
        let known = condition.scalar().and_then(Size::number);
        let mut outcomes = Vec::new();
        for (name, taken) in [("then_branch", known != Some(0)), ("else_branch", known.is_none_or(|own| own == 0))] {
            let graph = node.attribute(name).and_then(|own| own.graphs.first());
            let Some(graph) = graph else { return Err(Stop::Unknown("lacks a branch".into())) };
            if taken {
                let mut inner = Scope::new(Some(scope));
                self.depth += 1;
                self.graph(graph, opsets, &mut inner);
                self.depth -= 1;
                let outputs: Vec<Option<Value>> =
                    graph.outputs.iter().map(|port| inner.get(&port.name).cloned()).collect();
                outcomes.push(outputs);
            }
        }
        let count = node.outputs.len();
        let mut joined = Vec::new();
        for at in 0..count {
            let mut outcome = outcomes.iter().map(|outputs| outputs.get(at).cloned().flatten());
            let (one, other) = (outcome.next().flatten(), outcome.next());
            joined.push(match (one, other) {
                (Some(one), None) => one,
                (Some(one), Some(Some(other))) => self.agreed(node, one, other),
                _ => return Err(Stop::Unknown("lacks an output in a branch".into())),
            });
        }
        Ok(joined)
    }

    /// What is known of a value that is one or the other, the same one in every run.
    fn agreed(&mut self, node: &Node, one: Value, other: Value) -> Value {
        let kind = match (one.kind, other.kind) {
            (Kind::Mixed(why), _) | (_, Kind::Mixed(why)) => Kind::Mixed(why),
            (Kind::Unknown(why), _) | (_, Kind::Unknown(why)) => Kind::Unknown(why),
            (own, other) if own == other => own,
            _ => {
                self.suspects(node);
                Kind::Unknown(Rc::new(why(node, "gives rows in one branch and not in the other")))
            }
        };
        let dims = match (one.dims, other.dims) {
            (Some(own), Some(other)) if own.len() == other.len() => {
                let pairs = own.into_iter().zip(other);
                let joined = pairs.map(|(own, other)| match (own == other, own.has_rows() || other.has_rows()) {
                    (true, _) => Some(own),
                    (false, true) => None,
                    (false, false) => Some(self.symbols.any_size()),
                });
                joined.collect::<Option<Vec<Size>>>()
            }
            _ => None,
        };
        let kind = match kind {
            Kind::Rows(_) if dims.is_none() => {
                Kind::Unknown(Rc::new(why(node, "gives rows of other axes in one branch than in the other")))
            }
            kind => kind,
        };
        Value { kind, dims, elements: None }
    }
}

/// Mixed or unknown, where one of these is; mixed comes first.
fn stopped<'v>(values: impl Iterator<Item = &'v Value>) -> Option<Kind> {
    let mut found = None;
    for value in values {
        match &value.kind {
            Kind::Mixed(_) => return Some(value.kind.clone()),
            Kind::Unknown(_) => found = found.or_else(|| Some(value.kind.clone())),
            _ => {}
        }
    }
    found
}

/// Names of the graph around that a node's own graphs use.
fn captured(node: &Node) -> Vec<&str> {
    fn of_graph<'g>(graph: &'g Graph, found: &mut Vec<&'g str>, depth: u32) {
        if depth > MOST_DEPTH {
            return;
        }
        let mut own: HashSet<&str> = graph.inputs.iter().map(|port| port.name.as_str()).collect();
        own.extend(graph.initializers.iter().map(|tensor| tensor.name.as_str()));
        own.extend(graph.nodes.iter().flat_map(|node| &node.outputs).map(String::as_str));
        let mut used: Vec<&str> = graph.nodes.iter().flat_map(|node| &node.inputs).map(String::as_str).collect();
        used.extend(graph.outputs.iter().map(|port| port.name.as_str()));
        for graph in graph.nodes.iter().flat_map(Node::graphs) {
            of_graph(graph, &mut used, depth + 1);
        }
        found.extend(used.into_iter().filter(|name| !name.is_empty() && !own.contains(name)));
    }
    let mut found = Vec::new();
    node.graphs().for_each(|graph| of_graph(graph, &mut found, 0));
    found.sort_unstable();
    found.dedup();
    found
}

/// A function's node with the caller's attributes in the places that refer to them, and
/// without the inputs that the caller leaves out.
fn filled_in(own: &Node, caller: &Node, function: &Function, absent: &HashSet<&String>) -> Node {
    let mut node = own.clone();
    for name in &mut node.inputs {
        if absent.contains(name) {
            name.clear();
        }
    }
    let of_caller = |wanted: &str| -> Option<Attribute> {
        let given = caller.attribute(wanted).or_else(|| function.defaults.iter().find(|own| own.name == wanted));
        given.cloned()
    };
    node.attributes = node
        .attributes
        .into_iter()
        .filter_map(|own| match own.refers.is_empty() {
            true => Some(own),
            // One that the caller leaves out is left out.
            false => of_caller(&own.refers).map(|given| Attribute { name: own.name, refers: String::new(), ..given }),
        })
        .collect();
    node
}

fn why(node: &Node, what: &str) -> Why {
    let name = match node.name.is_empty() {
        true => node.outputs.first().map_or("", String::as_str),
        false => &node.name,
    };
    Why { node: name.to_owned(), op: node.op.clone(), what: what.to_owned() }
}
