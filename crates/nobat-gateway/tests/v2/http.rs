//! v2 over HTTP: what clients send and what they are told when it is wrong.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use nobat_core::tensor::Datatype;
use nobat_gateway::proto::RepositoryModelLoadRequest;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;

use super::support::{MAX_BODY, Script, Server};

const INFER: &str = "/v2/models/digits/infer";
const GOOD: &str = r#"{"id":"","inputs":[{"name":"x","shape":[1,4],"datatype":"FP32","data":[1,2,3.5,-4]}]}"#;

/// A document with one binary input, and the header that goes with it.
fn binary(model_datatype: &str, shape: &[i64], size: usize) -> (String, Vec<(&'static str, String)>) {
    let document = json!({
        "inputs": [{"name": "x", "shape": shape, "datatype": model_datatype, "parameters": {"binary_data_size": size}}],
        "parameters": {"binary_data_output": true},
    })
    .to_string();
    let headers = vec![("Inference-Header-Content-Length", document.len().to_string())];
    (document, headers)
}

#[actix_web::test]
async fn json_in_json_out_without_a_content_type() {
    let server = Server::start().await;
    let reply = server.post(INFER, &[], GOOD).await;
    assert_eq!(reply.status, 200, "{:?}", reply.body);
    assert_eq!(
        reply.json(),
        json!({"model_name": "digits", "model_version": "1",
               "outputs": [{"name": "scores", "datatype": "FP32", "shape": [1, 4], "data": [1.0, 2.0, 3.5, -4.0]}]})
    );
    assert!(reply.header("content-length").is_some() && reply.header("transfer-encoding").is_none());
    let versioned = server.post("/v2/models/digits/versions/1/infer", &[], GOOD.replace("\"\"", "\"seven\"")).await;
    assert_eq!((versioned.status, &versioned.json()["id"]), (200, &json!("seven")));
}

#[actix_web::test]
async fn every_datatype_travels_in_binary_and_comes_back_the_same() {
    let server = Server::start().await;
    for datatype in Datatype::ALL {
        let data: Vec<u8> = match datatype.size() {
            Some(size) => (0..6 * size).map(|at| (at % 2) as u8).collect(),
            None => [
                &b"\x02\0\0\0hi"[..],
                b"\0\0\0\0",
                &b"\x03\0\0\0\xff\0\x01"[..],
                b"\x01\0\0\0a",
                b"\0\0\0\0",
                b"\x01\0\0\0b",
            ]
            .concat(),
        };
        let (document, headers) = binary(datatype.as_str(), &[2, 3], data.len());
        let path = format!("/v2/models/identity_{}/infer", datatype.as_str().to_lowercase());
        let reply = server.post(&path, &headers, [document.as_bytes(), &data].concat()).await;
        assert_eq!(reply.status, 200, "{datatype}: {:?}", reply.body);
        assert_eq!(reply.blobs(), data, "{datatype}");
        assert_eq!(reply.header("content-type"), Some("application/octet-stream"));
        assert!(reply.header("content-length").is_some());
    }
}

#[actix_web::test]
async fn json_values_reach_every_datatype_that_json_can_carry() {
    let server = Server::start().await;
    for (datatype, data) in [
        ("BOOL", json!([true, false])),
        ("UINT8", json!([0, 255])),
        ("UINT64", json!([0, u64::MAX])),
        ("INT64", json!([i64::MIN, i64::MAX])),
        ("INT8", json!([-128, 127])),
        ("FP64", json!([0.1, -1e300])),
        ("BYTES", json!(["", "naïve \"text\""])),
    ] {
        let body = json!({"inputs": [{"name": "x", "shape": [1, 2], "datatype": datatype, "data": data}]}).to_string();
        let reply = server.post(&format!("/v2/models/identity_{}/infer", datatype.to_lowercase()), &[], body).await;
        assert_eq!(reply.status, 200, "{datatype}: {:?}", reply.body);
        assert_eq!(reply.json()["outputs"][0]["data"], data, "{datatype}");
    }
}

#[actix_web::test]
async fn a_body_without_a_document_is_the_one_input() {
    let server = Server::start().await;
    let data: Vec<u8> = [1f32, 2.0, 3.0, 4.0].iter().flat_map(|value| value.to_le_bytes()).collect();
    let header = [("Inference-Header-Content-Length", "0".to_owned())];
    let reply = server.post(INFER, &header, data.clone()).await;
    assert_eq!((reply.status, reply.blobs()), (200, &data[..]));
    let text = server.post("/v2/models/identity_bytes/infer", &header, "whole body").await;
    assert_eq!((text.status, text.blobs()), (200, &b"\x0a\0\0\0whole body"[..]));
    assert_eq!(server.post(INFER, &header, vec![0u8; 15]).await.status, 400);
}

#[actix_web::test]
async fn classification_gives_the_best_classes() {
    let server = Server::start().await;
    let body = GOOD.replace("]}]}", r#"]}],"outputs":[{"name":"scores","parameters":{"classification":2}}]}"#);
    let reply = server.post(INFER, &[], body).await;
    assert_eq!(
        reply.json()["outputs"][0],
        json!({"name": "scores", "datatype": "BYTES", "shape": [1, 2], "data": ["3.500000:2", "2.000000:1:one"]})
    );
}

#[actix_web::test]
async fn compressed_bodies_are_read_and_answers_compressed_on_request() {
    let server = Server::start().await;
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(bytes).expect("into memory");
        encoder.finish().expect("into memory")
    };
    let encoding = ("Content-Encoding", "gzip".to_owned());
    assert_eq!(server.post(INFER, std::slice::from_ref(&encoding), gzip(GOOD.as_bytes())).await.status, 200);
    let data = vec![0u8; 40_000];
    let (document, mut headers) = binary("UINT8", &[1, 40_000], data.len());
    headers.extend([encoding.clone(), ("Accept-Encoding", "gzip".to_owned())]);
    let body = gzip(&[document.as_bytes(), &data].concat());
    let reply = server.post("/v2/models/identity_uint8/infer", &headers, body).await;
    assert_eq!((reply.status, reply.header("content-encoding")), (200, Some("gzip")), "{:?}", reply.body);
    assert!(reply.body.len() < 2000);
    let bomb = gzip(&vec![0u8; 200 * MAX_BODY]);
    assert!(bomb.len() < MAX_BODY, "the bomb itself is small");
    assert_eq!(server.post(INFER, &[encoding], bomb).await.status, 413);
}

#[actix_web::test]
async fn every_misfit_is_a_400_in_the_protocols_shape() {
    let server = Server::start().await;
    let input = |members: &str| format!(r#"{{"inputs":[{{"name":"x","datatype":"FP32",{members}}}]}}"#);
    let one = r#"{"name":"x","shape":[1,4],"datatype":"FP32","data":[1,2,3,4]}"#;
    let mut bodies = vec![
        String::new(),
        "{".into(),
        GOOD[..GOOD.len() - 2].into(),
        format!("{GOOD} x"),
        "[".repeat(100_000),
        input(&format!(r#""shape":[1,4],"data":{}"#, "[".repeat(100_000))),
        input(r#""shape":[1,4],"data":[1,2,3]"#),
        input(r#""shape":[1,4],"data":[1,2,3,4,5]"#),
        input(r#""shape":[1,4],"data":[1,2,3,"4"]"#),
        input(r#""shape":[1,4],"data":[1,2,3,NaN]"#),
        input(r#""shape":[-1,4],"data":[1,2,3,4]"#),
        input(r#""shape":[9223372036854775807,4],"data":[1,2,3,4]"#),
        input(r#""shape":[9223372036854775808],"data":[1,2,3,4]"#),
        input(r#""shape":[0,4],"data":[]"#),
        input(r#""shape":[1,5],"data":[1,2,3,4,5]"#),
        input(r#""shape":[1,4]"#),
        format!(r#"{{"inputs":[{one},{one}]}}"#),
        r#"{"inputs":[]}"#.into(),
        r#"{"inputs":{}}"#.into(),
        GOOD.replace("\"x\"", "\"y\""),
        GOOD.replace("FP32", "INT32"),
        GOOD.replace("FP32", "FP16"),
        GOOD.replace("FP32", "FLOAT"),
        GOOD.replace("]}]}", r#"]}],"parameters":{"triton_other":true}}"#),
        GOOD.replace("]}]}", r#"]}],"parameters":{"priority":-1}}"#),
        GOOD.replace("]}]}", r#"]}],"parameters":{"timeout":"soon"}}"#),
        GOOD.replace("]}]}", r#"]}],"outputs":[{"name":"nope"}]}"#),
        GOOD.replace("]}]}", r#"]}],"outputs":[{"name":"scores"},{"name":"scores"}]}"#),
        GOOD.replace("]}]}", r#"]}],"outputs":[{}]}"#),
    ];
    bodies.push(format!("\u{feff}{GOOD}"));
    for body in bodies {
        let shown: String = body.chars().take(90).collect();
        let reply = server.post(INFER, &[], body).await;
        assert_eq!(reply.status, 400, "{shown}: {:?}", reply.body);
        assert!(reply.json()["error"].as_str().is_some_and(|message| !message.is_empty()), "{shown}");
    }
    let invalid_utf8 = [&br#"{"inputs":[{"name":"\xff"#[..16], b"\xff\"}]}"].concat();
    assert_eq!(server.post(INFER, &[], invalid_utf8).await.status, 400);
    let half =
        json!({"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP16", "parameters": {"binary_data_size": 2}}]});
    let header = ("Inference-Header-Content-Length", half.to_string().len().to_string());
    let reply = server.post("/v2/models/identity_fp16/infer", &[header], format!("{half}AA")).await;
    assert!(reply.status == 400 && reply.json()["error"].as_str().expect("text").contains("JSON cannot carry"));
    assert_eq!(server.post(INFER, &[], GOOD).await.status, 200, "the neighbours are served");
}

#[actix_web::test]
async fn binary_bodies_that_do_not_add_up_are_refused() {
    let server = Server::start().await;
    let data = [0u8; 16];
    for (size, sent, header_shift) in
        [(16, 15, 0), (16, 17, 0), (15, 16, 0), (usize::MAX, 16, 0), (16, 16, 1), (16, 16, 1000)]
    {
        let (document, _) = binary("FP32", &[1, 4], size);
        let header = ("Inference-Header-Content-Length", (document.len() + header_shift).to_string());
        let body = [document.as_bytes(), &data[..sent.min(16)], &vec![0; sent.saturating_sub(16)]].concat();
        assert_eq!(server.post(INFER, &[header], body).await.status, 400, "{size} {sent} {header_shift}");
    }
    for value in ["-1", "x", "99999999999999999999"] {
        let reply = server.post(INFER, &[("Inference-Header-Content-Length", value.into())], GOOD).await;
        assert_eq!(reply.status, 400, "{value}");
    }
    let framing = [&b"\x05\0\0\0hi"[..]].concat();
    let (document, headers) = binary("BYTES", &[1, 1], framing.len());
    let body = [document.as_bytes(), &framing].concat();
    assert_eq!(server.post("/v2/models/identity_bytes/infer", &headers, body).await.status, 400);
}

#[actix_web::test]
async fn oversized_bodies_are_413_declared_or_actual() {
    let server = Server::start().await;
    assert_eq!(server.post(INFER, &[], vec![b' '; MAX_BODY + 1]).await.status, 413);
    // Declared only: refused before a byte of the body is sent.
    let mut stream = tokio::net::TcpStream::connect(server.http).await.expect("connects");
    let head = format!("POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n");
    stream.write_all(head.as_bytes()).await.expect("sends");
    let mut answer = vec![0; 12];
    stream.read_exact(&mut answer).await.expect("an answer");
    assert_eq!(answer, b"HTTP/1.1 413");
}

#[actix_web::test]
async fn a_sender_that_stalls_is_cut_off() {
    let server = Server::start().await;
    let mut stream = tokio::net::TcpStream::connect(server.http).await.expect("connects");
    let head = format!("POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{{");
    stream.write_all(head.as_bytes()).await.expect("sends");
    let mut answer = vec![0; 12];
    tokio::time::timeout(Duration::from_secs(20), stream.read_exact(&mut answer))
        .await
        .expect("in time")
        .expect("an answer");
    assert_eq!(answer, b"HTTP/1.1 408");
}

#[actix_web::test]
async fn unknown_paths_names_and_methods_are_told_in_the_protocols_shape() {
    let server = Server::start().await;
    for path in [
        "/v2/nothing",
        "/v2/models/nope",
        "/v2/models/digits/versions/9",
        "/v2/models/..%2f..%2fetc/config",
        "/v2/models/%2e%2e/ready",
    ] {
        let reply = server.get(path).await;
        assert_eq!(reply.status, 404, "{path}");
        assert!(reply.json()["error"].is_string(), "{path}");
    }
    assert_eq!(server.post("/v2/models/nope/infer", &[], GOOD).await.status, 404);
    let wrong = server.get(INFER).await;
    assert_eq!((wrong.status, wrong.header("allow")), (405, Some("POST, OPTIONS")));
    assert!(wrong.json()["error"].is_string());
    let wrong = server.post("/v2/models/digits", &[], "").await;
    assert_eq!((wrong.status, wrong.header("allow")), (405, Some("GET, HEAD, OPTIONS")));
    for name in ["..%2f..%2fetc%2fpasswd", "%2e%2e", "a%5cb", ".hidden", "a%00b"] {
        let status = server.post(&format!("/v2/repository/models/{name}/load"), &[], "").await.status;
        assert!(matches!(status, 400 | 404), "{name}: {status}");
    }
}

#[actix_web::test]
async fn the_server_and_its_models_describe_themselves() {
    let server = Server::start().await;
    let about = server.get("/v2").await.json();
    assert!(
        about["name"] == "nobat"
            && about["extensions"].as_array().expect("a list").contains(&json!("binary_tensor_data"))
    );
    assert_eq!(server.get("/v2/health/live").await.json(), json!({"live": true}));
    assert_eq!(server.get("/v2/health/ready").await.json(), json!({"ready": true}));
    assert!(server.get("/v2/models").await.json()["models"].as_array().expect("a list").contains(&json!("digits")));
    assert_eq!(
        server.get("/v2/models/digits").await.json(),
        json!({"name": "digits", "versions": ["1"], "platform": "onnxruntime_onnx",
               "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}],
               "outputs": [{"name": "scores", "datatype": "FP32", "shape": [-1, 4]}]})
    );
    let config = server.get("/v2/models/digits/versions/1/config").await.json();
    assert_eq!((&config["max_batch_size"], &config["input"][0]["dims"]), (&json!(8), &json!([4])));
    assert_eq!(server.get("/v2/models/digits/ready").await.status, 200);
    assert_eq!(server.get("/v2/systemsharedmemory/status").await.json(), json!([]));
    assert_eq!(server.get("/v2/cudasharedmemory/region/r/status").await.json(), json!([]));
    assert_eq!(server.post("/v2/systemsharedmemory/region/r/register", &[], "{}").await.status, 501);
    assert_eq!(server.post("/v2/systemsharedmemory/unregister", &[], "").await.status, 200);
    assert_eq!(server.get("/v2/trace/setting").await.json()["trace_level"], json!(["OFF"]));
    assert_eq!(server.post("/v2/logging", &[], "{}").await.status, 501);
}

#[actix_web::test]
async fn statistics_are_fresh_and_add_up() {
    let server = Server::start().await;
    let stats = || async { server.get("/v2/models/digits/stats").await.json()["model_stats"][0].clone() };
    assert_eq!(stats().await["inference_count"], 0);
    let two_rows = GOOD.replace("[1,4]", "[2,4]").replace("[1,2,3.5,-4]", "[1,2,3,4,5,6,7,8]");
    for sent in 1..=5u64 {
        assert_eq!(server.post(INFER, &[], two_rows.clone()).await.status, 200);
        let now = stats().await;
        assert_eq!(now["inference_count"], 2 * sent);
        assert_eq!(now["inference_stats"]["success"]["count"], sent);
        assert_eq!(now["execution_count"], sent, "one request at a time runs alone");
        assert_eq!(now["batch_stats"][0]["batch_size"], 2);
    }
    let all = server.get("/v2/models/stats").await.json();
    assert_eq!(all["model_stats"].as_array().expect("a list").len(), 16);
    assert_eq!(server.get("/v2/models/nope/stats").await.status, 404);
}

#[actix_web::test]
async fn a_load_answers_when_the_worker_has_done_it_and_not_before() {
    let server = Server::start().await;
    let done = Arc::new(Notify::new());
    server.next_load(Script { hold: Some(done.clone()), fails: None });
    let url = server.url("/v2/repository/models/digits/load");
    let loading = tokio::spawn(server.client.post(url).send());
    while server.loads_taken("digits") == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // The version before serves, which is not the answer: long enough for several looks.
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!loading.is_finished(), "answered before the load was done");
    done.notify_one();
    assert_eq!(loading.await.expect("a task").expect("an answer").status(), 200);
    let again = server.post("/v2/repository/models/digits/load", &[], "").await;
    assert_eq!(again.status, 200, "an unchanged model: {:?}", again.body);
    let unknown = server.post("/v2/repository/models/nope/load", &[], "").await;
    assert_eq!((unknown.status, &unknown.json()["code"]), (404, &json!("model_not_found")), "{:?}", unknown.body);
}

#[actix_web::test]
async fn a_load_that_fails_is_an_error_though_the_version_before_goes_on_serving() {
    let server = Server::start().await;
    let reason = "digits/1/model.onnx is cut short; copy it again";
    let fails = || Script { hold: None, fails: Some(reason) };
    server.next_load(fails());
    let refused = server.post("/v2/repository/models/digits/load", &[], "").await;
    assert_eq!((refused.status, &refused.json()["code"]), (503, &json!("model_not_ready")), "{:?}", refused.body);
    let message = refused.json()["error"].as_str().expect("a message").to_owned();
    assert!(message.contains(reason) && message.contains("the version before goes on serving"), "{message}");
    let row = async || {
        let index = server.post("/v2/repository/index", &[], "").await.json();
        index.as_array().expect("rows").iter().find(|row| row["name"] == "digits").expect("listed").clone()
    };
    let shown = row().await;
    assert_eq!((&shown["state"], &shown["reason"]), (&json!("READY"), &json!(reason)));
    assert_eq!(server.post("/v2/models/digits/infer", &[], GOOD).await.status, 200);

    server.next_load(fails());
    let load = RepositoryModelLoadRequest { model_name: "digits".into(), ..Default::default() };
    let status = server.grpc().await.repository_model_load(load).await.expect_err("it failed");
    assert_eq!(status.code(), tonic::Code::Unavailable);
    assert!(status.message().contains(reason), "{status}");

    assert_eq!(server.post("/v2/repository/models/digits/load", &[], "").await.status, 200, "it is mended");
    assert_eq!(row().await["reason"], json!(""));
}

#[actix_web::test]
async fn models_load_and_unload_and_the_index_shows_it() {
    let server = Server::start().await;
    let state = || async {
        let index = server.post("/v2/repository/index", &[], "").await.json();
        index.as_array().expect("a list").iter().find(|row| row["name"] == "late").map(|row| row["state"].clone())
    };
    assert_eq!(state().await, None);
    assert_eq!(server.post("/v2/repository/models/late/load", &[], "{}").await.status, 200);
    assert_eq!(state().await, Some(json!("READY")));
    let unload =
        server.post("/v2/repository/models/late/unload", &[], r#"{"parameters":{"unload_dependents":false}}"#).await;
    assert_eq!(unload.status, 200, "{:?}", unload.body);
    assert_eq!(state().await, None, "unloaded on purpose, and forgotten");
    let ready = server.post("/v2/repository/index", &[], r#"{"ready":true}"#).await.json();
    assert!(ready.as_array().expect("a list").iter().all(|row| row["state"] == "READY" && row["name"] != "late"));
    let with_file = server.post("/v2/repository/models/late/load", &[], r#"{"parameters":{"config":"{}"}}"#).await;
    assert_eq!(with_file.status, 501);
    assert_eq!(server.post("/v2/repository/models/nope/unload", &[], "").await.status, 404);
    assert_eq!(server.post("/v2/repository/index", &[], "[").await.status, 400);
}

#[actix_web::test]
async fn a_timeout_is_the_jobs_deadline_and_a_client_that_leaves_cancels_its_job() {
    let server = Server::start().await;
    let body = GOOD.replace("]}]}", r#"]}],"parameters":{"timeout":100000,"priority":1}}"#);
    let reply = server.post("/v2/models/stuck/infer", &[], body).await;
    assert_eq!((reply.status, &reply.json()["code"]), (504, &json!("deadline_exceeded")));
    server.await_stuck(0).await;
    let request = server.client.post(server.url("/v2/models/stuck/infer")).body(GOOD).send();
    let call = tokio::spawn(request);
    server.await_stuck(1).await;
    call.abort();
    server.await_stuck(0).await;
}
