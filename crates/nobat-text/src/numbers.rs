//! A session's float output, read row by row as FP32, and the usual functions over it.

use half::{bf16, f16};
use nobat_core::tensor::Datatype;
use nobat_core::{Error, ErrorCode, Result};
use nobat_transform::SessionOutput;

/// A float output of three axes, or of two with one row of numbers each.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Floats<'a> {
    datatype: Datatype,
    data: &'a [u8],
    /// Rows of the run.
    pub(crate) rows: usize,
    /// Tokens of each; 1 where the output has two axes.
    pub(crate) tokens: usize,
    /// Numbers of each token.
    pub(crate) width: usize,
}

impl<'a> Floats<'a> {
    /// # Errors
    /// `inference_failed` when it is no float tensor of two or three axes.
    pub(crate) fn new(output: &SessionOutput<'a>, name: &str) -> Result<Floats<'a>> {
        let SessionOutput { datatype, shape, data } = *output;
        let strange = || {
            let what = format!("output `{name}` of the graph is {datatype} {shape:?}; rows of floats are wanted");
            Error::new(ErrorCode::InferenceFailed, what)
        };
        let axis = |at: usize| shape.get(at).and_then(|&axis| usize::try_from(axis).ok());
        let (rows, tokens, width) = match shape.len() {
            2 => (axis(0), Some(1), axis(1)),
            3 => (axis(0), axis(1), axis(2)),
            _ => return Err(strange()),
        };
        let (Some(rows), Some(tokens), Some(width)) = (rows, tokens, width) else { return Err(strange()) };
        let floats = Floats { datatype, data, rows, tokens, width };
        let size = floats.size().ok_or_else(strange)?;
        let whole = rows.checked_mul(tokens).and_then(|count| count.checked_mul(width)?.checked_mul(size));
        if whole != Some(data.len()) {
            return Err(strange());
        }
        Ok(floats)
    }

    fn size(&self) -> Option<usize> {
        matches!(self.datatype, Datatype::Fp16 | Datatype::Bf16 | Datatype::Fp32 | Datatype::Fp64)
            .then(|| self.datatype.size())?
    }

    /// Joins the numbers of one token into as many others, one by one.
    pub(crate) fn fold(&self, row: usize, token: usize, into: &mut [f32], join: impl Fn(f32, f32) -> f32) {
        let Some(size) = self.size() else { return };
        let start = (row * self.tokens + token) * self.width * size;
        let Some(data) = self.data.get(start..start + self.width * size) else { return };
        fn each<const SIZE: usize>(
            data: &[u8],
            into: &mut [f32],
            read: impl Fn([u8; SIZE]) -> f32,
            join: impl Fn(f32, f32) -> f32,
        ) {
            into.iter_mut().zip(data.as_chunks().0).for_each(|(own, &bytes)| *own = join(*own, read(bytes)));
        }
        match self.datatype {
            Datatype::Fp32 => each(data, into, f32::from_le_bytes, join),
            Datatype::Fp64 => each(data, into, |bytes| f64::from_le_bytes(bytes) as f32, join),
            Datatype::Fp16 => each(data, into, |bytes| f16::from_le_bytes(bytes).to_f32(), join),
            _ => each(data, into, |bytes| bf16::from_le_bytes(bytes).to_f32(), join),
        }
    }

    /// One token's numbers.
    pub(crate) fn vector(&self, row: usize, token: usize) -> Vec<f32> {
        let mut vector = vec![0.0; self.width];
        self.fold(row, token, &mut vector, |_, number| number);
        vector
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

/// The place of the largest; the first of several, and of numbers that cannot be compared.
pub(crate) fn largest(numbers: &[f32]) -> usize {
    let mut best = 0;
    for (at, number) in numbers.iter().enumerate() {
        if *number > numbers[best] {
            best = at;
        }
    }
    best
}

/// A vector of length 1 in its direction.
pub(crate) fn normalize(vector: &mut [f32]) {
    let length = vector.iter().map(|number| f64::from(*number).powi(2)).sum::<f64>().sqrt().max(1e-12) as f32;
    vector.iter_mut().for_each(|number| *number /= length);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_float_datatype_reads_the_same_numbers() {
        let numbers = [0.5f32, -2.0, 8.0, 0.25, 1.0, -1.0];
        let bytes: [(Datatype, Vec<u8>); 4] = [
            (Datatype::Fp32, numbers.iter().flat_map(|n| n.to_le_bytes()).collect()),
            (Datatype::Fp64, numbers.iter().flat_map(|&n| f64::from(n).to_le_bytes()).collect()),
            (Datatype::Fp16, numbers.iter().flat_map(|&n| f16::from_f32(n).to_le_bytes()).collect()),
            (Datatype::Bf16, numbers.iter().flat_map(|&n| bf16::from_f32(n).to_le_bytes()).collect()),
        ];
        for (datatype, data) in bytes {
            let output = SessionOutput { datatype, shape: &[1, 3, 2], data: &data };
            let floats = Floats::new(&output, "logits").expect("floats");
            assert_eq!(floats.vector(0, 1), [8.0, 0.25], "{datatype}");
        }
    }

    #[test]
    fn an_output_that_is_no_rows_of_floats_is_refused_by_name() {
        let output = SessionOutput { datatype: Datatype::Int64, shape: &[1, 1], data: &[0; 8] };
        let refused = Floats::new(&output, "labels").expect_err("whole numbers").message;
        assert!(refused.contains("`labels` of the graph is INT64 [1, 1]"), "{refused}");
    }

    #[test]
    fn softmax_sums_to_one_also_of_large_numbers() {
        let mut numbers = [1000.0, 1001.0];
        softmax(&mut numbers);
        assert!((numbers[0] - 0.268_941_4).abs() < 1e-6 && (numbers[0] + numbers[1] - 1.0).abs() < 1e-6);
        assert_eq!(largest(&[f32::NAN, 1.0, 3.0, 3.0]), 0);
        assert_eq!(largest(&[0.0, 1.0, 3.0, 3.0]), 2);
    }
}
