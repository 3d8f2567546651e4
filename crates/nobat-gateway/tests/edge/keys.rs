//! API keys over HTTP: who is let in, and that nothing is learnt by guessing.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nobat_gateway::{Gateway, GatewayConfig};
use nobat_queue::QueueSettings;
use nobat_queue::sqlite::SqliteQueue;
use nobat_serving::auth::{self, AuthConfig, Keyring, NewKey, Scope};
use serde_json::json;

use crate::house::{House, MODEL, send};

pub(crate) fn key(name: &str, scope: Scope, models: &[&str], valid_s: Option<u64>) -> NewKey {
    NewKey {
        name: name.into(),
        scope,
        models: models.iter().map(|&model| model.into()).collect(),
        valid_s,
        rate_per_s: 0.0,
        burst: 0,
        max_in_flight: 0,
        tokens_per_min: 0,
        max_priority: None,
    }
}

pub(crate) fn with_keys(path: &Path, ring: &Keyring) -> GatewayConfig {
    auth::store(path, ring).expect("stored");
    let auth = AuthConfig { keys: path.display().to_string(), insecure: false };
    GatewayConfig { auth, ..GatewayConfig::default() }
}

#[tokio::test]
async fn each_key_is_let_in_as_far_as_it_goes() {
    let dir = tempfile::tempdir().expect("a folder");
    let (mut ring, now) = (Keyring::default(), auth::now_s());
    let mut make = |new: NewKey, at: u64| ring.add(new, at).expect("made");
    let good = make(key("good", Scope::Predict, &[], None), now);
    let reader = make(key("reader", Scope::Read, &[], None), now);
    let elsewhere = make(key("elsewhere", Scope::Predict, &["other"], None), now);
    let expired = make(key("expired", Scope::Admin, &[], Some(10)), now - 60);
    let house = House::start(with_keys(&dir.path().join("keys.toml"), &ring), json!({}), Duration::ZERO).await;

    assert_eq!(house.predict(1.0, Some(&good), &[]).await.status, 200);
    assert_eq!(house.get("/api/v1/models", Some(&reader)).await.status, 200);
    assert_eq!(house.get("/livez", None).await.status, 200, "probes need no key");
    let wrong = format!("{}{}", &good[..good.len() - 1], if good.ends_with('A') { 'B' } else { 'A' });
    for (key, status, code) in [
        (None, 401, "unauthenticated"),
        (Some("nonsense"), 401, "unauthenticated"),
        (Some(wrong.as_str()), 401, "unauthenticated"),
        (Some(expired.as_str()), 401, "unauthenticated"),
        (Some(reader.as_str()), 403, "permission_denied"),
        (Some(elsewhere.as_str()), 403, "permission_denied"),
    ] {
        let reply = house.predict(1.0, key, &[]).await;
        assert_eq!((reply.status, reply.json()["code"].as_str()), (status, Some(code)), "{key:?}");
        assert_eq!(reply.header("www-authenticate").is_empty(), status != 401, "{:?}", reply.headers);
        assert!(key.is_none_or(|key| !reply.text.contains(key)), "a key is never repeated");
    }
    // Malformed is told apart from wrong, and from absent: it is the caller's mistake.
    for (header, says) in
        [("", "malformed"), ("Basic abc", "malformed"), ("Bearer", "malformed"), ("Bearer x y", "malformed")]
    {
        let reply = house.predict(1.0, None, &[("authorization", header)]).await;
        assert_eq!((reply.status, reply.header("www-authenticate")), (401, "Bearer realm=\"nobat\""), "{header:?}");
        assert!(reply.text.contains(says), "{header:?}: {}", reply.text);
    }
    house.stop().await;
}

#[tokio::test]
async fn a_key_learns_nothing_of_models_that_it_does_not_cover() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut ring = Keyring::default();
    let elsewhere = ring.add(key("elsewhere", Scope::Predict, &["other*"], None), auth::now_s()).expect("made");
    let house = House::start(with_keys(&dir.path().join("keys.toml"), &ring), json!({}), Duration::ZERO).await;
    let ask = async |path: &str, body: &'static str| {
        let request = match body {
            "" => reqwest::Client::new().get(house.url(path)),
            body => reqwest::Client::new().post(house.url(path)).body(body),
        };
        send(request, Some(&elsewhere), &[]).await
    };
    // Neither a version, nor the shape of an input, tells that there is such a model.
    let short = r#"{"instances": [[1.0]]}"#;
    for (path, body) in [
        ("/api/v1/predict/NAME", short),
        ("/api/v1/predict/NAME?version=9", short),
        ("/api/v1/predict/NAME?wait=1&label=none", short),
        ("/api/v1/predict/NAME/many", r#"{"requests": [{"instances": [[1.0]]}]}"#),
        ("/v1/models/NAME/versions/9:predict", short),
        ("/v2/models/NAME/versions/9/infer", r#"{"inputs": []}"#),
        ("/v2/models/NAME/versions/9", ""),
        ("/api/v1/queues/NAME", ""),
    ] {
        let there = ask(&path.replace("NAME", MODEL), body).await;
        let absent = ask(&path.replace("NAME", "none"), body).await;
        assert_eq!((there.status, absent.status), (403, 403), "{path}: {} {}", there.text, absent.text);
    }
    // What it may ask for is not there; what is there is not named.
    for (path, body) in [
        ("/api/v1/predict/other", short),
        ("/v1/models/other:predict", short),
        ("/v1/models/other", ""),
        ("/v2/models/other/infer", r#"{"inputs": []}"#),
        ("/v2/models/other/stats", ""),
        ("/api/v1/models/other", ""),
        ("/api/v1/queues/other", ""),
        ("/v1/embeddings", r#"{"model": "other", "input": "a"}"#),
    ] {
        let reply = ask(path, body).await;
        assert_eq!(reply.status, 404, "{path}: {}", reply.text);
        assert!(!reply.text.contains(MODEL), "{path}: {}", reply.text);
    }
    let default = ask("/invocations", short).await;
    assert_eq!(default.status, 403, "{}", default.text);
    assert!(!default.text.contains(MODEL), "{}", default.text);
    house.stop().await;
}

#[tokio::test]
async fn whether_the_default_model_serves_is_told_without_its_name() {
    let config = GatewayConfig { default_model: "missing".into(), ..GatewayConfig::default() };
    let house = House::start(config, json!({}), Duration::ZERO).await;
    let reply = house.get("/ping", None).await;
    assert_eq!((reply.status, reply.json()["code"].as_str()), (503, Some("model_not_ready")), "{}", reply.text);
    assert!(!reply.text.contains(MODEL) && !reply.text.contains("missing"), "{}", reply.text);
    house.stop().await;
}

#[tokio::test]
async fn a_foreign_job_looks_like_one_that_never_was() {
    let dir = tempfile::tempdir().expect("a folder");
    let (mut ring, now) = (Keyring::default(), auth::now_s());
    let mine = ring.add(key("mine", Scope::Admin, &[], None), now).expect("made");
    let theirs = ring.add(key("theirs", Scope::Predict, &[], None), now).expect("made");
    let house = House::start(with_keys(&dir.path().join("keys.toml"), &ring), json!({}), Duration::ZERO).await;
    let id = house.enqueue(Some(&mine)).await.json()["id"].as_str().expect("an id").to_owned();
    assert_eq!(house.get(&format!("/api/v1/jobs/{id}"), Some(&mine)).await.status, 200);

    let mut made_up = id.clone().into_bytes();
    made_up[3] = if made_up[3] == b'a' { b'b' } else { b'a' };
    let made_up = String::from_utf8(made_up).expect("ASCII");
    let body = async |id: &str| {
        let reply = house.get(&format!("/api/v1/jobs/{id}"), Some(&theirs)).await;
        let mut json = reply.json();
        json["request_id"] = "".into();
        (reply.status, json.to_string().replace(id, "ID"))
    };
    let foreign = body(&id).await;
    assert_eq!(foreign.0, 404);
    assert_eq!(foreign, body(&made_up).await);
    house.stop().await;
}

#[tokio::test]
async fn a_public_address_without_keys_is_refused_unless_told_so() {
    let dir = tempfile::tempdir().expect("a folder");
    let queue = SqliteQueue::open(dir.path(), QueueSettings::default()).expect("an embedded queue");
    let public = GatewayConfig {
        listen: "0.0.0.0:0".into(),
        grpc: String::new(),
        metrics: String::new(),
        ..GatewayConfig::default()
    };
    let error = Gateway::start(public.clone(), queue.clone()).await.err().expect("refused");
    assert!(error.message.contains("nobat keys new") && error.message.contains("--insecure"), "{error}");
    let insecure = AuthConfig { insecure: true, ..AuthConfig::default() };
    Gateway::start(GatewayConfig { auth: insecure, ..public }, queue).await.expect("told so").stop().await;
}

/// Guesses of keys and ids in process, over every layer that a guess meets.
/// `NOBAT_GUESSES` sets their number; a release build does a million in seconds.
#[test]
fn no_guess_of_a_key_or_an_id_gets_through_or_is_told_apart() {
    let guesses: u64 = std::env::var("NOBAT_GUESSES").ok().and_then(|text| text.parse().ok()).unwrap_or(20_000);
    let mut ring = Keyring::default();
    let now = auth::now_s();
    let real = ring.add(key("real", Scope::Admin, &[], None), now).expect("made");
    let ring = Arc::new(ring);
    let issuer = nobat_core::IdIssuer::new([9; 16]);
    let owner = nobat_core::OwnerId(1);
    let mut answers = std::collections::HashSet::new();
    let (head, tail) = real.split_at(real.len() - 12);
    assert_eq!(tail.len(), 12);
    let mut passed = 0;
    for guess in 0..guesses {
        // Half of the guesses are of a key that exists, half of one that does not.
        let secret_end = format!("{guess:0>12}");
        let text = match guess % 2 {
            0 => format!("Bearer {head}{secret_end}"),
            _ => format!("Bearer nobat_{:0>11}_{:0>43}", guess, guess),
        };
        let presented = auth::PresentedKey::parse(&text).expect("well formed");
        match ring.verify(&presented, now) {
            Ok(_) => panic!("guess {guess} is a key"),
            Err(error) => answers.insert((error.code, error.message)),
        };
        let mut id = issuer.issue(u128::from(guess), 30_000_000, guess, nobat_core::OwnerId(2));
        passed += u32::from(issuer.verify(id, owner));
        id.mac = guess as u32;
        passed += u32::from(issuer.verify(id, owner));
    }
    assert_eq!(answers.len(), 1, "{answers:?}");
    // An id carries 32 bits of its MAC besides 128 random bits: a guess that
    // passes the MAC still names no record.
    assert!(passed <= 1, "{passed} of {guesses} ids passed");
}
