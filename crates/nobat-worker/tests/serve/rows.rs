//! Whose rows share a run: what is proven or tried, and nothing else.

use futures::future::join_all;
use nobat_core::infer::InferRequest;
use nobat_core::signature::{ModelSignature, RowsVerdict};
use nobat_core::tensor::{Datatype, put_bytes_element};
use nobat_queue::QueueSettings;
use nobat_worker::WorkerConfig;

use crate::deployment::{Deployment, as_floats, floats, longs, quick, request, tensor};

/// So that callers who come at once are sure to meet.
fn meeting() -> WorkerConfig {
    let mut config = quick();
    config.batching.max_queue_delay_ms = 10.0;
    config
}

/// Rows of different scales and signs, each another caller's.
fn callers(width: usize) -> Vec<InferRequest> {
    let row = |caller: usize| {
        (0..width).map(move |at| {
            let value = ((caller * 7 + at * 3) % 11) as f32;
            match caller % 4 {
                0 => value / 10.0,
                1 => value * 20.0,
                2 => value - 5.0,
                // A peak that two places share.
                _ => [1.0, 3.0, 3.0, 2.0][at % 4],
            }
        })
    };
    let values = |caller: usize| row(caller).collect::<Vec<f32>>();
    (0..16).map(|caller| request(vec![floats("x", &[1, width as i64], &values(caller))])).collect()
}

#[tokio::test]
async fn no_caller_gets_what_another_callers_rows_made_of_its_own() {
    let names = [
        "mixes_max",
        "mixes_scale",
        "mixes_shift",
        "mixes_rank",
        "mixes_unique",
        "mixes_peaks",
        "mixes_cumsum",
        "mixes_norm",
        "mixes_lower",
        "mixes_scatter",
        "mixes_gather",
    ];
    let deployment = Deployment::with(&names, meeting(), QueueSettings::default()).await;
    for model in names {
        let asked = callers(if model == "mixes_gather" { 1 } else { 4 });
        let together = join_all(asked.iter().map(|asked| deployment.answer(model, asked))).await;
        for (caller, (beside_others, _)) in together.iter().enumerate() {
            let (alone, _) = deployment.answer(model, &asked[caller]).await;
            assert_eq!(beside_others.outputs, alone.outputs, "{model}, caller {caller}");
        }
        let signature = deployment.signature(model);
        assert_eq!((signature.batched, signature.rows.verdict), (false, RowsVerdict::Mixed), "{model}");
        assert!(signature.rows.why.starts_with("node `"), "{model}: {}", signature.rows.why);
    }
    deployment.drain().await;
}

#[tokio::test]
async fn texts_are_split_without_the_neighbours_padding() {
    let deployment = Deployment::with(&["mixes_split"], meeting(), QueueSettings::default()).await;
    let text = |text: &str| {
        let mut data = Vec::new();
        put_bytes_element(&mut data, text.as_bytes());
        request(vec![tensor("x", Datatype::Bytes, &[1], data)])
    };
    let asked: Vec<InferRequest> = (1..=12).map(|words| text(&vec!["word"; words].join(" "))).collect();
    let together = join_all(asked.iter().map(|asked| deployment.answer("mixes_split", asked))).await;
    for (words, (answer, _)) in (1..=12).zip(together) {
        assert_eq!(answer.outputs[0].shape[..], [1, words]);
    }
    assert!(deployment.signature("mixes_split").rows.why.contains("StringSplit"));
    deployment.drain().await;
}

#[tokio::test]
async fn inputs_that_begin_with_other_axes_may_have_other_lengths() {
    let names = ["graph_edges", "regions", "unnamed_axes"];
    let deployment = Deployment::with(&names, meeting(), QueueSettings::default()).await;
    assert!(names.iter().all(|name| !deployment.signature(name).batched));
    let nodes = floats("x", &[3, 4], &(0..12).map(|own| own as f32).collect::<Vec<_>>());
    let graph = |src: &[i64], dst: &[i64]| {
        let ends = [longs("src", &[src.len() as i64], src), longs("dst", &[dst.len() as i64], dst)];
        request([nodes.clone()].into_iter().chain(ends).collect())
    };
    // As many edges as nodes, fewer, and more; all at once.
    let asked = [graph(&[0, 1, 2], &[2, 1, 0]), graph(&[0], &[1]), graph(&[0, 0, 1, 2], &[1, 2, 2, 0])];
    let answers = join_all(asked.iter().map(|asked| deployment.answer("graph_edges", asked))).await;
    assert_eq!(as_floats(&answers[0].0.outputs[0]), [8.0, 8.0, 8.0, 8.0, 0.0, 0.0, 0.0, 0.0, -8.0, -8.0, -8.0, -8.0]);
    assert_eq!(as_floats(&answers[1].0.outputs[0]), [4.0; 4]);
    assert_eq!(answers[2].0.outputs[0].shape[..], [4, 4]);
    let picks = request(vec![nodes.clone(), longs("i", &[2], &[2, 0])]);
    let (picked, _) = deployment.answer("unnamed_axes", &picks).await;
    assert_eq!(as_floats(&picked.outputs[0]), [8.0, 9.0, 10.0, 11.0, 0.0, 1.0, 2.0, 3.0]);
    let regions = vec![
        floats("x", &[1, 1, 4, 4], &[1.0; 16]),
        floats("rois", &[2, 4], &[0.0, 0.0, 2.0, 2.0, 1.0, 1.0, 3.0, 3.0]),
        longs("images", &[2], &[0, 0]),
    ];
    let (found, _) = deployment.answer("regions", &request(regions)).await;
    assert_eq!(as_floats(&found.outputs[0]), [1.0, 1.0]);
    deployment.drain().await;
}

#[tokio::test]
async fn a_batch_axis_that_is_not_the_first_is_told() {
    let deployment = Deployment::of(&["state_second"]).await;
    let signature = deployment.signature("state_second");
    assert_eq!((signature.batched, signature.rows.verdict), (false, RowsVerdict::NoBatchAxis));
    assert!(
        signature.rows.why.contains("the batch axis of input `state` is axis 1 (`batch`)"),
        "{}",
        signature.rows.why
    );
    let state = floats("state", &[1, 2, 4], &[1.0; 8]);
    let (answer, _) = deployment.answer("state_second", &request(vec![floats("x", &[2, 4], &[1.0; 8]), state])).await;
    assert_eq!(as_floats(&answer.outputs[0]), [2.0; 8]);
    deployment.drain().await;
}

#[tokio::test]
async fn what_is_proven_and_what_is_tried_is_batched() {
    let names = ["independent_small", "linear_fp32", "two_by_two", "fails_on_marked_row", "asks_for_77"];
    let deployment = Deployment::of(&names).await;
    for model in &names[..4] {
        let signature = deployment.signature(model);
        assert_eq!((signature.batched, signature.rows.verdict), (true, RowsVerdict::Proven), "{model}");
    }
    let tried = deployment.signature("asks_for_77");
    assert_eq!((tried.batched, tried.rows.verdict), (true, RowsVerdict::Tried), "{:?}", tried.rows);
    deployment.drain().await;
}

#[tokio::test]
async fn the_first_real_requests_show_what_synthetic_ones_cannot() {
    let names = ["real_rows", "real_mixes"];
    let deployment = Deployment::with(&names, meeting(), QueueSettings::default()).await;
    let asked =
        |caller: i64| request(vec![longs("x", &[1, 4], &[0, 1, 2, 3].map(|at| 1_000_000 + (caller * 3 + at) % 10))]);
    for model in names {
        let signature = deployment.signature(model);
        assert_eq!((signature.batched, signature.rows.verdict), (false, RowsVerdict::Unknown), "{model}");
        for caller in 0..4 {
            let (answer, result) = deployment.answer(model, &asked(caller)).await;
            assert_eq!((&answer.outputs[0].shape[..], result.timings.batch_size), (&[1, 4, 2][..], 1), "{model}");
        }
    }
    let verdict_of =
        |verdict: RowsVerdict| move |own: &[ModelSignature]| own.iter().any(|own| own.rows.verdict == verdict);
    deployment.until("real_rows", verdict_of(RowsVerdict::Tried)).await;
    deployment.until("real_mixes", verdict_of(RowsVerdict::Mixed)).await;
    assert!(deployment.signature("real_rows").batched && !deployment.signature("real_mixes").batched);
    let requests: Vec<InferRequest> = (0..12).map(asked).collect();
    let together = join_all(requests.iter().map(|asked| deployment.answer("real_rows", asked))).await;
    assert!(together.iter().map(|(_, result)| result.timings.batch_size).max() > Some(1));
    for (asked, (beside_others, _)) in requests.iter().zip(&together) {
        let (alone, _) = deployment.answer("real_rows", asked).await;
        let pairs = as_floats(&alone.outputs[0]).into_iter().zip(as_floats(&beside_others.outputs[0]));
        assert!(pairs.into_iter().all(|(alone, beside)| (alone - beside).abs() < 1e-3));
    }
    deployment.drain().await;
}

#[tokio::test]
async fn the_owner_has_the_last_word() {
    for told in [true, false] {
        let mut config = quick();
        config.batching.rows_independent = Some(told);
        let deployment = Deployment::with(&["mixing", "linear_fp32"], config, QueueSettings::default()).await;
        for model in ["mixing", "linear_fp32"] {
            let signature = deployment.signature(model);
            assert_eq!((signature.batched, signature.rows.verdict), (told, RowsVerdict::Told), "{model}");
        }
        deployment.drain().await;
    }
}
