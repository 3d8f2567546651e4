//! Runs a model on synthetic input, never larger than memory can bear, or on a real
//! request's, and reads what comes out as numbers.

use nobat_core::signature::TensorSpec;
use nobat_core::tensor::{Datatype, Shape, take_bytes_element};

use super::limit::{LoadLimit, RunTimedOut};
use super::samples::Sample;
use crate::engine::buffer::Buffer;
use crate::engine::input::OwnedInput;
use crate::engine::numbers::{numbers, push};
use crate::engine::{Engine, InputView, OutputData, OutputView, RunError};

/// Most bytes of one synthetic input; a model that asks for more is not tried with any.
const MAX_BYTES: usize = 256 << 20;
/// The text of [`Fill::Zeros`].
pub const TEXT: &str = "text";

const WORDS: [&str; 6] = ["a", "two words", "", "one more text, and a longer one", "no", "text"];
const NUMBERS: [&str; 6] = ["0", "12.5", "-3", "1000.25", "7", "1"];

/// What synthetic input is filled with.
#[derive(Clone, Copy)]
pub(crate) enum Fill<'a> {
    /// Zeros; of texts, the word [`TEXT`].
    Zeros,
    /// Two kinds of rows; integers are 0 and 1 (valid in most vocabularies and flags).
    Plain,
    /// As different as rows of real requests are.
    Varied(&'a Varied),
}

/// Different rows: of different scales, signs and lengths of texts.
#[derive(Clone, Debug)]
pub(crate) struct Varied {
    /// Another seed makes other rows.
    pub(crate) seed: u64,
    /// Integers of each input are below this.
    pub(crate) below: Vec<i64>,
    /// Texts are words instead of numbers.
    pub(crate) words: bool,
}

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
}

/// One output of a run.
pub(crate) struct Output {
    pub(crate) datatype: Datatype,
    pub(crate) shape: Shape,
    /// Its elements as numbers; of texts, numbers that differ for different texts.
    pub(crate) values: Vec<f64>,
    pub(crate) texts: Vec<String>,
}

/// A model under synthetic input.
pub(crate) struct SyntheticRunner<'a> {
    pub(crate) engine: &'a mut dyn Engine,
    pub(crate) inputs: &'a [TensorSpec],
    pub(crate) limit: &'a LoadLimit<'a>,
}

impl SyntheticRunner<'_> {
    /// Runs one row per entry of `rows`, the entry saying which; `dim` is the size of open axes.
    pub(crate) fn run(&mut self, rows: &[u32], dim: i64, fill: Fill<'_>) -> Result<(), RunError> {
        let inputs = self.made(rows, dim, fill)?;
        self.lend(&inputs, &mut |_| {})
    }

    /// As [`SyntheticRunner::run`]; returns the outputs.
    pub(crate) fn outputs(&mut self, rows: &[u32], dim: i64, fill: Fill<'_>) -> Result<Vec<Output>, RunError> {
        let inputs = self.made(rows, dim, fill)?;
        self.outputs_of(&inputs)
    }

    /// Runs a real request's inputs and returns the outputs.
    pub(crate) fn sample(&mut self, sample: &Sample) -> Result<Vec<Output>, RunError> {
        let given = sample.iter().enumerate().filter_map(|(index, own)| Some((index, own.as_ref()?)));
        let inputs = given.map(|(index, tensor)| {
            let (mut bytes, mut texts, mut rest) = (Buffer::default(), Vec::new(), &tensor.data[..]);
            if tensor.datatype == Datatype::Bytes {
                let elements = std::iter::from_fn(|| take_bytes_element(&mut rest));
                texts.extend(elements.map(|element| std::str::from_utf8(element).unwrap_or_default()));
            } else {
                bytes.reset(tensor.data.len());
                bytes.push(&tensor.data);
            }
            OwnedInput { index, datatype: tensor.datatype, shape: tensor.shape.clone(), bytes, texts }
        });
        let inputs: Vec<OwnedInput<'_>> = inputs.collect();
        self.outputs_of(&inputs)
    }

    /// The outcome of a run; `None` where the model refuses the input.
    pub(crate) fn accepted<T>(&self, outcome: Result<T, RunError>) -> Result<Option<T>, RunTimedOut> {
        match outcome {
            Ok(given) => Ok(Some(given)),
            Err(RunError::Failed(_) | RunError::Invalid(_)) => Ok(None),
            Err(RunError::Ended(_)) => Err(RunTimedOut(self.limit.run)),
        }
    }

    /// Most rows of synthetic input that a real run may have: the runtime's arena keeps
    /// the peak of a larger one for good.
    pub(crate) fn rows_within(&self, dim: i64, max_bytes: u64) -> u32 {
        let batched = self.inputs.iter().filter(|spec| !spec.optional && spec.shape.first() == Some(&-1));
        let row = batched.map(|spec| row_bytes(spec, dim)).try_fold(0usize, |sum, bytes| sum.checked_add(bytes?));
        let rows = row.map_or(1, |row| max_bytes / (row as u64).max(1));
        u32::try_from(rows).unwrap_or(u32::MAX).max(1)
    }

    fn lend(&mut self, inputs: &[OwnedInput<'_>], take: &mut dyn FnMut(&[OutputView<'_>])) -> Result<(), RunError> {
        let views: Vec<InputView<'_>> = inputs.iter().map(OwnedInput::view).collect();
        self.engine.run(&views, Some(self.limit.next()), take)
    }

    fn outputs_of(&mut self, inputs: &[OwnedInput<'_>]) -> Result<Vec<Output>, RunError> {
        let mut read = Vec::new();
        self.lend(inputs, &mut |outputs| {
            for output in outputs {
                let (values, texts) = match &output.data {
                    OutputData::Raw(raw) => (numbers(output.datatype, raw), Vec::new()),
                    OutputData::Text(texts) => (texts.iter().map(|text| text_number(text)).collect(), texts.clone()),
                };
                read.push(Output { datatype: output.datatype, shape: output.shape.into(), values, texts });
            }
        })?;
        Ok(read)
    }

    fn made(&self, rows: &[u32], dim: i64, fill: Fill<'_>) -> Result<Vec<OwnedInput<'static>>, RunError> {
        let required = || self.inputs.iter().enumerate().filter(|(_, spec)| !spec.optional);
        let rows_of = |spec: &TensorSpec| if spec.shape.first() == Some(&-1) { rows } else { &rows[..1] };
        let bytes = required().try_fold(0usize, |sum, (_, spec)| {
            sum.checked_add(row_bytes(spec, dim)?.checked_mul(rows_of(spec).len())?)
        });
        if bytes.is_none_or(|bytes| bytes > MAX_BYTES) {
            return Err(RunError::Failed(format!("its inputs are over {} MiB at {dim} an open axis", MAX_BYTES >> 20)));
        }
        Ok(required().map(|(index, spec)| input(index, spec, rows_of(spec), dim, fill)).collect())
    }
}

fn input(index: usize, spec: &TensorSpec, rows: &[u32], dim: i64, fill: Fill<'_>) -> OwnedInput<'static> {
    let mut shape: Shape = spec.shape.iter().map(|&own| if own < 0 { dim } else { own }).collect();
    if spec.shape.first() == Some(&-1) {
        shape[0] = rows.len() as i64;
    }
    let count = shape.iter().product::<i64>() as usize;
    let (mut bytes, mut texts) = (Buffer::default(), Vec::new());
    bytes.reset(spec.datatype.size().unwrap_or(0) * count);
    for &row in rows {
        for at in 0..count / rows.len() {
            let (float, whole, text) = element(index, row, at, fill);
            match spec.datatype {
                Datatype::Bytes => texts.push(text),
                datatype => push(&mut bytes, datatype, float, whole),
            }
        }
    }
    OwnedInput { index, datatype: spec.datatype, shape, bytes, texts }
}

/// One element as a float, as an integer and as a text.
fn element(input: usize, row: u32, at: usize, fill: Fill<'_>) -> (f64, i64, &'static str) {
    match fill {
        Fill::Zeros => (0.0, 0, TEXT),
        // Small and different along the row and between kinds.
        Fill::Plain if row == 0 => ((at % 7) as f64 * 0.1, 0, "0"),
        Fill::Plain => (0.9 - (at % 5) as f64 * 0.15, i64::from(row), "1"),
        Fill::Varied(varied) => {
            let chance = varied.chance(input, row, at);
            // As features between 0 and 1, around 0, and as the bytes of a picture.
            let float = match row % 3 {
                0 => chance,
                1 => chance * 6.0 - 3.0,
                _ => chance * 255.0,
            };
            let below = varied.below.get(input).copied().unwrap_or(2).max(1);
            let texts = if varied.words { WORDS } else { NUMBERS };
            (float, (chance * below as f64) as i64, texts[(chance * texts.len() as f64) as usize % texts.len()])
        }
    }
}

/// Bytes of one row of synthetic input, of all of it where there is no batch axis;
/// `None` where no memory has so many.
fn row_bytes(spec: &TensorSpec, dim: i64) -> Option<usize> {
    let axes = &spec.shape[usize::from(spec.shape.first() == Some(&-1))..];
    let elements = axes
        .iter()
        .try_fold(1usize, |all, &own| all.checked_mul(usize::try_from(if own < 0 { dim } else { own }).ok()?))?;
    // A text is held by reference.
    elements.checked_mul(spec.datatype.size().unwrap_or(size_of::<&str>()))
}

/// A number that differs for different texts, for comparing.
fn text_number(text: &str) -> f64 {
    text.bytes().fold(7.0, |number, byte| (number * 31.0 + f64::from(byte)) % 1e9)
}
