//! Every kind of bad input: the right status and code, the value named, the
//! neighbours served.

use std::io::Write;
use std::time::Duration;

use nobat_gateway::GatewayConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::{House, instance};

#[tokio::test]
async fn bad_bodies_are_refused_by_name_on_every_predicting_route() {
    let house = House::start_with(GatewayConfig { default_model: "digits".into(), ..GatewayConfig::default() }).await;
    let deep = format!("{{\"instances\":{}1", "[".repeat(100_000));
    let deep_object = format!("{{\"instances\":[{}", "{\"input\":".repeat(100_000));
    let long_row = format!("{{\"instances\":[[{}0]]}}", "0,".repeat(100_000));
    let many_rows = format!("{{\"instances\":[{}[1,2,3,4]]}}", "[1,2,3,4],".repeat(64));
    let cases: &[(&[u8], u16, &str, &str)] = &[
        (b"", 400, "invalid_json", "empty"),
        (b"hello", 415, "unsupported_media_type", "without a Content-Type"),
        (b"[]", 400, "invalid_json", "needs `{`"),
        (b"{}", 400, "invalid_json", "neither `instances` nor `inputs`"),
        (b"{\"instance\":[[1,2,3,4]]}", 400, "invalid_json", "`instance`"),
        (b"{\"instances\":[[1,2,3,4]]", 400, "invalid_json", "ends inside"),
        (b"{\"instances\":[[1,2,3,4]]}}", 400, "invalid_json", "the end of the body"),
        (b"{\"instances\":[[1,2,3,4],]}", 400, "invalid_json", "instances[1]"),
        (b"{\"instances\":[[1,2,3,NaN]]}", 400, "invalid_json", "instances[0][3]"),
        (b"{\"instances\":[[1,2,3,Infinity]]}", 400, "invalid_json", "no Infinity"),
        (b"{\"instances\":[[1,2,3,\xff]]}", 400, "invalid_json", "\\xff"),
        (b"{\"inst\xffances\":[[1,2,3,4]]}", 400, "invalid_json", "invalid UTF-8"),
        (b"{\"instances\":[[1,2,3]]}", 400, "invalid_tensor", "[1, 3]; model `digits` takes [-1, 4]"),
        (b"{\"instances\":[[1,2,3,4,5]]}", 400, "invalid_tensor", "[1, 5]"),
        (b"{\"instances\":[1,2,3,4]}", 400, "invalid_tensor", "has shape [4]"),
        (b"{\"instances\":[[[1,2,3,4]]]}", 400, "invalid_tensor", "[1, 1, 4]"),
        (b"{\"instances\":[[1,2,3,4],[1,2,3]]}", 400, "invalid_tensor", "instances[1] has 3 elements"),
        (b"{\"instances\":[[1,2,3,\"4\"]]}", 400, "invalid_tensor", "not a value of FP32"),
        (b"{\"instances\":[[1,2,3,null]]}", 400, "invalid_tensor", "`null`"),
        (b"{\"instances\":[[1,2,3,true]]}", 400, "invalid_tensor", "`true`"),
        (b"{\"instances\":[[1,2,3,1e39]]}", 400, "invalid_tensor", "beyond the range of FP32"),
        (b"{\"instances\":[]}", 400, "invalid_tensor", ""),
        (b"{\"inputs\":[]}", 400, "invalid_tensor", ""),
        (b"{\"inputs\":{\"x\":[[1,2,3,4]]}}", 400, "invalid_tensor", "takes input"),
        (b"{\"inputs\":{}}", 400, "invalid_tensor", "input `input` is missing"),
        (b"{\"instances\":[[1,2,3,4]],\"outputs\":[\"nope\"]}", 400, "invalid_parameter", "`nope`"),
        (b"{\"instances\":[[1,2,3,4]],\"signature_name\":\"x\"}", 400, "invalid_parameter", "`x`"),
        (deep.as_bytes(), 400, "invalid_json", "deeper than 32"),
        (deep_object.as_bytes(), 400, "invalid_json", "instances[0].input"),
        (long_row.as_bytes(), 400, "invalid_tensor", "100001"),
        (many_rows.as_bytes(), 413, "payload_too_large", "64"),
    ];
    for path in ["/v1/models/digits:predict", "/api/v1/predict/digits", "/predict", "/invocations"] {
        let message = if path.starts_with("/api") { "detail" } else { "error" };
        for (body, status, code, named) in cases {
            let reply = house.post(path, body.to_vec()).await;
            let shown = String::from_utf8_lossy(&body[..body.len().min(60)]);
            assert_eq!(reply.refusal(), (*status, (*code).to_owned()), "{path} {shown}: {}", reply.text);
            let text = reply.json()[message].as_str().expect("a message").to_owned();
            assert!(text.contains(named), "{path} {shown}: {text}");
            assert!(text.len() < 400, "{path} {shown}: {text}");
        }
        let good = house.post(&format!("{path}?wait=10"), instance([1.0; 4])).await;
        assert_eq!(good.status, 200, "{path} after bad input: {}", good.text);
    }
    house.stop().await;
}

#[tokio::test]
async fn bad_paths_methods_and_parameters_are_refused_in_the_shape_of_their_protocol() {
    let house = House::start().await;
    let body = instance([1.0; 4]);
    for (path, status, code) in [
        ("/v1/models/nope:predict", 404, "model_not_found"),
        ("/v1/models/digits/versions/9:predict", 404, "version_not_found"),
        ("/v1/models/digits/labels/beta:predict", 404, "version_not_found"),
        ("/v1/models/digits/versions/1:predict?version=1", 400, "invalid_parameter"),
        ("/v1/models/..%2f..%2fetc:predict", 404, "model_not_found"),
        ("/v1/models/%00:predict", 404, "model_not_found"),
        ("/v1/models/digits:predict?priority=300", 400, "invalid_parameter"),
        ("/v1/models/digits:predict?unknown=1", 400, "invalid_parameter"),
        ("/api/v1/predict/nope", 404, "model_not_found"),
        ("/api/v1/predict/digits?version=2", 404, "version_not_found"),
        ("/api/v1/predict/digits?deadline=never", 400, "invalid_parameter"),
        ("/api/v1/predict/digits?wait=-1", 400, "invalid_parameter"),
        ("/api/v1/predict/digits?max_retries=999", 400, "invalid_parameter"),
        ("/api/v1/predict/digits/other", 404, "route_not_found"),
        ("/api/v1/predict/digits/many?wait=1s", 400, "invalid_parameter"),
        ("/v1/models/digits:predict?wait=0", 400, "invalid_parameter"),
        ("/v1/models/digits:predict?deadline=0", 400, "invalid_parameter"),
        ("/nothing/here", 404, "route_not_found"),
    ] {
        let reply = house.post(path, body.clone()).await;
        assert_eq!(reply.refusal(), (status, code.into()), "{path}: {}", reply.text);
        let plain = path.starts_with("/v1");
        assert_eq!(reply.json()["error"].is_string(), plain, "{path}");
        assert!(reply.json()["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{path}: in every shape");
        assert_eq!(reply.header("content-type"), if plain { "application/json" } else { "application/problem+json" });
    }
    for (path, allow) in [
        ("/v1/models/digits:predict", "POST, OPTIONS"),
        ("/predict", "POST, OPTIONS"),
        ("/api/v1/predict/digits", "POST, OPTIONS"),
        ("/api/v1/jobs/x/cancel", "POST, OPTIONS"),
        ("/api/v1/queues/digits/pause", "POST, OPTIONS"),
    ] {
        let reply = house.get(path).await;
        assert_eq!((reply.status, reply.header("allow")), (405, allow), "{path}");
    }
    let reply = house.send(house.client.put(house.url("/api/v1/models"))).await;
    assert_eq!((reply.refusal(), reply.header("allow")), ((405, "method_not_allowed".into()), "GET, HEAD, OPTIONS"));
    house.stop().await;
}

#[tokio::test]
async fn bodies_over_the_limit_are_refused_declared_sent_or_inflated() {
    let house = House::start_with(GatewayConfig { max_body_bytes: 4096, ..GatewayConfig::default() }).await;
    let too_large = (413, "payload_too_large".to_owned());
    let reply = house.post("/v1/models/digits:predict", vec![b' '; 5000]).await;
    assert_eq!(reply.refusal(), too_large);
    assert!(reply.text.contains("4096"), "{}", reply.text);
    let pieces = futures::stream::iter((0..5).map(|_| Ok::<_, std::io::Error>(vec![b' '; 1000])));
    assert_eq!(house.post("/api/v1/predict/digits", chunked(pieces).await).await.refusal(), too_large);
    let mut bomb = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    bomb.write_all(&vec![b' '; 1 << 20]).expect("a vector");
    let bomb = bomb.finish().expect("a vector");
    assert!(bomb.len() < 2000);
    let request = house.client.post(house.url("/v1/models/digits:predict")).header("content-encoding", "gzip");
    assert_eq!(house.send(request.body(bomb)).await.refusal(), too_large);

    let mut zipped = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    zipped.write_all(instance([1.0, 0.0, 0.0, 0.0]).as_bytes()).expect("a vector");
    let request = house.client.post(house.url("/v1/models/digits:predict")).header("content-encoding", "gzip");
    assert_eq!(house.send(request.body(zipped.finish().expect("a vector"))).await.status, 200);
    let request = house.client.post(house.url("/v1/models/digits:predict")).header("content-encoding", "br");
    assert_eq!(house.send(request.body("x")).await.refusal(), (415, "unsupported_encoding".into()));
    house.stop().await;
}

/// The pieces as one body; sent without a length by the hand-written request
/// of the slow sender, with one here.
async fn chunked(pieces: impl futures::Stream<Item = Result<Vec<u8>, std::io::Error>>) -> Vec<u8> {
    use futures::TryStreamExt;
    pieces.try_concat().await.expect("pieces")
}

#[tokio::test]
async fn a_slow_sender_is_cut_off_and_its_neighbours_are_served() {
    let house = House::start_with(GatewayConfig { body_idle_s: 1, threads: 1, ..GatewayConfig::default() }).await;
    let mut slow = tokio::net::TcpStream::connect(house.addr()).await.expect("connects");
    slow.write_all(
        b"POST /v1/models/digits:predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n",
    )
    .await
    .expect("sends");
    assert_eq!(house.post("/v1/models/digits:predict", instance([1.0; 4])).await.status, 200);
    let mut answer = vec![0; 4096];
    let read = tokio::time::timeout(Duration::from_secs(20), slow.read(&mut answer)).await;
    let count = read.expect("cut off in time").expect("reads");
    let text = String::from_utf8_lossy(&answer[..count]).into_owned();
    assert!(text.starts_with("HTTP/1.1 408"), "{text}");
    assert!(text.contains("request_timeout"), "{text}");
    house.stop().await;
}
