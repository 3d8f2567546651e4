//! An input that owns its memory, for runs outside the serving path.

use nobat_core::tensor::{Datatype, Shape};

use super::api::{InputData, InputView};
use super::buffer::Buffer;

/// One input of a run; numbers are in `bytes`, texts in `texts`.
pub(crate) struct OwnedInput<'t> {
    /// Position in the signature's inputs.
    pub(crate) index: usize,
    pub(crate) datatype: Datatype,
    pub(crate) shape: Shape,
    pub(crate) bytes: Buffer,
    pub(crate) texts: Vec<&'t str>,
}

impl OwnedInput<'_> {
    /// Lends it to a run.
    pub(crate) fn view(&self) -> InputView<'_> {
        let data = match self.datatype {
            Datatype::Bytes => InputData::Text(&self.texts),
            _ => InputData::Raw(self.bytes.bytes()),
        };
        InputView { index: self.index, datatype: self.datatype, shape: &self.shape, data }
    }
}
