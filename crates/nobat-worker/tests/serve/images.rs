//! Models of pictures in a worker: recognised, described, answered, reloaded, and held against bad input.

use std::path::{Path, PathBuf};

use nobat_core::ErrorCode;
use nobat_core::infer::InferRequest;
use nobat_core::job::JobState;
use nobat_core::parameters::Parameter;
use nobat_core::signature::{ModelState, RowsVerdict};
use nobat_core::task::{ImageTask, TaskKind};
use nobat_core::tensor::{Datatype, Tensor, put_bytes_element, take_bytes_element};
use nobat_queue::QueueSettings;
use serde_json::Value;

use crate::deployment::{Deployment, as_floats, once, quick, request, tensor};

type Rgb = [u8; 3];
const RED: Rgb = [250, 10, 10];
const GREEN: Rgb = [10, 250, 10];
const BLUE: Rgb = [10, 10, 250];
const BLACK: Rgb = [0, 0, 0];

fn folder_of(task: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/image_models").join(task)
}

/// A deployment of copies of these folders.
pub(crate) async fn serving(tasks: &[&str]) -> Deployment {
    let models = tempfile::tempdir().expect("a folder");
    tasks.iter().for_each(|task| copy(&folder_of(task), &models.path().join(task)));
    Deployment::start(models, quick(), QueueSettings::default()).await
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder").flatten() {
        let to = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(std::fs::copy(entry.path(), to).expect("a copy")),
        }
    }
}

/// A BMP of a colour for each pixel.
fn bmp(width: u32, height: u32, colour: impl Fn(u32, u32) -> Rgb) -> Vec<u8> {
    let stride = (width * 3).next_multiple_of(4);
    let mut bytes = b"BM".to_vec();
    for word in [54 + stride * height, 0, 54, 40, width, height, 1 | 24 << 16, 0, stride * height, 2835, 2835, 0, 0] {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    // Rows from below, blue first.
    for y in (0..height).rev() {
        (0..width).for_each(|x| bytes.extend(colour(x, y).iter().rev()));
        bytes.resize(bytes.len() + (stride - width * 3) as usize, 0);
    }
    bytes
}

pub(crate) fn pictures(pictures: &[Vec<u8>]) -> InferRequest {
    let mut data = Vec::new();
    pictures.iter().for_each(|picture| put_bytes_element(&mut data, picture));
    request(vec![tensor("image", Datatype::Bytes, &[pictures.len() as i64], data)])
}

pub(crate) fn output<'a>(outputs: &'a [Tensor], name: &str) -> &'a Tensor {
    outputs.iter().find(|output| output.name == name).expect("the output")
}

fn elements(tensor: &Tensor) -> Vec<&[u8]> {
    let mut rest = &tensor.data[..];
    std::iter::from_fn(|| take_bytes_element(&mut rest)).collect()
}

pub(crate) fn json(tensor: &Tensor) -> Vec<Value> {
    elements(tensor).into_iter().map(|element| serde_json::from_slice(element).expect("JSON")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_task_answers_of_what_is_painted() {
    let deployment = serving(&["classify", "detect", "embed", "segment", "read"]).await;
    for task in ImageTask::ALL {
        let signature = deployment.signature(task.as_str());
        let known = signature.task.as_ref().expect("a task");
        assert_eq!((known.kind, known.image, signature.state), (TaskKind::Image, Some(task), ModelState::Ready));
        assert_eq!((signature.inputs[0].name.as_str(), signature.inputs[0].datatype), ("image", Datatype::Bytes));
        let found = signature.settings["found"].as_array().expect("what was found is published");
        assert!(found[0].as_str().is_some_and(|line| line.starts_with("task ")), "{found:?}");
    }
    // A red square of 100 x 50 pixels in a wide picture: half the size on the canvas, free space above.
    let square = bmp(400, 200, |x, y| if (100..200).contains(&x) && (50..150).contains(&y) { RED } else { BLACK });
    let (answer, _) = deployment.answer("detect", &pictures(&[square, bmp(64, 64, |_, _| BLUE)])).await;
    let found = json(output(&answer.outputs, "detections"));
    assert_eq!(found[1], Value::Array(Vec::new()), "nothing blue is known");
    let cells = found[0].as_array().expect("a list");
    assert!(!cells.is_empty() && cells.iter().all(|cell| cell["label"] == "red"), "{cells:?}");
    let (mut low, mut high) = ([f64::MAX; 2], [0.0f64; 2]);
    for cell in cells {
        let side = |name: &str| cell["box"][name].as_f64().expect("pixels");
        low = [low[0].min(side("xmin")), low[1].min(side("ymin"))];
        high = [high[0].max(side("xmax")), high[1].max(side("ymax"))];
    }
    assert_eq!((low, high), ([100.0, 0.0], [200.0, 200.0]), "cells of 100 pixels of the picture as it was sent");

    let stripes = bmp(96, 32, |x, _| [RED, BLACK, RED, GREEN, GREEN, BLUE][(x / 16) as usize]);
    let (answer, _) = deployment.answer("read", &pictures(&[stripes, bmp(32, 16, |_, _| BLACK)])).await;
    assert_eq!(elements(output(&answer.outputs, "text")), [&b"rrgb"[..], b""]);
    let scores = as_floats(output(&answer.outputs, "score"));
    assert!(scores[0] > 0.9 && scores[1] == 0.0, "{scores:?}");

    let halves = bmp(80, 40, |x, _| if x < 40 { GREEN } else { BLUE });
    let (answer, _) = deployment.answer("segment", &pictures(&[halves])).await;
    assert!(elements(output(&answer.outputs, "mask"))[0].starts_with(b"\x89PNG"));
    let segments = &json(output(&answer.outputs, "segments"))[0];
    let pixels = |label: &str| {
        let one = segments.as_array().expect("a list").iter().find(|one| one["label"] == label);
        one.and_then(|one| one["pixels"].as_u64()).unwrap_or(0)
    };
    assert_eq!((pixels("green"), pixels("blue"), pixels("red")), (1600, 1600, 0));

    let mut normal = pictures(&[bmp(50, 40, |x, y| [x as u8, y as u8, 99])]);
    normal.parameters.set("normalize", Parameter::Bool(true));
    let (answer, _) = deployment.answer("embed", &normal).await;
    let vector = as_floats(output(&answer.outputs, "embedding"));
    assert_eq!((output(&answer.outputs, "embedding").shape[..].to_vec(), vector.len()), (vec![1, 16], 16));
    assert!((vector.iter().map(|number| number * number).sum::<f32>() - 1.0).abs() < 1e-5);
    deployment.drain().await;
}

fn texts(name: &str, texts: &[&str]) -> Tensor {
    let mut data = Vec::new();
    texts.iter().for_each(|text| put_bytes_element(&mut data, text.as_bytes()));
    tensor(name, Datatype::Bytes, &[texts.len() as i64], data)
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_and_pictures_of_two_towers_have_vectors_of_one_space() {
    let deployment = serving(&["clip"]).await;
    let signature = deployment.signature("clip");
    let task = signature.task.as_ref().expect("a task");
    assert_eq!((task.kind, task.image, task.dimensions), (TaskKind::Embed, Some(ImageTask::Embed), Some(3)));
    assert_eq!((signature.rows.verdict, signature.batched), (RowsVerdict::Tried, true), "{:?}", signature.rows);
    assert_eq!(signature.picture_input().map(|spec| spec.name.as_str()), Some("image"));
    let near = |found: &[f32], wanted: &[f32]| {
        assert!(found.iter().zip(wanted).all(|(one, other)| (one - other).abs() < 0.1), "{found:?} {wanted:?}");
    };
    // Texts of unlike length in one run, of which the shorter one is padded.
    let asked = request(vec![texts("text", &["a photo of an red red red picture", "blue"])]);
    let (answer, _) = deployment.answer("clip", &asked).await;
    let found = output(&answer.outputs, "embedding");
    assert_eq!(found.shape[..], [2, 3]);
    near(&as_floats(found), &[1.0, 0.0, 0.0, 0.0, 0.0, 1.0]);
    assert_eq!(output(&answer.outputs, "tokens").shape[..], [2]);
    let plain = |colour: Rgb| bmp(40, 30, move |_, _| colour);
    let (answer, _) = deployment.answer("clip", &pictures(&[plain(BLUE), plain(RED)])).await;
    let found = output(&answer.outputs, "embedding");
    near(&as_floats(found), &[0.0, 0.0, 1.0, 1.0, 0.0, 0.0]);
    assert_eq!(answer.outputs.len(), 1, "pictures have no tokens");

    // Labels that nobody trained on: of each picture its own.
    let mut asked = pictures(&[plain(RED), plain(GREEN)]);
    asked.inputs.push(texts("labels", &[r#"["blue", "red"]"#, r#"["red", "blue", "green"]"#]));
    let (answer, _) = deployment.answer("clip", &asked).await;
    let found = json(output(&answer.outputs, "scores"));
    assert_eq!((&found[0][0]["label"], &found[1][0]["label"]), (&"red".into(), &"green".into()), "{found:?}");
    let scores: Vec<f64> =
        found[0].as_array().expect("a list").iter().filter_map(|one| one["score"].as_f64()).collect();
    // exp(10 a) over the sum of exp(10 a) and exp(10 b), for the cosines a and b.
    assert!((scores.iter().sum::<f64>() - 1.0).abs() < 1e-6 && scores[0] > 0.999, "{scores:?}");

    let refused =
        async |asked: &InferRequest| deployment.job("clip", asked, once()).await.error.expect("a refusal").message;
    let mut both = pictures(&[plain(RED)]);
    both.inputs.push(texts("text", &["red"]));
    assert!(refused(&both).await.contains("`image`, or `text`, or `image` with `labels`"));
    let mut of_texts = pictures(&[plain(RED)]);
    of_texts.parameters.set("truncate", Parameter::Bool(true));
    assert!(refused(&of_texts).await.contains("`truncate` is not for pictures"));
    let mut labels = pictures(&[plain(RED)]);
    labels.inputs.push(texts("labels", &["red"]));
    assert!(refused(&labels).await.contains("a JSON list of labels"));
    deployment.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn towers_in_two_files_are_one_model_that_answers_as_one_graph_does() {
    let deployment = serving(&["clip", "clip_apart"]).await;
    let (whole, apart) = (deployment.signature("clip"), deployment.signature("clip_apart"));
    assert_eq!((&apart.inputs, &apart.outputs, &apart.task), (&whole.inputs, &whole.outputs, &whole.task));
    assert_eq!((apart.rows.verdict, apart.batched), (RowsVerdict::Tried, true), "{:?}", apart.rows);
    let found = apart.settings["found"].to_string();
    assert!(found.contains("likeness is scaled by 100, a guess") && found.contains("vectors have length 1"), "{found}");
    let plain = |colour: Rgb| bmp(40, 30, move |_, _| colour);
    let mixed = bmp(31, 40, |x, y| if (x + y) % 3 == 0 { RED } else { BLUE });
    let of_texts = request(vec![texts("text", &["a photo of an red red blue picture", "blue"])]);
    let of_pictures = pictures(&[mixed, plain(GREEN)]);
    for asked in [&of_texts, &of_pictures] {
        let (one, _) = deployment.answer("clip", asked).await;
        let (two, _) = deployment.answer("clip_apart", asked).await;
        assert_eq!(one.outputs.len(), two.outputs.len());
        let (one, two) = (output(&one.outputs, "embedding"), output(&two.outputs, "embedding"));
        assert_eq!(one.shape, two.shape);
        let (one, two) = (as_floats(one), as_floats(two));
        assert!(one.iter().zip(&two).all(|(one, two)| (one - two).abs() < 1e-5), "{one:?} {two:?}");
    }
    // What a tower gives is as long as it is, where that is asked for.
    let mut asked = of_texts.clone();
    asked.parameters.set("normalize", Parameter::Bool(false));
    let (answer, _) = deployment.answer("clip_apart", &asked).await;
    let longest = as_floats(output(&answer.outputs, "embedding")).into_iter().fold(0f32, f32::max);
    assert!(longest > 1.5, "two reds: {longest}");

    let mut asked = pictures(&[plain(RED), plain(GREEN)]);
    asked.inputs.push(texts("labels", &[r#"["blue", "red"]"#, r#"["red", "blue", "green"]"#]));
    let (answer, _) = deployment.answer("clip_apart", &asked).await;
    let found = json(output(&answer.outputs, "scores"));
    assert_eq!((&found[0][0]["label"], &found[1][0]["label"]), (&"red".into(), &"green".into()), "{found:?}");
    deployment.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_has_the_same_labels_together_as_alone() {
    let deployment = serving(&["classify"]).await;
    let picture = |seed: u32| {
        bmp(30 + seed, 50 - seed, move |x, y| [(x * seed) as u8, (y * (seed + 3)) as u8, (x * y * seed) as u8])
    };
    let many: Vec<Vec<u8>> = (0..40).map(|at| picture(at % 20)).collect();
    let mut asked = pictures(&many);
    asked.parameters.set("top_k", Parameter::Int64(3));
    let (answer, result) = deployment.answer("classify", &asked).await;
    assert!(result.timings.infer_us > 0);
    let together = json(output(&answer.outputs, "top"));
    let labels = elements(output(&answer.outputs, "label"));
    assert_eq!((together.len(), labels.len(), answer.outputs.len()), (40, 40, 3));
    for (at, own) in many.iter().take(20).enumerate() {
        let mut asked = pictures(std::slice::from_ref(own));
        asked.parameters.set("top_k", Parameter::Int64(3));
        let (answer, _) = deployment.answer("classify", &asked).await;
        let alone = &json(output(&answer.outputs, "top"))[0];
        assert_eq!(alone.as_array().map(Vec::len), Some(3));
        for (one, other) in alone.as_array().expect("a list").iter().zip(together[at].as_array().expect("a list")) {
            let score = |value: &Value| value["score"].as_f64().expect("a score");
            assert!(one["label"] == other["label"] && (score(one) - score(other)).abs() < 1e-5, "{one} {other}");
        }
        assert_eq!(alone[0]["label"].as_str().map(str::as_bytes), Some(labels[at]));
    }
    let own = deployment.report().await.statistics.into_iter().find(|own| own.model == "classify").expect("counted");
    assert_eq!((own.success.count, own.inference_count), (21, 60));
    assert!(own.execution_count < 45, "pictures share runs: {}", own.execution_count);
    deployment.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_picture_is_its_callers_mistake_alone() {
    let deployment = serving(&["classify"]).await;
    let good = bmp(8, 8, |_, _| RED);
    let refused = async |picture: Vec<u8>| {
        let asked = pictures(&[good.clone(), picture]);
        let view = deployment.job("classify", &asked, once()).await;
        assert_eq!(view.state, JobState::Dead);
        let error = view.error.expect("why");
        assert_eq!(error.code, ErrorCode::InvalidTensor);
        assert!(error.message.starts_with("element 1 of input `image` is "), "{}", error.message);
        error.message
    };
    assert!(refused(b"no picture at all".to_vec()).await.contains("text, `no picture at all`"));
    assert!(refused(Vec::new()).await.contains("empty"));
    assert!(refused(good[..good.len() / 2].to_vec()).await.contains("BMP of 8 x 8 pixels that cannot be decoded"));
    let mut bomb = good.clone();
    bomb[18..26].copy_from_slice(&[0x60, 0xEA, 0, 0, 0x60, 0xEA, 0, 0]);
    assert!(refused(bomb).await.contains("60000 x 60000 pixels; at most 89478485"));
    let mut asked = pictures(std::slice::from_ref(&good));
    asked.parameters.set("top_k", Parameter::Int64(0));
    let view = deployment.job("classify", &asked, once()).await;
    assert_eq!(view.error.map(|error| error.code), Some(ErrorCode::InvalidParameter));
    assert_eq!(deployment.answer("classify", &pictures(&[good])).await.0.outputs.len(), 3);
    deployment.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_labels_are_another_version_and_settings_that_do_not_fit_say_what_does() {
    let deployment = serving(&["classify", "detect"]).await;
    let folder = deployment.models.path().join("classify");
    let before = deployment.signature("classify").digest;
    let names: Vec<String> = (0..10).map(|at| format!("name {at}")).collect();
    std::fs::write(folder.join("labels.txt"), names.join("\n")).expect("a file");
    std::fs::write(deployment.models.path().join("detect/model.toml"), "[image]\nsize = 96\n").expect("a file");
    deployment.worker.reload();
    deployment
        .until("classify", |own| own.iter().any(|one| one.digest != before && one.state == ModelState::Ready))
        .await;
    let (answer, _) = deployment.answer("classify", &pictures(&[bmp(9, 9, |_, _| RED)])).await;
    assert!(elements(output(&answer.outputs, "label"))[0].starts_with(b"name "));
    let told = |one: &nobat_core::signature::ModelSignature| {
        one.state == ModelState::Failed && one.reason.contains("become 96 x 96 and input `images` takes 64 x 64")
    };
    deployment.until("detect", |own| own.iter().any(told)).await;
    // What served goes on serving.
    assert!(!deployment.answer("detect", &pictures(&[bmp(9, 9, |_, _| RED)])).await.0.outputs.is_empty());

    std::fs::write(folder.join("model.toml"), "[image]\ntask = \"tensors\"\n").expect("a file");
    deployment.worker.reload();
    deployment
        .until("classify", |own| own.iter().any(|one| one.task.is_none() && one.state == ModelState::Ready))
        .await;
    assert_eq!(deployment.signature("classify").inputs[0].name, "pixel_values");
    deployment.drain().await;
}
