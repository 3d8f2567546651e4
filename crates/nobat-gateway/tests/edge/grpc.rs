//! API keys over gRPC: in metadata, with the same answers as over HTTP.

use std::time::Duration;

use nobat_core::oip::ModelInferRequest;
use nobat_core::oip::model_infer_request::InferInputTensor;
use nobat_gateway::proto::{ModelMetadataRequest, RepositoryModelLoadRequest, ServerLiveRequest};
use nobat_serving::auth::{self, Keyring, Scope};
use serde_json::json;
use tonic::{Code, Request};

use crate::house::{House, MODEL};
use crate::keys::{key, with_keys};

fn with_key<T>(message: T, key: Option<&str>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(key) = key {
        let value = format!("Bearer {key}").parse().expect("ASCII");
        request.metadata_mut().insert("authorization", value);
    }
    request
}

fn infer() -> ModelInferRequest {
    let input =
        InferInputTensor { name: "in".into(), datatype: "FP32".into(), shape: vec![1, 2], ..Default::default() };
    ModelInferRequest {
        model_name: MODEL.into(),
        inputs: vec![input],
        raw_input_contents: vec![vec![0; 8].into()],
        ..Default::default()
    }
}

#[tokio::test]
async fn a_key_in_metadata_goes_as_far_as_over_http() {
    let dir = tempfile::tempdir().expect("a folder");
    let (mut ring, now) = (Keyring::default(), auth::now_s());
    let good = ring.add(key("good", Scope::Predict, &[], None), now).expect("made");
    let reader = ring.add(key("reader", Scope::Read, &[], None), now).expect("made");
    let elsewhere = ring.add(key("elsewhere", Scope::Predict, &["other"], None), now).expect("made");
    let expired = ring.add(key("expired", Scope::Admin, &[], Some(10)), now - 60).expect("made");
    let house = House::start(with_keys(&dir.path().join("keys.toml"), &ring), json!({}), Duration::ZERO).await;
    let mut client = house.grpc().await;

    client.server_live(ServerLiveRequest {}).await.expect("probes need no key");
    let answer = client.model_infer(with_key(infer(), Some(&good))).await.expect("let in").into_inner();
    assert_eq!(answer.outputs[0].shape, [1, 2]);
    let metadata = ModelMetadataRequest { name: MODEL.into(), version: String::new() };
    client.model_metadata(with_key(metadata.clone(), Some(&reader))).await.expect("may look");
    let status = client.model_metadata(metadata).await.expect_err("no key");
    assert_eq!(status.code(), Code::Unauthenticated);
    for (key, code) in [
        (None, Code::Unauthenticated),
        (Some("nonsense"), Code::Unauthenticated),
        (Some(expired.as_str()), Code::Unauthenticated),
        (Some(reader.as_str()), Code::PermissionDenied),
        (Some(elsewhere.as_str()), Code::PermissionDenied),
    ] {
        let status = client.model_infer(with_key(infer(), key)).await.expect_err("refused");
        assert_eq!(status.code(), code, "{status}");
        assert!(key.is_none_or(|key| !status.message().contains(key)), "a key is never repeated");
    }
    // Nothing is told of a model that the key does not cover: not whether it has a version, nor its name.
    let version = ModelInferRequest { model_version: "9".into(), ..infer() };
    let status = client.model_infer(with_key(version, Some(&elsewhere))).await.expect_err("refused");
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    let absent = ModelInferRequest { model_name: "other".into(), ..infer() };
    let status = client.model_infer(with_key(absent, Some(&elsewhere))).await.expect_err("there is none");
    assert_eq!(status.code(), Code::NotFound, "{status}");
    assert!(!status.message().contains(MODEL), "{status}");
    let load = RepositoryModelLoadRequest { model_name: MODEL.into(), ..Default::default() };
    let status = client.repository_model_load(with_key(load, Some(&good))).await.expect_err("not an administrator");
    assert_eq!(status.code(), Code::PermissionDenied);
    let stream = client.model_stream_infer(futures::stream::iter([infer()])).await;
    assert_eq!(stream.expect_err("no key").code(), Code::Unauthenticated);
    house.stop().await;
}
