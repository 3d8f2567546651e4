//! Goes through the nodes in their order and gives each tensor a [`Value`]: what is known
//! of it in every run.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use super::dim::{Size, Symbols};
use super::graph::{Attribute, Function, Graph, Model, Node};
use super::ops::{Context, RuleResult, Stop, is_suspect, rule};
use super::value::{Cause, Kind, Value};

/// Deepest nesting of functions and of graphs in nodes.
const MOST_DEPTH: u32 = 32;
/// Most nodes that are visited: functions that call each other may multiply their number.
const MOST_NODES: usize = 2_000_000;

/// Operators that answer something else each time.
const RANDOM: [&str; 6] =
    ["RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial"];

/// The tensors of a graph by name, over those of the graph around it.
pub(crate) struct Scope<'p> {
    values: HashMap<String, Value>,
    around: Option<&'p Scope<'p>>,
}

impl<'p> Scope<'p> {
    pub(crate) fn new(around: Option<&'p Scope<'p>>) -> Scope<'p> {
        Scope { values: HashMap::new(), around }
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Value> {
        self.values.get(name).or_else(|| self.around?.get(name))
    }

    pub(crate) fn set(&mut self, name: &str, value: Value) {
        self.values.insert(name.to_owned(), value);
    }
}

type Opsets = [(String, i64)];

/// One analysis.
pub(crate) struct Analysis<'m> {
    model: &'m Model,
    pub(crate) symbols: Symbols,
    /// The first node whose effect is not known and that no trial can judge.
    pub(crate) suspect: Option<Cause>,
    depth: u32,
    looked_at: usize,
}

impl<'m> Analysis<'m> {
    pub(crate) fn new(model: &'m Model) -> Analysis<'m> {
        Analysis { model, symbols: Symbols::default(), suspect: None, depth: 0, looked_at: 0 }
    }

    /// Constants and nodes of a graph, into `scope`, which has its inputs.
    pub(crate) fn graph(&mut self, graph: &Graph, opsets: &Opsets, scope: &mut Scope<'_>) {
        for tensor in &graph.initializers {
            scope.set(&tensor.name, Value::constant(tensor, &mut self.symbols));
        }
        self.nodes(&graph.nodes, opsets, scope);
    }

    fn nodes(&mut self, nodes: &[Node], opsets: &Opsets, scope: &mut Scope<'_>) {
        for node in nodes {
            let values = self.node(node, opsets, scope);
            let mut values = values.into_iter();
            for name in &node.outputs {
                let value = values.next().unwrap_or_else(|| unknown(node, "gives an output that is not followed"));
                if !name.is_empty() {
                    scope.set(name, value);
                }
            }
        }
    }

    /// The values of a node's outputs.
    fn node(&mut self, node: &Node, opsets: &Opsets, scope: &Scope<'_>) -> Vec<Value> {
        self.looked_at += 1;
        let input = |name: &String| {
            let missing = || unknown(node, &format!("takes `{name}`, which is not there"));
            (!name.is_empty()).then(|| scope.get(name).cloned().unwrap_or_else(missing))
        };
        let inputs: Vec<Option<Value>> = node.inputs.iter().map(input).collect();
        let captured: Vec<Value> = captured(node).iter().filter_map(|name| scope.get(name).cloned()).collect();
        let all = || inputs.iter().flatten().chain(&captured);
        let same = all().all(Value::is_same);
        if let Some(stopped) = stopped(all()) {
            if is_suspect(&node.op) && matches!(stopped, Kind::Unknown(_)) {
                self.suspects(node);
            }
            return vec![Value::of_kind(stopped); node.outputs.len()];
        }
        let counts = !same && all().all(|value| matches!(value.kind, Kind::Same | Kind::Counts));
        let ruled = self.ruled(node, &inputs, opsets, scope, same);
        let count = node.outputs.len();
        match ruled {
            // What is made of inputs that are the same is the same, whatever the rule says.
            Ok(values) if same => values.into_iter().map(|value| Value { kind: Kind::Same, ..value }).collect(),
            Ok(values) => values,
            Err(_) if same && !RANDOM.contains(&node.op.as_str()) => vec![Value::same(None); count],
            Err(Stop::Unknown(_)) if counts => vec![Value::counts(None); count],
            Err(Stop::Mixed(what)) => vec![Value::of_kind(Kind::Mixed(Rc::new(cause(node, &what)))); count],
            Err(Stop::Unknown(what)) => {
                if is_suspect(&node.op) {
                    self.suspects(node);
                }
                vec![unknown(node, &what); count]
            }
        }
    }

    fn suspects(&mut self, node: &Node) {
        self.suspect.get_or_insert_with(|| cause(node, "hangs on the data in a way that no trial shows"));
    }

    fn ruled(
        &mut self,
        node: &Node,
        inputs: &[Option<Value>],
        opsets: &Opsets,
        scope: &Scope<'_>,
        same: bool,
    ) -> RuleResult {
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
        let mut absent: HashSet<&String> = HashSet::new();
        for (at, name) in function.inputs.iter().enumerate() {
            match inputs.get(at).cloned().flatten() {
                Some(value) => scope.set(name, value),
                None => drop(absent.insert(name)),
            }
        }
        let nodes: Vec<Node> = function.nodes.iter().map(|own| filled_in(own, node, function, &absent)).collect();
        self.depth += 1;
        self.nodes(&nodes, &function.opsets, &mut scope);
        self.depth -= 1;
        let output = |name: &String| {
            let missing = || unknown(node, &format!("gives `{name}`, which is not followed"));
            scope.get(name).cloned().unwrap_or_else(missing)
        };
        function.outputs.iter().map(output).collect()
    }

    /// `If`: the branch that is known to be taken, else what both agree on.
    fn either(&mut self, node: &Node, inputs: &[Option<Value>], opsets: &Opsets, scope: &Scope<'_>) -> RuleResult {
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
                let outputs = graph.outputs.iter().map(|port| inner.get(&port.name).cloned());
                outcomes.push(outputs.collect::<Vec<Option<Value>>>());
            }
        }
        let joined = (0..node.outputs.len()).map(|at| {
            let mut outcome = outcomes.iter().map(|outputs| outputs.get(at).cloned().flatten());
            match (outcome.next().flatten(), outcome.next()) {
                (Some(one), None) => Ok(one),
                (Some(one), Some(Some(other))) => Ok(self.agreed(node, one, other)),
                _ => Err(Stop::Unknown("lacks an output in a branch".into())),
            }
        });
        joined.collect()
    }

    /// What is known of a value that is one or the other, the same one in every run.
    fn agreed(&mut self, node: &Node, one: Value, other: Value) -> Value {
        let kind = match (one.kind, other.kind) {
            (Kind::Mixed(why), _) | (_, Kind::Mixed(why)) => Kind::Mixed(why),
            (Kind::Unknown(why), _) | (_, Kind::Unknown(why)) => Kind::Unknown(why),
            (own, other) if own == other => own,
            _ => {
                self.suspects(node);
                unknown(node, "gives rows in one branch and not in the other").kind
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
                unknown(node, "gives rows of other axes in one branch than in the other").kind
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
    let of_caller =
        |wanted: &str| caller.attribute(wanted).or_else(|| function.defaults.iter().find(|own| own.name == wanted));
    node.attributes = std::mem::take(&mut node.attributes)
        .into_iter()
        .filter_map(|own| match own.refers.is_empty() {
            true => Some(own),
            // Left out where the caller leaves it out.
            false => {
                of_caller(&own.refers).map(|given| Attribute { name: own.name, refers: String::new(), ..given.clone() })
            }
        })
        .collect();
    node
}

fn cause(node: &Node, what: &str) -> Cause {
    let name = match node.name.is_empty() {
        true => node.outputs.first().map_or("", String::as_str),
        false => &node.name,
    };
    Cause { node: name.to_owned(), op: node.op.clone(), what: what.to_owned() }
}

fn unknown(node: &Node, what: &str) -> Value {
    Value::of_kind(Kind::Unknown(Rc::new(cause(node, what))))
}
