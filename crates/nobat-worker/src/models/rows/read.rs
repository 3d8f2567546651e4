//! Reads a [`Model`] from the bytes of an ONNX file, in one pass and in little
//! memory: of weights only the dimensions are kept, of long lists nothing.
//!
//! The guard has checked the file before; what it would refuse (endless nesting,
//! a message longer than its bytes) is an error here too.

use prost::bytes::Buf;
use prost::encoding::decode_varint;

use super::graph::{Attribute, Axis, Function, Graph, Model, Node, Port, Tensor};

/// Elements of a tensor, and numbers of an attribute, that are kept.
const MAX_VALUES: usize = 256;
/// Longest name.
const MAX_TEXT: usize = 4096;
/// Deepest nesting of messages.
const MAX_DEPTH: u32 = 64;

/// `TensorProto.DataType`, those whose elements are read.
mod datatype {
    pub(crate) const FLOAT: i64 = 1;
    pub(crate) const INT32: i64 = 6;
    pub(crate) const INT64: i64 = 7;
    pub(crate) const BOOL: i64 = 9;
    pub(crate) const DOUBLE: i64 = 11;
}

/// Why a file cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the file is no ONNX model")]
pub(crate) struct NotAModel;

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

/// A method that reads a message of one type, by what each field's number does.
macro_rules! message {
    ($name:ident -> $type:ty: $read:ident, $own:ident, $field:ident { $($tag:pat $(if $guard:expr)? => $take:expr,)* }) => {
        fn $name(&mut self, field: Field) -> Read<$type> {
            let mut whole = <$type>::default();
            let $own = &mut whole;
            self.each(field.len()?, |$read, tag, $field| {
                match tag {
                    $($tag $(if $guard)? => $take,)*
                    _ => {}
                }
                Ok(())
            })?;
            Ok(whole)
        }
    };
}

/// Reads a model.
pub(crate) fn read(bytes: &mut impl Buf) -> Read<Model> {
    let len = bytes.remaining();
    Reader { bytes, depth: 0 }.model(Field::Bytes(len))
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
        if self.depth > MAX_DEPTH {
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
        if len > MAX_TEXT {
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
                while self.bytes.remaining() > end && into.len() <= MAX_VALUES {
                    let number = self.varint()?;
                    into.push(number as i64);
                }
            }
            other if into.len() <= MAX_VALUES => into.push(other.number()),
            _ => {}
        }
        Ok(())
    }

    message!(model -> Model: read, own, field {
        7 => own.graph = read.graph(field)?,
        8 => own.opsets.push(read.opset(field)?),
        25 => own.functions.push(read.function(field)?),
    });

    message!(opset -> (String, i64): read, own, field {
        1 => own.0 = domain(read.text(field)?),
        2 => own.1 = field.number(),
    });

    message!(graph -> Graph: read, own, field {
        1 => own.nodes.push(read.node(field)?),
        5 => own.initializers.push(read.tensor(field)?),
        11 => own.inputs.push(read.port(field)?),
        12 => own.outputs.push(read.port(field)?),
        15 => own.initializers.push(read.sparse(field)?),
    });

    message!(function -> Function: read, own, field {
        1 => own.name = read.text(field)?,
        4 => own.inputs.push(read.text(field)?),
        5 => own.outputs.push(read.text(field)?),
        7 => own.nodes.push(read.node(field)?),
        9 => own.opsets.push(read.opset(field)?),
        10 => own.domain = domain(read.text(field)?),
        11 => own.defaults.push(read.attribute(field)?),
    });

    message!(node -> Node: read, own, field {
        1 => own.inputs.push(read.text(field)?),
        2 => own.outputs.push(read.text(field)?),
        3 => own.name = read.text(field)?,
        4 => own.op = read.text(field)?,
        5 => own.attributes.push(read.attribute(field)?),
        7 => own.domain = domain(read.text(field)?),
    });

    message!(whole_attribute -> Attribute: read, own, field {
        1 => own.name = read.text(field)?,
        3 => own.int = field.number(),
        4 if field.len()? <= MAX_TEXT => own.text = read.text(field)?,
        5 => own.tensor = Some(read.tensor(field)?),
        6 | 11 => own.graphs.push(read.graph(field)?),
        7 => read.floats(field, &mut own.floats)?,
        8 => read.numbers(field, &mut own.ints)?,
        21 => own.refers = read.text(field)?,
    });

    message!(sparse -> Tensor: read, own, field {
        1 => own.name = read.tensor(field)?.name,
        3 => read.numbers(field, &mut own.dims)?,
    });

    message!(port -> Port: read, own, field {
        1 => own.name = read.text(field)?,
        2 => own.axes = read.value_type(field)?.or(own.axes.take()),
    });

    message!(value_type -> Option<Vec<Axis>>: read, own, field {
        1 => *own = read.tensor_type(field)?.or(own.take()),
    });

    message!(tensor_type -> Option<Vec<Axis>>: read, own, field {
        2 => *own = Some(read.shape(field)?),
    });

    message!(shape -> Vec<Axis>: read, own, field {
        1 => own.push(read.dimension(field)?),
    });

    message!(dimension -> Axis: read, own, field {
        1 if field.number() >= 0 => *own = Axis::Fixed(field.number()),
        2 => *own = named(read.text(field)?),
    });

    fn attribute(&mut self, field: Field) -> Read<Attribute> {
        let mut own = self.whole_attribute(field)?;
        if own.ints.len() > MAX_VALUES {
            own.ints = Vec::new();
        }
        Ok(own)
    }

    /// Whole numbers among floats, as [`Tensor::values`] has them.
    fn floats(&mut self, field: Field, into: &mut Vec<Option<i64>>) -> Read<()> {
        match field {
            Field::Fixed32(bits) if into.len() <= MAX_VALUES => into.push(whole(f64::from(f32::from_bits(bits)))),
            Field::Bytes(len) if len <= MAX_VALUES * 4 => {
                into.extend((0..len / 4).map(|_| whole(f64::from(self.bytes.get_f32_le()))));
            }
            _ => {}
        }
        Ok(())
    }

    fn tensor(&mut self, field: Field) -> Read<Tensor> {
        let mut tensor = Tensor::default();
        let (mut kind, mut external) = (0, false);
        let mut raw = Vec::new();
        let (mut ints, mut floats) = (Vec::new(), Vec::new());
        self.each(field.len()?, |read, tag, field| {
            match tag {
                1 => read.numbers(field, &mut tensor.dims)?,
                2 => kind = field.number(),
                4 => read.floats(field, &mut floats)?,
                5 | 7 => read.numbers(field, &mut ints)?,
                8 => tensor.name = read.text(field)?,
                9 if field.len()? <= MAX_VALUES * 8 => {
                    raw = vec![0; field.len()?];
                    read.bytes.copy_to_slice(&mut raw);
                }
                10 => {
                    if let Field::Bytes(len) = field
                        && len <= MAX_VALUES * 8
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
        if values.len() as i64 == count && values.len() <= MAX_VALUES {
            tensor.values = Some(values);
        }
        Ok(tensor)
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
