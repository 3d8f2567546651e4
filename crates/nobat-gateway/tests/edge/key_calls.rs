//! Keys made, changed and revoked by calls, and whose jobs a key finds.

use std::time::Duration;

use nobat_serving::auth::{self, Keyring, Scope};
use serde_json::json;

use crate::house::{House, Reply, send};
use crate::keys::{key, with_keys};

async fn call(house: &House, method: reqwest::Method, path: &str, key: &str, body: &str) -> Reply {
    let mut request = reqwest::Client::new().request(method, house.url(path));
    if !body.is_empty() {
        request = request.header("content-type", "application/json").body(body.to_owned());
    }
    send(request, Some(key), &[]).await
}

#[tokio::test]
async fn an_administrator_makes_rotates_and_revokes_keys() {
    let dir = tempfile::tempdir().expect("a folder");
    let (mut ring, now) = (Keyring::default(), auth::now_s());
    let admin = ring.add(key("admin", Scope::Admin, &[], None), now).expect("made");
    let reader = ring.add(key("reader", Scope::Read, &[], None), now).expect("made");
    let path = dir.path().join("keys.toml");
    let house = House::start(with_keys(&path, &ring), json!({}), Duration::ZERO).await;
    let (get, post, delete) = (reqwest::Method::GET, reqwest::Method::POST, reqwest::Method::DELETE);

    for path in ["/api/v1/keys", "/api/v1/audit"] {
        assert_eq!(call(&house, get.clone(), path, &reader, "").await.status, 403, "{path}");
    }
    let made = call(
        &house,
        post.clone(),
        "/api/v1/keys",
        &admin,
        r#"{"name": "ci", "scope": "predict", "models": ["ec*"], "days": 2}"#,
    )
    .await;
    assert_eq!((made.status, made.header("cache-control")), (201, "no-store"), "{}", made.text);
    let made = made.json();
    let secret = made["secret"].as_str().expect("a secret").to_owned();
    assert_eq!(
        (&made["key"]["scope"], &made["key"]["models"], &made["key"]["state"]),
        (&json!("predict"), &json!(["ec*"]), &json!("active"))
    );
    assert_eq!(call(&house, get.clone(), "/api/v1/models", &secret, "").await.status, 200, "in force at once");
    let stored = std::fs::read_to_string(&path).expect("the file");
    assert!(!stored.contains(&secret[20..]) && stored.contains("\"ci\""), "its hash alone is kept");
    let listed = call(&house, get.clone(), "/api/v1/keys", &admin, "").await;
    assert!(!listed.text.contains(&secret[20..]) && !listed.text.contains("sha256"), "{}", listed.text);
    let owns: Vec<_> = listed.json()["keys"].as_array().expect("a list").iter().map(|key| key["own"].clone()).collect();
    assert_eq!(owns, [true, false, false]);

    let id = made["key"]["id"].as_str().expect("an id");
    let rotated = call(&house, post.clone(), &format!("/api/v1/keys/{id}/rotate?overlap=0s"), &admin, "").await.json();
    let second = rotated["secret"].as_str().expect("a secret").to_owned();
    assert_eq!(call(&house, get.clone(), "/api/v1/models", &secret, "").await.status, 401, "no overlap was asked for");
    assert_eq!(call(&house, get.clone(), "/api/v1/models", &second, "").await.status, 200);
    let long = call(&house, post.clone(), &format!("/api/v1/keys/{id}/rotate?overlap=31d"), &admin, "").await;
    assert!(long.status == 400 && long.text.contains("up to 30 days"), "{}", long.text);
    let revoked = call(&house, delete.clone(), &format!("/api/v1/keys/{id}"), &admin, "").await.json();
    assert_eq!(revoked["state"], "revoked");
    assert_eq!(call(&house, get.clone(), "/api/v1/models", &second, "").await.status, 401);

    let own = listed.json()["keys"][0]["id"].as_str().expect("an id").to_owned();
    let refused = call(&house, delete.clone(), &format!("/api/v1/keys/{own}"), &admin, "").await;
    assert!(refused.status == 400 && refused.text.contains("another one"), "{}", refused.text);
    for bad in [
        r#"{"name": "", "scope": "read"}"#,
        r#"{"name": "admin", "scope": "read"}"#,
        r#"{"name": "x", "scope": "root"}"#,
        r#"{"name": "x", "scope": "read", "days": 0}"#,
        r#"{"name": "x", "scope": "read", "more": 1}"#,
        r#"{"name": "a\nb", "scope": "read"}"#,
    ] {
        assert_eq!(call(&house, post.clone(), "/api/v1/keys", &admin, bad).await.status, 400, "{bad}");
    }
    assert_eq!(call(&house, delete, "/api/v1/keys/nonsense", &admin, "").await.status, 400);

    // Who did it is written down, and no secret.
    let audit = async || call(&house, get.clone(), "/api/v1/audit", &admin, "").await;
    for _ in 0..100 {
        if audit().await.json()["entries"].as_array().is_some_and(|entries| entries.len() >= 10) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let audit = audit().await;
    assert!(
        audit.text.contains("\"name\":\"admin\"") && audit.text.contains("POST /api/v1/keys/{key}/rotate"),
        "{}",
        audit.text
    );
    assert!(!audit.text.contains(&second[20..]));
    house.stop().await;
}

#[tokio::test]
async fn a_caller_finds_and_changes_its_own_jobs_and_an_administrator_everybodys() {
    let dir = tempfile::tempdir().expect("a folder");
    let (mut ring, now) = (Keyring::default(), auth::now_s());
    let admin = ring.add(key("admin", Scope::Admin, &[], None), now).expect("made");
    let one = ring.add(key("one", Scope::Predict, &[], None), now).expect("made");
    let two = ring.add(key("two", Scope::Predict, &[], None), now).expect("made");
    let reader = ring.add(key("reader", Scope::Read, &[], None), now).expect("made");
    let house = House::start(with_keys(&dir.path().join("keys.toml"), &ring), json!({}), Duration::ZERO).await;
    let (get, post) = (reqwest::Method::GET, reqwest::Method::POST);
    let body = r#"{"instances": [[1.0, 2.0]]}"#;
    for key in [&one, &two] {
        let made = call(&house, post.clone(), "/api/v1/predict/echo?tag=shared&delay=1h", key, body).await;
        assert_eq!(made.status, 202, "{}", made.text);
    }
    let count = async |key: &str, query: &str| {
        let reply = call(&house, get.clone(), &format!("/api/v1/jobs?{query}"), key, "").await;
        reply.json()["jobs"].as_array().map(Vec::len)
    };
    assert_eq!(count(&one, "tag=shared").await, Some(1));
    assert_eq!(count(&admin, "tag=shared").await, Some(2));
    let owner = one.split('_').nth(1).expect("an id");
    assert_eq!(count(&admin, &format!("owner={owner}&tag=shared")).await, Some(1));
    let operation = "/api/v1/jobs/operations?action=cancel&tag=shared";
    assert_eq!(call(&house, post.clone(), operation, &reader, "").await.status, 403);
    let dry = call(&house, post.clone(), &format!("{operation}&dry_run=true"), &one, "").await.json();
    assert_eq!(dry["count"], 1, "its own alone");
    let begun = call(&house, post.clone(), operation, &one, "").await.json();
    let path = format!("/api/v1/jobs/operations/{}", begun["id"].as_str().expect("an id"));
    for _ in 0..200 {
        if call(&house, get.clone(), &path, &one, "").await.json()["state"] == "finished" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(call(&house, get.clone(), &path, &two, "").await.status, 404, "another's is not shown");
    assert_eq!(call(&house, get.clone(), &path, &admin, "").await.json()["by"], "one");
    assert_eq!(count(&two, "tag=shared&state=scheduled").await, Some(1), "another's job is left alone");
    assert_eq!(count(&one, "tag=shared&state=cancelled").await, Some(1));
    house.stop().await;
}

#[actix_web::test]
async fn an_administrator_of_some_models_makes_no_key_for_more_and_takes_none_over() {
    let dir = tempfile::tempdir().expect("a folder");
    let (mut ring, now) = (Keyring::default(), auth::now_s());
    let whole = ring.add(key("whole", Scope::Admin, &[], None), now).expect("made");
    let some = ring.add(key("some", Scope::Admin, &["ec*"], None), now).expect("made");
    let house = House::start(with_keys(&dir.path().join("keys.toml"), &ring), json!({}), Duration::ZERO).await;
    let listed = call(&house, reqwest::Method::GET, "/api/v1/keys", &whole, "").await.json();
    let id = listed["keys"][0]["id"].as_str().expect("an id");
    let (post, delete) = (reqwest::Method::POST, reqwest::Method::DELETE);
    for (method, path, body) in [
        (post.clone(), "/api/v1/keys".to_owned(), r#"{"name": "more", "scope": "admin"}"#),
        (post.clone(), format!("/api/v1/keys/{id}/rotate"), ""),
        (delete, format!("/api/v1/keys/{id}"), ""),
    ] {
        let refused = call(&house, method, &path, &some, body).await;
        assert!(refused.status == 403 && refused.text.contains("covers `*`"), "{path}: {}", refused.text);
    }
    let made = call(&house, post, "/api/v1/keys", &whole, r#"{"name": "more", "scope": "read"}"#).await;
    assert_eq!(made.status, 201, "{}", made.text);
}

#[actix_web::test]
async fn a_blank_name_of_a_model_makes_no_key_of_all() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut ring = Keyring::default();
    let admin = ring.add(key("admin", Scope::Admin, &[], None), auth::now_s()).expect("made");
    let house = House::start(with_keys(&dir.path().join("keys.toml"), &ring), json!({}), Duration::ZERO).await;
    for models in [json!([""]), json!(["echo", " "])] {
        let asked = json!({ "name": "blank", "scope": "predict", "models": models }).to_string();
        let refused = call(&house, reqwest::Method::POST, "/api/v1/keys", &admin, &asked).await;
        assert_eq!(refused.status, 400, "{}", refused.text);
        assert!(refused.text.contains("leave `models` out"), "{}", refused.text);
    }
    let listed = call(&house, reqwest::Method::GET, "/api/v1/keys", &admin, "").await.json();
    assert_eq!(listed["keys"].as_array().map(Vec::len), Some(1), "{listed}");
    house.stop().await;
}
