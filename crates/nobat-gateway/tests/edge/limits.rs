//! Limits over HTTP: refused early, told why, told when to come again.

use std::sync::Arc;
use std::time::Duration;

use nobat_core::oip::ModelInferRequest;
use nobat_core::oip::model_infer_request::InferInputTensor;
use nobat_gateway::GatewayConfig;
use nobat_serving::auth::{self, Keyring, NewKey, Scope};
use nobat_serving::limits::LimitsConfig;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::house::{House, send};
use crate::keys::{key, with_keys};

#[tokio::test(flavor = "multi_thread")]
async fn too_many_in_flight_are_ours_to_refuse_and_the_rest_are_answered() {
    let limits = LimitsConfig { max_in_flight: 5, ..LimitsConfig::default() };
    let config = GatewayConfig { limits, ..GatewayConfig::default() };
    let house = Arc::new(House::start(config, json!({}), Duration::from_millis(200)).await);
    let asking: Vec<_> = (0..50)
        .map(|value| {
            let house = house.clone();
            tokio::spawn(async move { house.predict(value as f32, None, &[]).await })
        })
        .collect();
    let (mut answered, mut refused) = (0, 0);
    for one in asking {
        let reply = one.await.expect("asked");
        match reply.status {
            200 => answered += 1,
            503 => {
                refused += 1;
                assert_eq!(reply.json()["code"], "queue_full");
                assert!(reply.header("retry-after").parse::<u32>().expect("seconds") >= 1);
            }
            other => panic!("{other}: {}", reply.text),
        }
    }
    assert!(answered >= 5 && refused >= 1 && answered + refused == 50, "{answered} answered, {refused} refused");
    assert_eq!(house.gateway.serving().admission.limits.in_flight(), 0);
    Arc::into_inner(house).expect("nobody asks any more").stop().await;
}

#[tokio::test]
async fn a_rate_is_the_callers_and_headers_say_where_it_stands() {
    let limits = LimitsConfig { rate_per_s: 0.5, burst: 2, ..LimitsConfig::default() };
    let config = GatewayConfig { limits, ..GatewayConfig::default() };
    let house = House::start(config, json!({}), Duration::ZERO).await;
    let first = house.predict(1.0, None, &[]).await;
    assert_eq!(first.header("ratelimit-policy"), "\"default\";q=2;w=4");
    assert_eq!(first.header("ratelimit"), "\"default\";r=1;t=2");
    assert_eq!(house.predict(1.0, None, &[]).await.status, 200);
    let refused = house.predict(1.0, None, &[]).await;
    assert_eq!((refused.status, refused.json()["code"].as_str()), (429, Some("rate_limited")));
    assert!(refused.header("retry-after").parse::<u32>().expect("seconds") >= 1);
    assert_eq!(house.get("/api/v1/models", None).await.status, 200, "reading is not limited");
    house.stop().await;
}

#[tokio::test]
async fn a_call_of_many_jobs_takes_as_many_of_its_rate() {
    let limits = LimitsConfig { rate_per_s: 0.01, burst: 10, ..LimitsConfig::default() };
    let house = House::start(GatewayConfig { limits, ..GatewayConfig::default() }, json!({}), Duration::ZERO).await;
    let many = async |jobs: usize| {
        let request = json!({ "requests": vec![json!({ "instances": [[1.0, 2.0]] }); jobs] });
        let post = reqwest::Client::new().post(house.url("/api/v1/predict/echo/many")).body(request.to_string());
        send(post, None, &[]).await
    };
    let first = many(6).await;
    assert_eq!((first.status, first.header("ratelimit")), (202, "\"default\";r=4;t=600"), "{}", first.text);
    let refused = many(6).await;
    assert_eq!((refused.status, refused.json()["code"].as_str()), (429, Some("rate_limited")));
    // Its own place was taken at the door, as any refused request's is.
    assert_eq!(refused.header("x-ratelimit-remaining"), "3");
    assert_eq!(refused.header("retry-after").parse::<u32>().expect("seconds"), 200);
    let queue = house.get("/api/v1/queues/echo", None).await.json();
    assert!(queue["queued"].as_u64().expect("a count") <= 6, "none of the refused was enqueued: {queue}");
    assert_eq!(many(2).await.status, 202, "what is left is left");
    let never = many(11).await;
    assert_eq!((never.status, never.json()["code"].as_str()), (413, Some("payload_too_large")));
    assert!(never.text.contains("11 jobs") && never.text.contains("at most"), "{}", never.text);
    house.stop().await;
}

#[tokio::test]
async fn a_fanout_takes_one_of_a_rate_for_each_of_its_jobs() {
    let limits = LimitsConfig { rate_per_s: 0.01, burst: 5, ..LimitsConfig::default() };
    let route: nobat_serving::routing::Route =
        serde_json::from_value(json!({ "name": "both", "fanout": { "targets": ["echo", "echo/1"], "join": "all" } }))
            .expect("a route");
    let config = GatewayConfig { limits, routes: vec![route], ..GatewayConfig::default() };
    let house = House::start(config, json!({}), Duration::ZERO).await;
    let ask = async |path: &str| {
        let post = reqwest::Client::new().post(house.url(path)).body(r#"{"instances": [[1.0, 2.0]]}"#);
        send(post, None, &[]).await
    };
    let first = ask("/v1/models/both:predict").await;
    assert_eq!((first.status, first.header("x-ratelimit-remaining")), (200, "3"), "{}", first.text);
    let later = ask("/api/v1/predict/both").await;
    assert_eq!((later.status, later.header("x-ratelimit-remaining")), (202, "1"), "{}", later.text);
    assert_eq!(ask("/api/v1/predict/both?wait=5").await.status, 429);
    house.stop().await;
}

#[tokio::test]
async fn every_429_says_where_the_limit_stands() {
    let limits = LimitsConfig { max_in_flight_per_key: 1, ..LimitsConfig::default() };
    let house =
        House::start(GatewayConfig { limits, ..GatewayConfig::default() }, json!({}), Duration::from_secs(2)).await;
    let (first, second) = tokio::join!(house.predict(1.0, None, &[]), async {
        while house.gateway.serving().admission.limits.in_flight() == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        house.predict(2.0, None, &[]).await
    });
    assert_eq!((first.status, second.status), (200, 429), "{}", second.text);
    assert_eq!(second.header("ratelimit-policy"), "\"in-flight\";q=1;qu=\"concurrent-requests\"");
    assert_eq!((second.header("ratelimit"), second.header("x-ratelimit-limit")), ("\"in-flight\";r=0;t=1", "1"));
    house.stop().await;
    let rated = LimitsConfig { rate_per_s: 0.5, burst: 1, ..LimitsConfig::default() };
    let house =
        House::start(GatewayConfig { limits: rated, ..GatewayConfig::default() }, json!({}), Duration::ZERO).await;
    house.predict(1.0, None, &[]).await;
    let refused = house.predict(1.0, None, &[]).await;
    assert_eq!((refused.status, refused.header("ratelimit-policy")), (429, "\"default\";q=1;w=2"));
    assert_eq!(refused.header("x-ratelimit-reset"), refused.header("retry-after"));
    house.stop().await;
}

#[tokio::test]
async fn a_key_has_a_highest_priority_in_every_protocol() {
    let dir = tempfile::tempdir().expect("a folder");
    let (mut ring, now) = (Keyring::default(), auth::now_s());
    let modest = NewKey { max_priority: Some(10), ..key("modest", Scope::Predict, &[], None) };
    let modest = ring.add(modest, now).expect("made");
    let plain = ring.add(key("plain", Scope::Predict, &[], None), now).expect("made");
    let mut config = with_keys(&dir.path().join("keys.toml"), &ring);
    config.limits.max_priority = 100;
    let house = House::start(config, json!({}), Duration::ZERO).await;
    let rows = r#"{"instances": [[1.0, 2.0]]}"#;
    // This protocol's 1 is the highest.
    let oip = |priority: u32| {
        format!(
            r#"{{"parameters":{{"priority":{priority}}},"inputs":[{{"name":"in","shape":[1,2],"datatype":"FP32","data":[1,2]}}]}}"#
        )
    };
    let ask = async |path: String, body: String, key: &str| {
        send(reqwest::Client::new().post(house.url(&path)).body(body), Some(key), &[]).await
    };
    for (key, most) in [(&modest, 10), (&plain, 100)] {
        for (path, body) in [
            ("/v1/models/echo:predict?priority=", rows.to_owned()),
            ("/api/v1/predict/echo?wait=5&priority=", rows.to_owned()),
            ("/api/v1/predict/echo?priority=", rows.to_owned()),
        ] {
            assert!(ask(format!("{path}{most}"), body.clone(), key).await.status < 300, "{path}");
            let refused = ask(format!("{path}{}", most + 1), body, key).await;
            assert_eq!((refused.status, refused.json()["code"].as_str()), (403, Some("permission_denied")), "{path}");
            assert!(refused.text.contains(&format!("highest, {most}")), "{}", refused.text);
        }
        let many =
            ask(format!("/api/v1/predict/echo/many?priority={}", most + 1), format!(r#"{{"requests":[{rows}]}}"#), key)
                .await;
        assert_eq!(many.json()["jobs"][0]["error"]["code"], "permission_denied", "{}", many.text);
        assert_eq!(ask("/v2/models/echo/infer".into(), oip(256 - most), key).await.status, 200);
        assert_eq!(ask("/v2/models/echo/infer".into(), oip(255 - most), key).await.status, 403);
    }
    house.stop().await;
}

#[tokio::test]
async fn bodies_in_flight_are_bounded_for_each_key_and_for_all() {
    let dir = tempfile::tempdir().expect("a folder");
    let (mut ring, now) = (Keyring::default(), auth::now_s());
    let one = ring.add(key("one", Scope::Predict, &[], None), now).expect("made");
    let two = ring.add(key("two", Scope::Predict, &[], None), now).expect("made");
    let mut config = with_keys(&dir.path().join("keys.toml"), &ring);
    config.max_body_bytes = 1 << 20;
    config.limits.max_body_bytes_in_flight = 5 << 19;
    config.limits.max_body_bytes_in_flight_per_key = 3 << 19;
    let house = House::start(config, json!({}), Duration::ZERO).await;
    // Heads that declare a mebibyte each, and send nothing of it: held by their promise.
    let held = async |key: &str| {
        let mut socket = TcpStream::connect(house.gateway.http_addr()).await.expect("connects");
        let head = format!(
            "POST /v1/models/echo:predict HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\nContent-Length: {}\r\n\r\n",
            1 << 20
        );
        socket.write_all(head.as_bytes()).await.expect("sends");
        socket
    };
    let bytes = || house.gateway.serving().admission.limits.bytes_in_flight();
    let reaches = async |most: u64| {
        while bytes() != most {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let first = held(&one).await;
    reaches(1 << 20).await;
    let post = |key: String, size: usize| {
        let body = format!("{}{}", " ".repeat(size), r#"{"instances": [[1.0, 2.0]]}"#);
        let post = reqwest::Client::new().post(house.url("/v1/models/echo:predict")).body(body);
        async move { send(post, Some(&key), &[]).await }
    };
    let refused = post(one.clone(), 900 << 10).await;
    assert_eq!((refused.status, refused.json()["code"].as_str()), (429, Some("quota_exceeded")), "{}", refused.text);
    assert_eq!(refused.header("retry-after"), "1");
    assert_eq!(refused.header("ratelimit-policy"), "\"body-bytes\";q=1572864;qu=\"content-bytes\"");
    let second = held(&two).await;
    reaches(2 << 20).await;
    let zipped = {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut encoder, " ".repeat(1000 << 10).as_bytes()).expect("a vector");
        encoder.finish().expect("a vector")
    };
    let request = reqwest::Client::new().post(house.url("/v1/models/echo:predict")).body(zipped);
    let bomb = send(request, Some(&two), &[("content-encoding", "gzip")]).await;
    assert!(matches!(bomb.status, 429 | 503), "what it becomes is counted: {}", bomb.text);
    assert_eq!(post(one.clone(), 10).await.status, 200, "small ones go on");
    drop((first, second));
    reaches(0).await;
    assert_eq!(post(one, 900 << 10).await.status, 200, "what has ended is given back");
    house.stop().await;
}

#[tokio::test]
async fn messages_of_grpc_calls_count_as_they_arrive() {
    let limits = LimitsConfig { max_body_bytes_in_flight: 1 << 20, ..LimitsConfig::default() };
    let config = GatewayConfig { limits, max_body_bytes: 1 << 20, ..GatewayConfig::default() };
    let house = House::start(config, json!({}), Duration::ZERO).await;
    let taken = house.gateway.serving().admission.limits.hold_bytes(None);
    let request = |rows: usize| ModelInferRequest {
        model_name: "echo".into(),
        inputs: vec![InferInputTensor {
            name: "in".into(),
            datatype: "FP32".into(),
            shape: vec![rows as i64, 2],
            ..Default::default()
        }],
        raw_input_contents: vec![vec![0; rows * 8].into()],
        ..Default::default()
    };
    let mut client = house.grpc().await;
    taken.reach(900 << 10, &Default::default()).expect("free");
    let refused = client.model_infer(request(32 << 10)).await.expect_err("256 KiB do not fit");
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted, "{refused:?}");
    assert_eq!(refused.metadata().get("retry-after").map(|value| value.as_bytes()), Some(&b"1"[..]), "{refused:?}");
    client.model_infer(request(8)).await.expect("small ones go on");
    drop(taken);
    // Whole again; 64 rows are what the model takes.
    let told = client.model_infer(request(32 << 10)).await.expect_err("too many rows");
    assert!(told.message().contains("32768 rows"), "{told:?}");
    assert_eq!(house.gateway.serving().admission.limits.bytes_in_flight(), 0);
    house.stop().await;
}
