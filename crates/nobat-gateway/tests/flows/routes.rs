//! What each kind of route answers, in every protocol.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use nobat_gateway::proto::grpc_inference_service_client::GrpcInferenceServiceClient;
use nobat_gateway::proto::model_infer_request::InferInputTensor;
use nobat_gateway::proto::{ModelInferRequest, ModelMetadataRequest, ModelReadyRequest};
use reqwest::Method;
use serde_json::{Value, json};

use crate::house::{House, Manner, row};

fn fanout(name: &str, join: &str, on_failure: &str) -> Value {
    json!({"name": name, "fanout": {"targets": ["one", "two", "three"], "join": join, "on_failure": on_failure}})
}

#[tokio::test]
async fn a_route_stands_where_a_models_name_stands_in_every_protocol() {
    let house = House::start(json!([{"name": "alias", "direct": "two"}])).await;
    let native = house.predict("alias").await;
    assert_eq!((native.status, &native.json["predictions"][0]), (200, &json!([2.0, 4.0])), "{}", native.json);
    let serving = house.post("/v1/models/alias:predict", &row()).await;
    assert_eq!(serving.json["predictions"][0], json!([2.0, 4.0]), "{}", serving.json);
    let status = house.get("/v1/models/alias").await;
    assert_eq!((status.status, &status.json["ready"]), (200, &json!(true)), "kserve v1: {}", status.json);
    assert_eq!(house.get("/v1/models/alias/metadata").await.json["model_spec"]["name"], "alias");
    let tensor = json!({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]});
    let v2 = house.post("/v2/models/alias/infer", &tensor).await;
    assert_eq!((&v2.json["model_name"], &v2.json["outputs"][0]["data"]), (&json!("alias"), &json!([2.0, 4.0])));
    assert_eq!(house.get("/v2/models/alias").await.json["inputs"][0]["name"], "x");
    assert_eq!(house.get("/v2/models/alias/ready").await.status, 200);
    assert_eq!(house.get("/api/v1/models/alias").await.json["name"], "alias");

    let address = house.gateway.grpc_addr().expect("gRPC is on");
    let mut grpc = GrpcInferenceServiceClient::connect(format!("http://{address}")).await.expect("connects");
    let input = InferInputTensor { name: "x".into(), datatype: "FP32".into(), shape: vec![1, 2], ..Default::default() };
    let raw: Vec<u8> = [1f32, 2.0].into_iter().flat_map(f32::to_le_bytes).collect();
    let request = ModelInferRequest {
        model_name: "alias".into(),
        inputs: vec![input],
        raw_input_contents: vec![raw.into()],
        ..Default::default()
    };
    let answer = grpc.model_infer(request).await.expect("answers").into_inner();
    assert_eq!(answer.model_name, "alias");
    assert_eq!(answer.raw_output_contents[0][..4], 2f32.to_le_bytes());
    let metadata = ModelMetadataRequest { name: "alias".into(), version: String::new() };
    assert_eq!(grpc.model_metadata(metadata).await.expect("answers").into_inner().name, "alias");
    let ready = ModelReadyRequest { name: "alias".into(), version: String::new() };
    assert!(grpc.model_ready(ready).await.expect("answers").into_inner().ready);
}

#[tokio::test]
async fn a_group_is_joined_as_its_route_says() {
    let routes = json!([
        fanout("all", "all", "fail"),
        fanout("first", "first", "fail"),
        fanout("mean", "mean", "fail"),
        {"name": "vote", "fanout": {"targets": ["int-a", "int-b", "int-c"], "join": "majority"}},
        {"name": "by-topic", "topic": {"pattern": "math.float.#"}},
    ]);
    let house = House::start(routes).await;
    let all = house.predict("all").await.json["predictions"][0].clone();
    assert_eq!(all, json!({"one.y": [1.0, 2.0], "two.y": [2.0, 4.0], "three.y": [3.0, 6.0]}));
    let one = |reply: crate::house::Reply| reply.json["predictions"][0].clone();
    assert_eq!(one(house.predict("mean").await), json!([2.0, 4.0]));
    assert_eq!(one(house.predict("vote").await), json!([7, 14]));
    assert_eq!(one(house.predict("by-topic").await), all, "the same three by their routing keys");
    house.behave("one", Manner::Answers(Duration::from_millis(800)));
    house.behave("two", Manner::Answers(Duration::from_millis(800)));
    assert_eq!(one(house.predict("first").await), json!([3.0, 6.0]));
}

#[tokio::test]
async fn a_failing_child_follows_the_routes_policy() {
    let routes =
        json!([fanout("strict", "all", "fail"), fanout("lenient", "all", "skip"), fanout("first", "first", "fail")]);
    let house = House::start(routes).await;
    house.behave("two", Manner::Fails { again: false });
    let strict = house.predict("strict").await;
    assert_eq!(strict.status, 500, "{}", strict.json);
    assert!(strict.message().contains("target `two`: the model refuses"), "{}", strict.message());
    let lenient = house.predict("lenient").await;
    assert_eq!(lenient.status, 200, "{}", lenient.json);
    let answer = lenient.json["predictions"][0].as_object().expect("an object").clone();
    assert!(answer.contains_key("one.y") && answer.contains_key("three.y") && !answer.contains_key("two.y"));
    assert_eq!(house.predict("first").await.status, 200);
    house.behave("one", Manner::Fails { again: false });
    house.behave("three", Manner::Fails { again: false });
    for route in ["lenient", "first"] {
        assert_eq!(house.predict(route).await.status, 500, "{route}: all failed");
    }
}

#[tokio::test]
async fn a_shadow_that_hangs_or_fails_never_delays_or_fails_an_answer() {
    let house = House::start(json!([
        {"name": "watched", "shadow": {"primary": "one", "copies": ["two", "three"]}},
        {"name": "one", "shadow": {"primary": "one", "copies": ["one"]}},
    ]))
    .await;
    house.behave("two", Manner::Hangs);
    house.behave("three", Manner::Fails { again: false });
    let started = Instant::now();
    // More than may be in the air at once: the rest is dropped and counted.
    for _ in 0..100 {
        let answer = house.predict("watched").await;
        assert_eq!((answer.status, &answer.json["predictions"][0]), (200, &json!([1.0, 2.0])), "{}", answer.json);
    }
    assert!(started.elapsed() < Duration::from_secs(20), "an answer waited for a copy that hangs");
    let mut counted = Value::Null;
    for _ in 0..100 {
        counted = house.get("/api/v1/routes/watched").await.json["copies_of_this_gateway"].clone();
        if counted["three"]["failed"].as_u64().is_some_and(|failed| failed > 0) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(counted["three"]["failed"].as_u64().is_some_and(|failed| failed > 0), "{counted}");
    assert!(counted["two"]["dropped"].as_u64().is_some_and(|dropped| dropped > 0), "{counted}");
}

#[tokio::test]
async fn a_shadows_differences_are_counted() {
    let house = House::start(json!([{"name": "watched", "shadow": {"primary": "one", "copies": ["two"]}}])).await;
    for _ in 0..5 {
        assert_eq!(house.predict("watched").await.status, 200);
    }
    for _ in 0..100 {
        let counted = house.get("/api/v1/routes/watched").await.json["copies_of_this_gateway"]["two"].clone();
        if counted["different"] == 5 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the differences were not counted");
}

#[tokio::test]
async fn a_weighted_route_keeps_a_key_at_its_target() {
    let shares = json!([{"target": "one", "percent": 50}, {"target": "two", "percent": 50}]);
    let house = House::start(json!([{"name": "canary", "weighted": shares}])).await;
    let mut seen: HashMap<String, Value> = HashMap::new();
    for n in 0..60 {
        let key = format!("user-{}", n % 20);
        let request = house.request(Method::POST, "/v1/models/canary:predict").header("nobat-route-key", &key);
        let answer = house.send(request.body(row().to_string())).await.json["predictions"][0].clone();
        let first = seen.entry(key).or_insert_with(|| answer.clone());
        assert_eq!(*first, answer, "the same key, the same target");
    }
    let ones = seen.values().filter(|answer| **answer == json!([1.0, 2.0])).count();
    assert!((1..20).contains(&ones), "both targets answer some keys: {ones} of 20");
}

#[tokio::test]
async fn routes_are_declared_replaced_and_removed_at_run_time_and_outlive_a_restart() {
    let house = House::start(json!([{"name": "kept", "direct": "one"}, {"name": "dropped", "direct": "one"}])).await;
    let put = house.put("/api/v1/routes/new", json!({"direct": "three"})).await;
    assert_eq!((put.status, &put.json["serves"]), (200, &json!(true)), "{}", put.json);
    assert_eq!(house.predict("new").await.json["predictions"][0], json!([3.0, 6.0]));
    assert_eq!(house.put("/api/v1/routes/kept", json!({"direct": "two"})).await.status, 200);
    assert_eq!(house.send(house.request(Method::DELETE, "/api/v1/routes/dropped")).await.status, 204);
    let house = house.restart().await;
    assert_eq!(house.predict("new").await.json["predictions"][0], json!([3.0, 6.0]));
    assert_eq!(house.predict("kept").await.json["predictions"][0], json!([2.0, 4.0]));
    assert_eq!(house.predict("dropped").await.status, 404);
    let names: Vec<Value> = house.get("/api/v1/routes").await.json["routes"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|route| route["name"].clone())
        .collect();
    assert_eq!(names, ["kept", "new"]);
    assert_eq!(house.send(house.request(Method::DELETE, "/api/v1/routes/dropped")).await.status, 404);
}

#[tokio::test]
async fn a_canary_or_a_copy_that_nobody_serves_takes_nothing_down() {
    let house = House::start(json!([
        {"name": "canary", "weighted": [{"target": "one", "percent": 50}, {"target": "gone", "percent": 50}]},
        {"name": "strict", "on_missing": "fail",
         "weighted": [{"target": "one", "percent": 50}, {"target": "gone", "percent": 50}]},
        {"name": "one", "shadow": {"primary": "one", "copies": ["gone", "other", "two"]}},
        {"name": "group", "fanout": {"targets": ["gone", "two"], "join": "all", "on_failure": "skip"}},
        {"name": "any", "fanout": {"targets": ["gone", "two"], "join": "first"}},
        {"name": "all", "fanout": {"targets": ["gone", "two"], "join": "all"}},
        {"name": "chain", "direct": "canary"},
    ]))
    .await;
    for route in ["canary", "one", "chain"] {
        for _ in 0..12 {
            let reply = house.predict(route).await;
            assert_eq!((reply.status, &reply.json["predictions"][0]), (200, &json!([1.0, 2.0])), "{}", reply.json);
        }
        let queued = house.post(&format!("/api/v1/predict/{route}"), &row()).await;
        assert_eq!(queued.status, 202, "{}", queued.json);
    }
    let group = house.predict("group").await;
    assert_eq!(group.json["predictions"][0], json!([2.0, 4.0]), "{}", group.json);
    assert_eq!(house.predict("any").await.status, 200);
    for needs_it in ["strict", "all"] {
        let reply = house.predict(needs_it).await;
        assert_eq!((reply.status, reply.json["code"].as_str()), (503, Some("model_not_ready")), "{}", reply.json);
        assert!(reply.message().contains("names `gone`, which no worker serves"), "{}", reply.message());
    }
    let shown = house.get("/api/v1/routes/one").await.json;
    let missing: Vec<_> = shown["missing"].as_array().expect("a list").iter().map(|one| &one["target"]).collect();
    assert_eq!(missing, ["gone", "other"], "{shown}");
    assert_eq!(shown["serves"], true);
    let counted = &shown["copies_of_this_gateway"];
    assert!(counted["gone"]["missing"].as_u64().is_some_and(|count| count >= 12), "{counted}");
    // By hand, a target that nobody ever served is a slip.
    let slip = json!({"weighted": [{"target": "one", "percent": 95}, {"target": "gnoe", "percent": 5}]});
    let refused = house.put("/api/v1/routes/slip", slip).await;
    assert_eq!(refused.status, 400, "{}", refused.json);
    assert!(refused.message().contains("names `gnoe`"), "{}", refused.message());
}

#[tokio::test]
async fn a_canary_whose_workers_leave_gives_its_share_away_and_takes_it_back() {
    let weighted = json!([{"target": "one", "percent": 50}, {"target": "late", "percent": 50}]);
    let house = House::start(json!([{"name": "canary", "weighted": weighted}])).await;
    let serves = async |wanted: &[&str]| {
        for _ in 0..200 {
            let shown = house.get("/api/v1/routes/canary").await.json;
            let missing = shown["missing"].as_array().cloned().unwrap_or_default();
            if missing.iter().map(|one| one["target"].as_str().expect("a target")).eq(wanted.iter().copied()) {
                for _ in 0..8 {
                    let reply = house.predict("canary").await;
                    assert_eq!(reply.status, 200, "without {wanted:?}: {}", reply.json);
                }
                return;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("never without {wanted:?}");
    };
    serves(&["late"]).await;
    let late = house.start_model("late", 1.0).await;
    serves(&[]).await;
    house.stop_model(late).await;
    serves(&["late"]).await;
}

#[tokio::test]
async fn a_model_is_described_with_its_own_versions_beside_a_route_of_its_name() {
    let house = House::start(json!([{"name": "one", "fanout": {"targets": ["one", "two"], "join": "all"}}])).await;
    let detail = house.get("/api/v1/models/one").await.json;
    assert_eq!(detail["route"], "/api/v1/routes/one");
    assert_eq!((&detail["versions"][0]["digest"], &detail["ready"]), (&json!("one"), &json!(true)), "{detail}");
    assert_eq!(detail["workers"][0]["id"], "scripted", "its own workers, and so its statistics");
    assert_eq!(house.get("/api/v1/models/two").await.json["route"], Value::Null);
    // Who names no version is answered by the route, and told what it gives.
    let outputs = house.get("/v2/models/one").await.json["outputs"].clone();
    assert_eq!(outputs.as_array().map(Vec::len), Some(2), "{outputs}");
    let own = house.get("/v2/models/one/versions/1").await.json["outputs"].clone();
    assert_eq!(own[0]["name"], "y", "{own}");
}
