//! A request of many rows, cut along the batch axis. Pure; parts are slices of the
//! request's own bytes.

use std::ops::Range;

use nobat_core::infer::InferRequest;
use nobat_core::tensor::{Datatype, Tensor, take_bytes_element};

/// How much one part may have. One row alone may have more bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartSize {
    /// Most rows; at least 1.
    pub rows: usize,
    /// Most bytes of the inputs.
    pub bytes: usize,
}

/// The parts of a request, in order.
#[derive(Debug)]
pub struct Parts {
    inputs: Vec<Tensor>,
    /// What every part has besides its inputs.
    common: InferRequest,
    /// Bytes of each input that the parts so far have.
    taken: Vec<usize>,
    rows: usize,
    next: usize,
    size: PartSize,
}

impl Parts {
    /// Cuts a request whose inputs all have the batch axis first, with so many `rows`,
    /// and bytes as their shapes say.
    pub fn of(mut request: InferRequest, rows: usize, size: PartSize) -> Parts {
        let inputs = std::mem::take(&mut request.inputs);
        Parts { taken: vec![0; inputs.len()], inputs, common: request, rows, next: 0, size }
    }

    /// Bytes of each input that the row from `at` on has.
    fn row_bytes(&self, at: &[usize]) -> Vec<usize> {
        self.inputs.iter().zip(at).map(|(tensor, &at)| row_bytes(tensor, at)).collect()
    }
}

impl Iterator for Parts {
    /// The rows that the part has of the whole, and the part.
    type Item = (Range<usize>, InferRequest);

    fn next(&mut self) -> Option<Self::Item> {
        if self.next >= self.rows {
            return None;
        }
        let (first, mut end) = (self.next, self.taken.clone());
        let mut bytes = 0;
        while self.next < self.rows && self.next - first < self.size.rows.max(1) {
            let row = self.row_bytes(&end);
            bytes += row.iter().sum::<usize>();
            if self.next > first && bytes > self.size.bytes {
                break;
            }
            end.iter_mut().zip(row).for_each(|(end, row)| *end += row);
            self.next += 1;
        }
        let rows = first..self.next;
        let cut = |(tensor, range): (&Tensor, Range<usize>)| {
            let mut shape = tensor.shape.clone();
            if let Some(axis) = shape.first_mut() {
                *axis = rows.len() as i64;
            }
            Tensor { shape, data: tensor.data.slice(range), ..tensor.clone() }
        };
        let ranges = self.taken.iter().zip(&end).map(|(&from, &to)| from..to);
        let inputs = self.inputs.iter().zip(ranges).map(cut).collect();
        self.taken = end;
        Some((rows, InferRequest { inputs, ..self.common.clone() }))
    }
}

/// Bytes of the row that begins at byte `at`.
fn row_bytes(tensor: &Tensor, at: usize) -> usize {
    let elements: usize = tensor.shape.iter().skip(1).map(|&dim| dim as usize).product();
    match tensor.datatype {
        Datatype::Bytes => {
            let from = &tensor.data[at..];
            let mut rest = from;
            for _ in 0..elements {
                let _ = take_bytes_element(&mut rest);
            }
            from.len() - rest.len()
        }
        fixed => elements * fixed.size().unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nobat_core::tensor::put_bytes_element;
    use proptest::prelude::*;

    fn request(texts: &[String]) -> InferRequest {
        let mut data = Vec::new();
        texts.iter().for_each(|text| put_bytes_element(&mut data, text.as_bytes()));
        let numbers: Vec<u8> =
            (0..texts.len() as u32).flat_map(|row| [row, row + 1]).flat_map(u32::to_le_bytes).collect();
        let rows = texts.len() as i64;
        InferRequest {
            inputs: vec![
                Tensor {
                    name: "text".into(),
                    datatype: Datatype::Bytes,
                    shape: [rows].as_slice().into(),
                    data: data.into(),
                },
                Tensor {
                    name: "n".into(),
                    datatype: Datatype::Uint32,
                    shape: [rows, 2].as_slice().into(),
                    data: numbers.into(),
                },
            ],
            ..InferRequest::default()
        }
    }

    proptest! {
        #[test]
        fn parts_are_the_whole_in_order_and_none_is_too_large(
            texts in prop::collection::vec("\\PC{0,40}", 0..60), rows in 1usize..20, bytes in 1usize..400,
        ) {
            let whole = request(&texts);
            let parts: Vec<_> = Parts::of(whole.clone(), texts.len(), PartSize { rows, bytes }).collect();
            let mut next = 0;
            let mut joined = vec![Vec::new(); 2];
            for (range, part) in &parts {
                prop_assert_eq!(range.start, next);
                next = range.end;
                prop_assert!(!range.is_empty() && range.len() <= rows);
                let size: usize = part.inputs.iter().map(|tensor| tensor.data.len()).sum();
                prop_assert!(size <= bytes || range.len() == 1, "{} bytes in {} rows", size, range.len());
                for (tensor, joined) in part.inputs.iter().zip(&mut joined) {
                    tensor.check().expect("a tensor of its own");
                    prop_assert_eq!(tensor.shape[0] as usize, range.len());
                    joined.extend_from_slice(&tensor.data);
                }
            }
            prop_assert_eq!(next, texts.len());
            for (tensor, joined) in whole.inputs.iter().zip(joined) {
                prop_assert_eq!(&tensor.data[..], &joined[..]);
            }
        }
    }
}
