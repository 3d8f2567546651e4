//! Many requests' inputs into one run's: concatenated along the batch axis into
//! buffers that are reused from run to run.

use std::ops::Range;

use nobat_core::tensor::{Datatype, take_bytes_element};
use smallvec::SmallVec;

use super::failure::Failure;
use crate::batch::queue::ReadyJob;
use crate::engine::buffer::Buffer;
use crate::engine::input::OwnedInput;
use crate::model::Version;

/// Concatenates the inputs of `jobs`; of a single one only these `rows`. The buffers are
/// taken out of `buffers` and to be put back there, by the inputs' positions.
pub(super) fn fill<'a>(
    version: &Version,
    buffers: &mut Vec<Buffer>,
    jobs: &'a [ReadyJob],
    rows: &Range<u32>,
) -> Result<SmallVec<[OwnedInput<'a>; 2]>, Failure> {
    let signature = &version.signature;
    buffers.resize_with(signature.inputs.len().max(buffers.len()), Buffer::default);
    let mut filled = SmallVec::new();
    for (index, spec) in signature.inputs.iter().enumerate() {
        let parts = jobs.iter().filter_map(|job| Some((job.inputs[index].as_ref()?, job.rows)));
        let Some((first, _)) = parts.clone().next() else { continue };
        let mut shape = first.shape.clone();
        // Without a batch axis the job goes in as it is; `rows` is its one "row".
        if signature.batched {
            shape[0] = i64::from(rows.end - rows.start);
        }
        let part_of = |data_len: usize, own_rows: u32| -> Range<usize> {
            let from = if jobs.len() == 1 && signature.batched { rows.clone() } else { 0..own_rows };
            let per_row = data_len / own_rows.max(1) as usize;
            from.start as usize * per_row..if from.end == own_rows { data_len } else { from.end as usize * per_row }
        };
        let (mut bytes, mut texts) = (std::mem::take(&mut buffers[index]), Vec::new());
        if spec.datatype == Datatype::Bytes {
            for (tensor, own_rows) in parts {
                let mut elements = Vec::new();
                let mut rest = &tensor.data[..];
                while let Some(element) = take_bytes_element(&mut rest) {
                    let (input, at) = (&spec.name, elements.len());
                    let refused = |what: &str| Failure::invalid(format!("input `{input}` element {at} {what}"));
                    let text = std::str::from_utf8(element)
                        .map_err(|_| refused("is not UTF-8, which ONNX string tensors hold; write it so"))?;
                    // The runtime's texts end at the first.
                    if let Some(place) = element.iter().position(|&byte| byte == 0) {
                        let what =
                            format!("has a NUL at byte {place}, which no text of the runtime holds; leave it out");
                        return Err(refused(&what));
                    }
                    elements.push(text);
                }
                texts.extend_from_slice(&elements[part_of(elements.len(), own_rows)]);
            }
        } else {
            bytes.reset(parts.clone().map(|(tensor, own_rows)| part_of(tensor.data.len(), own_rows).len()).sum());
            parts.for_each(|(tensor, own_rows)| bytes.push(&tensor.data[part_of(tensor.data.len(), own_rows)]));
        }
        filled.push(OwnedInput { index, datatype: spec.datatype, shape, bytes, texts });
    }
    Ok(filled)
}
