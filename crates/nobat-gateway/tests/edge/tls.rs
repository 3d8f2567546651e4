//! TLS: HTTP and gRPC under one certificate, and nothing in plain.

use std::time::Duration;

use nobat_gateway::GatewayConfig;
use nobat_gateway::tls::TlsConfig;
use serde_json::json;

use crate::house::House;

#[tokio::test]
async fn http_and_grpc_are_encrypted_by_one_certificate() {
    let dir = tempfile::tempdir().expect("a folder");
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let (certificate, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    std::fs::write(&certificate, made.cert.pem()).expect("written");
    std::fs::write(&key, made.signing_key.serialize_pem()).expect("written");
    let tls = TlsConfig { certificate: certificate.display().to_string(), key: key.display().to_string() };
    let house = House::start(GatewayConfig { tls, ..GatewayConfig::default() }, json!({}), Duration::ZERO).await;

    let trusted = reqwest::Certificate::from_pem(made.cert.pem().as_bytes()).expect("a certificate");
    let client = reqwest::Client::builder().tls_certs_only([trusted]).build().expect("a client");
    let http = format!("https://localhost:{}/livez", house.gateway.http_addr().port());
    assert_eq!(client.get(&http).send().await.expect("an answer").status(), 200);

    let grpc = house.gateway.grpc_addr().expect("gRPC is on").port();
    let call = format!("https://localhost:{grpc}/inference.GRPCInferenceService/ServerLive");
    let answer = client
        .post(&call)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        // An empty message: no compression, no bytes.
        .body(&b"\0\0\0\0\0"[..])
        .send()
        .await
        .expect("an answer");
    assert_eq!((answer.version(), answer.status().as_u16()), (reqwest::Version::HTTP_2, 200));
    // ServerLiveResponse { live: true }
    assert_eq!(&answer.bytes().await.expect("a message")[..], b"\0\0\0\0\x02\x08\x01");

    for address in [http, call] {
        let plain = address.replace("https://", "http://");
        let answer = reqwest::Client::new().get(&plain).send().await;
        assert!(answer.is_err(), "{plain} answers in plain: {answer:?}");
    }
    // An idle HTTP/2 connection would hold the drain up.
    drop(client);
    house.stop().await;
}
