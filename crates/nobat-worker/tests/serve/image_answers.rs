//! Served models of pictures answer what Pillow, transformers and ONNX Runtime answer for them: pictures of
//! many formats and their answers stand in `tests/image_golden`, as `scripts/image_parity --golden` wrote them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use nobat_core::parameters::Parameter;
use serde_json::Value;

use crate::deployment::as_floats;
use crate::images::{json, output, pictures, serving};

/// As far as a score may be off: another JPEG decoder rounds colours elsewhere.
const CLOSE: f32 = 0.02;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/image_golden")
}

#[tokio::test(flavor = "multi_thread")]
async fn pictures_of_every_format_get_the_labels_and_vectors_of_the_reference() {
    let text = std::fs::read_to_string(golden().join("answers.json")).expect("answers");
    let answers: BTreeMap<String, BTreeMap<String, Vec<f32>>> = serde_json::from_str(&text).expect("answers");
    assert!(answers.len() >= 20, "{}", answers.len());
    let deployment = serving(&["classify", "embed"]).await;
    let files: Vec<Vec<u8>> = answers.keys().map(|name| std::fs::read(golden().join(name)).expect("a file")).collect();
    let mut asked = pictures(&files);
    asked.parameters.set("top_k", Parameter::Int64(10));
    let (answer, _) = deployment.answer("classify", &asked).await;
    let tops = json(output(&answer.outputs, "top"));
    for ((name, wanted), top) in answers.iter().zip(&tops) {
        let exponents: Vec<f32> = wanted["classify"].iter().map(|logit| logit.exp()).collect();
        let sum: f32 = exponents.iter().sum();
        let best = (0..10).max_by(|&a, &b| exponents[a].total_cmp(&exponents[b])).expect("ten");
        assert_eq!(top[0]["label"], format!("thing {best}"), "{name}: {top}");
        for one in top.as_array().expect("a list") {
            let class: usize = one["label"].as_str().and_then(|label| label[6..].parse().ok()).expect("a class");
            let score = one["score"].as_f64().expect("a score") as f32;
            let off = (score - exponents[class] / sum).abs();
            assert!(off < CLOSE, "{name}: {one} is off by {off}");
        }
    }
    let (answer, _) = deployment.answer("embed", &pictures(&files)).await;
    let vectors = as_floats(output(&answer.outputs, "embedding"));
    for ((name, wanted), vector) in answers.iter().zip(vectors.chunks(16)) {
        let largest = wanted["embed"].iter().fold(0.0f32, |most, number| most.max(number.abs()));
        for (one, other) in vector.iter().zip(&wanted["embed"]) {
            assert!((one - other).abs() < CLOSE * largest.max(1.0), "{name}: {one} for {other}");
        }
    }
    assert!(tops.iter().all(Value::is_array));
    deployment.drain().await;
}
