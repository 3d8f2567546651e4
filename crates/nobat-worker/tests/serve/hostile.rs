//! Model files that must not be opened, or cannot be, beside one that serves.

use std::fs::{create_dir, hard_link, write};
use std::os::unix::fs::symlink;

use nobat_core::signature::ModelState;
use nobat_queue::QueueSettings;
use nobat_worker::WorkerConfig;
use nobat_worker::config::{Fallback, ProviderConfig, ProviderKind};

use crate::deployment::{Deployment, as_floats, floats, quick, request};
use crate::weighted::{adds, adds_external, weights};

#[tokio::test]
async fn thirty_models_with_hostile_external_data_are_refused_and_their_neighbour_serves() {
    let outside = tempfile::tempdir().expect("a folder");
    let models = tempfile::tempdir().expect("a folder");
    let at = |name: &str| models.path().join(name);
    let secret = outside.path().join("secret");
    write(&secret, weights(7.0)).expect("a file");
    write(at("weights.bin"), weights(1.0)).expect("a file");
    write(at("short.bin"), [0; 4]).expect("a file");
    write(at("empty.bin"), b"").expect("a file");
    create_dir(at("inner")).expect("a folder");
    write(at("inner/weights.bin"), weights(2.0)).expect("a file");
    symlink(&secret, at("link.bin")).expect("a link");
    symlink("link.bin", at("link_of_link.bin")).expect("a link");
    symlink("loop.bin", at("loop.bin")).expect("a link");
    symlink(outside.path(), at("linked")).expect("a link");
    symlink("/dev/zero", at("device.bin")).expect("a link");
    hard_link(&secret, at("hard.bin")).expect("a link");
    let absolute = secret.display().to_string();
    let climbing = format!("../{}/secret", outside.path().file_name().expect("a name").to_string_lossy());
    let locations = [
        absolute.as_str(),
        climbing.as_str(),
        "../secret",
        "./../secret",
        "inner/../../secret",
        "inner/../weights.bin",
        "..",
        ".",
        "/",
        "",
        "//",
        "/etc/passwd",
        "/proc/self/environ",
        "/dev/zero",
        "device.bin",
        "link.bin",
        "link_of_link.bin",
        "loop.bin",
        "linked/secret",
        "hard.bin",
        "missing.bin",
        "inner",
        "inner/missing.bin",
        "weights.bin/x",
        "..\\secret",
        "C:\\secret",
        "*/_ORT_MEM_ADDR_/*",
        "weights.bin\0",
        "~/secret",
        "file:///etc/passwd",
    ];
    for (number, location) in locations.iter().enumerate() {
        write(at(&format!("hostile{number}.onnx")), adds_external(location, &[])).expect("a model");
    }
    let wrong: [(&str, &[(&str, &str)]); 6] = [
        ("short.bin", &[]),
        ("empty.bin", &[]),
        ("weights.bin", &[("offset", "4096")]),
        ("weights.bin", &[("offset", "-8")]),
        ("weights.bin", &[("length", "9223372036854775807")]),
        ("weights.bin", &[("offset", "rubbish")]),
    ];
    for (number, (location, entries)) in wrong.iter().enumerate() {
        write(at(&format!("wrong{number}.onnx")), adds_external(location, entries)).expect("a model");
    }
    write(at("good.onnx"), adds_external("inner/weights.bin", &[])).expect("a model");
    let deployment = Deployment::start(models, quick(), QueueSettings::default()).await;
    for (number, location) in locations.iter().enumerate() {
        let reason = deployment.failure(&format!("hostile{number}"));
        let named = format!("hostile{number}.onnx");
        assert!(reason.contains(&named) && reason.contains("tensor `weights`"), "`{location}`: {reason}");
        assert!(reason.contains("beneath the model's folder"), "`{location}`: {reason}");
    }
    for (number, case) in wrong.iter().enumerate() {
        let reason = deployment.failure(&format!("wrong{number}"));
        assert!(reason.contains(&format!("wrong{number}.onnx")) && reason.contains("export"), "{case:?}: {reason}");
    }
    let (answer, _) = deployment.answer("good", &request(vec![floats("x", &[1, 2], &[0.0, 1.0])])).await;
    assert_eq!(as_floats(&answer.outputs[0]), [2.0, 3.0]);
    deployment.drain().await;
}

/// A worker of `plain.onnx` and of `asks/model.onnx` with this `model.toml`.
async fn beside_a_plain_model(toml: &str) -> Deployment {
    let models = tempfile::tempdir().expect("a folder");
    create_dir(models.path().join("asks")).expect("a folder");
    write(models.path().join("plain.onnx"), adds(1.0)).expect("a model");
    write(models.path().join("asks/model.onnx"), adds(2.0)).expect("a model");
    write(models.path().join("asks/model.toml"), toml).expect("settings");
    Deployment::start(models, quick(), QueueSettings::default()).await
}

async fn assert_adds(deployment: &Deployment, model: &str, value: f32) {
    let (answer, _) = deployment.answer(model, &request(vec![floats("x", &[1, 2], &[0.0, 1.0])])).await;
    assert_eq!(as_floats(&answer.outputs[0]), [value, value + 1.0], "{model}");
}

// The tests' ONNX Runtime is the CPU build, so its CUDA provider is never there.
#[tokio::test]
async fn a_provider_that_is_not_there_is_an_error_with_its_remedy_and_neighbours_serve() {
    let deployment = beside_a_plain_model("[provider]\nkind = \"cuda\"").await;
    let reason = deployment.failure("asks");
    assert!(
        reason.contains("`cuda`") && reason.contains("fallback = \"cpu\"") && reason.contains("NOBAT_ORT_LIB"),
        "{reason}"
    );
    assert_adds(&deployment, "plain", 1.0).await;
    deployment.drain().await;
}

#[tokio::test]
async fn a_model_whose_provider_is_not_there_serves_on_the_cpu_where_its_settings_say_so() {
    let deployment = beside_a_plain_model("[provider]\nkind = \"cuda\"\nfallback = \"cpu\"").await;
    assert_eq!(deployment.signature("asks").state, ModelState::Ready);
    assert_adds(&deployment, "asks", 2.0).await;
    assert_adds(&deployment, "plain", 1.0).await;
    deployment.drain().await;
}

#[tokio::test]
async fn a_model_serves_without_the_runtimes_arena() {
    let provider = ProviderConfig { arena: false, ..ProviderConfig::default() };
    assert_eq!((provider.kind, provider.fallback), (ProviderKind::Cpu, Fallback::None));
    let models = tempfile::tempdir().expect("a folder");
    write(models.path().join("plain.onnx"), adds(1.0)).expect("a model");
    let config = WorkerConfig { provider, ..quick() };
    let deployment = Deployment::start(models, config, QueueSettings::default()).await;
    assert_adds(&deployment, "plain", 1.0).await;
    deployment.drain().await;
}
