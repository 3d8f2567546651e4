//! Served folders answer what transformers and sentence-transformers answer for them: their
//! answers stand in `tests/text_answers`, as `scripts/text_parity --golden` wrote them.

use std::path::{Path, PathBuf};

use nobat_core::infer::InferRequest;
use nobat_core::parameters::Parameter;
use nobat_core::tensor::{Datatype, Tensor, put_bytes_element, take_bytes_element};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::deployment::{Deployment, as_floats, request, tensor};
use crate::texts::serving;

const TASKS: [&str; 6] = ["embed", "classify", "rerank", "tokens", "fill_mask", "zero_shot"];
/// As far as two ways of adding floats, written with six places, may be apart.
const CLOSE: f64 = 1e-4;

#[derive(Deserialize)]
struct Case {
    inputs: Map<String, Value>,
    parameters: Map<String, Value>,
    outputs: Map<String, Value>,
}

fn tests(below: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests").join(below)
}

/// The case's request; of one text alone where `only` names it.
fn asked(case: &Case, only: Option<usize>) -> InferRequest {
    let inputs = case.inputs.iter().map(|(name, texts)| {
        let texts = texts.as_array().expect("a list").iter().map(|text| text.as_str().expect("a text"));
        let texts: Vec<&str> =
            texts.enumerate().filter(|(at, _)| only.is_none_or(|only| only == *at)).map(|(_, text)| text).collect();
        let mut data = Vec::new();
        texts.iter().for_each(|text| put_bytes_element(&mut data, text.as_bytes()));
        tensor(name, Datatype::Bytes, &[texts.len() as i64], data)
    });
    let mut made = request(inputs.collect());
    for (name, value) in &case.parameters {
        made.parameters.set(name.as_str(), Parameter::of_json(value).expect("a value"));
    }
    made
}

/// An output's rows: numbers, texts, or what the JSON in them holds.
fn rows(output: &Tensor, like: &[Value]) -> Vec<Value> {
    if output.datatype == Datatype::Bytes {
        let mut rest = &output.data[..];
        let elements = std::iter::from_fn(|| take_bytes_element(&mut rest));
        let text = |element: &[u8]| String::from_utf8(element.to_vec()).expect("UTF-8");
        return match like.first() {
            Some(Value::String(_)) => elements.map(|element| Value::String(text(element))).collect(),
            _ => elements.map(|element| serde_json::from_slice(element).expect("JSON")).collect(),
        };
    }
    let numbers = as_floats(output);
    match output.shape.get(1) {
        None => numbers.into_iter().map(Value::from).collect(),
        Some(&width) => numbers.chunks(width as usize).map(|row| row.iter().copied().collect()).collect(),
    }
}

/// Numbers are near each other, everything else is the same.
fn check(got: &Value, want: &Value, place: &str) {
    match (got, want) {
        (Value::Number(got), Value::Number(want)) => {
            let apart = (got.as_f64().expect("a number") - want.as_f64().expect("a number")).abs();
            assert!(apart <= CLOSE, "{place}: {got} is not {want}");
        }
        (Value::Array(got), Value::Array(want)) => {
            assert_eq!(got.len(), want.len(), "{place}: {got:?} is not {want:?}");
            got.iter().zip(want).enumerate().for_each(|(at, (got, want))| check(got, want, &format!("{place}, {at}")));
        }
        (Value::Object(got), Value::Object(want)) => {
            assert_eq!(got.len(), want.len(), "{place}: {got:?} is not {want:?}");
            want.iter().for_each(|(name, want)| check(&got[name], want, &format!("{place}, {name}")));
        }
        _ => assert_eq!(got, want, "{place}"),
    }
}

/// Asks all of a case's texts at once, and each alone.
async fn answers(deployment: &Deployment, task: &str, case: &Case) {
    let count = case.inputs["text"].as_array().expect("a list").len();
    for only in std::iter::once(None).chain((0..count).map(Some)) {
        let (answer, _) = deployment.answer(task, &asked(case, only)).await;
        for (name, want) in &case.outputs {
            let want = want.as_array().expect("a list");
            let output = answer.outputs.iter().find(|output| output.name == name.as_str()).expect("the output");
            let got = rows(output, want);
            let want = match only {
                None => want.as_slice(),
                Some(at) => &want[at..=at],
            };
            assert_eq!(got.len(), want.len(), "{task}: {name}");
            let place = format!("{task} {:?}, {name}, text {only:?}", case.parameters);
            got.iter()
                .zip(want)
                .enumerate()
                .for_each(|(at, (got, want))| check(got, want, &format!("{place}, row {at}")));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_task_answers_what_python_answers_alone_and_beside_others() {
    let deployment = serving(&TASKS).await;
    for task in TASKS {
        let text = std::fs::read_to_string(tests("text_answers").join(format!("{task}.json"))).expect("answers");
        let cases: Vec<Case> = serde_json::from_str(&text).expect("cases");
        assert!(!cases.is_empty(), "{task}");
        for case in &cases {
            answers(&deployment, task, case).await;
        }
    }
    deployment.drain().await;
}
