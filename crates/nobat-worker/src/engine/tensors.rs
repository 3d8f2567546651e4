//! Whole tensors into a run and out of it, as transformations make and read them.

use nobat_core::tensor::{Tensor, put_bytes_element};
use nobat_transform::SessionOutput;
use smallvec::SmallVec;

use super::api::{InputData, InputView, OutputData, OutputView};
use super::buffer::Buffer;

/// The inputs of a run, in the order of the graph's.
pub(crate) struct TensorInputs {
    tensors: Vec<Tensor>,
    /// Copies of those whose memory begins where their elements may not.
    copies: Vec<Option<Buffer>>,
}

impl TensorInputs {
    /// Takes numeric tensors; ONNX's texts are no transformation's output.
    pub(crate) fn new(tensors: Vec<Tensor>) -> TensorInputs {
        let copy = |tensor: &Tensor| {
            let aligned = (tensor.data.as_ptr() as usize).is_multiple_of(tensor.datatype.size().unwrap_or(1));
            (!aligned).then(|| {
                let mut buffer = Buffer::default();
                buffer.reset(tensor.data.len());
                buffer.push(&tensor.data);
                buffer
            })
        };
        let copies = tensors.iter().map(copy).collect();
        TensorInputs { tensors, copies }
    }

    /// Lends them to a run.
    pub(crate) fn views(&self) -> SmallVec<[InputView<'_>; 4]> {
        let mut views = SmallVec::new();
        for (index, (tensor, copy)) in self.tensors.iter().zip(&self.copies).enumerate() {
            let raw = copy.as_ref().map_or(&tensor.data[..], Buffer::bytes);
            views.push(InputView { index, datatype: tensor.datatype, shape: &tensor.shape, data: InputData::Raw(raw) });
        }
        views
    }
}

/// Lends a run's outputs to `read` in the form that transformations read.
pub(crate) fn lend_outputs<T>(outputs: &[OutputView<'_>], read: impl FnOnce(&[SessionOutput<'_>]) -> T) -> T {
    let framed: SmallVec<[Vec<u8>; 4]> = outputs.iter().map(|output| framed(&output.data)).collect();
    let lent = outputs.iter().zip(&framed).map(|(output, framed)| {
        let data = match &output.data {
            OutputData::Raw(raw) => raw,
            OutputData::Text(_) => &framed[..],
        };
        SessionOutput { datatype: output.datatype, shape: output.shape, data }
    });
    read(&lent.collect::<SmallVec<[SessionOutput<'_>; 4]>>())
}

/// Texts as the protocol frames them; nothing for numbers.
fn framed(data: &OutputData<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    if let OutputData::Text(elements) = data {
        elements.iter().for_each(|element| put_bytes_element(&mut out, element.as_bytes()));
    }
    out
}
