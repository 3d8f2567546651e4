//! A session's output, read row by row as floats, and the usual functions over them.

use half::{bf16, f16};
use nobat_core::tensor::Datatype;
use nobat_core::{Error, ErrorCode, Result};
use nobat_transform::SessionOutput;

/// The numbers of one output.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Numbers<'a> {
    datatype: Datatype,
    data: &'a [u8],
    /// Its dimensions, rows first.
    pub(crate) shape: &'a [i64],
}

impl<'a> Numbers<'a> {
    /// # Errors
    /// `inference_failed` when the output is missing or holds no numbers of `rows` rows.
    pub(crate) fn new(outputs: &[SessionOutput<'a>], at: usize, name: &str, rows: usize) -> Result<Numbers<'a>> {
        let failed =
            |what: String| Error::new(ErrorCode::InferenceFailed, format!("output `{name}` of the graph {what}"));
        let Some(&SessionOutput { datatype, shape, data }) = outputs.get(at) else {
            return Err(failed("is missing".into()));
        };
        let size = datatype.size().filter(|_| datatype != Datatype::Bool);
        let whole = shape.iter().try_fold(size.unwrap_or(0), |all, &dim| all.checked_mul(usize::try_from(dim).ok()?));
        let fits = shape.first().is_some_and(|&first| usize::try_from(first).is_ok_and(|first| first >= rows));
        match (size, whole == Some(data.len()) && fits) {
            (Some(_), true) => Ok(Numbers { datatype, data, shape }),
            _ => Err(failed(format!("is {datatype} {shape:?} for {rows} pictures; rows of numbers are wanted"))),
        }
    }

    /// An axis behind the rows; 1 where there is none.
    pub(crate) fn axis(&self, at: usize) -> usize {
        self.shape.get(at).map_or(1, |&dim| usize::try_from(dim).unwrap_or(0))
    }

    /// Numbers of a row.
    pub(crate) fn width(&self) -> usize {
        self.shape.iter().skip(1).map(|&dim| usize::try_from(dim).unwrap_or(0)).product()
    }

    /// A row's numbers.
    pub(crate) fn row(&self, row: usize) -> Vec<f32> {
        let (width, size) = (self.width(), self.datatype.size().unwrap_or(1));
        let data = self.data.get(row * width * size..(row + 1) * width * size).unwrap_or_default();
        fn each<const SIZE: usize>(data: &[u8], read: impl Fn([u8; SIZE]) -> f32) -> Vec<f32> {
            data.as_chunks().0.iter().map(|&bytes| read(bytes)).collect()
        }
        match self.datatype {
            Datatype::Fp32 => each(data, f32::from_le_bytes),
            Datatype::Fp64 => each(data, |bytes| f64::from_le_bytes(bytes) as f32),
            Datatype::Fp16 => each(data, |bytes| f16::from_le_bytes(bytes).to_f32()),
            Datatype::Bf16 => each(data, |bytes| bf16::from_le_bytes(bytes).to_f32()),
            Datatype::Int64 => each(data, |bytes| i64::from_le_bytes(bytes) as f32),
            Datatype::Int32 => each(data, |bytes| i32::from_le_bytes(bytes) as f32),
            Datatype::Uint64 => each(data, |bytes| u64::from_le_bytes(bytes) as f32),
            Datatype::Uint32 => each(data, |bytes| u32::from_le_bytes(bytes) as f32),
            Datatype::Int16 => each(data, |bytes| f32::from(i16::from_le_bytes(bytes))),
            Datatype::Uint16 => each(data, |bytes| f32::from(u16::from_le_bytes(bytes))),
            Datatype::Int8 => each(data, |bytes| f32::from(i8::from_le_bytes(bytes))),
            _ => each(data, |[byte]| f32::from(byte)),
        }
    }
}

/// exp(x) over its sum.
pub(crate) fn softmax(numbers: &mut [f32]) {
    let most = numbers.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    numbers.iter_mut().for_each(|number| *number = (*number - most).exp());
    let sum: f32 = numbers.iter().sum();
    numbers.iter_mut().for_each(|number| *number /= sum);
}

/// 1 / (1 + exp(-x)).
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// The place and value of the largest, the first of several; nothing that cannot be compared is.
pub(crate) fn largest(numbers: impl IntoIterator<Item = f32>) -> (usize, f32) {
    let mut best = (0, f32::NEG_INFINITY);
    for (at, number) in numbers.into_iter().enumerate() {
        if number > best.1 {
            best = (at, number);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_whatever_their_datatype() {
        let cases: [(Datatype, Vec<u8>); 4] = [
            (Datatype::Fp32, [1.0f32, 2.0, -3.0, 4.0].iter().flat_map(|n| n.to_le_bytes()).collect()),
            (Datatype::Fp16, [1.0f32, 2.0, -3.0, 4.0].iter().flat_map(|&n| f16::from_f32(n).to_le_bytes()).collect()),
            (Datatype::Int64, [1i64, 2, -3, 4].iter().flat_map(|n| n.to_le_bytes()).collect()),
            (Datatype::Int8, [1i8, 2, -3, 4].iter().flat_map(|n| n.to_le_bytes()).collect()),
        ];
        for (datatype, data) in &cases {
            let output = SessionOutput { datatype: *datatype, shape: &[2, 2], data };
            let numbers = Numbers::new(&[output], 0, "logits", 2).expect("numbers");
            assert_eq!((numbers.width(), numbers.row(1)), (2, vec![-3.0, 4.0]), "{datatype}");
            assert!(Numbers::new(&[output], 0, "logits", 3).expect_err("rows").message.contains("for 3 pictures"));
        }
        assert!(Numbers::new(&[], 0, "logits", 1).is_err());
    }

    #[test]
    fn the_largest_is_the_first_of_several_and_never_none() {
        assert_eq!(largest([1.0, 3.0, 3.0]), (1, 3.0));
        assert_eq!(largest([f32::NAN, 1.0]), (1, 1.0));
        assert_eq!(largest([]).0, 0);
    }
}
