//! A small request that a model has been seen to answer at load: what a person who
//! has no input of their own can begin with.

use nobat_core::signature::TensorSpec;
use nobat_core::tensor::{Datatype, Shape};
use smol_str::SmolStr;

use crate::engine::buffer::Buffer;
use crate::engine::{Engine, InputData, InputView, RunError};
use crate::probe::Bound;

/// Sizes tried for the axes that the model leaves open, in order, until one runs.
const OPEN_DIMS: [i64; 4] = [1, 16, 64, 224];
/// A request of more elements is nothing to paste.
const MOST_ELEMENTS: usize = 256;
/// What stands for a text.
pub const TEXT: &str = "text";

/// Inputs that ran: one row of zeros; of texts, the word `text`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// Name, datatype and shape of each, in the signature's order.
    pub inputs: Vec<(SmolStr, Datatype, Shape)>,
}

impl Example {
    /// Runs ever larger zeros until the model answers; `None` where it takes none that
    /// are small.
    pub(crate) fn find(engine: &mut dyn Engine, inputs: &[TensorSpec], bound: &Bound<'_>) -> Option<Example> {
        let open = |spec: &&TensorSpec| !spec.optional && spec.shape.iter().skip(1).any(|&dim| dim < 0);
        let sizes = if inputs.iter().any(|spec| open(&spec)) { &OPEN_DIMS[..] } else { &OPEN_DIMS[..1] };
        for &size in sizes {
            let example = Example::of(inputs, size)?;
            match example.run(engine, inputs, bound) {
                Ok(()) => return Some(example),
                Err(RunError::Ended(_)) => return None,
                Err(_) => {}
            }
        }
        None
    }

    /// One row, with `size` for each other open axis; `None` where that is too much.
    fn of(inputs: &[TensorSpec], size: i64) -> Option<Example> {
        let mut left = MOST_ELEMENTS;
        let mut made = Vec::new();
        for spec in inputs.iter().filter(|spec| !spec.optional) {
            let open = |(axis, &dim): (usize, &i64)| match dim {
                0.. => dim,
                _ if axis == 0 => 1,
                _ => size,
            };
            let shape: Shape = spec.shape.iter().enumerate().map(open).collect();
            let count = shape.iter().try_fold(1usize, |all, &dim| all.checked_mul(usize::try_from(dim).ok()?))?;
            left = left.checked_sub(count)?;
            made.push((spec.name.clone(), spec.datatype, shape));
        }
        Some(Example { inputs: made })
    }

    fn run(&self, engine: &mut dyn Engine, specs: &[TensorSpec], bound: &Bound<'_>) -> Result<(), RunError> {
        let count = |shape: &Shape| shape.iter().product::<i64>() as usize;
        let zeros = self.inputs.iter().map(|(_, datatype, shape)| {
            let bytes = datatype.size().unwrap_or(0) * count(shape);
            let mut buffer = Buffer::default();
            buffer.reset(bytes);
            buffer.push(&vec![0; bytes]);
            (buffer, vec![TEXT; count(shape)])
        });
        let zeros: Vec<_> = zeros.collect();
        let given = specs.iter().enumerate().filter(|(_, spec)| !spec.optional).map(|(index, _)| index);
        let views = given.zip(&self.inputs).zip(&zeros).map(|((index, (_, datatype, shape)), (buffer, texts))| {
            let data = match datatype {
                Datatype::Bytes => InputData::Text(texts),
                _ => InputData::Raw(buffer.bytes()),
            };
            InputView { index, datatype: *datatype, shape, data }
        });
        engine.run(&views.collect::<Vec<_>>(), Some(bound.next()), &mut |_| {})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str, datatype: Datatype, shape: &[i64]) -> TensorSpec {
        TensorSpec { name: name.into(), datatype, shape: shape.to_vec(), optional: false }
    }

    #[test]
    fn an_example_is_one_row_and_small_enough_to_paste() {
        let shapes = |specs: &[TensorSpec], size| {
            let example = Example::of(specs, size)?;
            Some(example.inputs.into_iter().map(|(_, _, shape)| shape.to_vec()).collect::<Vec<_>>())
        };
        let specs = [spec("x", Datatype::Fp32, &[-1, 3, -1]), spec("sr", Datatype::Int64, &[])];
        assert_eq!(shapes(&specs, 1), Some(vec![vec![1, 3, 1], vec![]]));
        assert_eq!(shapes(&specs, 64), Some(vec![vec![1, 3, 64], vec![]]));
        assert_eq!(shapes(&specs, 224), None, "672 elements");
        assert_eq!(shapes(&[spec("x", Datatype::Fp32, &[i64::MAX, i64::MAX])], 1), None);
        let optional = TensorSpec { optional: true, ..spec("bias", Datatype::Fp32, &[9999]) };
        assert_eq!(shapes(&[optional], 1), Some(vec![]));
    }
}
