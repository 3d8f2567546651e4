//! Many requests' inputs into one run's: concatenated along the batch axis into
//! buffers that are reused from run to run.

use nobat_core::tensor::{Datatype, Shape, take_bytes_element};
use smallvec::SmallVec;

use super::failure::Failure;
use crate::batch::queue::ReadyJob;
use crate::engine::buffer::Buffer;
use crate::engine::{InputData, InputView};
use crate::model::Version;

/// Inputs concatenated into the buffers.
pub(super) struct Filled<'a> {
    shapes: SmallVec<[Shape; 2]>,
    texts: SmallVec<[Vec<&'a str>; 2]>,
    used: SmallVec<[usize; 2]>,
}

pub(super) fn fill<'a>(
    version: &Version,
    buffers: &mut Vec<Buffer>,
    items: &'a [ReadyJob],
    rows: &std::ops::Range<u32>,
) -> Result<Filled<'a>, Failure> {
    let signature = &version.signature;
    buffers.resize_with(signature.inputs.len().max(buffers.len()), Buffer::default);
    let mut filled = Filled { shapes: SmallVec::new(), texts: SmallVec::new(), used: SmallVec::new() };
    for (at, spec) in signature.inputs.iter().enumerate() {
        let mut parts = items.iter().filter_map(|item| Some((item.inputs[at].as_ref()?, item.rows)));
        let Some((first, _)) = parts.clone().next() else { continue };
        let mut shape = first.shape.clone();
        // Without a batch axis the item goes in as it is; `rows` is its one "row".
        if signature.batched {
            shape[0] = i64::from(rows.end - rows.start);
        }
        let part_of = |data_len: usize, own_rows: u32| -> std::ops::Range<usize> {
            let from = if items.len() == 1 && signature.batched { rows.clone() } else { 0..own_rows };
            let per_row = data_len / own_rows.max(1) as usize;
            from.start as usize * per_row..if from.end == own_rows { data_len } else { from.end as usize * per_row }
        };
        let mut text = Vec::new();
        if spec.datatype == Datatype::Bytes {
            for (tensor, own_rows) in parts {
                let mut elements = Vec::new();
                let mut rest = &tensor.data[..];
                while let Some(element) = take_bytes_element(&mut rest) {
                    let element = std::str::from_utf8(element).map_err(|_| {
                        Failure::invalid(format!(
                            "input `{}` element {} is not UTF-8, which ONNX string tensors hold",
                            spec.name,
                            elements.len()
                        ))
                    })?;
                    elements.push(element);
                }
                text.extend_from_slice(&elements[part_of(elements.len(), own_rows)]);
            }
        } else {
            let ranges: usize =
                parts.clone().map(|(tensor, own_rows)| part_of(tensor.data.len(), own_rows).len()).sum();
            buffers[at].reset(ranges);
            parts
                .by_ref()
                .for_each(|(tensor, own_rows)| buffers[at].push(&tensor.data[part_of(tensor.data.len(), own_rows)]));
        }
        filled.shapes.push(shape);
        filled.texts.push(text);
        filled.used.push(at);
    }
    Ok(filled)
}

impl Filled<'_> {
    pub(super) fn views<'s>(&'s self, version: &Version, buffers: &'s [Buffer]) -> SmallVec<[InputView<'s>; 2]> {
        self.used
            .iter()
            .zip(&self.shapes)
            .zip(&self.texts)
            .map(|((&index, shape), text)| {
                let datatype = version.signature.inputs[index].datatype;
                let data = match datatype {
                    Datatype::Bytes => InputData::Text(text),
                    _ => InputData::Raw(buffers[index].bytes()),
                };
                InputView { index, datatype, shape, data }
            })
            .collect()
    }
}
