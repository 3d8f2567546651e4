//! Web pages of other origins: what they may send, and what CORS tells browsers.

use std::time::Duration;

use nobat_gateway::GatewayConfig;
use nobat_gateway::origin::CorsConfig;
use serde_json::json;

use crate::house::{House, Reply};

const APP: &str = "https://app.example.com";

async fn house(origins: &[&str]) -> House {
    let cors = CorsConfig { origins: origins.iter().map(|&origin| origin.into()).collect(), ..CorsConfig::default() };
    House::start(GatewayConfig { cors, ..GatewayConfig::default() }, json!({}), Duration::ZERO).await
}

async fn ask(house: &House, line: &str, headers: &[&str]) -> Reply {
    let mut request = format!("{line} HTTP/1.1\r\nconnection: close\r\ncontent-length: 0\r\n");
    for header in headers {
        request += header;
        request += "\r\n";
    }
    if !headers.iter().any(|header| header.starts_with("host:")) {
        request += "host: 127.0.0.1\r\n";
    }
    house.raw(&format!("{request}\r\n")).await
}

/// What a page of another origin sends without asking first: a form's POST.
#[tokio::test]
async fn a_foreign_page_changes_nothing_on_a_server_without_keys() {
    let house = house(&[]).await;
    for line in [
        "POST /v2/repository/models/echo/unload",
        "POST /api/v1/queues/echo/pause",
        "POST /v1/models/echo:predict",
        "POST /api/v1/predict/echo",
        "DELETE /api/v1/queues/echo/dead",
        "PUT /api/v1/routes/echo",
        "POST /api/v1/webhooks/endpoints/enable",
    ] {
        for headers in [
            &["origin: https://evil.example", "sec-fetch-site: cross-site"][..],
            &["origin: https://evil.example"],
            &["origin: null"],
            &["sec-fetch-site: cross-site"],
            &["sec-fetch-site: same-site", "origin: http://127.0.0.1:9"],
            &["host: evil.example"],
            &["host: evil.example", "origin: http://evil.example", "sec-fetch-site: same-origin"],
        ] {
            let reply = ask(&house, line, headers).await;
            assert_eq!(reply.status, 403, "{line} {headers:?}: {}", reply.text);
            assert_eq!(reply.json()["code"], "permission_denied");
            assert_eq!(reply.header("access-control-allow-origin"), "");
            assert!(!reply.header("x-request-id").is_empty());
        }
    }
    let rebound = ask(&house, "GET /api/v1/models", &["host: evil.example"]).await;
    assert_eq!(rebound.status, 403, "a name that was pointed here reads nothing either: {}", rebound.text);
    let queue = house.get("/api/v1/queues/echo", None).await.json();
    assert_eq!(queue["paused"], false, "{queue}");
    // The page of its own and clients that are no browsers go on.
    let own = ask(&house, "POST /api/v1/queues/echo/resume", &["origin: http://127.0.0.1", "host: 127.0.0.1"]).await;
    assert_eq!(own.status, 200, "{}", own.text);
    assert_eq!(ask(&house, "POST /api/v1/queues/echo/resume", &[]).await.status, 200);
    house.stop().await;
}

#[tokio::test]
async fn an_allowed_page_reads_answers_and_refusals_and_another_does_not() {
    let house = house(&[APP]).await;
    let own = format!("origin: {APP}");
    for line in ["GET /api/v1/models", "GET /v2/models/none", "POST /v1/models/echo:predict", "GET /nothing"] {
        let reply = ask(&house, line, &[&own, "sec-fetch-site: cross-site"]).await;
        assert_ne!(reply.status, 403, "{line}: {}", reply.text);
        assert_eq!(reply.header("access-control-allow-origin"), APP, "{line}");
        assert!(reply.header("access-control-expose-headers").contains("retry-after"), "{line}");
        assert!(reply.headers.get_all("vary").iter().any(|vary| vary == "Origin"), "{line}: {:?}", reply.headers);
        let other = ask(&house, line, &["origin: https://evil.example"]).await;
        assert_eq!(other.header("access-control-allow-origin"), "", "{line}");
        assert!(other.headers.get_all("vary").iter().any(|vary| vary == "Origin"), "{line}: caches tell them apart");
    }
    house.stop().await;
}

/// Each with the methods that it has.
const RESOURCES: &[(&str, &str)] = &[
    ("/", "GET, HEAD, OPTIONS"),
    ("/livez", "GET, HEAD, OPTIONS"),
    ("/docs", "GET, HEAD, OPTIONS"),
    ("/docs/", "GET, HEAD, OPTIONS"),
    ("/docs/index.html", "GET, HEAD, OPTIONS"),
    ("/api/openapi.json", "GET, HEAD, OPTIONS"),
    ("/api/v1/predict/echo", "POST, OPTIONS"),
    ("/api/v1/predict/echo/many", "POST, OPTIONS"),
    ("/api/v1/jobs", "GET, HEAD, OPTIONS"),
    ("/api/v1/jobs/x", "GET, HEAD, DELETE, OPTIONS"),
    ("/api/v1/jobs/x/events", "GET, HEAD, OPTIONS"),
    ("/api/v1/queues/echo/dead", "GET, HEAD, DELETE, OPTIONS"),
    ("/api/v1/routes/x", "GET, HEAD, PUT, DELETE, OPTIONS"),
    ("/api/v1/periodic", "GET, HEAD, OPTIONS"),
    ("/api/v1/webhooks/endpoints/enable", "POST, OPTIONS"),
    ("/v1/models", "GET, HEAD, OPTIONS"),
    ("/v1/models/echo", "GET, HEAD, OPTIONS"),
    ("/v1/models/echo:predict", "POST, OPTIONS"),
    ("/v2/models/echo/infer", "POST, OPTIONS"),
    ("/v2/repository/index", "POST, OPTIONS"),
    ("/v2/logging", "GET, HEAD, POST, OPTIONS"),
    ("/invocations", "POST, OPTIONS"),
    ("/ping", "GET, HEAD, OPTIONS"),
];

#[tokio::test]
async fn options_and_preflights_are_answered_by_every_resource_without_a_key() {
    let dir = tempfile::tempdir().expect("a folder");
    let ring = nobat_serving::auth::Keyring::default();
    let cors = CorsConfig { origins: vec![APP.into()], max_age_s: 77 };
    let config = GatewayConfig { cors, ..crate::keys::with_keys(&dir.path().join("keys.toml"), &ring) };
    let house = House::start(config, json!({}), Duration::ZERO).await;
    let own = format!("origin: {APP}");
    for (path, methods) in RESOURCES {
        let plain = ask(&house, &format!("OPTIONS {path}"), &[]).await;
        assert_eq!((plain.status, plain.header("allow")), (204, *methods), "{path}: {}", plain.text);
        assert_eq!(plain.header("access-control-allow-methods"), "", "{path}: nobody asked");
        let asks =
            ["access-control-request-method: POST", "access-control-request-headers: authorization,content-type"];
        let preflight = ask(&house, &format!("OPTIONS {path}"), &[&own, asks[0], asks[1]]).await;
        assert_eq!(preflight.status, 204, "{path}");
        assert_eq!(preflight.header("access-control-allow-origin"), APP, "{path}");
        assert_eq!(preflight.header("access-control-allow-methods"), *methods, "{path}");
        assert_eq!(preflight.header("access-control-allow-headers"), "authorization,content-type", "{path}");
        assert_eq!(preflight.header("access-control-max-age"), "77", "{path}");
        let foreign = ask(&house, &format!("OPTIONS {path}"), &["origin: https://evil.example", asks[0]]).await;
        assert_eq!((foreign.status, foreign.header("access-control-allow-origin")), (204, ""), "{path}");
        assert_eq!(foreign.header("access-control-allow-methods"), "", "{path}");
    }
    assert_eq!(ask(&house, "OPTIONS *", &[]).await.status, 204);
    assert_eq!(ask(&house, "OPTIONS /nothing", &[]).await.status, 404);
    house.stop().await;
}
