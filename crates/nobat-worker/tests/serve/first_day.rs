//! What a person meets on the first day: folders laid out otherwise, and something to try.

use std::sync::Arc;

use nobat_core::signature::ModelState;
use nobat_core::tensor::Datatype;
use nobat_queue::Queue;
use nobat_queue::sqlite::SqliteQueue;
use nobat_worker::{Worker, WorkerConfig};

use crate::deployment::{Deployment, quick, request, tensor, test_model};

fn place(models: &std::path::Path, model: &str, at: &str) {
    let path = models.join(at);
    std::fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
    std::fs::copy(test_model(model), path).expect("a test model");
}

#[tokio::test]
async fn a_folder_without_models_is_an_error_that_says_what_was_looked_for() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("notes.txt"), "x").expect("a file");
    let data = tempfile::tempdir().expect("a folder");
    let queue: Arc<dyn Queue> = SqliteQueue::open(data.path(), Default::default()).expect("a queue");
    let config = WorkerConfig { models: vec![folder.path().to_owned()], ..quick() };
    let error = Worker::start(config.clone(), Arc::clone(&queue)).err().expect("refused").to_string();
    assert!(error.contains(&folder.path().display().to_string()), "{error}");
    assert!(error.contains("NAME.onnx") && error.contains("NAME/VERSION/model.onnx"), "{error}");

    // With a manifest to watch, models may come later.
    let mut waits = config;
    waits.loading.manifest = Some(folder.path().join("manifest"));
    let worker = Worker::start(waits, queue).expect("it waits");
    assert!(worker.ready().await.is_empty());
    tokio::task::spawn_blocking(move || worker.drain()).await.expect("a drain");
}

#[tokio::test]
async fn what_looks_like_a_model_is_published_as_failed_until_it_is_mended() {
    let models = tempfile::tempdir().expect("a folder");
    place(models.path(), "identity_fp32", "good.ONNX");
    place(models.path(), "identity_fp32", "dotted/1.0.1/model.onnx");
    let deployment = Deployment::start(models, quick(), Default::default()).await;
    assert_eq!(deployment.signature("good").state, ModelState::Ready);
    let reason = deployment.failure("dotted");
    assert!(reason.contains("1.0.1` is no version number"), "{reason}");
    assert_eq!(deployment.worker.ready().await, [reason]);

    let root = deployment.models.path();
    std::fs::rename(root.join("dotted/1.0.1"), root.join("dotted/v1")).expect("renamed");
    deployment.worker.reload();
    deployment.until("dotted", |own| own.iter().all(|own| own.state == ModelState::Ready) && !own.is_empty()).await;
    std::fs::rename(root.join("dotted/v1"), root.join("dotted/latest")).expect("renamed");
    deployment.worker.reload();
    deployment.until("dotted", |own| own.iter().any(|own| own.state == ModelState::Failed)).await;
    let told = deployment.failure("dotted");
    assert!(told.contains("latest` is no version number"), "{told}");
    std::fs::remove_dir_all(root.join("dotted")).expect("removed");
    deployment.worker.reload();
    deployment.until("dotted", <[_]>::is_empty).await;
    deployment.drain().await;
}

#[tokio::test]
async fn what_a_model_answered_at_load_it_answers_again() {
    let names = ["identity_bytes", "two_by_two", "fixed_batch", "slow", "fails_on_marked_row", "table", "linear_bool"];
    let deployment = Deployment::of(&names).await;
    for name in names {
        let example = deployment.worker.example(name).unwrap_or_else(|| panic!("{name} has an example"));
        let inputs = example.inputs.iter().map(|(input, datatype, shape)| {
            let count = shape.iter().product::<i64>() as usize;
            let data = match datatype.size() {
                Some(size) => vec![0; size * count],
                None => b"\x04\0\0\0text".repeat(count),
            };
            tensor(input, *datatype, shape, data)
        });
        deployment.answer(name, &request(inputs.collect())).await;
    }
    let table = deployment.worker.example("table").expect("an example");
    let shapes: Vec<_> = table.inputs.iter().map(|(_, datatype, shape)| (*datatype, shape.to_vec())).collect();
    assert_eq!(shapes, [(Datatype::Fp32, vec![1, 1]), (Datatype::Bytes, vec![1, 1])]);
    deployment.drain().await;
    // One that takes no zeros has none.
    let deployment = Deployment::of(&["reshape_fails"]).await;
    assert_eq!(deployment.worker.example("reshape_fails"), None);
    deployment.drain().await;
}
