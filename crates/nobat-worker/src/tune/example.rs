//! A small request that a model has been seen to answer at load: what a person who
//! has no input of their own can begin with.

use nobat_core::signature::TensorSpec;
use nobat_core::tensor::{Datatype, Shape};
use smol_str::SmolStr;

pub use super::synthetic::TEXT;
use super::synthetic::{Fill, SyntheticRunner};
use crate::engine::RunError;

/// Sizes tried for the axes that the model leaves open, in order, until one runs.
const OPEN_DIMS: [i64; 4] = [1, 16, 64, 224];
/// Most elements of an example: a larger request is nothing to paste.
const MAX_ELEMENTS: usize = 256;

/// Inputs that ran: one row of zeros; of texts, the word [`TEXT`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// Name, datatype and shape of each, in the signature's order.
    pub inputs: Vec<(SmolStr, Datatype, Shape)>,
}

impl Example {
    /// Runs ever larger zeros until the model answers; `None` where it takes none that
    /// are small.
    pub(crate) fn find(model: &mut SyntheticRunner<'_>) -> Option<Example> {
        let open = |spec: &TensorSpec| !spec.optional && spec.shape.iter().skip(1).any(|&dim| dim < 0);
        let sizes = if model.inputs.iter().any(open) { &OPEN_DIMS[..] } else { &OPEN_DIMS[..1] };
        for &size in sizes {
            let example = Example::of(model.inputs, size)?;
            match model.run(&[0], size, Fill::Zeros) {
                Ok(()) => return Some(example),
                Err(RunError::Ended(_)) => return None,
                Err(_) => {}
            }
        }
        None
    }

    /// The word [`TEXT`] for each input that must be given; `None` where one is no text.
    pub(crate) fn of_texts(inputs: &[TensorSpec]) -> Option<Example> {
        let required = inputs.iter().filter(|spec| !spec.optional);
        let one = |spec: &TensorSpec| {
            let fits = spec.datatype == Datatype::Bytes && spec.shape == [-1];
            fits.then(|| (spec.name.clone(), spec.datatype, Shape::from_slice(&[1])))
        };
        Some(Example { inputs: required.map(one).collect::<Option<_>>()? })
    }

    /// One row, with `size` for each other open axis; `None` where that is too much.
    fn of(inputs: &[TensorSpec], size: i64) -> Option<Example> {
        let mut left = MAX_ELEMENTS;
        let required = inputs.iter().filter(|spec| !spec.optional);
        let inputs = required.map(|spec| {
            let dims = spec.shape.iter().enumerate();
            let shape: Shape = dims
                .map(|(axis, &dim)| {
                    if dim >= 0 {
                        dim
                    } else if axis == 0 {
                        1
                    } else {
                        size
                    }
                })
                .collect();
            let count = shape.iter().try_fold(1usize, |all, &dim| all.checked_mul(usize::try_from(dim).ok()?))?;
            left = left.checked_sub(count)?;
            Some((spec.name.clone(), spec.datatype, shape))
        });
        Some(Example { inputs: inputs.collect::<Option<_>>()? })
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
