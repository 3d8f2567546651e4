//! Writes small ONNX models, so that the tests know what a model answers and how
//! long it takes. The bytes are protobuf, field by field as onnx.proto numbers them.

use std::path::{Path, PathBuf};

/// Width of the rows of [`echo`].
pub(crate) const WIDTH: usize = 64;
/// Datatypes, as onnx.proto numbers them.
const FLOAT: u64 = 1;
const INT64: u64 = 7;

/// A repository with the model `echo`: `x: float[N,64]` comes back as `y`, after
/// `steps` multiplications by a `size`×`size` identity, which cost time and change
/// nothing. An answer that is not its own question shows at once.
pub(crate) fn echo(folder: &Path, size: usize, steps: usize) -> PathBuf {
    assert!(size >= WIDTH);
    let mut nodes = vec![node("MatMul", &["x", "widen"], "h0")];
    for step in 0..steps {
        nodes.push(node("MatMul", &[&format!("h{step}"), "identity"], &format!("h{}", step + 1)));
    }
    nodes.push(node("MatMul", &[&format!("h{steps}"), "narrow"], "y"));
    let mut graph = Vec::new();
    nodes.iter().for_each(|node| bytes(&mut graph, 1, node));
    bytes(&mut graph, 2, b"echo");
    for (name, rows, columns) in [("widen", WIDTH, size), ("identity", size, size), ("narrow", size, WIDTH)] {
        bytes(&mut graph, 5, &identity(name, rows, columns));
    }
    bytes(&mut graph, 11, &value("x", FLOAT, Some(WIDTH)));
    bytes(&mut graph, 12, &value("y", FLOAT, Some(WIDTH)));
    write(folder, "echo", &graph)
}

/// A repository with the model `name`: `x: float[N,64]` times a matrix of zeros and the ones
/// that `is_one` says, as `y`. The identity answers with what it was asked.
pub(crate) fn matrix(folder: &Path, name: &str, is_one: impl Fn(usize, usize) -> bool) -> PathBuf {
    let mut graph = Vec::new();
    bytes(&mut graph, 1, &node("MatMul", &["x", "w"], "y"));
    bytes(&mut graph, 2, name.as_bytes());
    bytes(&mut graph, 5, &ones("w", WIDTH, WIDTH, is_one));
    bytes(&mut graph, 11, &value("x", FLOAT, Some(WIDTH)));
    bytes(&mut graph, 12, &value("y", FLOAT, Some(WIDTH)));
    write(folder, name, &graph)
}

/// The JSON body of one row that is highest at `class`.
pub(crate) fn body_of_class(class: u64) -> String {
    let row: Vec<&str> = (0..WIDTH as u64).map(|at| if at == class { "1" } else { "0" }).collect();
    format!("{{\"instances\":[[{}]]}}", row.join(","))
}

/// A repository with the model `division`: `a / b` of two `int64[N]`. The smallest
/// number by -1 overflows, for which the processor ends the process.
pub(crate) fn division(folder: &Path) -> PathBuf {
    let mut graph = Vec::new();
    bytes(&mut graph, 1, &node("Div", &["a", "b"], "y"));
    bytes(&mut graph, 2, b"division");
    bytes(&mut graph, 11, &value("a", INT64, None));
    bytes(&mut graph, 11, &value("b", INT64, None));
    bytes(&mut graph, 12, &value("y", INT64, None));
    write(folder, "division", &graph)
}

/// Writes a graph as version 1 of a model; the repository.
fn write(folder: &Path, name: &str, graph: &[u8]) -> PathBuf {
    let mut opset = Vec::new();
    bytes(&mut opset, 1, b"");
    number(&mut opset, 2, 13);
    let mut model = Vec::new();
    number(&mut model, 1, 8);
    bytes(&mut model, 7, graph);
    bytes(&mut model, 8, &opset);

    let repository = folder.join("models");
    let version = repository.join(name).join("1");
    std::fs::create_dir_all(&version).expect("the model's folder");
    std::fs::write(version.join("model.onnx"), model).expect("the model's file");
    repository
}

/// The JSON body of rows whose every number is `value`.
pub(crate) fn body(value: u32, rows: usize) -> String {
    let row = format!("[{}]", vec![value.to_string(); WIDTH].join(","));
    format!("{{\"instances\":[{}]}}", vec![row; rows].join(","))
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn number(out: &mut Vec<u8>, field: u64, value: u64) {
    varint(out, field << 3);
    varint(out, value);
}

fn bytes(out: &mut Vec<u8>, field: u64, value: &[u8]) {
    varint(out, field << 3 | 2);
    varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

fn node(operator: &str, inputs: &[&str], output: &str) -> Vec<u8> {
    let mut out = Vec::new();
    inputs.iter().for_each(|input| bytes(&mut out, 1, input.as_bytes()));
    bytes(&mut out, 2, output.as_bytes());
    bytes(&mut out, 4, operator.as_bytes());
    out
}

fn identity(name: &str, rows: usize, columns: usize) -> Vec<u8> {
    ones(name, rows, columns, |row, column| row == column)
}

fn ones(name: &str, rows: usize, columns: usize, is_one: impl Fn(usize, usize) -> bool) -> Vec<u8> {
    let mut out = Vec::new();
    number(&mut out, 1, rows as u64);
    number(&mut out, 1, columns as u64);
    number(&mut out, 2, 1);
    bytes(&mut out, 8, name.as_bytes());
    let cells = (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column)));
    let data: Vec<u8> =
        cells.flat_map(|(row, column)| f32::from(u8::from(is_one(row, column))).to_le_bytes()).collect();
    bytes(&mut out, 9, &data);
    out
}

/// A tensor of `N` rows, each of `width` numbers or a single one.
fn value(name: &str, datatype: u64, width: Option<usize>) -> Vec<u8> {
    let mut free = Vec::new();
    bytes(&mut free, 2, b"N");
    let mut shape = Vec::new();
    bytes(&mut shape, 1, &free);
    if let Some(width) = width {
        let mut fixed = Vec::new();
        number(&mut fixed, 1, width as u64);
        bytes(&mut shape, 1, &fixed);
    }
    let mut tensor = Vec::new();
    number(&mut tensor, 1, datatype);
    bytes(&mut tensor, 2, &shape);
    let mut kind = Vec::new();
    bytes(&mut kind, 1, &tensor);
    let mut out = Vec::new();
    bytes(&mut out, 1, name.as_bytes());
    bytes(&mut out, 2, &kind);
    out
}
