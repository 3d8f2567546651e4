//! What a file of rows is read for: the model's inputs.

use nobat_core::signature::TensorSpec;
use nobat_core::tensor::Shape;
use nobat_core::{Error, ErrorCode, Result};

/// The inputs that a file's rows are to become.
#[derive(Clone, Copy, Debug)]
pub struct ModelInputs<'a> {
    /// The model's inputs.
    pub specs: &'a [TensorSpec],
    /// Whether their first axis is the batch axis.
    pub batched: bool,
}

impl ModelInputs<'_> {
    /// The shape of a request's tensor for one row that comes as `own` with `count`
    /// elements: as the model says where it says all, as the row comes elsewhere.
    ///
    /// # Errors
    /// `invalid_tensor` when it does not fit.
    pub(super) fn row_shape(self, spec: &TensorSpec, own: &[i64], count: usize) -> Result<Shape> {
        let inner = if self.batched { spec.shape.get(1..).unwrap_or_default() } else { &spec.shape[..] };
        let batch: &[i64] = if self.batched { &[1] } else { &[] };
        let free = inner.iter().filter(|&&dim| dim < 0).count();
        let known: i64 = inner.iter().filter(|&&dim| dim >= 0).product();
        let with = |free: i64| {
            batch.iter().copied().chain(inner.iter().map(|&dim| if dim < 0 { free } else { dim })).collect()
        };
        let fits =
            |own: &[i64]| own.len() == inner.len() && own.iter().zip(inner).all(|(&own, &dim)| dim < 0 || own == dim);
        match free {
            0 if known == count as i64 => Ok(with(0)),
            _ if fits(own) => Ok(batch.iter().chain(own).copied().collect()),
            // One free axis takes what is left, as a row of text has as many tokens as it has.
            1 if known > 0 && count as i64 % known == 0 => Ok(with(count as i64 / known)),
            _ => Err(Error::new(
                ErrorCode::InvalidTensor,
                format!("input `{}` takes {inner:?} a row, not {count} elements of shape {own:?}", spec.name),
            )),
        }
    }
}

/// Whether a column of this name holds the right answer.
pub(super) fn is_label(name: &str) -> bool {
    ["label", "labels", "y", "target", "targets", "class", "y_train", "y_test"]
        .iter()
        .any(|known| name.eq_ignore_ascii_case(known))
}
