//! What holds for every route alike: broken bodies, names that are tricks,
//! HEAD, clients that leave.

use std::io::Write;
use std::time::Duration;

use nobat_gateway::GatewayConfig;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{House, instance, poll};

const LIMIT: usize = 64 << 10;

/// Every route that reads a body.
const WITH_BODY: &[&str] = &[
    "/api/v1/predict/digits",
    "/api/v1/predict/digits/many",
    "/v1/models/digits:predict",
    "/v1/models/digits/versions/1:predict",
    "/v1/models/digits/labels/stable:predict",
    "/v1/models/digits:classify",
    "/v1/models/pair:regress",
    "/predict",
    "/invocations",
    "/v2/models/digits/infer",
    "/v2/models/digits/versions/1/infer",
    "/v2/repository/index",
    "/v2/repository/models/digits/load",
    "/v2/repository/models/digits/unload",
    "/v1/embeddings",
    "/v1/batches",
    "/v1/rerank",
    "/v2/rerank",
    "/embed",
    "/embed_all",
    "/embed_sparse",
    "/rerank",
    "/similarity",
    "/tokenize",
    "/decode",
];

/// Every route with a name in its path, `{}`.
const WITH_NAME: &[(&str, &str)] = &[
    ("GET", "/api/v1/models/{}"),
    ("GET", "/api/v1/queues/{}"),
    ("GET", "/api/v1/queues/{}/dead"),
    ("DELETE", "/api/v1/queues/{}/dead"),
    ("GET", "/api/v1/queues/{}/dead/groups"),
    ("POST", "/api/v1/queues/{}/dead/redrive"),
    ("POST", "/api/v1/queues/{}/pause"),
    ("POST", "/api/v1/queues/{}/resume"),
    ("GET", "/api/v1/jobs/{}"),
    ("DELETE", "/api/v1/jobs/{}"),
    ("GET", "/api/v1/jobs/{}/result"),
    ("GET", "/api/v1/jobs/{}/events"),
    ("POST", "/api/v1/jobs/{}/cancel"),
    ("POST", "/api/v1/jobs/{}/retry"),
    ("POST", "/api/v1/predict/{}"),
    ("POST", "/api/v1/predict/{}/many"),
    ("GET", "/v1/models/{}"),
    ("GET", "/v1/models/{}/metadata"),
    ("GET", "/v1/models/digits/versions/{}"),
    ("GET", "/v1/models/digits/labels/{}"),
    ("POST", "/v1/models/{}:predict"),
    ("POST", "/v1/models/{}:classify"),
    ("POST", "/v1/models/{}:regress"),
    ("GET", "/v2/models/{}"),
    ("GET", "/v2/models/{}/ready"),
    ("GET", "/v2/models/{}/config"),
    ("GET", "/v2/models/{}/stats"),
    ("GET", "/v2/models/digits/versions/{}"),
    ("GET", "/v2/models/digits/versions/{}/config"),
    ("POST", "/v2/models/{}/infer"),
    ("POST", "/v2/models/digits/versions/{}/infer"),
    ("POST", "/v2/repository/models/{}/load"),
    ("POST", "/v2/repository/models/{}/unload"),
];

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).expect("a vector");
    encoder.finish().expect("a vector")
}

async fn house() -> House {
    let config = GatewayConfig {
        default_model: "digits".into(),
        max_body_bytes: LIMIT,
        body_idle_s: 1,
        threads: 1,
        ..GatewayConfig::default()
    };
    House::start_with(config).await
}

/// Sends a request as it stands and reads until the server closes.
async fn exchange(house: &House, request: &[u8]) -> (u16, String) {
    let mut socket = TcpStream::connect(house.addr()).await.expect("connects");
    socket.write_all(request).await.expect("sends");
    let mut answer = Vec::new();
    // A refusal may come with the connection reset behind it.
    let read = tokio::time::timeout(Duration::from_secs(20), socket.read_to_end(&mut answer)).await;
    assert!(read.is_ok() || !answer.is_empty(), "no answer in time");
    let text = String::from_utf8_lossy(&answer).into_owned();
    let status = text.get(9..12).and_then(|digits| digits.parse().ok());
    (status.unwrap_or_else(|| panic!("no answer: {text:?}")), text)
}

/// An error body in the shape of its path's protocol.
fn assert_shape(path: &str, body: &Value) {
    let message = match path {
        "/v1/embeddings" | "/v1/batches" => &body["error"]["message"],
        "/v1/rerank" | "/v2/rerank" => &body["message"],
        path if path.starts_with("/api") => &body["detail"],
        _ => &body["error"],
    };
    assert!(message.as_str().is_some_and(|message| !message.is_empty()), "{path}: {body}");
    assert!(body["code"].is_string() && body["request_id"].is_string(), "{path}: {body}");
}

/// text-embeddings-inference tells what is not JSON from what it does not take.
fn status_of(path: &str, status: u16, body: &Value) -> u16 {
    let is_tei = body["error_type"].is_string() && !path.starts_with("/v");
    if is_tei && status == 400 && body["code"] == "invalid_parameter" { 422 } else { status }
}

#[tokio::test]
async fn broken_bodies_are_refused_on_every_route_that_reads_one() {
    let house = house().await;
    let deep = "[".repeat(LIMIT - 1);
    let deep_member = format!("{{\"parameters\":{}", "{\"a\":".repeat(10_000));
    let mut cut = gzip(instance([1.0; 4]).as_bytes());
    cut.truncate(cut.len() - 4);
    let bomb = gzip(&vec![b' '; 1000 * LIMIT]);
    assert!(bomb.len() < LIMIT + (1 << 14) && bomb.len() * 900 < 1000 * LIMIT, "about 1000:1");
    let long = vec![b' '; LIMIT + 1];
    let cases: [(&str, &[u8], &str, u16); 14] = [
        ("an open brace", b"{", "", 400),
        ("cut off in a name", b"{\"inst", "", 400),
        ("not an object", b"[]", "", 400),
        ("two documents", b"{} {}", "", 400),
        ("nested lists", deep.as_bytes(), "", 400),
        ("nested objects", deep_member.as_bytes(), "", 400),
        ("invalid UTF-8", b"{\"ready\":\"\xff\xfe\"}", "", 400),
        ("a bare control character", b"{\"ready\":\"\n\"}", "", 400),
        ("over the limit", &long, "", 413),
        ("a bomb", &bomb, "gzip", 413),
        ("a compressed body cut off", &cut, "gzip", 400),
        ("not compressed as it says", b"{}", "deflate", 400),
        ("an unknown coding", b"{}", "br", 415),
        ("two codings", b"{}", "gzip, gzip", 415),
    ];
    for path in WITH_BODY {
        for (name, body, coding, status) in &cases {
            let mut request = house.client.post(house.url(path)).body(body.to_vec());
            if !coding.is_empty() {
                request = request.header("content-encoding", *coding);
            }
            let reply = house.send(request).await;
            assert_eq!(reply.status, status_of(path, *status, &reply.json()), "{path}, {name}: {}", reply.text);
            assert_shape(path, &reply.json());
            assert!(reply.text.len() < 1000, "{path}, {name}: {}", reply.text);
        }
    }
    // Side by side: all of it is the time in which a body does not come.
    futures::future::join_all(WITH_BODY.iter().map(async |path| {
        let declared = format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n");
        assert_eq!(exchange(&house, declared.as_bytes()).await.0, 413, "{path}, declared only");
        let short = format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\nConnection: close\r\n\r\n{{");
        assert_eq!(exchange(&house, short.as_bytes()).await.0, 408, "{path}, shorter than declared");
    }))
    .await;
    let good = house.post("/v1/models/digits:predict", instance([1.0; 4])).await;
    assert_eq!(good.status, 200, "the neighbours are served: {}", good.text);
    assert_eq!(house.gateway.serving().admission.limits.in_flight(), 0, "every slot is free again");
    house.stop().await;
}

#[tokio::test]
async fn names_that_are_tricks_find_nothing_on_any_route() {
    let house = house().await;
    let long_name = "x".repeat(5000);
    let names = [
        "..",
        "%2e%2e",
        "..%2f..%2f..%2fetc%2fpasswd",
        "%2fetc%2fpasswd",
        "a%00b",
        "a%5cb",
        "%ff",
        "%",
        "{}",
        "*",
        &long_name,
    ];
    let all = WITH_NAME.iter().flat_map(|route| names.map(|name| (route, name)));
    // Side by side: for some it is waited whether a worker takes a command up.
    futures::future::join_all(all.map(async |((method, template), name)| {
        let path = template.replace("{}", name);
        let request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        let (status, text) = exchange(&house, request.as_bytes()).await;
        let shown: String = path.chars().take(80).collect();
        assert!(matches!(status, 400 | 404 | 405), "{method} {shown}: {text}");
        let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        // A request that is not HTTP is refused before any protocol sees it.
        if let Ok(body) = serde_json::from_str(body) {
            assert_shape(template, &body);
        }
    }))
    .await;
    house.stop().await;
}

#[tokio::test]
async fn head_is_answered_as_get_without_the_body() {
    let house = house().await;
    let id = house.enqueue("?delay=1h", [1.0; 4]).await;
    let job = format!("/api/v1/jobs/{id}");
    for path in [
        "/",
        "/docs/",
        "/docs",
        "/api/openapi.json",
        "/livez",
        "/ping",
        "/api/v1/models",
        "/api/v1/models/digits",
        "/api/v1/queues",
        "/v1/models",
        "/v1/models/digits",
        "/v2",
        "/v2/models/digits",
        "/v2/models/nope",
        "/v2/health/live",
        job.as_str(),
    ] {
        let get = house.get(path).await;
        let head = house.send(house.client.head(house.url(path))).await;
        assert_eq!((head.status, head.text.as_str()), (get.status, ""), "{path}");
        // Error bodies carry ids of their own, but of the same length.
        assert_eq!(head.header("content-length"), get.text.len().to_string(), "{path}");
        assert_eq!(head.header("content-type"), get.header("content-type"), "{path}");
    }
    let events = house.client.head(house.url(&format!("{job}/events"))).send();
    let events = tokio::time::timeout(Duration::from_secs(10), events).await.expect("at once").expect("an answer");
    assert_eq!(events.status(), 200, "a stream is not waited for");
    house.stop().await;
}

#[tokio::test]
async fn a_deleted_job_is_cancelled() {
    let house = house().await;
    let id = house.enqueue("?delay=1h", [1.0; 4]).await;
    let url = house.url(&format!("/api/v1/jobs/{id}"));
    let deleted = house.send(house.client.delete(&url)).await;
    assert_eq!((deleted.status, deleted.json()["state"].as_str()), (200, Some("cancelled")), "{}", deleted.text);
    assert_eq!(house.send(house.client.delete(&url)).await.refusal(), (409, "job_already_finished".into()));
    let unknown = house.client.delete(house.url("/api/v1/jobs/x"));
    assert_eq!(house.send(unknown).await.refusal(), (404, "job_not_found".into()));
    house.stop().await;
}

#[tokio::test]
async fn a_client_that_leaves_frees_its_slot_and_its_queued_job_on_every_waiting_route() {
    let house = house().await;
    house.post("/api/v1/queues/digits/pause", "").await;
    let rows = instance([1.0; 4]);
    let infer = r#"{"inputs":[{"name":"input","shape":[1,4],"datatype":"FP32","data":[1,2,3,4]}]}"#;
    let examples = rows.replace("instances", "examples");
    for (path, body) in [
        ("/api/v1/predict/digits?wait=30", rows.as_str()),
        ("/v1/models/digits:predict", &rows),
        ("/v1/models/digits:classify", &examples),
        ("/predict", &rows),
        ("/invocations", &rows),
        ("/v2/models/digits/infer", infer),
    ] {
        let mut socket = TcpStream::connect(house.addr()).await.expect("connects");
        let request = format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        socket.write_all(request.as_bytes()).await.expect("sends");
        let queued = async || house.get("/api/v1/queues/digits").await.json()["queued"].as_u64();
        poll(Duration::from_secs(10), async || (queued().await == Some(1)).then_some(())).await;
        assert_eq!(house.gateway.serving().admission.limits.in_flight(), 1, "{path}");
        drop(socket);
        poll(Duration::from_secs(10), async || (queued().await == Some(0)).then_some(())).await;
        // The job goes first, its slot right after.
        let free = async || (house.gateway.serving().admission.limits.in_flight() == 0).then_some(());
        poll(Duration::from_secs(10), free).await;
    }
    house.stop().await;
}
