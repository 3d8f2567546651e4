//! Reads a [`Model`] from the bytes of an ONNX file, in one pass and in little
//! memory: of weights only the dimensions are kept, of long lists nothing.
//!
//! The guard has checked the file before; what it would refuse (endless nesting,
//! a message longer than its bytes) is an error here too.

use prost::bytes::Buf;
use prost::encoding::decode_varint;

use super::graph::{Attribute, Axis, Function, Graph, Model, Node, Port, Tensor};

/// Elements of a tensor, and numbers of an attribute, that are kept.
const MOST_VALUES: usize = 256;
/// Longest name.
const MOST_TEXT: usize = 4096;
/// Deepest nesting of messages.
const MOST_DEPTH: u32 = 64;

/// `TensorProto.DataType`, those whose elements are read.
mod datatype {
    pub(super) const FLOAT: i64 = 1;
    pub(super) const INT32: i64 = 6;
    pub(super) const INT64: i64 = 7;
    pub(super) const BOOL: i64 = 9;
    pub(super) const DOUBLE: i64 = 11;
}

/// Why a file cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the file is no ONNX model")]
pub(super) struct NotAModel;

type Read<T> = Result<T, NotAModel>;

/// The value of a field; that of a length-delimited one is still to be read.
#[derive(Clone, Copy)]
enum Field {
    Number(u64),
    Fixed32(u32),
    Fixed64(u64),
    Bytes(usize),
}

impl Field {
    fn number(self) -> i64 {
        match self {
            Field::Number(number) => number as i64,
            _ => 0,
        }
    }

    fn len(self) -> Read<usize> {
        match self {
            Field::Bytes(len) => Ok(len),
            _ => Err(NotAModel),
        }
    }
}

/// Reads a model.
///
/// # Errors
/// [`NotAModel`].
pub(super) fn read(bytes: &mut impl Buf) -> Read<Model> {
    let len = bytes.remaining();
    let mut reader = Reader { bytes, depth: 0 };
    reader.model(len)
}

struct Reader<'b, B> {
    bytes: &'b mut B,
    depth: u32,
}

impl<B: Buf> Reader<'_, B> {
    /// Hands each field of a message of `len` bytes to `take`; what it leaves of a field is skipped.
    fn each(&mut self, len: usize, mut take: impl FnMut(&mut Self, u64, Field) -> Read<()>) -> Read<()> {
        let end = self.bytes.remaining().checked_sub(len).ok_or(NotAModel)?;
        self.depth += 1;
        if self.depth > MOST_DEPTH {
            return Err(NotAModel);
        }
        while self.bytes.remaining() > end {
            let key = self.varint()?;
            let left = self.bytes.remaining().checked_sub(end).ok_or(NotAModel)?;
            let (field, size) = match key & 7 {
                0 => (Field::Number(self.varint()?), 0),
                1 if left >= 8 => (Field::Fixed64(self.bytes.get_u64_le()), 0),
                5 if left >= 4 => (Field::Fixed32(self.bytes.get_u32_le()), 0),
                2 => {
                    let size = usize::try_from(self.varint()?).map_err(|_| NotAModel)?;
                    (Field::Bytes(size), size)
                }
                _ => return Err(NotAModel),
            };
            let after = self.bytes.remaining().checked_sub(size).filter(|&after| after >= end).ok_or(NotAModel)?;
            take(self, key >> 3, field)?;
            let skipped = self.bytes.remaining().checked_sub(after).ok_or(NotAModel)?;
            self.bytes.advance(skipped);
        }
        self.depth -= 1;
        Ok(())
    }

    fn varint(&mut self) -> Read<u64> {
        decode_varint(self.bytes).map_err(|_| NotAModel)
    }

    fn text(&mut self, field: Field) -> Read<String> {
        let len = field.len()?;
        if len > MOST_TEXT {
            return Err(NotAModel);
        }
        let mut bytes = vec![0; len];
        self.bytes.copy_to_slice(&mut bytes);
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Numbers of a repeated field, packed or one by one; too many are none.
    fn numbers(&mut self, field: Field, into: &mut Vec<i64>) -> Read<()> {
        match field {
            Field::Bytes(len) => {
                let end = self.bytes.remaining().checked_sub(len).ok_or(NotAModel)?;
                while self.bytes.remaining() > end && into.len() <= MOST_VALUES {
                    let number = self.varint()?;
                    into.push(number as i64);
                }
            }
            other if into.len() <= MOST_VALUES => into.push(other.number()),
            _ => {}
        }
        Ok(())
    }

    fn model(&mut self, len: usize) -> Read<Model> {
        let mut model = Model::default();
        self.each(len, |read, tag, field| {
            match tag {
                7 => model.graph = read.graph(field.len()?)?,
                8 => model.opsets.push(read.opset(field.len()?)?),
                25 => model.functions.push(read.function(field.len()?)?),
                _ => {}
            }
            Ok(())
        })?;
        Ok(model)
    }

    fn opset(&mut self, len: usize) -> Read<(String, i64)> {
        let mut opset = (String::new(), 0);
        self.each(len, |read, tag, field| {
            match tag {
                1 => opset.0 = domain(read.text(field)?),
                2 => opset.1 = field.number(),
                _ => {}
            }
            Ok(())
        })?;
        Ok(opset)
    }

    fn graph(&mut self, len: usize) -> Read<Graph> {
        let mut graph = Graph::default();
        self.each(len, |read, tag, field| {
            match tag {
                1 => graph.nodes.push(read.node(field.len()?)?),
                5 => graph.initializers.push(read.tensor(field.len()?)?),
                11 => graph.inputs.push(read.port(field.len()?)?),
                12 => graph.outputs.push(read.port(field.len()?)?),
                15 => graph.initializers.push(read.sparse(field.len()?)?),
                _ => {}
            }
            Ok(())
        })?;
        Ok(graph)
    }

    fn function(&mut self, len: usize) -> Read<Function> {
        let mut function = Function::default();
        self.each(len, |read, tag, field| {
            match tag {
                1 => function.name = read.text(field)?,
                4 => function.inputs.push(read.text(field)?),
                5 => function.outputs.push(read.text(field)?),
                7 => function.nodes.push(read.node(field.len()?)?),
                9 => function.opsets.push(read.opset(field.len()?)?),
                10 => function.domain = domain(read.text(field)?),
                11 => function.defaults.push(read.attribute(field.len()?)?),
                _ => {}
            }
            Ok(())
        })?;
        Ok(function)
    }

    fn node(&mut self, len: usize) -> Read<Node> {
        let mut node = Node::default();
        self.each(len, |read, tag, field| {
            match tag {
                1 => node.inputs.push(read.text(field)?),
                2 => node.outputs.push(read.text(field)?),
                3 => node.name = read.text(field)?,
                4 => node.op = read.text(field)?,
                5 => node.attributes.push(read.attribute(field.len()?)?),
                7 => node.domain = domain(read.text(field)?),
                _ => {}
            }
            Ok(())
        })?;
        Ok(node)
    }

    fn attribute(&mut self, len: usize) -> Read<Attribute> {
        let mut own = Attribute::default();
        self.each(len, |read, tag, field| {
            match tag {
                1 => own.name = read.text(field)?,
                2 => {
                    if let Field::Fixed32(bits) = field {
                        own.float = f32::from_bits(bits);
                    }
                }
                3 => own.int = field.number(),
                4 if field.len()? <= MOST_TEXT => own.text = read.text(field)?,
                5 => own.tensor = Some(read.tensor(field.len()?)?),
                6 | 11 => own.graphs.push(read.graph(field.len()?)?),
                7 => read.floats(field, &mut own.floats)?,
                8 => read.numbers(field, &mut own.ints)?,
                21 => own.refers = read.text(field)?,
                _ => {}
            }
            Ok(())
        })?;
        if own.ints.len() > MOST_VALUES {
            own.ints = Vec::new();
        }
        Ok(own)
    }

    /// Whole numbers among floats, as [`Tensor::values`] has them.
    fn floats(&mut self, field: Field, into: &mut Vec<Option<i64>>) -> Read<()> {
        match field {
            Field::Fixed32(bits) if into.len() <= MOST_VALUES => into.push(whole(f64::from(f32::from_bits(bits)))),
            Field::Bytes(len) if len <= MOST_VALUES * 4 => {
                into.extend((0..len / 4).map(|_| whole(f64::from(self.bytes.get_f32_le()))));
            }
            _ => {}
        }
        Ok(())
    }

    fn sparse(&mut self, len: usize) -> Read<Tensor> {
        let mut whole = Tensor::default();
        self.each(len, |read, tag, field| {
            match tag {
                1 => whole.name = read.tensor(field.len()?)?.name,
                3 => read.numbers(field, &mut whole.dims)?,
                _ => {}
            }
            Ok(())
        })?;
        Ok(whole)
    }

    fn tensor(&mut self, len: usize) -> Read<Tensor> {
        let mut tensor = Tensor::default();
        let (mut kind, mut external) = (0, false);
        let mut raw = Vec::new();
        let (mut ints, mut floats) = (Vec::new(), Vec::new());
        self.each(len, |read, tag, field| {
            match tag {
                1 => read.numbers(field, &mut tensor.dims)?,
                2 => kind = field.number(),
                4 => read.floats(field, &mut floats)?,
                5 | 7 => read.numbers(field, &mut ints)?,
                8 => tensor.name = read.text(field)?,
                9 if field.len()? <= MOST_VALUES * 8 => {
                    raw = vec![0; field.len()?];
                    read.bytes.copy_to_slice(&mut raw);
                }
                10 => {
                    if let Field::Bytes(len) = field
                        && len <= MOST_VALUES * 8
                    {
                        floats.extend((0..len / 8).map(|_| whole(read.bytes.get_f64_le())));
                    } else if let Field::Fixed64(bits) = field {
                        floats.push(whole(f64::from_bits(bits)));
                    }
                }
                13 => external = true,
                14 => external |= field.number() != 0,
                _ => {}
            }
            Ok(())
        })?;
        let count = tensor.dims.iter().try_fold(1i64, |all, &dim| all.checked_mul(dim)).unwrap_or(i64::MAX);
        let values: Vec<Option<i64>> = match kind {
            _ if external => return Ok(tensor),
            datatype::INT64 if !raw.is_empty() => {
                raw.as_chunks().0.iter().map(|&own| Some(i64::from_le_bytes(own))).collect()
            }
            datatype::INT32 if !raw.is_empty() => {
                raw.as_chunks().0.iter().map(|&own| Some(i64::from(i32::from_le_bytes(own)))).collect()
            }
            datatype::BOOL if !raw.is_empty() => raw.iter().map(|&own| Some(i64::from(own))).collect(),
            datatype::FLOAT if !raw.is_empty() => {
                raw.as_chunks().0.iter().map(|&own| whole(f64::from(f32::from_le_bytes(own)))).collect()
            }
            datatype::DOUBLE if !raw.is_empty() => {
                raw.as_chunks().0.iter().map(|&own| whole(f64::from_le_bytes(own))).collect()
            }
            datatype::INT64 | datatype::INT32 | datatype::BOOL => ints.into_iter().map(Some).collect(),
            datatype::FLOAT | datatype::DOUBLE => floats,
            _ => return Ok(tensor),
        };
        if values.len() as i64 == count && values.len() <= MOST_VALUES {
            tensor.values = Some(values);
        }
        Ok(tensor)
    }

    fn port(&mut self, len: usize) -> Read<Port> {
        let mut port = Port::default();
        self.each(len, |read, tag, field| {
            match tag {
                1 => port.name = read.text(field)?,
                2 => read.each(field.len()?, |read, tag, field| {
                    if tag == 1 {
                        read.each(field.len()?, |read, tag, field| {
                            if tag == 2 {
                                port.axes = Some(read.axes(field.len()?)?);
                            }
                            Ok(())
                        })?;
                    }
                    Ok(())
                })?,
                _ => {}
            }
            Ok(())
        })?;
        Ok(port)
    }

    fn axes(&mut self, len: usize) -> Read<Vec<Axis>> {
        let mut axes = Vec::new();
        self.each(len, |read, tag, field| {
            if tag == 1 {
                let mut axis = Axis::Free;
                read.each(field.len()?, |read, tag, field| {
                    match tag {
                        1 if field.number() >= 0 => axis = Axis::Fixed(field.number()),
                        2 => axis = named(read.text(field)?),
                        _ => {}
                    }
                    Ok(())
                })?;
                axes.push(axis);
            }
            Ok(())
        })?;
        Ok(axes)
    }
}

fn domain(name: String) -> String {
    if name == "ai.onnx" { String::new() } else { name }
}

fn named(name: String) -> Axis {
    if name.is_empty() { Axis::Free } else { Axis::Named(name) }
}

fn whole(value: f64) -> Option<i64> {
    (value.fract() == 0.0 && value.abs() < 1e15).then_some(value as i64)
}
