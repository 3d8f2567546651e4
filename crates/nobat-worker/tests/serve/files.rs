//! A model that tells files apart by their first and last bytes, in a worker.

use nobat_core::ErrorCode;
use nobat_core::infer::InferRequest;
use nobat_core::job::{JobOptions, JobState};
use nobat_core::parameters::Parameter;
use nobat_core::signature::ModelState;
use nobat_core::task::TaskKind;
use nobat_core::tensor::{Datatype, Tensor, put_bytes_element, take_bytes_element};

use crate::deployment::{as_floats, request, tensor};
use crate::images::{json, output, serving};

fn files(files: &[&[u8]]) -> InferRequest {
    let mut data = Vec::new();
    files.iter().for_each(|file| put_bytes_element(&mut data, file));
    request(vec![tensor("bytes", Datatype::Bytes, &[files.len() as i64], data)])
}

fn texts(tensor: &Tensor) -> Vec<String> {
    let mut rest = &tensor.data[..];
    let elements = std::iter::from_fn(|| take_bytes_element(&mut rest));
    elements.map(|text| String::from_utf8(text.to_vec()).expect("a text")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_told_apart_by_their_ends_and_short_ones_without_the_graph() {
    let deployment = serving(&["bytes"]).await;
    let signature = deployment.signature("bytes");
    let task = signature.task.as_ref().expect("a task");
    assert_eq!((task.kind, signature.state), (TaskKind::Bytes, ModelState::Ready));
    assert_eq!((signature.inputs[0].name.as_str(), task.json_outputs.as_slice()), ("bytes", &["top".into()][..]));
    assert!(signature.settings["found"].to_string().contains("first 8 and last 8 bytes"), "{:?}", signature.settings);

    // Its scores are the first byte, the last one, and the share of padding.
    let long: Vec<u8> = [&[0xf0][..], &[9; 100], &[0x10]].concat();
    let given: [&[u8]; 7] =
        [&long, b"", b"  \t\x0b abc", b"\xff\xfe", b"\x90bcdefghijklmnop\x20", b"\x01bcdefghijkl\xa0", b"abcd"];
    let (answer, _) = deployment.answer("bytes", &files(&given)).await;
    let labels = texts(output(&answer.outputs, "label"));
    // The fifth is not sure of `first`, which is a text.
    assert_eq!(labels, ["first", "empty", "txt", "unknown", "txt", "last", "short"]);
    let scores = as_floats(output(&answer.outputs, "score"));
    assert_eq!(scores, [0.9375, 1.0, 1.0, 1.0, 0.5625, 0.625, 0.5]);
    let tops = json(output(&answer.outputs, "top"));
    assert_eq!(tops[4][0]["label"], "first", "the graph's own labels stand in `top`");
    assert_eq!(tops[1], serde_json::json!([{"label": "empty", "score": 1.0}]));

    let mut one = files(&[b"", &long]);
    one.parameters.set("top_k", Parameter::Int64(1));
    let (answer, _) = deployment.answer("bytes", &one).await;
    assert_eq!(json(output(&answer.outputs, "top"))[1].as_array().map(Vec::len), Some(1));

    let (answer, _) = deployment.answer("bytes", &files(&[b""])).await;
    assert_eq!(texts(output(&answer.outputs, "label")), ["empty"], "nothing is run");

    let mut unknown = files(&[b"abcd"]);
    unknown.parameters.set("top_k", Parameter::Int64(0));
    let view = deployment.job("bytes", &unknown, JobOptions::default()).await;
    assert_eq!((view.state, view.error.map(|error| error.code)), (JobState::Dead, Some(ErrorCode::InvalidParameter)));
    deployment.drain().await;
}
