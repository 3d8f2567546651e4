//! What following a model costs a request, in nanoseconds: reading its job's inputs again and
//! counting one row of them and of the answer. Run it on a release build.

use std::time::Instant;

use bytes::Bytes;
use nobat_core::infer::InferRequest;
use nobat_core::tensor::{Datatype, Tensor};
use nobat_statistics::building::ProfileBuilder;
use nobat_statistics::reading::element;
use nobat_statistics::sketch::{DriftReference, DriftSketch};

const ROWS: u64 = 1_000_000;

fn tensor(name: &str, datatype: Datatype, values: &[f64]) -> Tensor {
    let data: Vec<u8> = values.iter().flat_map(|&value| element(value, datatype).expect("a number")).collect();
    Tensor { name: name.into(), datatype, shape: [1, values.len() as i64].as_slice().into(), data: data.into() }
}

fn main() {
    let pixels = |row: u64| -> Vec<f64> { (0..64).map(|at| ((row * 31 + at * 7) % 17) as f64).collect() };
    let inputs = |row: u64| vec![tensor("input", Datatype::Fp32, &pixels(row))];
    let outputs = |row: u64| {
        let mut shares = [0.05; 10];
        shares[(row % 10) as usize] = 0.55;
        [tensor("label", Datatype::Int64, &[(row % 10) as f64]), tensor("probabilities", Datatype::Fp32, &shares)]
    };
    let mut builder = ProfileBuilder::new(1);
    (0..2_000).for_each(|row| builder.add(&inputs(row), &outputs(row), 1));
    let sketch = DriftSketch::new(DriftReference::of(&builder.finish("digits", "1")));
    let jobs: Vec<(Bytes, [Tensor; 2])> = (0..256)
        .map(|row| {
            let request = InferRequest { inputs: inputs(row), ..InferRequest::default() };
            (Bytes::from(request.encode()), outputs(row))
        })
        .collect();
    for decode in [false, true] {
        let given = inputs(0);
        let start = Instant::now();
        for row in 0..ROWS {
            let (payload, answer) = &jobs[(row % 256) as usize];
            let pick = row.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            if decode {
                let request = InferRequest::decode(payload.clone()).expect("decodes");
                sketch.count(&request.inputs, answer, 1, pick);
            } else {
                sketch.count(&given, answer, 1, pick);
            }
        }
        let what = if decode { "with its inputs decoded" } else { "counted alone" };
        println!("{:.0} ns a row {what}", start.elapsed().as_nanos() as f64 / ROWS as f64);
    }
    assert_eq!(sketch.counts()[0].iter().sum::<u64>(), 2 * ROWS);
}
