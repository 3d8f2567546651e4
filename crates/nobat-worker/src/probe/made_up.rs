//! Made-up input: lent to a run, never larger than memory can bear, and what comes
//! back as numbers.

use nobat_core::signature::TensorSpec;
use nobat_core::tensor::{Datatype, Shape, Tensor, take_bytes_element};

use super::Bound;
use crate::engine::buffer::Buffer;
use crate::engine::{Engine, InputData, InputView, OutputData, RunError};
use crate::samples::Sample;

/// Most bytes of one made-up input; a model that asks for more is not tried with any.
const MOST_BYTES: usize = 256 << 20;

/// Most rows of made-up input that a real run may have: the runtime's arena keeps
/// the peak of a larger one for good.
pub(super) fn rows_within(inputs: &[TensorSpec], dim: i64, max_bytes: u64) -> u32 {
    let batched = inputs.iter().filter(|spec| !spec.optional && spec.shape.first() == Some(&-1));
    let row = batched.map(|spec| row_bytes(spec, dim)).try_fold(0usize, |sum, bytes| sum.checked_add(bytes?));
    let rows = row.map_or(1, |row| max_bytes / (row as u64).max(1));
    u32::try_from(rows).unwrap_or(u32::MAX).max(1)
}

/// Bytes of one row of made-up input, of all of it where there is no batch axis;
/// `None` where no memory has so many.
fn row_bytes(spec: &TensorSpec, dim: i64) -> Option<usize> {
    let axes = &spec.shape[usize::from(spec.shape.first() == Some(&-1))..];
    let elements = axes
        .iter()
        .try_fold(1usize, |all, &own| all.checked_mul(usize::try_from(if own < 0 { dim } else { own }).ok()?))?;
    // A text is one digit, and where it is.
    elements.checked_mul(spec.datatype.size().unwrap_or(size_of::<&str>()))
}

/// One output of a made-up run, as numbers.
pub(super) struct Probed {
    pub(super) datatype: Datatype,
    pub(super) shape: Shape,
    pub(super) values: Vec<f64>,
}

/// Runs rows of these kinds, made by `made`, and returns what comes out as numbers.
pub(super) fn run(
    engine: &mut dyn Engine,
    inputs: &[TensorSpec],
    kinds: &[u32],
    dim: i64,
    made: Made<'_>,
    bound: &Bound<'_>,
) -> Result<Vec<Probed>, RunError> {
    with_input(inputs, kinds, dim, made, |views| outputs_of(engine, views, bound))
}

fn outputs_of(engine: &mut dyn Engine, views: &[InputView<'_>], bound: &Bound<'_>) -> Result<Vec<Probed>, RunError> {
    let mut probed = Vec::new();
    engine.run(views, Some(bound.next()), &mut |outputs| {
        for output in outputs {
            let values = match &output.data {
                OutputData::Raw(raw) => numbers(output.datatype, raw),
                OutputData::Text(elements) => elements.iter().map(|text| text_number(text)).collect(),
            };
            probed.push(Probed { datatype: output.datatype, shape: output.shape.into(), values });
        }
    })?;
    Ok(probed)
}

/// Runs a real request's inputs and returns what comes out as numbers.
pub(super) fn run_sample(engine: &mut dyn Engine, sample: &Sample, bound: &Bound<'_>) -> Result<Vec<Probed>, RunError> {
    let given: Vec<(usize, &Tensor)> =
        sample.iter().enumerate().filter_map(|(at, own)| Some((at, own.as_ref()?))).collect();
    let mut buffers = Vec::new();
    let mut texts: Vec<Vec<&str>> = Vec::new();
    for (_, tensor) in &given {
        let (mut buffer, mut text) = (Buffer::default(), Vec::new());
        match tensor.datatype {
            Datatype::Bytes => {
                let mut rest = &tensor.data[..];
                while let Some(element) = take_bytes_element(&mut rest) {
                    text.push(std::str::from_utf8(element).unwrap_or_default());
                }
            }
            _ => {
                buffer.reset(tensor.data.len());
                buffer.push(&tensor.data);
            }
        }
        buffers.push(buffer);
        texts.push(text);
    }
    let views: Vec<InputView<'_>> = given
        .iter()
        .enumerate()
        .map(|(at, (index, tensor))| InputView {
            index: *index,
            datatype: tensor.datatype,
            shape: &tensor.shape,
            data: match tensor.datatype {
                Datatype::Bytes => InputData::Text(&texts[at]),
                _ => InputData::Raw(buffers[at].bytes()),
            },
        })
        .collect();
    outputs_of(engine, &views, bound)
}

pub(super) fn run_only(
    engine: &mut dyn Engine,
    inputs: &[TensorSpec],
    kinds: &[u32],
    dim: i64,
    bound: &Bound<'_>,
) -> Result<(), RunError> {
    with_input(inputs, kinds, dim, Made::Plain, |views| engine.run(views, Some(bound.next()), &mut |_| {}))
}

/// How input is made up.
#[derive(Clone, Copy)]
pub(super) enum Made<'a> {
    /// Of two kinds; integers are 0 and 1 (valid in most vocabularies and flags).
    Plain,
    /// As different as rows of real requests are.
    Varied(&'a Varied),
}

/// Different rows: of different scales, signs and lengths of texts.
#[derive(Clone, Debug)]
pub(super) struct Varied {
    /// Another seed makes other rows.
    pub(super) seed: u64,
    /// Integers of each input are below this.
    pub(super) below: Vec<i64>,
    /// Texts are words instead of numbers.
    pub(super) words: bool,
}

const WORDS: [&str; 6] = ["a", "two words", "", "one more text, and a longer one", "no", "text"];
const NUMBERS: [&str; 6] = ["0", "12.5", "-3", "1000.25", "7", "1"];

impl Varied {
    /// Uniform in 0..1, another for each element.
    fn chance(&self, input: usize, row: u32, at: usize) -> f64 {
        let place = ((input as u64) << 56) ^ (u64::from(row) << 40) ^ at as u64;
        let mut mixed = self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ place.wrapping_mul(0xbf58_476d_1ce4_e5b9);
        for _ in 0..2 {
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^= mixed >> 31;
        }
        (mixed >> 11) as f64 / (1u64 << 53) as f64
    }

    fn text(&self, input: usize, row: u32, at: usize) -> &'static str {
        let texts = if self.words { WORDS } else { NUMBERS };
        texts[(self.chance(input, row, at) * texts.len() as f64) as usize % texts.len()]
    }

    fn push(&self, buffer: &mut Buffer, datatype: Datatype, input: usize, row: u32, at: usize) {
        let chance = self.chance(input, row, at);
        // As features between 0 and 1, around 0, and as the bytes of a picture.
        let float = match row % 3 {
            0 => chance,
            1 => chance * 6.0 - 3.0,
            _ => chance * 255.0,
        };
        let below = self.below.get(input).copied().unwrap_or(2).max(1);
        let whole = (chance * below as f64) as i64;
        match datatype {
            Datatype::Fp32 => buffer.push(&(float as f32).to_le_bytes()),
            Datatype::Fp64 => buffer.push(&float.to_le_bytes()),
            Datatype::Fp16 => buffer.push(&half::f16::from_f64(float).to_le_bytes()),
            Datatype::Bf16 => buffer.push(&half::bf16::from_f64(float).to_le_bytes()),
            Datatype::Bool => buffer.push(&[(whole & 1) as u8]),
            Datatype::Uint8 => buffer.push(&[whole.min(255) as u8]),
            Datatype::Int8 => buffer.push(&[whole.min(127) as u8]),
            Datatype::Uint16 | Datatype::Int16 => buffer.push(&(whole as u16).to_le_bytes()),
            Datatype::Uint32 | Datatype::Int32 => buffer.push(&(whole as u32).to_le_bytes()),
            Datatype::Uint64 | Datatype::Int64 => buffer.push(&whole.to_le_bytes()),
            Datatype::Bytes => {}
        }
    }
}

/// Lends made-up inputs with one row per entry of `kinds`; rows of different
/// kinds differ.
fn with_input<T>(
    inputs: &[TensorSpec],
    kinds: &[u32],
    dim: i64,
    made: Made<'_>,
    work: impl FnOnce(&[InputView<'_>]) -> Result<T, RunError>,
) -> Result<T, RunError> {
    let required: Vec<(usize, &TensorSpec)> = inputs.iter().enumerate().filter(|(_, spec)| !spec.optional).collect();
    let bytes = required.iter().try_fold(0, |sum: usize, (_, spec)| {
        let rows = if spec.shape.first() == Some(&-1) { kinds.len() } else { 1 };
        sum.checked_add(row_bytes(spec, dim)?.checked_mul(rows)?)
    });
    if bytes.is_none_or(|bytes| bytes > MOST_BYTES) {
        return Err(RunError::Failed(format!("its inputs are over {} MiB at {dim} an open axis", MOST_BYTES >> 20)));
    }
    let mut shapes: Vec<Shape> = Vec::new();
    let mut buffers: Vec<Buffer> = Vec::new();
    let mut texts: Vec<Vec<&str>> = Vec::new();
    for (index, spec) in &required {
        let batched = spec.shape.first() == Some(&-1);
        let mut shape: Shape = spec.shape.iter().map(|&own| if own < 0 { dim } else { own }).collect();
        if batched {
            shape[0] = kinds.len() as i64;
        }
        let all: usize = shape.iter().product::<i64>() as usize;
        let rows = if batched { kinds.len() } else { 1 };
        let per_row = all / rows.max(1);
        let mut buffer = Buffer::default();
        let mut text = Vec::new();
        buffer.reset(spec.datatype.size().unwrap_or(0) * all);
        for row in 0..rows {
            let kind = kinds.get(row).copied().unwrap_or(0);
            for at in 0..per_row {
                match (spec.datatype, made) {
                    (Datatype::Bytes, Made::Plain) => text.push(if kind == 0 { "0" } else { "1" }),
                    (Datatype::Bytes, Made::Varied(varied)) => text.push(varied.text(*index, kind, at)),
                    (datatype, Made::Plain) => push_number(&mut buffer, datatype, kind, at),
                    (datatype, Made::Varied(varied)) => varied.push(&mut buffer, datatype, *index, kind, at),
                }
            }
        }
        shapes.push(shape);
        buffers.push(buffer);
        texts.push(text);
    }
    let views: Vec<InputView<'_>> = required
        .iter()
        .enumerate()
        .map(|(at, (index, spec))| InputView {
            index: *index,
            datatype: spec.datatype,
            shape: &shapes[at],
            data: match spec.datatype {
                Datatype::Bytes => InputData::Text(&texts[at]),
                _ => InputData::Raw(buffers[at].bytes()),
            },
        })
        .collect();
    work(&views)
}

fn push_number(buffer: &mut Buffer, datatype: Datatype, kind: u32, at: usize) {
    // Small and different along the row and between kinds.
    let float = if kind == 0 { (at % 7) as f32 * 0.1 } else { 0.9 - (at % 5) as f32 * 0.15 };
    match datatype {
        Datatype::Fp32 => buffer.push(&float.to_le_bytes()),
        Datatype::Fp64 => buffer.push(&f64::from(float).to_le_bytes()),
        Datatype::Fp16 => buffer.push(&half::f16::from_f32(float).to_le_bytes()),
        Datatype::Bf16 => buffer.push(&half::bf16::from_f32(float).to_le_bytes()),
        Datatype::Bool | Datatype::Uint8 | Datatype::Int8 => buffer.push(&[kind as u8]),
        Datatype::Uint16 | Datatype::Int16 => buffer.push(&(kind as u16).to_le_bytes()),
        Datatype::Uint32 | Datatype::Int32 => buffer.push(&kind.to_le_bytes()),
        Datatype::Uint64 | Datatype::Int64 => buffer.push(&u64::from(kind).to_le_bytes()),
        Datatype::Bytes => {}
    }
}

/// Elements as numbers, for comparing.
pub fn numbers(datatype: Datatype, raw: &[u8]) -> Vec<f64> {
    macro_rules! read {
        ($type:ty, $size:literal) => {
            raw.as_chunks::<$size>().0.iter().map(|&bytes| <$type>::from_le_bytes(bytes) as f64).collect()
        };
    }
    match datatype {
        Datatype::Bool | Datatype::Uint8 => raw.iter().map(|&byte| f64::from(byte)).collect(),
        Datatype::Int8 => read!(i8, 1),
        Datatype::Uint16 => read!(u16, 2),
        Datatype::Int16 => read!(i16, 2),
        Datatype::Uint32 => read!(u32, 4),
        Datatype::Int32 => read!(i32, 4),
        Datatype::Uint64 => read!(u64, 8),
        Datatype::Int64 => read!(i64, 8),
        Datatype::Fp16 => raw.as_chunks::<2>().0.iter().map(|&b| half::f16::from_le_bytes(b).to_f64()).collect(),
        Datatype::Bf16 => raw.as_chunks::<2>().0.iter().map(|&b| half::bf16::from_le_bytes(b).to_f64()).collect(),
        Datatype::Fp32 => read!(f32, 4),
        Datatype::Fp64 => read!(f64, 8),
        Datatype::Bytes => Vec::new(),
    }
}

/// A number that differs for different texts, for comparing.
fn text_number(text: &str) -> f64 {
    text.bytes().fold(7.0, |number, byte| (number * 31.0 + f64::from(byte)) % 1e9)
}
