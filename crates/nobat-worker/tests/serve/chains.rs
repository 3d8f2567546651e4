//! Chains: models whose graph is other models.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use nobat_core::ErrorCode;
use nobat_core::infer::InferRequest;
use nobat_core::job::{JobOptions, JobState};
use nobat_core::signature::ModelState;
use nobat_queue::{ListFilter, QueueSettings};
use nobat_worker::config::Sessions;
use nobat_worker::{Worker, WorkerConfig};

use crate::deployment::{Deployment, PATIENCE, as_floats, floats, longs, once, quick, request, test_model};

/// As in `scripts/make_test_models.py`: y = x W + 1.
fn linear(row: [f32; 4]) -> [f32; 4] {
    const WEIGHTS: [[f32; 4]; 4] =
        [[1.0, 2.0, 0.0, 0.0], [0.0, 1.0, 3.0, 0.0], [0.0, 0.0, 1.0, 1.0], [2.0, 0.0, 0.0, 1.0]];
    std::array::from_fn(|to| (0..4).map(|from| row[from] * WEIGHTS[from][to]).sum::<f32>() + 1.0)
}

fn row(caller: usize) -> [f32; 4] {
    std::array::from_fn(|at| ((caller * 3 + at * 5) % 8) as f32 - 0.5)
}

fn ask(rows: &[[f32; 4]]) -> InferRequest {
    request(vec![floats("x", &[rows.len() as i64, 4], rows.as_flattened())])
}

/// `a`, `b` and `c` in a row.
const THREE: &str = "[[chain.steps]]\nname = \"last\"\nmodel = \"c\"\ninputs = { x = \"q\" }\n\
    [[chain.steps]]\nmodel = \"a\"\noutputs = { y = \"p\" }\n\
    [[chain.steps]]\nmodel = \"b\"\ninputs = { x = \"p\" }\noutputs = { y = \"q\" }\n";

/// Models by their names here and among the test models, and settings files by their paths.
fn folder(models: &[(&str, &str)], files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, of) in models {
        std::fs::copy(test_model(of), folder.path().join(format!("{name}.onnx"))).expect("a test model");
    }
    for (path, text) in files {
        let path = folder.path().join(path);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
        std::fs::write(path, text).expect("a file");
    }
    folder
}

async fn serving(models: &[(&str, &str)], files: &[(&str, &str)], config: WorkerConfig) -> Deployment {
    Deployment::start(folder(models, files), config, QueueSettings::default()).await
}

const LINEAR: [(&str, &str); 3] = [("a", "linear_fp32"), ("b", "linear_fp32"), ("c", "linear_fp32")];

#[tokio::test]
async fn a_chain_computes_what_its_steps_compute_one_after_the_other() {
    let deployment = serving(&LINEAR, &[("three/model.toml", THREE)], quick()).await;
    let signature = deployment.signature("three");
    assert_eq!((signature.state, signature.batched), (ModelState::Ready, true), "{}", signature.reason);
    assert_eq!(signature.settings["chain"]["models"], serde_json::json!(["a", "b", "c"]));
    let rows = [row(1), row(2), row(3)];
    let (response, result) = deployment.answer("three", &ask(&rows)).await;
    assert_eq!(response.outputs.len(), 1);
    assert_eq!((response.outputs[0].name.as_str(), response.outputs[0].shape.as_slice()), ("y", &[3, 4][..]));
    let expected: Vec<[f32; 4]> = rows.into_iter().map(|row| linear(linear(linear(row)))).collect();
    assert_eq!(as_floats(&response.outputs[0]), expected.as_flattened());
    let names: Vec<&str> = result.timings.steps.iter().map(|step| step.name.as_str()).collect();
    assert_eq!(names, ["a", "b", "last"]);
    let steps = &result.timings.steps;
    assert!(steps.windows(2).all(|two| two[0].start_us + two[0].wait_us + two[0].run_us <= two[1].start_us + 2));
    assert!(
        steps.iter().all(|step| (1..=3).contains(&step.batch_size) && step.worker == result.timings.worker),
        "{steps:?}"
    );
    let last = steps.last().expect("three");
    assert!(result.timings.infer_us >= last.start_us + last.run_us);
    deployment.drain().await;
}

#[tokio::test]
async fn steps_share_runs_with_other_chains_and_with_direct_jobs_and_nothing_waits_for_ever() {
    let mut config = quick();
    config.batching.max_queue_delay_ms = 5.0;
    // Room for fewer than there are, and a chain among the steps of another.
    let two = format!("[chain]\nmax_in_flight = 3\n{}", THREE.replace("model = \"c\"", "model = \"inner\""));
    let inner = "[chain]\nmax_in_flight = 2\n[[chain.steps]]\nmodel = \"c\"\n";
    let files = [("inner/model.toml", inner), ("outer/model.toml", two.as_str())];
    let deployment = serving(&LINEAR, &files, config).await;
    deployment.until("outer", |own| own[0].state == ModelState::Ready).await;
    let calls = (0..48).map(|caller| {
        let deployment = &deployment;
        async move {
            let asked = ask(&[row(caller)]);
            let (response, result) = deployment.answer(if caller % 2 == 0 { "outer" } else { "a" }, &asked).await;
            (as_floats(&response.outputs[0]), result.timings)
        }
    });
    let answers = join_all(calls).await;
    for (caller, (values, _)) in answers.iter().enumerate() {
        let expected = if caller % 2 == 0 { linear(linear(linear(row(caller)))) } else { linear(row(caller)) };
        assert_eq!(values[..], expected, "caller {caller}");
    }
    let largest = answers.iter().flat_map(|(_, timings)| timings.steps.iter().map(|step| step.batch_size)).max();
    assert!(largest > Some(1), "no two steps shared a run");
    deployment.drain().await;
}

#[tokio::test]
async fn a_triton_ensemble_is_served_as_it_stands() {
    let config = r#"
        platform: "ensemble" max_batch_size: 4
        input [ { name: "IN" data_type: TYPE_FP32 dims: [ 4 ] } ]
        output [ { name: "OUT" data_type: TYPE_FP32 dims: [ 4 ] }, { name: "HALF" data_type: TYPE_FP32 dims: [ 4 ] } ]
        ensemble_scheduling { step [
            { model_name: "b" model_version: -1
              input_map { key: "x" value: "HALF" } output_map { key: "y" value: "OUT" } },
            { model_name: "a" model_version: 1
              input_map { key: "x" value: "IN" } output_map { key: "y" value: "HALF" } } ] }
    "#;
    let files = [("ensemble/config.pbtxt", config), ("ensemble/1/.keep", "")];
    let deployment = serving(&LINEAR, &files, quick()).await;
    let signature = deployment.signature("ensemble");
    assert_eq!((signature.state, signature.max_rows), (ModelState::Ready, 4), "{}", signature.reason);
    let inputs = |rows: &[[f32; 4]]| request(vec![floats("IN", &[rows.len() as i64, 4], rows.as_flattened())]);
    let (response, _) = deployment.answer("ensemble", &inputs(&[row(1)])).await;
    assert_eq!(as_floats(&response.outputs[0]), linear(linear(row(1))));
    assert_eq!(as_floats(&response.outputs[1]), linear(row(1)));
    // Of fewer outputs, only the steps that they need run.
    let half = InferRequest { outputs: vec!["HALF".into()], ..inputs(&[row(2)]) };
    let (response, result) = deployment.answer("ensemble", &half).await;
    assert_eq!((response.outputs.len(), as_floats(&response.outputs[0])), (1, linear(row(2)).to_vec()));
    assert_eq!(result.timings.steps.len(), 1);
    let many = deployment.job("ensemble", &inputs(&[row(0); 5]), once()).await;
    assert_eq!(many.error.expect("too many rows").code, ErrorCode::PayloadTooLarge);
    deployment.drain().await;
}

#[tokio::test]
async fn a_chain_waits_for_its_models_and_comes_and_goes_with_them() {
    let deployment = serving(&LINEAR[..2], &[("three/model.toml", THREE)], quick()).await;
    let waiting = deployment.signature("three");
    assert_eq!(waiting.state, ModelState::Failed);
    assert_eq!(waiting.reason, "chain `three` waits for model `c`, which no worker has ready");
    let file = deployment.models.path().join("c.onnx");
    std::fs::copy(test_model("linear_fp32"), &file).expect("a model");
    deployment.worker.reload();
    deployment.until("three", |own| own.len() == 1 && own[0].state == ModelState::Ready).await;
    let before = deployment.signature("three").digest;
    let (response, _) = deployment.answer("three", &ask(&[row(4)])).await;
    assert_eq!(as_floats(&response.outputs[0]), linear(linear(linear(row(4)))));
    // Other weights are another chain, for caches and for whoever asks which one answered.
    std::fs::copy(test_model("identity_fp32"), &file).expect("a model");
    deployment.worker.reload();
    deployment.until("three", |own| own[0].state == ModelState::Failed || own[0].digest != before).await;
    std::fs::remove_file(&file).expect("a removal");
    deployment.worker.reload();
    deployment.until("three", |own| own.len() == 1 && own[0].state == ModelState::Failed).await;
    std::fs::copy(test_model("linear_fp32"), &file).expect("a model");
    deployment.worker.reload();
    deployment.until("three", |own| own[0].state == ModelState::Ready && own[0].digest == before).await;
    let (response, _) = deployment.answer("three", &ask(&[row(5)])).await;
    assert_eq!(as_floats(&response.outputs[0]), linear(linear(linear(row(5)))));
    deployment.drain().await;
}

#[tokio::test]
async fn chains_that_do_not_fit_together_are_refused_with_the_remedy() {
    let step = |model: &str, from: &str, to: &str| {
        format!("[[chain.steps]]\nmodel = \"{model}\"\ninputs = {{ x = \"{from}\" }}\noutputs = {{ y = \"{to}\" }}\n")
    };
    let cases = [
        ("cycle", step("a", "q", "p") + &step("b", "p", "q"), "steps `a`, `b` wait for one another"),
        ("twice", step("a", "x", "p") + &step("b", "x", "p"), "tensor `p` is written by step `a` (model `a`)"),
        ("types", step("a", "x", "p") + &step("whole", "p", "q"), "tensor `p` is FP32 [-1, 4] by step `a`"),
        ("itself", step("itself", "x", "y"), "is the chain itself"),
        ("wrong", step("a", "x", "p") + "typo = 3\n", "`typo`"),
    ];
    let paths: Vec<String> = cases.iter().map(|(name, ..)| format!("{name}/model.toml")).collect();
    let files: Vec<(&str, &str)> =
        paths.iter().zip(&cases).map(|(path, (_, text, _))| (path.as_str(), text.as_str())).collect();
    let mut models = LINEAR.to_vec();
    models.push(("whole", "linear_int64"));
    let deployment = serving(&models, &files, quick()).await;
    for (name, _, says) in &cases {
        let reason = deployment.failure(name);
        assert!(reason.contains(says) && reason.contains("model.toml"), "{name}: {reason}");
    }
    deployment.drain().await;
}

/// Indices into ten numbers, which another model then takes apart: over nine, the run fails.
const LOOKUP: &str = "[[chain.steps]]\nname = \"look up\"\nmodel = \"table\"\noutputs = { y = \"found\" }\n\
    [[chain.steps]]\nname = \"same\"\nmodel = \"again\"\ninputs = { index = \"index\" }\n";

#[tokio::test]
async fn a_steps_failure_names_the_step_and_its_model_and_costs_no_neighbour() {
    let mut config = quick();
    config.batching.max_queue_delay_ms = 5.0;
    let models = [("table", "fails_on_marked_row"), ("again", "fails_on_marked_row")];
    let deployment = serving(&models, &[("two/model.toml", LOOKUP)], config).await;
    let asked = |index: i64| request(vec![longs("index", &[1], &[index])]);
    let requests: Vec<InferRequest> = [3, 99, 4].map(asked).into();
    let views = join_all(requests.iter().map(|asked| deployment.job("two", asked, once()))).await;
    assert_eq!(
        views.iter().map(|view| view.state).collect::<Vec<_>>(),
        [JobState::Succeeded, JobState::Dead, JobState::Succeeded]
    );
    let error = views[1].error.clone().expect("an error");
    assert_eq!(error.code, ErrorCode::InvalidTensor, "{}", error.message);
    assert!(
        error.message.contains("step `look up` (model `table`): ")
            || error.message.contains("step `same` (model `again`): "),
        "{}",
        error.message
    );
    deployment.drain().await;
}

#[tokio::test]
async fn a_model_of_one_row_runs_for_each_row() {
    let toml = "[[chain.steps]]\nmodel = \"a\"\noutputs = { y = \"p\" }\n[[chain.steps]]\nmodel = \"one\"\neach = true\n\
                inputs = { x = \"p\" }\n";
    let models = [("a", "linear_fp32"), ("one", "fixed_batch")];
    let deployment = serving(&models, &[("two/model.toml", toml)], quick()).await;
    let signature = deployment.signature("two");
    assert_eq!((signature.state, signature.batched), (ModelState::Ready, false), "{}", signature.reason);
    let rows = [row(1), row(2), row(3)];
    let (response, result) = deployment.answer("two", &ask(&rows)).await;
    let expected: Vec<f32> = rows.into_iter().flat_map(linear).map(|value| -value).collect();
    assert_eq!((response.outputs[0].shape.as_slice(), as_floats(&response.outputs[0])), (&[3, 4][..], expected));
    assert_eq!(result.timings.steps[1].batch_size, 1);
    // Nothing to run over is no error: the steps are skipped.
    let (response, result) = deployment.answer("two", &ask(&[])).await;
    assert_eq!((response.outputs[0].shape.as_slice(), response.outputs[0].data.len()), (&[0, 4][..], 0));
    assert!(result.timings.steps.iter().all(|step| step.batch_size == 0), "{:?}", result.timings.steps);
    deployment.drain().await;
}

/// `slow` after `quick`, each of them as slow as `n` says.
const SLOW: &str = "[[chain.steps]]\nname = \"first\"\nmodel = \"quick\"\noutputs = { y = \"p\" }\n\
    [[chain.steps]]\nname = \"second\"\nmodel = \"slow\"\ninputs = { n = \"n\", x = \"p\" }\n";
const FOR_EVER: i64 = 1 << 62;

fn slowly(n: i64) -> InferRequest {
    request(vec![longs("n", &[], &[n]), floats("x", &[1, 16], &[0.5; 16])])
}

/// Models `quick` and `slow` and the chain, with one session each and short leases.
async fn slow_chain(models: &[(&str, &str)]) -> Deployment {
    let config = WorkerConfig { sessions: Sessions::Count(1), ..quick() };
    let settings = QueueSettings { lease_ms: 600, ..QueueSettings::default() };
    Deployment::start(folder(models, &[("both/model.toml", SLOW)]), config, settings).await
}

async fn until_leased(deployment: &Deployment, model: &str) {
    let give_up = std::time::Instant::now() + PATIENCE;
    while deployment.queue.counts(model).await.expect("counts").leased == 0 {
        assert!(std::time::Instant::now() < give_up, "nobody leases {model}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_cancelled_chain_frees_the_session_that_its_step_runs_on() {
    let deployment = slow_chain(&[("quick", "slow"), ("slow", "slow")]).await;
    let endless = deployment.enqueue("both", &slowly(FOR_EVER), JobOptions::default()).await;
    until_leased(&deployment, "both").await;
    deployment.queue.cancel(endless.id).await.expect("it is under way");
    deployment.answer("both", &slowly(1)).await;
    deployment.answer("quick", &slowly(1)).await;
    deployment.drain().await;
}

#[tokio::test]
async fn a_drain_gives_a_chain_back_with_no_attempt_burnt() {
    let deployment = slow_chain(&[("quick", "slow"), ("slow", "slow")]).await;
    let endless = deployment.enqueue("both", &slowly(FOR_EVER), JobOptions::default()).await;
    until_leased(&deployment, "both").await;
    let queue = Arc::clone(&deployment.queue);
    deployment.drain().await;
    let view = queue.get(endless.id).await.expect("the store answers").expect("a job");
    assert_eq!((view.state, view.attempts), (JobState::Queued, 0));
}

#[tokio::test]
async fn what_cannot_be_in_time_at_the_chains_end_is_given_up_before_its_next_step() {
    let deployment = slow_chain(&[("quick", "slow"), ("slow", "slow")]).await;
    let asked = slowly(30_000);
    let mut took = 0;
    for _ in 0..12 {
        took = deployment.answer("both", &asked).await.1.timings.infer_us;
    }
    let deadline = Some(Duration::from_micros(took / 2));
    let view = deployment.job("both", &asked, JobOptions { deadline, ..JobOptions::default() }).await;
    let error = view.error.expect("it is too late");
    assert_eq!((view.state, error.code), (JobState::Expired, ErrorCode::DeadlineExceeded));
    assert!(error.message.starts_with("step `first` (model `quick`) would begin with"), "{}", error.message);
    // One that has not shown yet how long it takes is ended at the deadline, and says where it was.
    let endless = JobOptions { deadline: Some(Duration::from_millis(400)), ..JobOptions::default() };
    let view = deployment.job("both", &slowly(FOR_EVER), endless).await;
    let message = view.error.expect("it is too late").message;
    assert!(view.state == JobState::Expired && message.contains("step `first` (model `quick`)"), "{message}");
    deployment.drain().await;
}

#[tokio::test]
async fn a_step_of_another_worker_is_a_job_that_ends_with_its_chain() {
    let deployment = slow_chain(&[("quick", "slow")]).await;
    assert!(deployment.failure("both").contains("waits for model `slow`"));
    let elsewhere = folder(&[("slow", "slow")], &[]);
    let config = WorkerConfig { models: vec![elsewhere.path().to_owned()], sessions: Sessions::Count(1), ..quick() };
    let other = Worker::start(config, Arc::clone(&deployment.queue)).expect("a worker");
    deployment.until("both", |own| own[0].state == ModelState::Ready).await;

    let (response, result) = deployment.answer("both", &slowly(2)).await;
    assert_eq!(response.outputs[0].shape.as_slice(), [1, 16]);
    let workers: Vec<&str> = result.timings.steps.iter().map(|step| step.worker.as_str()).collect();
    assert_eq!(workers, [&deployment.worker.id()[..6], &other.id()[..6]]);
    // The step that ran elsewhere was a job, which says for which one it was made.
    assert_eq!(result.timings.steps[0].job, None);
    let step = result.timings.steps[1].job.expect("a job of its own");
    let view = deployment.queue.get(step).await.expect("reads").expect("is there");
    let parent = view.tags.parent().expect("a parent");
    assert_eq!((view.model.as_str(), view.state), ("slow", JobState::Succeeded));
    let of_parent = ListFilter { parent: Some(parent), ..ListFilter::default() };
    let children = deployment.queue.list(&of_parent, None, 10).await.expect("lists").jobs;
    assert_eq!(children.iter().map(|child| child.id).collect::<Vec<_>>(), [step]);
    let chain = deployment.queue.get(parent).await.expect("reads").expect("is there");
    assert_eq!((chain.model.as_str(), chain.result), ("both", Some(result)));

    // What a step's own job says, its chain says with the step's name.
    let wrong = request(vec![longs("n", &[], &[1]), floats("x", &[1, 3], &[0.5; 3])]);
    let view = deployment.job("both", &wrong, once()).await;
    assert_eq!(view.error.expect("a misfit").code, ErrorCode::InvalidTensor);

    // The step's job is cancelled with its chain, and the other worker is free again.
    let first_only = "[[chain.steps]]\nmodel = \"slow\"\n";
    std::fs::create_dir(deployment.models.path().join("alone")).expect("a folder");
    std::fs::write(deployment.models.path().join("alone/model.toml"), first_only).expect("a file");
    deployment.worker.reload();
    deployment.until("alone", |own| own.iter().any(|own| own.state == ModelState::Ready)).await;
    let endless = deployment.enqueue("alone", &slowly(FOR_EVER), JobOptions::default()).await;
    until_leased(&deployment, "slow").await;
    deployment.queue.cancel(endless.id).await.expect("it is under way");
    deployment.answer("slow", &slowly(1)).await;

    // A model that nobody has any more takes its chain out of service.
    tokio::task::spawn_blocking(move || other.drain()).await.expect("a drain");
    deployment.until("both", |own| own[0].state == ModelState::Failed).await;
    deployment.drain().await;
}

#[tokio::test]
async fn a_chain_that_is_declared_as_a_route_is_served_by_who_has_a_step_of_it() {
    let deployment = serving(&LINEAR, &[], quick()).await;
    let chain = |last: &str| {
        let steps = serde_json::json!([
            { "model": "a", "outputs": { "y": "p" } },
            { "name": "last", "model": last, "inputs": { "x": "p" } },
        ]);
        serde_json::json!({ "name": "routed", "chain": { "steps": steps } }).to_string()
    };
    let metadata = deployment.queue.metadata();
    metadata.put("routes", "routed", chain("b").as_bytes()).await.expect("a route");
    metadata.put("routes", "elsewhere", chain("b").replace("\"a\"", "\"z\"").as_bytes()).await.expect("a route");
    deployment.until("routed", |own| own.iter().any(|own| own.state == ModelState::Ready)).await;
    let (response, _) = deployment.answer("routed", &ask(&[row(1)])).await;
    assert_eq!(as_floats(&response.outputs[0]), linear(linear(row(1))));
    // A reload looks at folders; the chain is none, and stays.
    deployment.worker.reload();
    deployment.manifest_checked().await;
    let before = deployment.signature("routed").digest;
    metadata.put("routes", "routed", chain("c").as_bytes()).await.expect("a route");
    deployment.until("routed", |own| own[0].state == ModelState::Ready && own[0].digest != before).await;
    metadata.remove("routes", "routed").await.expect("a removal");
    deployment.until("routed", <[_]>::is_empty).await;
    deployment.drain().await;
}
