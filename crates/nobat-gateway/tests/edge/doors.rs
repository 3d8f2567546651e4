//! Who may go through which door, however the path is written: every registered
//! route, its methods, and percent-encodings of both.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use http::uri::PathAndQuery;
use nobat_core::oip::{ModelInferRequest, ModelInferResponse};
use nobat_gateway::GatewayConfig;
use nobat_gateway::proto::{RepositoryIndexRequest, RepositoryModelLoadRequest, RepositoryModelUnloadRequest};
use nobat_gateway::routes::document;
use nobat_serving::auth::{self, Keyring, Scope};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::client::Grpc;
use tonic::transport::Channel;
use tonic::{Code, Request};
use tonic_prost::ProstCodec;

use crate::house::{House, send};
use crate::keys::{key, with_keys};

/// Every documented operation, with names in the place of parameters.
fn operations() -> Vec<(String, String)> {
    let document: Value = serde_json::to_value(document()).expect("a document");
    let mut found = Vec::new();
    for (path, methods) in document["paths"].as_object().expect("paths") {
        let named = path.split('/').map(|segment| match segment {
            "{id}" => "msg_1",
            segment if segment.starts_with('{') && segment.ends_with('}') => "echo",
            segment => segment,
        });
        let path = named.collect::<Vec<_>>().join("/").replace("{model}", "echo");
        for method in methods.as_object().expect("operations").keys() {
            found.push((method.to_uppercase(), path.clone()));
        }
    }
    found
}

/// Ways to write a path that a router may read as the same one.
fn spellings(path: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, byte) in path.bytes().enumerate().skip(1) {
        let (before, after) = (&path[..at], &path[at + 1..]);
        found.insert(format!("{before}%{byte:02x}{after}"));
        found.insert(format!("{before}%{byte:02X}{after}"));
        found.insert(format!("{before}%25{byte:02x}{after}"));
    }
    let all: String = path.bytes().skip(1).map(|byte| format!("%{byte:02x}")).collect();
    let but_slashes: String =
        path.bytes().map(|byte| if byte == b'/' { "/".into() } else { format!("%{byte:02X}") }).collect();
    found.extend([format!("/{all}"), but_slashes, format!("/{path}"), format!("{path}/"), format!("/.{path}")]);
    found.extend([path.replace('/', "/./"), path.to_uppercase(), format!("{path}%00"), format!("{path};x=y")]);
    found
}

/// The status of one request, whose answer may go on for ever.
async fn ask_one(house: &House, method: &str, path: &str, key: Option<&str>) -> u16 {
    let key = key.map(|key| format!("authorization: Bearer {key}\r\n")).unwrap_or_default();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 2\r\n{key}\r\n{{}}"
    );
    let mut socket = TcpStream::connect(house.gateway.http_addr()).await.expect("connects");
    socket.write_all(request.as_bytes()).await.expect("sends");
    let mut begin = [0; 12];
    let read = tokio::time::timeout(Duration::from_secs(30), socket.read_exact(&mut begin)).await;
    read.expect("in time").unwrap_or_else(|error| panic!("no answer to {method} {path}: {error}"));
    std::str::from_utf8(&begin[9..]).ok().and_then(|digits| digits.parse().ok()).expect("a status")
}

/// The statuses of requests with these paths, as they stand: a client would tidy them up. They go
/// down one connection after another, as many at once as one answers.
async fn ask(house: &House, method: &str, paths: &[String], key: Option<&str>) -> Vec<u16> {
    let key = key.map(|key| format!("authorization: Bearer {key}\r\n")).unwrap_or_default();
    let mut statuses = Vec::new();
    while let Some((last, others)) = paths.get(statuses.len()..).and_then(<[String]>::split_last) {
        let head = |path: &str, more: &str| format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\n{more}{key}\r\n");
        let others = others.iter().map(|path| head(path, ""));
        let requests: String = others.chain([head(last, "connection: close\r\n")]).collect();
        let mut socket = TcpStream::connect(house.gateway.http_addr()).await.expect("connects");
        let (mut read, mut write) = socket.split();
        let mut answers = Vec::new();
        // It may be closed before all is sent, by a request that is no HTTP.
        let (_, answered) = tokio::join!(write.write_all(requests.as_bytes()), read.read_to_end(&mut answers));
        assert!(answered.is_ok() || !answers.is_empty(), "no answer to {method} {last}");
        let before = statuses.len();
        let mut rest = &answers[..];
        while let Some((status, after)) = next_answer(rest) {
            statuses.push(status);
            rest = after;
        }
        assert!(statuses.len() > before, "{}", String::from_utf8_lossy(&answers));
    }
    statuses
}

/// The status of the first answer, and what follows it.
fn next_answer(answers: &[u8]) -> Option<(u16, &[u8])> {
    let end = answers.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(&answers[..end]).expect("ASCII");
    let length = |line: &str| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse::<usize>().ok();
    let length = head.lines().find_map(length).unwrap_or_else(|| panic!("no length in {head}"));
    Some((head[9..12].parse().expect("a status"), answers.get(end + length..)?))
}

#[tokio::test(flavor = "multi_thread")]
async fn no_spelling_of_a_path_opens_a_door_that_its_plain_form_does_not() {
    let dir = tempfile::tempdir().expect("a folder");
    let (mut ring, now) = (Keyring::default(), auth::now_s());
    let reader = ring.add(key("reader", Scope::Read, &[], None), now).expect("made");
    let predictor = ring.add(key("predictor", Scope::Predict, &[], None), now).expect("made");
    let house = House::start(with_keys(&dir.path().join("keys.toml"), &ring), json!({}), Duration::ZERO).await;
    let mut shut = 0;
    for (method, path) in operations() {
        for key in [None, Some(reader.as_str()), Some(predictor.as_str())] {
            let plain = ask_one(&house, &method, &path, key).await;
            if !matches!(plain, 401 | 403) {
                continue;
            }
            shut += 1;
            let spellings: Vec<String> = spellings(&path).into_iter().collect();
            let statuses = ask(&house, &method, &spellings, key).await;
            for (spelling, status) in spellings.iter().zip(statuses) {
                assert!(
                    status == plain || matches!(status, 400 | 404),
                    "{method} {path} is {plain} to {key:?}, and {spelling} is {status}"
                );
            }
        }
    }
    assert!(shut > 100, "{shut} doors were shut");
    house.stop().await;
}

#[tokio::test]
async fn administrators_alone_read_what_shows_everybodys() {
    let dir = tempfile::tempdir().expect("a folder");
    let (mut ring, now) = (Keyring::default(), auth::now_s());
    let reader = ring.add(key("reader", Scope::Read, &[], None), now).expect("made");
    let admin = ring.add(key("admin", Scope::Admin, &[], None), now).expect("made");
    let house = House::start(with_keys(&dir.path().join("keys.toml"), &ring), json!({}), Duration::ZERO).await;
    for path in [
        "/api/v1/periodic",
        "/api/v1/periodi%63",
        "/api/v1/%70eriodic",
        "/%61pi/v1/periodic",
        "/api/v1/webhooks/endpoints",
        "/api/v1/webhook%73/endpoints",
        "/api/v1/webhooks/deliverie%73",
    ] {
        assert_eq!(house.get(path, Some(&reader)).await.status, 403, "{path}");
        assert_eq!(house.get(path, None).await.status, 401, "{path}");
        assert_eq!(house.get(path, Some(&admin)).await.status, 200, "{path}");
    }
    for open in ["/", "/livez", "/readyz", "/v2/health/live", "/docs/", "/api/openapi.json", "/openapi.json"] {
        let status = house.get(open, None).await.status;
        assert!(matches!(status, 200 | 404), "{open}: {status}");
    }
    house.stop().await;
}

#[tokio::test]
async fn grpc_methods_are_judged_by_their_name_before_their_message_is_read() {
    let dir = tempfile::tempdir().expect("a folder");
    let (mut ring, now) = (Keyring::default(), auth::now_s());
    let reader = ring.add(key("reader", Scope::Read, &[], None), now).expect("made");
    let house = House::start(with_keys(&dir.path().join("keys.toml"), &ring), json!({}), Duration::ZERO).await;
    let mut client = house.grpc().await;
    let with_key = |text: &str| {
        let mut request = Request::new(RepositoryModelLoadRequest { model_name: "echo".into(), ..Default::default() });
        request.metadata_mut().insert("authorization", format!("Bearer {text}").parse().expect("ASCII"));
        request
    };
    let refused = client.repository_model_load(with_key(&reader)).await.expect_err("it reads only");
    assert_eq!(refused.code(), Code::PermissionDenied);
    let nobody = client.repository_index(RepositoryIndexRequest::default()).await.expect_err("no key");
    assert_eq!(nobody.code(), Code::Unauthenticated);

    // A call without a key whose message never comes: its head is answered.
    let address = house.gateway.grpc_addr().expect("gRPC is on");
    let channel = Channel::from_shared(format!("http://{address}")).expect("an address").connect().await;
    let mut client = Grpc::new(channel.expect("connects"));
    client.ready().await.expect("ready");
    let endless = Request::new(futures::stream::pending::<ModelInferRequest>());
    let path = PathAndQuery::from_static("/inference.GRPCInferenceService/ModelInfer");
    let codec = ProstCodec::<ModelInferRequest, ModelInferResponse>::default();
    let call = client.client_streaming(endless, path, codec);
    let refused = tokio::time::timeout(Duration::from_secs(20), call).await.expect("at once").expect_err("no key");
    assert_eq!(refused.code(), Code::Unauthenticated);
    house.stop().await;
}

#[tokio::test]
async fn changes_over_grpc_are_written_down_as_those_over_http_are() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut ring = Keyring::default();
    let admin = ring.add(key("admin", Scope::Admin, &[], None), auth::now_s()).expect("made");
    let house = House::start(with_keys(&dir.path().join("keys.toml"), &ring), json!({}), Duration::ZERO).await;
    let mut client = house.grpc().await;
    let bearer = || format!("Bearer {admin}").parse().expect("ASCII");
    let mut request =
        Request::new(RepositoryModelUnloadRequest { model_name: "nonsense".into(), ..Default::default() });
    request.metadata_mut().insert("authorization", bearer());
    assert_eq!(client.repository_model_unload(request).await.expect_err("none").code(), Code::NotFound);
    let mut request = Request::new(RepositoryModelLoadRequest { model_name: "../x".into(), ..Default::default() });
    request.metadata_mut().insert("authorization", bearer());
    assert_eq!(client.repository_model_load(request).await.expect_err("a path").code(), Code::InvalidArgument);
    let mut shown = Vec::new();
    let end = Instant::now() + Duration::from_secs(20);
    while shown.len() < 2 {
        assert!(Instant::now() < end, "{shown:?}");
        let entries = house.get("/api/v1/audit", Some(&admin)).await.json()["entries"].clone();
        shown = entries.as_array().expect("a list").clone();
    }
    let told = |entry: &Value| {
        let text = |name: &str| entry[name].as_str().expect(name).to_owned();
        (text("name"), text("by"), text("action"), text("target"), entry["status"].as_u64())
    };
    let entry = |call: &str, target: &str, status| {
        ("admin".to_owned(), "api".to_owned(), format!("gRPC {call}"), target.to_owned(), Some(status))
    };
    assert_eq!(
        shown.iter().map(told).collect::<Vec<_>>(),
        [entry("RepositoryModelLoad", "../x", 400), entry("RepositoryModelUnload", "nonsense", 404)]
    );
    house.stop().await;
}

#[tokio::test]
async fn a_key_for_one_model_sees_that_model_only() {
    let dir = tempfile::tempdir().expect("a folder");
    let (mut ring, now) = (Keyring::default(), auth::now_s());
    let mine = ring.add(key("mine", Scope::Admin, &["echo"], None), now).expect("made");
    let other = ring.add(key("other", Scope::Admin, &["other", "ech.*"], None), now).expect("made");
    let route = serde_json::from_value(json!({ "name": "echo", "direct": "echo/1" })).expect("a route");
    let config = GatewayConfig { routes: vec![route], ..with_keys(&dir.path().join("keys.toml"), &ring) };
    let house = House::start(config, json!({}), Duration::ZERO).await;
    for path in [
        "/api/v1/models/echo",
        "/api/v1/queues/echo",
        "/api/v1/queues/echo/dead",
        "/api/v1/routes/echo",
        "/api/v1/routes/echo/pairs?copy=echo",
        "/v1/models/echo",
        "/v1/models/ech%6F",
        "/v1/models/echo/metadata",
        "/v2/models/echo",
        "/v2/models/ech%6f",
        "/v2/models/echo/versions/1",
        "/v2/models/echo/ready",
        "/v2/models/echo/config",
        "/v2/models/echo/stats",
    ] {
        assert_eq!(house.get(path, Some(&mine)).await.status, 200, "{path}");
        let refused = house.get(path, Some(&other)).await;
        assert_eq!(refused.status, 403, "{path}: {}", refused.text);
        // What is not there is no different.
        let absent = house
            .get(&path.replace("echo", "none").replace("ech%6F", "none").replace("ech%6f", "none"), Some(&other))
            .await;
        assert_eq!(absent.status, 403, "{path}");
    }
    let lists = [
        "/api/v1/models",
        "/api/v1/queues",
        "/api/v1/routes",
        "/api/v1/status",
        "/v1/models",
        "/v2/models",
        "/v2/models/stats",
        "/api/v1/jobs",
    ];
    for path in lists {
        assert!(
            matches!(path, "/api/v1/jobs" | "/api/v1/status")
                || house.get(path, Some(&mine)).await.text.contains("echo"),
            "{path}"
        );
        let seen = house.get(path, Some(&other)).await;
        assert!(seen.status == 200 && !seen.text.contains("echo"), "{path}: {}", seen.text);
    }
    let mut client = house.grpc().await;
    let mut index = Request::new(RepositoryIndexRequest::default());
    index.metadata_mut().insert("authorization", format!("Bearer {other}").parse().expect("ASCII"));
    assert!(client.repository_index(index).await.expect("it may ask").into_inner().models.is_empty());
    house.stop().await;
}

#[tokio::test]
async fn an_administrator_sees_and_cancels_everybodys_jobs() {
    let dir = tempfile::tempdir().expect("a folder");
    let (mut ring, now) = (Keyring::default(), auth::now_s());
    let caller = ring.add(key("caller", Scope::Predict, &[], None), now).expect("made");
    let admin = ring.add(key("admin", Scope::Admin, &[], None), now).expect("made");
    let elsewhere = ring.add(key("elsewhere", Scope::Admin, &["other"], None), now).expect("made");
    let mut house = House::start(with_keys(&dir.path().join("keys.toml"), &ring), json!({}), Duration::ZERO).await;
    house.kill_worker();
    let id = house.enqueue(Some(&caller)).await.json()["id"].as_str().expect("an id").to_owned();
    let job = format!("/api/v1/jobs/{id}");
    assert_eq!(house.get(&job, Some(&admin)).await.status, 200);
    assert_eq!(house.get(&format!("{job}/result?wait=20ms"), Some(&admin)).await.status, 202);
    let listed = house.get("/api/v1/jobs?state=queued", Some(&admin)).await.json();
    assert_eq!(listed["jobs"][0]["id"], id.as_str(), "{listed}");
    assert_eq!(house.get(&job, Some(&elsewhere)).await.status, 404, "its models are others");
    assert_eq!(house.get("/api/v1/jobs", Some(&elsewhere)).await.json()["jobs"], json!([]));
    let mut forged = id.clone().into_bytes();
    // In the check of 32 bits: the record is there, the id is not the one it has.
    forged[28] = if forged[28] == b'1' { b'2' } else { b'1' };
    let forged = String::from_utf8(forged).expect("ASCII");
    assert_eq!(house.get(&format!("/api/v1/jobs/{forged}"), Some(&admin)).await.status, 404);
    let cancel = reqwest::Client::new().post(house.url(&format!("{job}/cancel")));
    let cancelled = send(cancel, Some(&admin), &[]).await;
    assert_eq!((cancelled.status, cancelled.json()["state"].as_str()), (200, Some("cancelled")), "{}", cancelled.text);
    house.stop().await;
}

#[tokio::test]
async fn an_id_that_passes_the_check_still_needs_its_owner_and_guesses_come_to_an_end() {
    let dir = tempfile::tempdir().expect("a folder");
    let (mut ring, now) = (Keyring::default(), auth::now_s());
    let theirs = ring.add(key("theirs", Scope::Predict, &[], None), now).expect("made");
    let guesser = ring.add(key("guesser", Scope::Predict, &[], None), now).expect("made");
    let mut config = with_keys(&dir.path().join("keys.toml"), &ring);
    config.limits.failed_lookups_per_min = 20;
    let house = House::start(config, json!({}), Duration::ZERO).await;
    let id: nobat_core::JobId =
        house.enqueue(Some(&theirs)).await.json()["id"].as_str().expect("an id").parse().expect("an id");
    // What 2^32 guesses would find: the check that the guesser's own jobs would have.
    let guesser_id = guesser.split('_').nth(1).expect("an id");
    let owner = auth::KeyId::parse(guesser_id).expect("an id").owner();
    let ids = house.gateway.serving().queue.ids();
    let found = ids.issue(id.random, id.tombstone_min, id.locator, owner);
    assert!(ids.verify(found, owner), "it passes the check");
    let reply = house.get(&format!("/api/v1/jobs/{found}"), Some(&guesser)).await;
    assert_eq!(reply.status, 404, "{}", reply.text);

    let own = house.enqueue(Some(&guesser)).await.json()["id"].as_str().expect("an id").to_owned();
    let mut answers = Vec::new();
    for guess in 0..25u64 {
        let made_up = ids.issue(u128::from(guess), id.tombstone_min, 1, nobat_core::OwnerId(77));
        answers.push(house.get(&format!("/api/v1/jobs/{made_up}"), Some(&guesser)).await.status);
    }
    assert_eq!(answers.iter().filter(|&&status| status == 404).count(), 19, "{answers:?}");
    let refused = house.get(&format!("/api/v1/jobs/{own}"), Some(&guesser)).await;
    assert_eq!((refused.status, refused.json()["code"].as_str()), (429, Some("rate_limited")), "right ones too");
    assert!(refused.header("retry-after").parse::<u32>().expect("seconds") >= 1);
    assert_eq!(house.get(&format!("/api/v1/jobs/{id}"), Some(&theirs)).await.status, 200, "others go on");
    house.stop().await;
}
