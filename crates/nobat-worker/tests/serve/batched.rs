//! Batched equals unbatched, by models that compute.

use futures::future::join_all;
use nobat_core::infer::InferRequest;
use nobat_core::tensor::{Datatype, Tensor, put_bytes_element, take_bytes_element};
use nobat_worker::engine::numbers::numbers;

use crate::deployment::{Deployment, quick, request, tensor};

/// As in `scripts/make_test_models.py`: y = x W + 1.
const WEIGHTS: [[f64; 4]; 4] = [[1.0, 2.0, 0.0, 0.0], [0.0, 1.0, 3.0, 0.0], [0.0, 0.0, 1.0, 1.0], [2.0, 0.0, 0.0, 1.0]];
const CALLERS: usize = 12;

/// A caller's row, exact in every datatype that it is for.
fn row(datatype: Datatype, caller: usize) -> [f64; 4] {
    let whole = std::array::from_fn(|at| ((caller * 3 + at * 5) % 8) as f64);
    match datatype {
        Datatype::Bool => whole.map(|value: f64| f64::from(value > 5.0)),
        Datatype::Fp16 | Datatype::Bf16 | Datatype::Fp32 | Datatype::Fp64 | Datatype::Bytes => {
            whole.map(|value| value - 0.5)
        }
        _ => whole,
    }
}

fn computed(datatype: Datatype, row: [f64; 4]) -> [f64; 4] {
    let sum = |to: usize| (0..4).map(|from| row[from] * WEIGHTS[from][to]).sum::<f64>();
    match datatype {
        Datatype::Bool => std::array::from_fn(|to| f64::from(sum(to) != 0.0)),
        _ => std::array::from_fn(|to| sum(to) + 1.0),
    }
}

fn encode(datatype: Datatype, row: [f64; 4]) -> Tensor {
    let mut data = Vec::new();
    for value in row {
        match datatype {
            Datatype::Bool | Datatype::Uint8 | Datatype::Int8 => data.push(value as u8),
            Datatype::Uint16 | Datatype::Int16 => data.extend((value as u16).to_le_bytes()),
            Datatype::Uint32 | Datatype::Int32 => data.extend((value as u32).to_le_bytes()),
            Datatype::Uint64 | Datatype::Int64 => data.extend((value as u64).to_le_bytes()),
            Datatype::Fp16 => data.extend(half::f16::from_f64(value).to_le_bytes()),
            Datatype::Bf16 => data.extend(half::bf16::from_f64(value).to_le_bytes()),
            Datatype::Fp32 => data.extend((value as f32).to_le_bytes()),
            Datatype::Fp64 => data.extend(value.to_le_bytes()),
            Datatype::Bytes => put_bytes_element(&mut data, value.to_string().as_bytes()),
        }
    }
    tensor("x", datatype, &[1, 4], data)
}

fn decode(tensor: &Tensor) -> Vec<f64> {
    if tensor.datatype != Datatype::Bytes {
        return numbers(tensor.datatype, &tensor.data);
    }
    let mut rest = &tensor.data[..];
    let texts = std::iter::from_fn(|| take_bytes_element(&mut rest));
    texts.map(|text| std::str::from_utf8(text).expect("text").parse().expect("a number")).collect()
}

fn near(one: &[f64], other: &[f64]) -> bool {
    one.len() == other.len() && one.iter().zip(other).all(|(one, other)| (one - other).abs() <= 1e-5)
}

#[tokio::test]
async fn every_datatype_is_computed_in_a_batch_as_alone() {
    let names = Datatype::ALL.map(|datatype| format!("linear_{}", datatype.as_str().to_lowercase()));
    let mut config = quick();
    // So that callers who come at once are sure to meet.
    config.batching.max_queue_delay_ms = 10.0;
    let deployment = Deployment::with(&names.each_ref().map(String::as_str), config, Default::default()).await;
    for (datatype, model) in Datatype::ALL.into_iter().zip(&names) {
        assert!(deployment.signature(model).batched, "{model}");
        let asked: Vec<InferRequest> =
            (0..CALLERS).map(|caller| request(vec![encode(datatype, row(datatype, caller))])).collect();
        let together = join_all(asked.iter().map(|asked| deployment.answer(model, asked))).await;
        let largest = together.iter().map(|(_, result)| result.timings.batch_size).max();
        assert!(largest > Some(1), "{model}: no two callers shared a run");
        for (caller, (beside_others, _)) in together.iter().enumerate() {
            let (alone, result) = deployment.answer(model, &asked[caller]).await;
            assert_eq!(result.timings.batch_size, 1);
            let (alone, beside_others) = (decode(&alone.outputs[0]), decode(&beside_others.outputs[0]));
            assert!(near(&alone, &computed(datatype, row(datatype, caller))), "{model}, caller {caller}: {alone:?}");
            assert!(near(&beside_others, &alone), "{model}, caller {caller}: {beside_others:?} is not {alone:?}");
        }
    }
    deployment.drain().await;
}
