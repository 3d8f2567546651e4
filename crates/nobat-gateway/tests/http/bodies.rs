//! Files as bodies: a picture, a form of several, a data URL, an address; waited for, or as
//! jobs, or over a route.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use nobat_gateway::GatewayConfig;
use nobat_serving::auth::{self, AuthConfig, Keyring, NewKey, Scope};
use nobat_serving::limits::LimitsConfig;
use nobat_webhooks::outbound::{AddressPolicy, FetchSettings};
use serde_json::{Value, json};

use crate::harness::{House, Reply, digits, photo, text};

/// No text: a picture as it could be.
const PICTURE: &[u8] = b"\xff\xd8\xff\xe0picture";

async fn house() -> House {
    let routes = serde_json::from_value(json!([{ "name": "album", "direct": "photo" }])).expect("routes");
    let fetch = FetchSettings {
        hosts: vec!["127.0.0.1".into(), "10.0.0.1".into()],
        addresses: AddressPolicy { allow_http: true, allow_private: true },
        ..FetchSettings::default()
    };
    let config = GatewayConfig { routes, fetch, ..GatewayConfig::default() };
    House::start_serving(config, vec![digits(), photo(), text()]).await
}

async fn post(house: &House, path: &str, kind: &str, body: impl Into<Vec<u8>>) -> Reply {
    house.send(house.client.post(house.url(path)).header("content-type", kind).body(body.into())).await
}

/// What the echoing model answers for bytes that are no text.
fn echoed(bytes: &[u8]) -> Value {
    use base64::Engine;
    json!({ "b64": base64::engine::general_purpose::STANDARD.encode(bytes) })
}

fn form(parts: &[(&str, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (head, value) in parts {
        body.extend(format!("--B\r\nContent-Disposition: form-data; {head}\r\n\r\n").as_bytes());
        body.extend_from_slice(value);
        body.extend(b"\r\n");
    }
    body.extend(b"--B--\r\n");
    body
}

#[tokio::test]
async fn a_picture_is_a_body_wherever_a_prediction_is_asked_for() {
    let house = house().await;
    for path in ["/api/v1/predict/photo?wait=20", "/api/v1/predict/album?wait=20", "/v1/models/photo:predict"] {
        for kind in ["image/jpeg", "application/octet-stream", "Image/PNG; q=1"] {
            let reply = post(&house, path, kind, PICTURE).await;
            assert_eq!(reply.status, 200, "{path} {kind}: {}", reply.text);
            assert_eq!(reply.json()["predictions"], json!([echoed(PICTURE)]), "{path} {kind}");
        }
    }
    // Nobody waits.
    let accepted = post(&house, "/api/v1/predict/photo", "image/webp", PICTURE).await;
    assert_eq!(accepted.status, 202, "{}", accepted.text);
    let id = accepted.json()["id"].as_str().expect("an id").to_owned();
    let result = house.get(&format!("/api/v1/jobs/{id}/result?wait=20")).await;
    assert_eq!(result.json()["predictions"], json!([echoed(PICTURE)]), "{}", result.text);
    // A model without a task takes files of any kind.
    let reply = post(&house, "/api/v1/predict/text?wait=20", "audio/wav", &b"RIFF"[..]).await;
    assert_eq!(reply.json()["predictions"], json!(["RIFF"]), "{}", reply.text);
    house.stop().await;
}

#[tokio::test]
async fn a_forms_files_are_rows_and_its_texts_parameters() {
    let house = house().await;
    let body = form(&[
        (r#"name="file"; filename="a.jpg""#, PICTURE),
        (r#"name="top_k""#, b"3"),
        (r#"name="image"; filename="b.jpg""#, b"second"),
    ]);
    let reply = post(&house, "/api/v1/predict/photo?wait=20", "multipart/form-data; boundary=B", body).await;
    assert_eq!(reply.json()["predictions"], json!([echoed(PICTURE), "second"]), "{}", reply.text);
    for (parts, code, named) in [
        (form(&[(r#"name="top_k""#, b"3")]), "invalid_parameter", "-F 'image=@FILE'"),
        (form(&[(r#"name="f"; filename="a""#, b"x"), (r#"name="top""#, b"3")]), "invalid_parameter", "`top`"),
        (b"--B\r\nContent-Disposition".to_vec(), "invalid_parameter", "the form cannot be read"),
    ] {
        let reply = post(&house, "/api/v1/predict/photo?wait=20", "multipart/form-data; boundary=B", parts).await;
        assert_eq!(reply.refusal(), (400, code.to_owned()), "{}", reply.text);
        assert!(reply.text.contains(named), "{}", reply.text);
    }
    let many = form(&vec![(r#"name="x""#, &b"1"[..]); 65_537]);
    let reply = post(&house, "/api/v1/predict/photo?wait=20", "multipart/form-data; boundary=B", many).await;
    assert_eq!(reply.refusal(), (413, "payload_too_large".to_owned()), "{}", reply.text);
    let reply = post(&house, "/api/v1/predict/photo", "multipart/form-data", form(&[])).await;
    assert_eq!(reply.refusal(), (415, "unsupported_media_type".to_owned()), "{}", reply.text);
    let reply = post(&house, "/api/v1/predict/digits", "image/jpeg", PICTURE).await;
    assert_eq!(reply.refusal(), (415, "unsupported_media_type".to_owned()), "{}", reply.text);
    assert!(reply.text.contains("`input` FP32[-1, 4]"), "{}", reply.text);
    house.stop().await;
}

#[tokio::test]
async fn pictures_in_json_are_bytes_data_urls_or_addresses_in_every_protocol() {
    let house = house().await;
    let encoded = echoed(PICTURE);
    let encoded = encoded["b64"].as_str().expect("base64");
    let data_url = format!("data:image/jpeg;base64,{encoded}");
    let address = format!("{}/cat.jpg", serve(PICTURE));
    let forms = [
        json!({ "b64": encoded }),
        json!(data_url),
        json!({ "url": data_url }),
        json!(address),
        json!({ "url": address }),
    ];
    for path in ["/api/v1/predict/photo?wait=20", "/v1/models/photo:predict"] {
        for given in &forms {
            for body in [
                json!({ "instances": [given] }),
                json!({ "instances": [{ "image": given }] }),
                json!({ "records": [{ "image": given }] }),
            ] {
                if body.get("records").is_some() && given.get("url").is_some() {
                    continue;
                }
                let reply = house.post(path, body.to_string()).await;
                assert_eq!(reply.status, 200, "{body}: {}", reply.text);
                assert_eq!(reply.json()["predictions"], json!([echoed(PICTURE)]), "{body}");
            }
            let body = json!({ "inputs": [given, given] });
            let reply = house.post(path, body.to_string()).await;
            assert_eq!(reply.json()["outputs"], json!([echoed(PICTURE), echoed(PICTURE)]), "{body}: {}", reply.text);
        }
    }
    for given in [&data_url, &address] {
        let input = json!({ "name": "image", "shape": [1], "datatype": "BYTES", "data": [given] });
        let outputs = json!([{ "name": "out", "parameters": { "binary_data": true } }]);
        let body = json!({ "inputs": [input], "outputs": outputs });
        let response = house.client.post(house.url("/v2/models/photo/infer")).body(body.to_string()).send().await;
        let answer = response.expect("an answer").bytes().await.expect("a body");
        assert!(answer.ends_with(PICTURE), "{}", String::from_utf8_lossy(&answer));
    }
    // An address is text to a model that takes no pictures, and no element of its own.
    let reply = house.post("/v1/models/text:predict", json!({ "instances": [address] }).to_string()).await;
    assert_eq!(reply.json()["predictions"], json!([address]));
    let reply = house.post("/v1/models/text:predict", json!({ "instances": [{ "url": address }] }).to_string()).await;
    assert_eq!(reply.status, 400, "{}", reply.text);
    house.stop().await;
}

#[tokio::test]
async fn an_address_that_may_not_be_fetched_is_refused_by_name() {
    let strict = FetchSettings { hosts: vec!["*".into()], ..FetchSettings::default() };
    let config = GatewayConfig { fetch: strict, ..GatewayConfig::default() };
    let house = House::start_serving(config, vec![photo()]).await;
    for (url, status, named) in [
        ("https://10.0.0.1/cat.jpg", 400, "`10.0.0.1` is private or reserved"),
        ("https://localhost/cat.jpg", 400, "`localhost`"),
        ("http://example.com/cat.jpg", 400, "scheme `http`"),
        ("data:image/png,notbase64", 400, "element 0 is `data:image/png,notbase64`, no data URL in base64"),
    ] {
        let reply = house.post("/api/v1/predict/photo?wait=20", json!({ "instances": [url] }).to_string()).await;
        assert_eq!(reply.status, status, "{url}: {}", reply.text);
        assert!(reply.text.contains(named), "{url}: {}", reply.text);
    }
    house.stop().await;
    let house = House::start_serving(GatewayConfig::default(), vec![photo()]).await;
    let body = json!({ "instances": [{ "url": "https://example.com/cat.jpg" }] }).to_string();
    let reply = house.post("/api/v1/predict/photo?wait=20", body).await;
    assert_eq!(reply.refusal(), (403, "permission_denied".to_owned()), "{}", reply.text);
    assert!(reply.text.contains("gateway.fetch.hosts"), "{}", reply.text);
    house.stop().await;
}

#[tokio::test]
async fn nothing_is_fetched_for_who_may_not_ask_and_what_is_counts_as_a_body() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("keys.toml");
    let new = |name: &str, model: &str| NewKey {
        name: name.into(),
        scope: Scope::Predict,
        models: vec![model.into()],
        valid_s: None,
        rate_per_s: 0.0,
        burst: 0,
        max_in_flight: 0,
        tokens_per_min: 0,
        max_priority: None,
    };
    let mut ring = Keyring::default();
    let stranger = ring.add(new("stranger", "digits"), 1).expect("made");
    let known = ring.add(new("known", "*"), 1).expect("made");
    auth::store(&path, &ring).expect("stored");
    let address = Fetched::of(vec![0xff; 200_000].leak());
    let config = || GatewayConfig {
        auth: AuthConfig { keys: path.display().to_string(), insecure: false },
        routes: serde_json::from_value(json!([{ "name": "album", "direct": "photo" }])).expect("routes"),
        fetch: FetchSettings {
            hosts: vec!["127.0.0.1".into()],
            addresses: AddressPolicy { allow_http: true, allow_private: true },
            ..FetchSettings::default()
        },
        ..GatewayConfig::default()
    };
    let body = json!({ "instances": [{ "url": address.url }] }).to_string();
    let ask = async |house: &House, model: &str, key: &str| {
        let request = house.client.post(house.url(&format!("/api/v1/predict/{model}?wait=20")));
        house.send(request.bearer_auth(key).body(body.clone())).await
    };
    let house = House::start_serving(config(), vec![digits(), photo()]).await;
    for model in ["photo", "album"] {
        assert_eq!(ask(&house, model, &stranger).await.refusal(), (403, "permission_denied".to_owned()), "{model}");
    }
    assert_eq!(address.count.load(Ordering::SeqCst), 0, "not even asked for");
    let reply = ask(&house, "album", &known).await;
    assert_eq!((reply.status, address.count.load(Ordering::SeqCst)), (200, 1), "{}", reply.text);
    house.stop().await;
    let limits = LimitsConfig { max_body_bytes_in_flight: 150_000, ..LimitsConfig::default() };
    let house =
        House::start_serving(GatewayConfig { limits, max_body_bytes: 100_000, ..config() }, vec![photo()]).await;
    let reply = ask(&house, "photo", &known).await;
    assert_eq!(reply.refusal().1, "queue_full", "{}", reply.text);
    assert!(reply.text.contains("150000 bytes of memory"), "{}", reply.text);
    house.stop().await;
}

/// A server that answers everything with these bytes; its address.
fn serve(bytes: &'static [u8]) -> String {
    Fetched::of(bytes).url
}

/// A server, and how often it was asked.
struct Fetched {
    url: String,
    count: Arc<AtomicUsize>,
}

impl Fetched {
    fn of(bytes: &'static [u8]) -> Fetched {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let count = Arc::new(AtomicUsize::new(0));
        let counted = count.clone();
        std::thread::spawn(move || {
            for mut socket in listener.incoming().flatten() {
                counted.fetch_add(1, Ordering::SeqCst);
                let mut request = [0; 4096];
                let _ = socket.read(&mut request);
                let head = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", bytes.len());
                let _ = socket.write_all(head.as_bytes()).and_then(|()| socket.write_all(bytes));
            }
        });
        Fetched { url, count }
    }
}
