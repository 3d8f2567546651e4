//! Signing in from a browser: a cookie in a key's place, which ends with the key and
//! changes nothing at another page's wish.

use std::sync::Arc;
use std::time::Duration;

use nobat_queue::sqlite::SqliteQueue;
use nobat_queue::{Queue, QueueSettings};
use nobat_serving::auth::{self, Keyring, Scope};
use serde_json::json;

use crate::house::{House, Reply, send};
use crate::keys::{key, with_keys};
use crate::shared::Redis;

const OWN: &[(&str, &str)] = &[("sec-fetch-site", "same-origin"), ("nobat-console", "1")];

async fn sign_in(house: &House, body: serde_json::Value, headers: &[(&str, &str)]) -> Reply {
    let request = reqwest::Client::new().post(house.url("/api/v1/session")).body(body.to_string());
    send(request, None, headers).await
}

/// The `name=value` that a browser sends back.
fn cookie(reply: &Reply) -> String {
    reply.header("set-cookie").split(';').next().expect("a cookie").to_owned()
}

async fn with(house: &House, method: reqwest::Method, path: &str, cookie: &str, more: &[(&str, &str)]) -> Reply {
    let request = reqwest::Client::new().request(method, house.url(path)).header("cookie", cookie);
    send(request, None, more).await
}

#[tokio::test]
async fn a_browser_signs_in_once_and_a_foreign_page_changes_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    let (mut ring, now) = (Keyring::default(), auth::now_s());
    let admin = ring.add(key("admin", Scope::Admin, &[], None), now).expect("made");
    let reader = ring.add(key("reader", Scope::Read, &["ec*"], None), now).expect("made");
    let house = House::start(with_keys(&dir.path().join("keys.toml"), &ring), json!({}), Duration::ZERO).await;
    let get = reqwest::Method::GET;
    let post = reqwest::Method::POST;

    let nobody = house.get("/api/v1/session", None).await.json();
    assert_eq!(nobody, json!({ "keys": true, "name": null, "scope": null, "models": [] }));
    let wrong = format!("{}{}", &admin[..admin.len() - 1], if admin.ends_with('x') { 'y' } else { 'x' });
    for (body, status) in [
        (json!({ "key": wrong }), 401),
        (json!({ "key": "nonsense" }), 401),
        (json!({}), 401),
        (json!({ "key": admin, "path": "/; Domain=evil.example" }), 400),
        (json!({ "key": admin, "path": "elsewhere" }), 400),
        (json!({ "key": admin, "more": 1 }), 400),
        (json!([admin]), 400),
        (json!(admin), 415),
    ] {
        let refused = sign_in(&house, body.clone(), &[]).await;
        assert_eq!((refused.status, refused.header("set-cookie")), (status, ""), "{body}");
        assert!(!refused.text.contains(&admin[20..]), "a key is never repeated");
    }

    let begun = sign_in(&house, json!({ "key": admin, "path": "/under/" }), &[]).await;
    assert_eq!(begun.json(), json!({ "keys": true, "name": "admin", "scope": "admin", "models": ["*"] }));
    let set = begun.header("set-cookie");
    for attribute in ["Path=/under/", "HttpOnly", "SameSite=Strict", "Max-Age=43200"] {
        assert!(set.split("; ").any(|part| part == attribute), "{attribute} is not in {set}");
    }
    assert!(!set.contains("Secure") && !set.contains(&admin[6..]), "{set}");
    let own_origin = [("origin", "https://nobat.example"), ("host", "nobat.example")];
    let over_tls = sign_in(&house, json!({ "key": admin }), &own_origin).await;
    assert!(over_tls.header("set-cookie").ends_with("; Secure"), "{}", over_tls.header("set-cookie"));
    let session = cookie(&begun);

    assert_eq!(house.get("/api/v1/models", None).await.status, 401);
    assert_eq!(with(&house, get.clone(), "/api/v1/models", &session, &[]).await.status, 200);
    assert_eq!(with(&house, get.clone(), "/api/v1/session", &session, &[]).await.json()["name"], "admin");
    let pause = "/api/v1/queues/echo/pause";
    for foreign in [
        &[][..],
        &[("sec-fetch-site", "same-origin")],
        &[("nobat-console", "1")],
        &[("nobat-console", "1"), ("sec-fetch-site", "same-site")],
        &[("nobat-console", "1"), ("origin", "https://evil.example")],
        &[("origin", "null"), ("content-type", "application/x-www-form-urlencoded")],
    ] {
        let refused = with(&house, post.clone(), pause, &session, foreign).await;
        assert_eq!(refused.status, 403, "{foreign:?}: {}", refused.text);
    }
    let queue = with(&house, get.clone(), "/api/v1/queues/echo", &session, &[]).await.json();
    assert_eq!(queue["paused"], false, "nothing was changed");
    assert_eq!(with(&house, post.clone(), pause, &session, OWN).await.json()["paused"], true);

    let read_only = cookie(&sign_in(&house, json!({ "key": reader }), &[]).await);
    let refused = with(&house, post.clone(), pause, &read_only, OWN).await;
    assert_eq!(refused.status, 403);
    assert!(refused.text.contains("this needs scope `admin`"), "{}", refused.text);
    let forged = read_only.replace("nobat-session=", "nobat-session=0");
    for bad in [forged.as_str(), "nobat-session=", "nobat-session=a.b.c.d"] {
        assert_eq!(with(&house, get.clone(), "/api/v1/models", bad, &[]).await.status, 401, "{bad}");
    }
    house.stop().await;
}

#[tokio::test]
async fn a_session_is_renewed_ends_with_its_key_and_is_taken_back() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("keys.toml");
    let (mut ring, now) = (Keyring::default(), auth::now_s());
    let one = ring.add(key("one", Scope::Admin, &[], None), now).expect("made");
    let two = ring.add(key("two", Scope::Admin, &[], None), now).expect("made");
    let house = House::start(with_keys(&path, &ring), json!({}), Duration::ZERO).await;
    let get = reqwest::Method::GET;

    let first = cookie(&sign_in(&house, json!({ "key": one }), &[]).await);
    let second = cookie(&sign_in(&house, json!({ "key": two }), &[]).await);
    let renewed = with_body(&house, &first, OWN).await;
    assert_eq!(renewed.json()["name"], "one");
    assert_eq!(with(&house, get.clone(), "/api/v1/models", &cookie(&renewed), &[]).await.status, 200);
    assert_eq!(with_body(&house, &first, &[]).await.status, 403, "a foreign page renews nothing");
    let ended = with(&house, reqwest::Method::DELETE, "/api/v1/session", &first, OWN).await;
    assert_eq!((ended.status, cookie(&ended).as_str()), (204, "nobat-session="));
    assert!(ended.header("set-cookie").contains("Max-Age=0"));

    // One key is revoked, the other gets a new secret and the old one no time.
    ring.revoke("one").expect("revoked");
    ring.rotate("two", 0, now).expect("rotated");
    auth::store(&path, &ring).expect("stored");
    for session in [first, second] {
        let end = std::time::Instant::now() + Duration::from_secs(30);
        while with(&house, get.clone(), "/api/v1/models", &session, &[]).await.status != 401 {
            assert!(std::time::Instant::now() < end, "the session outlives its key");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    house.stop().await;
}

/// Everything that a stream sends until it ends.
async fn rest_of(mut stream: reqwest::Response) -> String {
    let mut text = String::new();
    while let Ok(Some(chunk)) = stream.chunk().await {
        text.push_str(&String::from_utf8_lossy(&chunk));
    }
    text
}

async fn streams_end_with_their_session(queue: Arc<dyn Queue>) {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("keys.toml");
    let (mut ring, now) = (Keyring::default(), auth::now_s());
    let own = ring.add(key("own", Scope::Predict, &[], None), now).expect("made");
    let other = ring.add(key("other", Scope::Predict, &[], None), now).expect("made");
    let house = House::on(queue, with_keys(&path, &ring), json!({}), Duration::ZERO).await;
    let post = |path: &str| reqwest::Client::new().post(house.url(path));
    let (mut streams, mut jobs) = (Vec::new(), Vec::new());
    for secret in [&own, &other] {
        let session = cookie(&sign_in(&house, json!({ "key": secret }), &[]).await);
        let later = post("/api/v1/predict/echo?delay=1h").body(r#"{"instances": [[1, 2]]}"#);
        let later = send(later, Some(secret), &[]).await;
        let id = later.json()["id"].as_str().expect("a job").to_owned();
        for (path, header, value) in [
            ("/api/v1/events".to_owned(), "cookie", session.clone()),
            (format!("/api/v1/jobs/{id}/events"), "cookie", session.clone()),
            (format!("/api/v1/jobs/{id}/events"), "authorization", format!("Bearer {secret}")),
        ] {
            let request = reqwest::Client::new().get(house.url(&path)).header(header, value);
            let mut stream = request.send().await.expect("a stream");
            assert_eq!(stream.status(), 200, "{path}");
            assert!(stream.chunk().await.expect("reads").is_some(), "{path} begins");
            streams.push(stream);
        }
        jobs.push(id);
    }
    ring.revoke("own").expect("revoked");
    auth::store(&path, &ring).expect("stored");
    let others = streams.split_off(3);
    let ended = futures::future::join_all(streams.into_iter().map(rest_of));
    let ended = tokio::time::timeout(Duration::from_secs(60), ended).await.expect("they end with their key");
    assert!(ended.iter().all(|text| !text.contains("event: cancelled")), "{ended:?}");
    // Those of who may go on are still told.
    let cancelled = send(post(&format!("/api/v1/jobs/{}/cancel", jobs[1])), Some(&other), &[]).await;
    assert_eq!(cancelled.status, 200, "{}", cancelled.text);
    for told in futures::future::join_all(others.into_iter().skip(1).map(rest_of)).await {
        assert!(told.contains("event: cancelled"), "{told}");
    }
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_end_with_their_session_on_the_embedded_store() {
    let dir = tempfile::tempdir().expect("a folder");
    let queue = SqliteQueue::open(dir.path(), QueueSettings::default()).expect("an embedded queue");
    streams_end_with_their_session(queue).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_end_with_their_session_on_redis() {
    let redis = Redis::start();
    streams_end_with_their_session(redis.queue().await).await;
}

async fn with_body(house: &House, cookie: &str, more: &[(&str, &str)]) -> Reply {
    let request = reqwest::Client::new().post(house.url("/api/v1/session")).header("cookie", cookie).body("{}");
    send(request, None, more).await
}

#[tokio::test]
async fn where_no_key_is_asked_for_everybody_is_an_administrator() {
    let house = House::start(nobat_gateway::GatewayConfig::default(), json!({}), Duration::ZERO).await;
    let nobody = json!({ "keys": false, "name": null, "scope": "admin", "models": ["*"] });
    assert_eq!(house.get("/api/v1/session", None).await.json(), nobody);
    let begun = sign_in(&house, json!({ "key": "nobat_x_y" }), &[]).await;
    assert_eq!((begun.json(), begun.header("set-cookie")), (nobody, ""));
    let stale = with(&house, reqwest::Method::POST, "/api/v1/queues/echo/pause", "nobat-session=old", &[]).await;
    assert_eq!(stale.status, 200, "a cookie of another day keeps nobody out");
    house.stop().await;
}
