//! Inputs for a model of which nothing but its signature is known.

use bytes::Bytes;
use nobat_core::signature::TensorSpec;
use nobat_core::tensor::{Datatype, Shape, Tensor, put_bytes_element};
use nobat_statistics::random::seeded;
use nobat_statistics::reading::element;
use rand::RngExt;

/// Length of an axis whose length is free.
const FREE: i64 = 4;

/// Inputs of so many rows: numbers between 0 and 1 for floats, 0 and 1 for whole numbers, which
/// every vocabulary has, short words for text. The same for the same seed.
pub fn synthetic(inputs: &[TensorSpec], batched: bool, rows: usize, seed: u64) -> Vec<Tensor> {
    let mut random = seeded(seed);
    let mut tensor = |spec: &TensorSpec| {
        let shape: Shape = spec
            .shape
            .iter()
            .enumerate()
            .map(|(axis, &dim)| {
                if axis == 0 && batched {
                    rows as i64
                } else if dim < 0 {
                    FREE
                } else {
                    dim
                }
            })
            .collect();
        let mut data = Vec::new();
        for _ in 0..nobat_core::tensor::elements(&spec.name, &shape).unwrap_or(0) {
            let drawn: f64 = random.random();
            match element(if is_float(spec.datatype) { drawn } else { drawn.round() }, spec.datatype) {
                Some(bytes) => data.extend(bytes),
                None => put_bytes_element(&mut data, ["one", "two", "three"][(drawn * 2.9) as usize].as_bytes()),
            }
        }
        Tensor { name: spec.name.clone(), datatype: spec.datatype, shape, data: Bytes::from(data) }
    };
    inputs.iter().filter(|spec| !spec.optional).map(&mut tensor).collect()
}

fn is_float(datatype: Datatype) -> bool {
    matches!(datatype, Datatype::Fp16 | Datatype::Bf16 | Datatype::Fp32 | Datatype::Fp64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_datatype_has_inputs_that_fit_and_repeat() {
        for datatype in Datatype::ALL {
            let spec = TensorSpec { name: "x".into(), datatype, shape: vec![-1, 3, -1], optional: false };
            let specs = [spec.clone(), TensorSpec { optional: true, ..spec }];
            let made = synthetic(&specs, true, 2, 7);
            assert_eq!((made.len(), made[0].shape.as_slice()), (1, &[2, 3, 4][..]), "{datatype}");
            made[0].check().expect("fits");
            assert_eq!(made, synthetic(&specs, true, 2, 7));
        }
    }
}
