//! What is shown of small models. They are built as values here; `tests/rows` runs
//! such models on ONNX Runtime.

use super::graph::{Attribute, Axis, Function, Graph, Model, Node, Port, Tensor};
use super::*;

const N: i64 = -1;

/// An input or output of these axes; -1 is `n`.
fn port(name: &str, axes: &[i64]) -> Port {
    let axis = |&own: &i64| if own == N { Axis::Named("n".into()) } else { Axis::Fixed(own) };
    Port { name: name.into(), axes: Some(axes.iter().map(axis).collect()) }
}

/// `y = Op(a, b) axis=1 perm=[0,1]`: what stands before `=`, the operator, its inputs, its attributes.
fn node(line: &str) -> Node {
    let (outputs, rest) = line.split_once(" = ").expect("outputs");
    let (op, rest) = rest.split_once('(').expect("an operator");
    let (inputs, attributes) = rest.split_once(')').expect("inputs");
    let (domain, op) = op.rsplit_once('.').unwrap_or(("", op));
    let list = |text: &str| text.split(',').map(|own| own.trim().to_owned()).collect::<Vec<_>>();
    let attributes = attributes.split_whitespace().map(|own| {
        let (name, value) = own.split_once('=').expect("a value");
        let ints = value.trim_matches(['[', ']']).split(',').filter_map(|own| own.parse().ok()).collect();
        let (int, text) = (value.parse().unwrap_or(0), value.to_owned());
        Attribute { name: name.into(), int, text, ints, ..Attribute::default() }
    });
    Node {
        op: op.into(),
        domain: domain.into(),
        inputs: list(inputs),
        outputs: list(outputs),
        attributes: attributes.collect(),
        ..Node::default()
    }
}

fn constant(name: &str, dims: &[i64], values: Option<&[i64]>) -> Tensor {
    let values = values.map(|values| values.iter().map(|&own| Some(own)).collect());
    Tensor { name: name.into(), dims: dims.into(), values }
}

/// A model of these inputs whose outputs are `y` and, where it is there, `z`.
fn model(inputs: &[Port], constants: Vec<Tensor>, lines: &[&str]) -> Model {
    let nodes: Vec<Node> = lines.iter().map(|line| node(line)).collect();
    let made = |name: &str| nodes.iter().any(|node| node.outputs.iter().any(|own| own == name));
    let outputs = ["y", "z"].iter().filter(|name| made(name));
    let outputs = outputs.map(|name| Port { name: (*name).into(), axes: None }).collect();
    let graph = Graph { inputs: inputs.to_vec(), outputs, initializers: constants, nodes };
    Model { graph, opsets: vec![(String::new(), 17), ("com.microsoft".into(), 1)], functions: vec![] }
}

fn shown(axes: &[i64], lines: &[&str]) -> RowAnalysis {
    let constants = vec![
        constant("zero", &[], Some(&[0])),
        constant("one", &[], Some(&[1])),
        constant("two", &[], Some(&[2])),
        constant("axis0", &[1], Some(&[0])),
        constant("axis1", &[1], Some(&[1])),
        constant("minus", &[1], Some(&[-1])),
        constant("none", &[1], Some(&[0])),
        constant("far", &[1], Some(&[i64::MAX])),
        constant("three", &[1], Some(&[3])),
        constant("w", &[4, 2], None),
        constant("fourth", &[4], None),
        constant("pairs", &[3, 4], None),
        constant("table", &[100, 8], None),
        constant("kernel", &[6, 3, 3, 3], None),
        constant("flat", &[2], Some(&[-1, 4])),
        constant("flat54", &[2], Some(&[-1, 54])),
        constant("words", &[3], Some(&[-1, 8, 2])),
        constant("backward", &[1], Some(&[-1])),
        constant("lowest", &[1], Some(&[i64::MIN])),
        constant("depth", &[], Some(&[5])),
        constant("pads", &[4], Some(&[0, 1, 0, 1])),
        constant("pads_rows", &[4], Some(&[1, 0, 0, 0])),
    ];
    analyse(&model(&[port("x", axes)], constants, lines))
}

fn proven(axes: &[i64], lines: &[&str]) {
    assert_eq!(shown(axes, lines), RowAnalysis::Proven, "{lines:?}");
}

fn mixed(axes: &[i64], lines: &[&str], what: &str) {
    let shown = shown(axes, lines);
    assert!(matches!(&shown, RowAnalysis::Mixed(why) if why.contains(what)), "{lines:?}: {shown:?}");
}

#[test]
fn what_keeps_rows_apart_is_proven() {
    for lines in [
        &["y = Identity(x)"][..],
        &["h = MatMul(x, w)", "y = Relu(h)"],
        &["y = Add(x, fourth)"],
        &["y = Gemm(x, w)"],
        &["m = ReduceMax(x) axes=[1]", "y = Sub(x, m)"],
        &["y = Softmax(x) axis=-1"],
        &["y = ArgMax(x) axis=1 keepdims=0"],
        &["t = Transpose(x) perm=[1,0]", "s = Softmax(t) axis=0", "y = Transpose(s) perm=[1,0]"],
        &["y = CumSum(x, one)"],
        &["y, z = TopK(x, axis1) axis=1"],
        &["y = Reshape(x, flat)"],
        &["y = Slice(x, none, three, axis1)"],
        &["y = Slice(x, none, far, axis0)"],
        &["a, b = Split(x) axis=1", "y = Concat(b, a) axis=1"],
        &["c = Greater(x, fourth)", "y = Where(c, x, fourth)"],
        &["i = Cast(x) to=7", "y = Gather(table, i) axis=0"],
        &["i = Cast(x) to=7", "y = OneHot(i, depth, fourth) axis=-1"],
        &["y = LayerNormalization(x, fourth, fourth)"],
        &["y = Pad(x, pads)"],
        &["y = ai.onnx.ml.TreeEnsembleRegressor(x)"],
        &["y, z = ai.onnx.ml.LinearClassifier(x)"],
        &["y = ai.onnx.ml.Normalizer(x)"],
        &["y = com.microsoft.QuickGelu(x)"],
        &["y = Einsum(x) equation=ij->ij"],
    ] {
        proven(&[N, 4], lines);
    }
    for lines in [
        &["c = Conv(x, kernel) pads=[1,1,1,1]", "p = GlobalAveragePool(c)", "y = Flatten(p)"][..],
        &["c = Conv(x, kernel)", "p = MaxPool(c) kernel_shape=[2,2] strides=[2,2]", "y = Reshape(p, flat54)"],
        &["y = DepthToSpace(x) blocksize=1"],
        &["y = InstanceNormalization(x, three, three)"],
    ] {
        proven(&[N, 3, 8, 8], lines);
    }
}

#[test]
fn what_mixes_rows_is_seen_with_the_node_that_does() {
    for (lines, what) in [
        (&["y = ReduceMax(x)"][..], "node `y` (ReduceMax) reduces over the rows"),
        (&["m = ReduceMax(x)", "c = Greater(m, one)", "d = Div(x, fourth)", "y = Where(c, d, x)"], "(ReduceMax)"),
        (&["m = ReduceMin(x)", "y = Sub(x, m)"], "(ReduceMin)"),
        (&["y = Softmax(x) axis=0"], "(Softmax)"),
        (&["y = CumSum(x, zero)"], "(CumSum)"),
        (&["y = CumProd(x, zero)"], "(CumProd)"),
        (&["y = LpNormalization(x) axis=0"], "(LpNormalization)"),
        (&["y = Trilu(x, one) upper=0"], "(Trilu)"),
        (&["y, z = TopK(x, three) axis=0 largest=0"], "(TopK)"),
        (&["y = Unique(x) axis=0"], "(Unique)"),
        (&["y = NonZero(x)"], "(NonZero)"),
        (&["y = Slice(x, none, far, axis0, backward)"], "takes some of the rows"),
        (&["y = Slice(x, three, far, axis0)"], "takes some of the rows"),
        (&["y = Gather(x, zero) axis=0"], "takes some of the rows"),
        (&["i = ArgMax(x) axis=1 keepdims=0", "y = Gather(x, i) axis=0"], "by their places in the whole"),
        (&["y = Add(x, pairs)"], "a fixed number of rows"),
        (&["y = Concat(x, pairs) axis=0"], "one after the other"),
        (&["y = Concat(x, pairs) axis=1"], "beside the rows"),
        (&["t = Transpose(x) perm=[1,0]", "y = MatMul(x, t)"], "sets each row against the others"),
        (&["t = Transpose(x) perm=[1,0]", "y = MatMul(t, x)"], "sums over the rows"),
        (&["y = Squeeze(x)"], "takes every axis of length 1"),
        (&["y = Squeeze(x, axis0)"], "takes the rows' axis away"),
        (&["y = Transpose(x) perm=[1,0]"], "are on axis 1"),
        (&["y = Unsqueeze(x, axis0)"], "are on axis 1"),
        (&["y = Flatten(x) axis=0"], "are on axis 1"),
        (&["y, z, s = DynamicQuantizeLinear(x)"], "by the range of all rows"),
        (&["s = Shape(x)", "f = Cast(s) to=1", "g = Gather(f, zero)", "y = Div(x, g)"], "depends on how many rows"),
        (&["y = Shape(x)"], "depends on how many rows"),
        (&["y = EyeLike(x)"], "what its place says"),
        (&["y = StringSplit(x)"], "as the longest has"),
        (&["y = Pad(x, pads_rows)"], "pads the rows"),
        (&["y = Identity(fourth)"], "the same for all rows"),
        (&["y = MeanVarianceNormalization(x) axes=[0]"], "normalises over the rows"),
        (&["y = Compress(x, fourth)"], "drops what the data say"),
        (&["y = GatherND(pairs, x)", "z = GatherND(x, flat)"], "by their places in the whole"),
        (&["y = Einsum(x) equation=ij->j"], "sums over the rows"),
        (&["y = Einsum(x,x) equation=ij,kj->ik"], "sets each row against the others"),
    ] {
        mixed(&[N, 4], lines, what);
    }
    mixed(&[N, 3, 8, 8], &["c, y = MaxPool(x) kernel_shape=[2,2]"], "counted over all rows");
    mixed(&[N, 3, 8, 8], &["y = BatchNormalization(x, three, three, three, three) training_mode=1"], "as in training");
    mixed(&[N, 4, 8], &["y = LSTM(x, w, w) hidden_size=2"], "one after the other");
}

#[test]
fn shapes_that_exporters_compute_are_followed() {
    // `x.view(x.size(0), -1, 2, 2)`, its heads swapped, and back.
    let lines = [
        "s = Shape(x)",
        "n = Gather(s, zero) axis=0",
        "u = Unsqueeze(n, axis0)",
        "two1 = Unsqueeze(two, axis0)",
        "t = Concat(u, minus, two1, two1) axis=0",
        "r = Reshape(x, t)",
        "p = Transpose(r) perm=[0,2,1,3]",
        "k = Transpose(p) perm=[0,1,3,2]",
        "a = MatMul(p, k)",
        "b = Softmax(a) axis=-1",
        "c = MatMul(b, p)",
        "d = Transpose(c) perm=[0,2,1,3]",
        "t2 = Concat(u, minus) axis=0",
        "y = Reshape(d, t2)",
    ];
    proven(&[N, 8, 4], &lines);
    // A token that is made as many times as there are rows, and set before each.
    let lines = [
        "s = Shape(x)",
        "n = Gather(s, zero) axis=0",
        "u = Unsqueeze(n, axis0)",
        "t = Concat(u, minus, minus) axis=0",
        "l = ConstantOfShape(three)",
        "ones = Add(l, one)",
        "q = Equal(t, minus)",
        "e = Where(q, ones, t)",
        "token = Expand(cls, e)",
        "y = Concat(token, x) axis=1",
    ];
    let constants = vec![
        constant("zero", &[], Some(&[0])),
        constant("one", &[], Some(&[1])),
        constant("axis0", &[1], Some(&[0])),
        constant("minus", &[1], Some(&[-1])),
        constant("three", &[1], Some(&[3])),
        constant("cls", &[1, 1, 4], None),
    ];
    assert_eq!(analyse(&model(&[port("x", &[N, 8, 4])], constants, &lines)), RowAnalysis::Proven);
    // Rows in blocks, such as a sentence's words one under the other.
    proven(&[N, 8, 4], &["r = Reshape(x, flat)", "g = MatMul(r, w)", "t = Relu(g)", "y = Reshape(t, words)"]);
    mixed(&[N, 8, 4], &["y = Reshape(x, flat)"], "more than one element");
    // Rows that are not one after the other are followed too, and told apart from those that are.
    let turned = ["t = Transpose(x) perm=[1,0,2]", "y = Reshape(t, flat)"];
    mixed(&[N, 8, 4], &turned, "more than one element");
    let across = ["t = Transpose(x) perm=[1,0,2]", "a = Reshape(t, flat)", "b = Reshape(x, flat)", "y = Add(a, b)"];
    mixed(&[N, 8, 4], &across, "sets each row against the others");
}

#[test]
fn a_shape_that_does_not_follow_the_rows_is_not_taken_for_rows() {
    let constants = || vec![constant("one_row", &[2], Some(&[1, 32])), constant("turned", &[2], Some(&[4, -1]))];
    let input = [port("x", &[N, 8, 4])];
    let shown = analyse(&model(&input, constants(), &["y = Reshape(x, one_row)"]));
    assert!(matches!(&shown, RowAnalysis::Mixed(why) if why.contains("fits a fixed number")), "{shown:?}");
    let shown = analyse(&model(&input, constants(), &["y = Reshape(x, turned)"]));
    assert!(!matches!(shown, RowAnalysis::Proven), "{shown:?}");
}

#[test]
fn what_has_no_rule_is_unknown_and_suspects_are_named() {
    let shown_of = |lines: &[&str]| shown(&[N, 4], lines);
    assert!(matches!(shown_of(&["y = some.where.Thing(x)"]), RowAnalysis::Unknown { suspect: None, .. }));
    let after = shown_of(&["t = some.where.Thing(x)", "y = ReduceMax(t)"]);
    assert!(
        matches!(&after, RowAnalysis::Unknown { suspect: Some(why), .. } if why.contains("ReduceMax")),
        "{after:?}"
    );
    let looped = shown_of(&["y = Loop(two, , x)"]);
    assert!(matches!(&looped, RowAnalysis::Unknown { suspect: Some(why), .. } if why.contains("Loop")), "{looped:?}");
    // Mixed beats unknown.
    mixed(&[N, 4], &["t = some.where.Thing(x)", "m = ReduceMax(x)", "y = Add(t, m)"], "(ReduceMax)");
}

#[test]
fn different_names_are_different_axes() {
    let named = |name: &str, axes: &[&str]| Port {
        name: name.into(),
        axes: Some(
            axes.iter()
                .map(|own| match own.parse() {
                    Ok(size) => Axis::Fixed(size),
                    Err(_) if own.is_empty() => Axis::Free,
                    Err(_) => Axis::Named((*own).into()),
                })
                .collect(),
        ),
    };
    let of = |inputs: &[Port], lines: &[&str]| analyse(&model(inputs, vec![], lines));
    let graph = of(&[named("x", &["nodes", "4"]), named("src", &["edges"])], &["y = Gather(x, src) axis=0"]);
    assert!(
        matches!(&graph, RowAnalysis::NoBatchAxis(why) if why.contains("`nodes`") && why.contains("`edges`")),
        "{graph:?}"
    );
    let regions = of(&[named("x", &["n", "3", "8", "8"]), named("rois", &["r", "4"])], &["y = Neg(x)"]);
    assert!(matches!(regions, RowAnalysis::NoBatchAxis(_)), "{regions:?}");
    // The same name, and names that exporters number.
    let same = of(&[named("a", &["n", "4"]), named("b", &["n", "4"])], &["y = Add(a, b)"]);
    assert_eq!(same, RowAnalysis::Proven);
    let numbered = of(&[named("a", &["unk__1", "4"]), named("b", &["unk__2", "4"])], &["y = Add(a, b)"]);
    assert_eq!(numbered, RowAnalysis::Proven);
    // Of unnamed ones the graph says which they are.
    let picks = of(&[named("x", &["", "4"]), named("i", &[""])], &["y = Gather(x, i) axis=0"]);
    assert!(matches!(picks, RowAnalysis::Mixed(_)), "{picks:?}");
    // A batch axis that is not the first is told.
    let silero = of(&[named("x", &["batch", "64"]), named("state", &["2", "batch", "8"])], &["y = Neg(x)"]);
    assert!(
        matches!(&silero, RowAnalysis::NoBatchAxis(why) if why.contains("axis 1") && why.contains("`state`")),
        "{silero:?}"
    );
    // An adjacency matrix.
    let square = of(&[named("a", &["n", "n"])], &["y = Neg(a)"]);
    assert!(matches!(square, RowAnalysis::NoBatchAxis(_)), "{square:?}");
    // Another name of an output matters where nothing is proven.
    let mut other = model(&[named("x", &["n", "4"])], vec![], &["y = some.where.Thing(x)"]);
    other.graph.outputs = vec![named("y", &["found", "4"])];
    assert!(matches!(analyse(&other), RowAnalysis::NoBatchAxis(why) if why.contains("`found`")));
    other.graph.outputs = vec![named("y", &["n", "4"])];
    assert!(matches!(analyse(&other), RowAnalysis::Unknown { .. }));
}

#[test]
fn branches_count_as_both() {
    let branch = |lines: &[&str], output: &str| Graph {
        nodes: lines.iter().map(|line| node(line)).collect(),
        outputs: vec![Port { name: output.into(), axes: None }],
        ..Graph::default()
    };
    let of = |condition: &str, yes: Graph, no: Graph| {
        let mut model = model(
            &[port("x", &[N, 4])],
            vec![constant("zero", &[], Some(&[0])), constant("flag", &[], None)],
            &[
                "s = Shape(x)",
                "g = Gather(s, zero) axis=0",
                "several = Greater(g, zero)",
                "m = ReduceMax(x) axes=[0,1] keepdims=0",
            ],
        );
        let mut either = node(&format!("y = If({condition})"));
        for (name, graph) in [("then_branch", yes), ("else_branch", no)] {
            either.attributes.push(Attribute { name: name.into(), graphs: vec![graph], ..Attribute::default() });
        }
        model.graph.nodes.push(either);
        model.graph.outputs = vec![Port { name: "y".into(), axes: None }];
        analyse(&model)
    };
    let neg = || branch(&["a = Neg(x)"], "a");
    let abs = || branch(&["b = Abs(x)"], "b");
    assert_eq!(of("flag", neg(), abs()), RowAnalysis::Proven);
    let differs = of("flag", neg(), branch(&["b = ReduceMax(x)"], "b"));
    assert!(matches!(differs, RowAnalysis::Mixed(_)), "{differs:?}");
    for condition in ["several", "m"] {
        let shown = of(condition, neg(), abs());
        assert!(matches!(shown, RowAnalysis::Mixed(_)), "{condition}: {shown:?}");
    }
    // Only one branch can run.
    assert_eq!(of("zero", branch(&["b = ReduceMax(x)"], "b"), abs()), RowAnalysis::Proven);
}

#[test]
fn functions_are_followed_with_their_callers_attributes() {
    let mut softmax = node("out = Softmax(in)");
    softmax.attributes = vec![Attribute { name: "axis".into(), refers: "over".into(), ..Attribute::default() }];
    let function = Function {
        domain: "my".into(),
        name: "Weights".into(),
        inputs: vec!["in".into()],
        outputs: vec!["out".into()],
        nodes: vec![softmax],
        opsets: vec![(String::new(), 17)],
        ..Function::default()
    };
    let of = |line: &str| {
        let mut model = model(&[port("x", &[N, 4])], vec![], &[line]);
        model.functions = vec![function.clone()];
        analyse(&model)
    };
    assert_eq!(of("y = my.Weights(x) over=1"), RowAnalysis::Proven);
    assert!(matches!(of("y = my.Weights(x) over=0"), RowAnalysis::Mixed(_)));
}
