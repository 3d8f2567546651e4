//! Hugging Face folders in a worker: recognised, described, answered, reloaded.

use std::path::{Path, PathBuf};

use nobat_core::ErrorCode;
use nobat_core::infer::InferRequest;
use nobat_core::job::JobState;
use nobat_core::parameters::Parameter;
use nobat_core::signature::ModelState;
use nobat_core::task::TaskKind;
use nobat_core::tensor::{Datatype, Tensor, put_bytes_element};
use nobat_queue::QueueSettings;

use crate::deployment::{Deployment, as_floats, once, quick, request, tensor};

fn folder_of(task: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/text_models").join(task)
}

/// A deployment of copies of these folders.
pub(crate) async fn serving(tasks: &[&str]) -> Deployment {
    let models = tempfile::tempdir().expect("a folder");
    for task in tasks {
        copy(&folder_of(task), &models.path().join(task));
    }
    Deployment::start(models, quick(), QueueSettings::default()).await
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder").flatten() {
        let (entry, target) = (entry.path(), to.join(entry.file_name()));
        match entry.is_dir() {
            true => copy(&entry, &target),
            false => _ = std::fs::copy(&entry, &target).expect("a copy"),
        }
    }
}

fn texts(name: &str, texts: &[&str]) -> Tensor {
    let mut data = Vec::new();
    texts.iter().for_each(|text| put_bytes_element(&mut data, text.as_bytes()));
    tensor(name, Datatype::Bytes, &[texts.len() as i64], data)
}

const TEXTS: [&str; 7] =
    ["hi", "a much longer text, of many words and signs", "", "ok", "x y z", "سلام", "a b c d e f g"];

#[tokio::test(flavor = "multi_thread")]
async fn texts_of_unlike_lengths_get_the_same_vectors_together_as_alone() {
    let deployment = serving(&["embed"]).await;
    let signature = deployment.signature("embed");
    let task = signature.task.as_ref().expect("a task");
    assert_eq!((task.kind, signature.state), (TaskKind::Embed, ModelState::Ready));
    assert_eq!((signature.inputs[0].datatype, signature.batched), (Datatype::Bytes, true));
    let example = deployment.worker.example("embed").expect("a text that it answers");
    assert_eq!(example.inputs[0].0, "text");

    let many: Vec<&str> = TEXTS.iter().copied().cycle().take(200).collect();
    let (answer, result) = deployment.answer("embed", &request(vec![texts("text", &many)])).await;
    let together = as_floats(&answer.outputs[0]);
    let width = together.len() / many.len();
    assert_eq!(task.dimensions, Some(width as u32));
    assert!(result.timings.infer_us > 0);
    for (at, text) in TEXTS.iter().enumerate() {
        let (answer, _) = deployment.answer("embed", &request(vec![texts("text", &[text])])).await;
        let alone = as_floats(&answer.outputs[0]);
        let off = alone.iter().zip(&together[at * width..]).map(|(one, other)| (one - other).abs()).fold(0.0, f32::max);
        assert!(off < 1e-5, "`{text}` is off by {off}");
    }
    let report = deployment.report().await;
    let own = report.statistics.iter().find(|own| own.model == "embed").expect("counted");
    assert_eq!((own.success.count, own.inference_count), (8, 207));
    assert!(own.execution_count < 120, "texts share runs: {}", own.execution_count);
    let metrics = nobat_runtime::Metrics::new();
    metrics.snapshot("worker", deployment.worker.families());
    let text = metrics.render();
    assert!(
        text.contains("nobat_tokens_total{model=\"embed\"") && text.contains("nobat_padding_tokens_total"),
        "{text}"
    );
    deployment.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_task_answers_and_a_mistake_is_its_callers_alone() {
    let deployment = serving(&["classify", "rerank", "tokens", "fill_mask", "zero_shot", "sparse"]).await;
    let ask = async |model: &str, inputs: Vec<Tensor>| deployment.answer(model, &request(inputs)).await.0.outputs;
    let two = ["good day", "no"];
    let classes = ask("classify", vec![texts("text", &two)]).await;
    let scores = classes.iter().find(|output| output.name == "scores").expect("scores");
    for row in as_floats(scores).chunks(scores.shape[1] as usize) {
        assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-4, "{row:?}");
    }
    let ranks = ask("rerank", vec![texts("text", &two), texts("text_pair", &["one", "another document"])]).await;
    assert_eq!(ranks.iter().find(|output| output.name == "score").expect("scores").shape[..], [2]);
    for (model, output) in [("tokens", "entities"), ("sparse", "sparse")] {
        let answer = ask(model, vec![texts("text", &two)]).await;
        assert!(answer.iter().any(|own| own.name == output && own.shape[..] == [2]), "{model}: {answer:?}");
    }
    assert!(!ask("fill_mask", vec![texts("text", &["a [MASK] b"])]).await.is_empty());
    let labels = texts("labels", &[r#"["one","two","three"]"#, r#"["yes"]"#]);
    assert!(!ask("zero_shot", vec![texts("text", &two), labels]).await.is_empty());

    let (bad, good) = (request(vec![texts("text", &["no mask here"])]), request(vec![texts("text", &["a [MASK]"])]));
    let (bad, good) =
        tokio::join!(deployment.job("fill_mask", &bad, once()), deployment.job("fill_mask", &good, once()));
    assert_eq!((bad.state, good.state), (JobState::Dead, JobState::Succeeded));
    let error = bad.error.expect("why");
    assert!(matches!(error.code, ErrorCode::InvalidTensor | ErrorCode::InvalidParameter), "{error:?}");
    deployment.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_needs_no_run_is_answered_and_parameters_are_the_callers_own() {
    let deployment = serving(&["embed"]).await;
    let mut tokenize = InferRequest { ..request(vec![texts("text", &["hi"])]) };
    tokenize.parameters.set("operation", Parameter::Text("tokenize".into()));
    let (answer, result) = deployment.answer("embed", &tokenize).await;
    assert_eq!(answer.outputs[0].name, "result");
    assert_eq!(result.timings.infer_us, 0, "no session ran");
    let own = deployment.report().await.statistics.into_iter().find(|own| own.model == "embed").expect("counted");
    assert_eq!((own.success.count, own.execution_count), (1, 0));
    deployment.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_tokenizer_is_another_version_and_a_broken_folder_says_what_is_missing() {
    let deployment = serving(&["embed", "classify"]).await;
    let before = deployment.signature("embed").digest;
    let (answer, _) = deployment.answer("embed", &request(vec![texts("text", &["hi"])])).await;
    let folder = deployment.models.path().join("embed");
    let settings = folder.join("sentence_bert_config.json");
    std::fs::write(&settings, r#"{"max_seq_length": 8, "do_lower_case": false}"#).expect("a file");
    std::fs::remove_file(deployment.models.path().join("classify/tokenizer.json")).expect("a file");
    deployment.worker.reload();
    deployment.until("embed", |own| own.iter().any(|one| one.digest != before && one.state == ModelState::Ready)).await;
    assert_eq!(deployment.signature("embed").task.and_then(|task| task.max_tokens), Some(8));
    let (again, _) = deployment.answer("embed", &request(vec![texts("text", &["hi"])])).await;
    assert_eq!(answer.outputs[0].data, again.outputs[0].data, "a short text is as it was");
    let is_told = |one: &nobat_core::signature::ModelSignature| {
        one.state == ModelState::Failed && one.reason.contains("tokenizer.json")
    };
    deployment.until("classify", |own| own.iter().any(is_told)).await;
    // What served goes on serving.
    assert!(!deployment.answer("classify", &request(vec![texts("text", &["hi"])])).await.0.outputs.is_empty());

    std::fs::write(folder.join("model.toml"), "[text]\ntask = \"tensors\"\n").expect("a file");
    deployment.worker.reload();
    deployment.until("embed", |own| own.iter().any(|one| one.task.is_none() && one.state == ModelState::Ready)).await;
    assert!(deployment.signature("embed").inputs.iter().any(|input| input.name == "input_ids"));
    deployment.drain().await;
}
