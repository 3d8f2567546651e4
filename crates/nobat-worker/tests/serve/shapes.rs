//! Datatypes, shapes, several inputs and outputs; batched equals unbatched.

use std::time::Duration;

use futures::future::join_all;
use nobat_core::infer::InferRequest;
use nobat_core::tensor::{Datatype, put_bytes_element};
use nobat_queue::QueueSettings;
use nobat_worker::WorkerConfig;
use nobat_worker::config::Sessions;

use crate::deployment::{Deployment, as_floats, digits, floats, longs, quick, request, tensor};

#[tokio::test]
async fn every_datatype_comes_back_unchanged_from_forty_callers_at_once() {
    let names: Vec<String> =
        Datatype::ALL.iter().map(|datatype| format!("identity_{}", datatype.as_str().to_lowercase())).collect();
    let deployment = Deployment::of(&names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    for (datatype, model) in Datatype::ALL.into_iter().zip(&names) {
        assert!(deployment.signature(model).batched, "{model}");
        let requests: Vec<InferRequest> = (0..40u8)
            .map(|caller| {
                let rows = i64::from(caller % 3) + 1;
                // Two widths, so that two buckets are in the air.
                let width = 2 + i64::from(caller % 2);
                let elements = (rows * width) as usize;
                let mut data = Vec::new();
                for at in 0..elements {
                    match datatype.size() {
                        _ if datatype == Datatype::Bool => data.push((caller as usize + at) as u8 % 2),
                        Some(size) => data.extend(
                            (0..size).map(|byte| caller.wrapping_mul(7).wrapping_add((at * size + byte) as u8) & 0x3f),
                        ),
                        None => put_bytes_element(&mut data, format!("caller {caller} élément {at}").as_bytes()),
                    }
                }
                request(vec![tensor("x", datatype, &[rows, width], data)])
            })
            .collect();
        let answers = join_all(requests.iter().map(|request| deployment.answer(model, request))).await;
        for (request, (answer, _)) in requests.iter().zip(answers) {
            assert_eq!(answer.outputs.len(), 1);
            assert_eq!(
                (&answer.outputs[0].data, &answer.outputs[0].shape),
                (&request.inputs[0].data, &request.inputs[0].shape),
                "{model}"
            );
        }
    }
    deployment.drain().await;
}

#[tokio::test]
async fn several_inputs_and_outputs_travel_in_any_order_and_only_the_wanted_come_back() {
    let deployment = Deployment::of(&["two_by_two"]).await;
    let a = floats("a", &[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let b = longs("b", &[2], &[7, 8]);
    let mut asked = request(vec![b, a]);
    let (answer, _) = deployment.answer("two_by_two", &asked).await;
    assert_eq!(as_floats(&answer.outputs[0]), [2.0, 4.0, 6.0, 8.0, 10.0, 12.0]);
    assert_eq!(answer.outputs[1].data, longs("", &[2], &[-7, -8]).data);
    asked.outputs = vec!["negative".into()];
    let (answer, _) = deployment.answer("two_by_two", &asked).await;
    assert_eq!(answer.outputs.iter().map(|output| output.name.as_str()).collect::<Vec<_>>(), ["negative"]);
    deployment.drain().await;
}

#[tokio::test]
async fn models_whose_rows_may_not_share_a_run_answer_each_request_alone() {
    let names = ["optional_input", "scalar_output", "fixed_batch", "mixing", "data_dependent"];
    let deployment = Deployment::of(&names).await;
    assert!(names.iter().all(|name| !deployment.signature(name).batched));

    let x = |value: f32| floats("x", &[1, 2], &[value, value]);
    let (plain, _) = deployment.answer("optional_input", &request(vec![x(1.0)])).await;
    assert_eq!(as_floats(&plain.outputs[0]), [11.0, 21.0]);
    let (given, _) =
        deployment.answer("optional_input", &request(vec![x(1.0), floats("bias", &[2], &[5.0, 6.0])])).await;
    assert_eq!(as_floats(&given.outputs[0]), [6.0, 7.0]);

    let sums = (1..=20).map(|value| {
        let deployment = &deployment;
        async move { (value, deployment.answer("scalar_output", &request(vec![x(value as f32)])).await.0) }
    });
    for (value, answer) in join_all(sums).await {
        assert!(answer.outputs[0].shape.is_empty());
        assert_eq!(as_floats(&answer.outputs[0]), [2.0 * value as f32]);
    }

    let four = |value: f32, rows: i64| floats("x", &[rows, 4], &vec![value; rows as usize * 4]);
    let (fixed, _) = deployment.answer("fixed_batch", &request(vec![four(3.0, 1)])).await;
    assert_eq!(as_floats(&fixed.outputs[0]), [-3.0; 4]);
    let mixes = (0..20).map(|value| {
        let (deployment, asked) = (&deployment, request(vec![four(value as f32, 1)]));
        async move { deployment.answer("mixing", &asked).await.0 }
    });
    // A softmax over one row is 1 wherever no other row shares the run.
    assert!(join_all(mixes).await.iter().all(|answer| as_floats(&answer.outputs[0]) == [1.0; 4]));
    let (found, _) = deployment.answer("data_dependent", &request(vec![four(1.0, 2)])).await;
    assert_eq!(found.outputs[0].shape[..], [2, 8]);
    deployment.drain().await;
}

#[derive(serde::Deserialize)]
struct Golden {
    inputs: Vec<GoldenTensor>,
    outputs: Vec<GoldenTensor>,
}

#[derive(serde::Deserialize)]
struct GoldenTensor {
    data: Vec<f32>,
}

#[tokio::test]
async fn the_golden_digits_match_python_one_by_one_in_one_request_and_from_64_callers() {
    let models = tempfile::tempdir().expect("a folder");
    let folder = models.path().join("digits/1");
    std::fs::create_dir_all(&folder).expect("folders");
    std::fs::copy(digits().join("1/model.onnx"), folder.join("model.onnx")).expect("the demo model");
    std::fs::copy(digits().join("golden.json"), models.path().join("digits/golden.json")).expect("its golden answers");
    let deployment = Deployment::start(models, quick(), Default::default()).await;
    let text = std::fs::read_to_string(digits().join("golden.json")).expect("golden answers");
    let golden: Golden = serde_json::from_str(&text).expect("golden answers parse");
    let pixels: Vec<&[f32]> = golden.inputs[0].data.chunks(64).collect();
    let near = |got: &[f32], row: usize| {
        let want = &golden.outputs[1].data[row * 10..][..got.len()];
        got.iter().zip(want).all(|(got, want)| (got - want).abs() <= 1e-5)
    };
    let asked: Vec<InferRequest> = pixels.iter().map(|row| request(vec![floats("input", &[1, 64], row)])).collect();
    for (row, one) in asked.iter().enumerate().take(16) {
        let (answer, result) = deployment.answer("digits", one).await;
        assert!(near(&as_floats(&answer.outputs[1]), row), "digit {row} alone");
        assert_eq!(result.timings.attempts, 1);
        assert!(!result.timings.worker.is_empty() && result.timings.worker.len() <= 6);
    }
    let answers = join_all(asked.iter().map(|one| deployment.answer("digits", one))).await;
    let mut largest = 0;
    for (row, (answer, result)) in answers.iter().enumerate() {
        assert!(near(&as_floats(&answer.outputs[1]), row), "digit {row} beside others");
        largest = largest.max(result.timings.batch_size);
    }
    assert!(largest > 1, "64 callers at once share runs");
    // 64 rows in one request are over the 32 of a run: split and joined.
    let all = request(vec![floats("input", &[64, 64], &golden.inputs[0].data)]);
    let (answer, result) = deployment.answer("digits", &all).await;
    assert_eq!(answer.outputs[1].shape[..], [64, 10]);
    assert!(near(&as_floats(&answer.outputs[1]), 0) && result.timings.batch_size == 32);
    deployment.drain().await;
}

#[tokio::test]
async fn a_hundred_thousand_concurrent_requests_over_three_sessions_each_get_their_own_answer() {
    const CALLERS: u32 = 100_000;
    let config = WorkerConfig { sessions: Sessions::Count(3), ..quick() };
    let deployment = Deployment::with(&["identity_fp32"], config, QueueSettings::default()).await;
    let calls = (0..CALLERS).map(|caller| {
        let deployment = &deployment;
        async move {
            // One to three rows, so that batches are cut everywhere; every number is the caller's own.
            let rows = i64::from(caller % 3) + 1;
            let own: Vec<f32> = (0..rows).map(|row| caller as f32 + row as f32 / 4.0).collect();
            let asked = request(vec![floats("x", &[rows, 1], &own)]);
            let (answer, result) = deployment.answer("identity_fp32", &asked).await;
            assert_eq!(as_floats(&answer.outputs[0]), own, "caller {caller}");
            result.timings.batch_size
        }
    });
    let all = tokio::time::timeout(Duration::from_secs(300), join_all(calls));
    let sizes = all.await.expect("all are answered within five minutes");
    assert!(sizes.into_iter().max() > Some(16), "runs were large");
    let workers = deployment.queue.workers().await.expect("workers");
    assert_eq!(workers[0].sessions, 3);
    deployment.drain().await;
}
