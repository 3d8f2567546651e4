//! What a reload sees: new weights wherever they lie, new settings, a manifest.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use futures::future::join_all;
use nobat_core::infer::InferRequest;
use nobat_core::job::{JobOptions, JobState};
use nobat_core::signature::{ModelSignature, ModelState};
use nobat_queue::QueueSettings;
use nobat_worker::config::{LoadingConfig, Sessions};
use nobat_worker::{Worker, WorkerConfig};

use crate::deployment::{Deployment, as_floats, floats, longs, once, quick, request, test_model};
use crate::weighted::{adds, adds_external, publish, weights};

async fn start(files: &[(&str, &[u8])], config: impl FnOnce(&Path) -> WorkerConfig) -> Deployment {
    let models = tempfile::tempdir().expect("a folder");
    for (file, bytes) in files {
        publish(&models.path().join(file), bytes);
    }
    let config = config(models.path());
    // A cancelled run is ended with the next renewal.
    Deployment::start(models, config, QueueSettings { lease_ms: 3_000, ..QueueSettings::default() }).await
}

fn write(deployment: &Deployment, file: &str, bytes: &[u8]) {
    publish(&deployment.models.path().join(file), bytes);
}

fn zeros(version: &str) -> InferRequest {
    InferRequest { version: version.into(), ..request(vec![floats("x", &[1, 2], &[0.0, 0.0])]) }
}

/// What `version` of the model adds to its input.
async fn added(deployment: &Deployment, model: &str, version: &str) -> f32 {
    let (answer, _) = deployment.answer(model, &zeros(version)).await;
    as_floats(&answer.outputs[0])[0]
}

fn of<'a>(own: &'a [ModelSignature], version: &str) -> Option<&'a ModelSignature> {
    own.iter().find(|own| own.version == version && own.state == ModelState::Ready)
}

fn labelled(own: &[ModelSignature], label: &str) -> Vec<String> {
    let has = |own: &&ModelSignature| own.labels.iter().any(|own| own == label);
    own.iter().filter(has).map(|own| own.version.to_string()).collect()
}

#[tokio::test]
async fn new_external_weights_are_a_new_model() {
    let model = adds_external("weights.bin", &[]);
    let files: [(&str, &[u8]); 2] = [("adder.onnx", &model), ("weights.bin", &weights(1.0))];
    let deployment = start(&files, |_| quick()).await;
    assert_eq!(added(&deployment, "adder", "").await, 1.0);
    let before = deployment.signature("adder").digest;
    write(&deployment, "weights.bin", &weights(2.0));
    deployment.worker.reload();
    deployment.until("adder", |own| of(own, "1").is_some_and(|own| own.digest != before)).await;
    assert_eq!(added(&deployment, "adder", "").await, 2.0);
    deployment.drain().await;
}

#[tokio::test]
async fn labels_and_the_default_name_versions_and_move_with_a_reload() {
    let toml = |text: &str| format!("versions = \"all\"\n{text}");
    let first = toml("default_version = 1\nlabels = { stable = 1, canary = 2 }");
    let (one, two) = (adds(1.0), adds(2.0));
    let files: [(&str, &[u8]); 3] =
        [("adder/1/model.onnx", &one), ("adder/2/model.onnx", &two), ("adder/model.toml", first.as_bytes())];
    let deployment = start(&files, |_| quick()).await;
    deployment.until("adder", |own| of(own, "1").is_some_and(|own| own.default)).await;
    for (asked, adds) in [("", 1.0), ("1", 1.0), ("2", 2.0), ("stable", 1.0), ("canary", 2.0)] {
        assert_eq!(added(&deployment, "adder", asked).await, adds, "`{asked}`");
    }
    let view = deployment.job("adder", &zeros("3"), once()).await;
    assert!(view.error.expect("no such version").message.contains("ready versions: 1, 2"));

    let text = "default_version = 2\nlabels = { stable = 2, canary = 3 }\n[settings]\nrouting_key = \"a.b\"";
    write(&deployment, "adder/model.toml", toml(text).as_bytes());
    deployment.worker.reload();
    deployment.until("adder", |own| labelled(own, "stable") == ["2"]).await;
    deployment.until("adder", |own| of(own, "2").is_some_and(|own| own.default) && !own[0].default).await;
    // `canary` stays where it was until a version 3 is ready.
    deployment.until("adder", |own| labelled(own, "canary") == ["2"]).await;
    deployment.until("adder", |own| own.iter().all(|own| own.settings["routing_key"] == "a.b")).await;
    for (asked, adds) in [("", 2.0), ("1", 1.0), ("stable", 2.0), ("canary", 2.0)] {
        assert_eq!(added(&deployment, "adder", asked).await, adds, "`{asked}`");
    }

    write(&deployment, "adder/3/model.onnx", &adds(3.0));
    deployment.worker.reload();
    deployment.until("adder", |own| labelled(own, "canary") == ["3"]).await;
    assert_eq!(added(&deployment, "adder", "canary").await, 3.0);
    deployment.drain().await;
}

#[tokio::test]
async fn changed_settings_of_an_unchanged_file_take_effect() {
    let deployment = start(&[("adder/model.onnx", &adds(1.0)), ("adder/model.toml", b"")], |_| quick()).await;
    let nan = request(vec![floats("x", &[1, 2], &[f32::NAN, 0.0])]);
    deployment.answer("adder", &nan).await;
    write(&deployment, "adder/model.toml", b"finite = true\n[batching]\nmax_batch_size = 4\nslo_ms = 50.0\n");
    deployment.worker.reload();
    deployment.until("adder", |own| of(own, "1").is_some_and(|own| own.finite && own.max_batch_size == 4)).await;
    deployment.until("adder", |own| own[0].settings["slo_ms"] == 50.0).await;
    let view = deployment.job("adder", &nan, once()).await;
    assert_eq!(view.state, JobState::Dead, "not finite");
    assert_eq!(added(&deployment, "adder", "").await, 1.0);
    deployment.drain().await;
}

#[tokio::test]
async fn a_golden_file_that_comes_to_a_loaded_version_is_checked() {
    let golden = |first: f32| {
        let tensor = |name: &str, value: f32| {
            format!(r#"[{{"name": "{name}", "datatype": "FP32", "shape": [1, 2], "data": [{value}, {value}]}}]"#)
        };
        format!(r#"{{"inputs": {}, "outputs": {}}}"#, tensor("x", 0.0), tensor("y", first))
    };
    let deployment = start(&[("adder/model.onnx", &adds(1.0))], |_| quick()).await;
    assert_eq!(added(&deployment, "adder", "").await, 1.0);
    write(&deployment, "adder/golden.json", golden(7.0).as_bytes());
    deployment.worker.reload();
    deployment.until("adder", |own| own.iter().any(|own| own.reason.contains("golden check"))).await;
    assert_eq!(added(&deployment, "adder", "").await, 1.0, "what served goes on");
    write(&deployment, "adder/golden.json", golden(1.0).as_bytes());
    deployment.worker.reload();
    deployment.until("adder", |own| own.iter().all(|own| own.reason.is_empty())).await;
    assert_eq!(added(&deployment, "adder", "").await, 1.0);
    deployment.drain().await;
}

#[tokio::test]
async fn another_number_of_sessions_takes_effect_under_load_and_fails_no_request() {
    let zeros_once = zeros("");
    let deployment = start(&[("adder/model.onnx", &adds(1.0)), ("adder/model.toml", b"")], |_| quick()).await;
    for sessions in [3, 1, 2] {
        write(&deployment, "adder/model.toml", format!("sessions = {sessions}").as_bytes());
        deployment.worker.reload();
        let give_up = Instant::now() + crate::deployment::PATIENCE;
        loop {
            let answers = join_all((0..16).map(|_| deployment.job("adder", &zeros_once, once()))).await;
            assert!(answers.iter().all(|view| view.state == JobState::Succeeded), "{answers:?}");
            let workers = deployment.queue.workers().await.expect("workers");
            if workers.iter().any(|own| own.sessions == sessions) {
                break;
            }
            assert!(Instant::now() < give_up, "not {sessions} sessions");
        }
    }
    deployment.drain().await;
}

#[tokio::test]
async fn a_refused_number_of_sessions_leaves_those_that_serve() {
    let files: [(&str, &[u8]); 2] = [("adder/model.onnx", &adds(1.0)), ("adder/model.toml", b"sessions = 2")];
    let deployment = start(&files, |_| quick()).await;
    for (toml, reason) in [("sessions = 999", "ask for"), ("sessions = 1\n[batching]\nslo_ms = inf", "slo_ms = inf")] {
        write(&deployment, "adder/model.toml", toml.as_bytes());
        deployment.worker.reload();
        deployment.until("adder", |own| own.iter().any(|own| own.reason.contains(reason))).await;
        assert_eq!(added(&deployment, "adder", "").await, 1.0, "{toml}");
        let workers = deployment.queue.workers().await.expect("workers");
        assert_eq!(workers.iter().map(|own| own.sessions).sum::<u32>(), 2, "{toml}");
    }
    // A fresh file beside a number that cannot be had serves neither.
    write(&deployment, "adder/model.toml", b"sessions = 999");
    write(&deployment, "adder/model.onnx", &adds(2.0));
    deployment.worker.reload();
    deployment.until("adder", |own| own.iter().any(|own| own.reason.contains("ask for"))).await;
    assert_eq!(added(&deployment, "adder", "").await, 1.0);
    write(&deployment, "adder/model.toml", b"sessions = 1");
    deployment.worker.reload();
    deployment.until("adder", |own| own.iter().all(|own| own.reason.is_empty())).await;
    assert_eq!(added(&deployment, "adder", "").await, 2.0);
    deployment.drain().await;
}

#[tokio::test]
async fn a_folder_that_cannot_be_read_unloads_nothing_and_hides_no_neighbour() {
    let (one, two) = (adds(1.0), adds(2.0));
    let deployment = start(&[("adder/1/model.onnx", &one), ("gone.onnx", &two)], |_| quick()).await;
    // A version that is being put there, as far as a scan can see.
    symlink("nothing", deployment.models.path().join("adder/2")).expect("a link");
    std::fs::remove_file(deployment.models.path().join("gone.onnx")).expect("a removal");
    write(&deployment, "new.onnx", &two);
    deployment.worker.reload();
    deployment.until("gone", <[_]>::is_empty).await;
    deployment.until("new", |own| of(own, "1").is_some()).await;
    assert_eq!(added(&deployment, "adder", "").await, 1.0);
    deployment.drain().await;
}

#[tokio::test]
async fn settings_that_select_nothing_say_so_and_the_old_version_serves() {
    let deployment = start(&[("adder/model.onnx", &adds(1.0))], |_| quick()).await;
    write(&deployment, "adder/model.toml", b"versions = [7]");
    deployment.worker.reload();
    deployment.until("adder", |own| own.iter().any(|own| own.reason.contains("found: 1"))).await;
    assert_eq!(added(&deployment, "adder", "").await, 1.0);
    deployment.drain().await;
}

#[tokio::test]
async fn only_a_rewritten_manifest_reloads_and_half_written_files_are_left_alone() {
    let with_manifest = |models: &Path| WorkerConfig {
        loading: LoadingConfig { manifest: Some(models.join("manifest")), ..quick().loading },
        ..quick()
    };
    let deployment = start(&[("adder.onnx", &adds(1.0)), ("manifest", b"1")], with_manifest).await;
    let before = deployment.signature("adder").digest;
    let whole = adds(2.0);
    std::fs::write(deployment.models.path().join("adder.onnx"), &whole[..whole.len() / 2]).expect("half a file");
    deployment.manifest_checked().await;
    let own = deployment.worker.signatures();
    assert!(own.len() == 1 && own[0].digest == before && own[0].state == ModelState::Ready, "{own:?}");
    assert_eq!(added(&deployment, "adder", "").await, 1.0);
    write(&deployment, "adder.onnx", &whole);
    write(&deployment, "manifest", b"2");
    deployment.until("adder", |own| of(own, "1").is_some_and(|own| own.digest != before)).await;
    assert_eq!(added(&deployment, "adder", "").await, 2.0);
    deployment.drain().await;
}

#[tokio::test]
async fn what_is_published_while_the_first_models_load_is_not_missed() {
    let models = tempfile::tempdir().expect("a folder");
    let data = tempfile::tempdir().expect("a folder");
    for name in 0..6 {
        publish(&models.path().join(format!("adder{name}.onnx")), &adds(1.0));
    }
    publish(&models.path().join("manifest"), b"1");
    let loading = LoadingConfig { manifest: Some(models.path().join("manifest")), ..quick().loading };
    let config = WorkerConfig { models: vec![models.path().to_owned()], loading, ..quick() };
    let queue = nobat_queue::sqlite::SqliteQueue::open(data.path(), QueueSettings::default()).expect("a queue");
    let worker = Worker::start(config, queue.clone()).expect("a worker");
    publish(&models.path().join("late.onnx"), &adds(2.0));
    publish(&models.path().join("manifest"), b"2, longer");
    let give_up = Instant::now() + crate::deployment::PATIENCE;
    while !worker.signatures().iter().any(|own| own.name == "late" && own.state == ModelState::Ready) {
        assert!(Instant::now() < give_up, "the manifest's change was missed");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tokio::task::spawn_blocking(move || worker.drain()).await.expect("a drain");
}

#[tokio::test]
async fn jobs_planned_on_a_replaced_version_run_on_it_and_delay_no_other_load() {
    // The job waits in its session for company, longer than the loads below take.
    let toml = b"[batching]\npolicy = \"fixed\"\nmax_batch_size = 8\nmax_queue_delay_ms = 12000.0\n";
    let deployment = start(&[("adder/model.onnx", &adds(1.0)), ("adder/model.toml", toml)], |_| WorkerConfig {
        sessions: Sessions::Count(1),
        ..quick()
    })
    .await;
    let accepted = deployment.enqueue("adder", &zeros(""), JobOptions::default()).await;
    let view = async || deployment.queue.get(accepted.id).await.expect("the queue answers").expect("a job");
    while view().await.state != JobState::Leased {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let before = deployment.signature("adder").digest;
    write(&deployment, "adder/model.onnx", &adds(2.0));
    deployment.worker.reload();
    deployment.until("adder", |own| of(own, "1").is_some_and(|own| own.digest != before)).await;
    write(&deployment, "other.onnx", &adds(5.0));
    deployment.worker.reload();
    deployment.until("other", |own| of(own, "1").is_some()).await;
    assert_eq!(view().await.state, JobState::Leased, "the other model was loaded while the job waited");
    while view().await.state == JobState::Leased {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let view = view().await;
    assert_eq!((view.state, view.attempts), (JobState::Succeeded, 1), "{:?}", view.error);
    let result = nobat_core::infer::InferResponse::decode(&view.result.expect("a result").outputs).expect("a response");
    assert_eq!(as_floats(&result.outputs[0])[0], 1.0, "the version it was planned on");
    deployment.drain().await;
}

#[tokio::test]
async fn a_drain_waits_for_no_load() {
    let models = tempfile::tempdir().expect("a folder");
    let data = tempfile::tempdir().expect("a folder");
    for (name, file) in [("identity_fp32", "a.onnx"), ("endless", "b.onnx"), ("slow", "c.onnx")] {
        std::fs::copy(test_model(name), models.path().join(file)).expect("a test model");
    }
    let config = WorkerConfig { models: vec![models.path().to_owned()], ..quick() };
    let queue = nobat_queue::sqlite::SqliteQueue::open(data.path(), QueueSettings::default()).expect("a queue");
    let worker = Worker::start(config, queue.clone()).expect("a worker");
    let give_up = Instant::now() + crate::deployment::PATIENCE;
    while !worker.signatures().iter().any(|own| own.name == "a" && own.state == ModelState::Ready) {
        assert!(Instant::now() < give_up, "`a` is not ready");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let started = Instant::now();
    tokio::task::spawn_blocking(move || worker.drain()).await.expect("a drain");
    // The run of `b` that is under way would last for its limit of thirty seconds.
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_run_without_an_end_holds_up_no_swap_and_no_other_load() {
    let slow = std::fs::read(test_model("slow")).expect("a test model");
    let deployment = start(&[("slow.onnx", &slow)], |_| WorkerConfig { sessions: Sessions::Count(1), ..quick() }).await;
    let steps = |n: i64| request(vec![longs("n", &[], &[n]), floats("x", &[1, 16], &[0.5; 16])]);
    let state = async |id| deployment.queue.get(id).await.expect("the queue answers").expect("a job").state;
    let leased = async |id| {
        while state(id).await != JobState::Leased {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let first = deployment.enqueue("slow", &steps(i64::MAX / 2), once()).await;
    leased(first.id).await;

    // The same graph under another producer's name.
    let before = deployment.signature("slow").digest;
    let at = slow.windows(11).position(|window| window == b"nobat-tests").expect("the producer's name");
    let mut renamed = slow.clone();
    renamed[at] = b'N';
    write(&deployment, "slow.onnx", &renamed);
    deployment.worker.reload();
    deployment.until("slow", |own| of(own, "1").is_some_and(|own| own.digest != before)).await;
    assert_eq!(state(first.id).await, JobState::Leased);
    deployment.queue.cancel(first.id).await.expect("a cancellation");
    deployment.answer("slow", &steps(3)).await;

    let second = deployment.enqueue("slow", &steps(i64::MAX / 2), once()).await;
    leased(second.id).await;
    std::fs::remove_file(deployment.models.path().join("slow.onnx")).expect("a removal");
    deployment.worker.reload();
    deployment.until("slow", <[_]>::is_empty).await;
    write(&deployment, "other.onnx", &adds(5.0));
    deployment.worker.reload();
    deployment.until("other", |own| of(own, "1").is_some()).await;
    assert_eq!(state(second.id).await, JobState::Leased, "an unloaded model finishes what runs");
    deployment.queue.cancel(second.id).await.expect("a cancellation");
    deployment.drain().await;
}
