//! `/v1/files`.

use nobat_batches::FileSettings;
use nobat_gateway::GatewayConfig;
use serde_json::{Value, json};

use crate::house::{House, Reply};

const BOUNDARY: &str = "XxBoundaryxX";

/// A form of these parts: name, file name, contents.
pub(crate) fn form(parts: &[(&str, Option<&str>, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, file, contents) in parts {
        body.extend_from_slice(format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"").as_bytes());
        if let Some(file) = file {
            body.extend_from_slice(
                format!("; filename=\"{file}\"\r\nContent-Type: application/octet-stream").as_bytes(),
            );
        }
        body.extend_from_slice(b"\r\n\r\n");
        body.extend_from_slice(contents);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(format!("--{BOUNDARY}--\r\n").as_bytes());
    body
}

pub(crate) async fn send_form(house: &House, body: Vec<u8>) -> Reply {
    let kind = format!("multipart/form-data; boundary={BOUNDARY}");
    house.send(house.client.post(house.url("/v1/files")).header("content-type", kind).body(body)).await
}

pub(crate) async fn upload(house: &House, contents: &[u8]) -> Value {
    let reply = send_form(house, form(&[("purpose", None, b"batch"), ("file", Some("in.jsonl"), contents)])).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    reply.json()
}

#[tokio::test]
async fn a_file_is_kept_listed_read_and_deleted() {
    let house = House::start().await;
    let contents: Vec<u8> = (0..3_000_000u32).map(|at| (at * 7 % 251) as u8).collect();
    let file = upload(&house, &contents).await;
    assert_eq!(
        (&file["object"], &file["purpose"], &file["bytes"]),
        (&json!("file"), &json!("batch"), &json!(3_000_000))
    );
    let (id, second) = (file["id"].as_str().expect("an id"), upload(&house, b"{}\n").await);
    let got = house.client.get(house.url(&format!("/v1/files/{id}/content"))).send().await.expect("an answer");
    assert_eq!(got.headers()["content-length"], "3000000");
    assert!(got.bytes().await.expect("a body") == contents, "as it was sent");
    assert_eq!(house.get(&format!("/v1/files/{id}")).await.json()["filename"], "in.jsonl");
    let list = house.get("/v1/files?limit=1").await.json();
    assert_eq!((list["data"].as_array().map(Vec::len), &list["has_more"]), (Some(1), &json!(true)));
    let after = house.get(&format!("/v1/files?after={}", list["last_id"].as_str().expect("an id"))).await.json();
    assert_eq!(after["data"].as_array().map(Vec::len), Some(1));
    assert_eq!(house.get("/v1/files?purpose=batch_output").await.json()["data"], json!([]));
    let deleted = house.send(house.client.delete(house.url(&format!("/v1/files/{id}")))).await;
    assert_eq!(deleted.json(), json!({"id": id, "object": "file", "deleted": true}));
    assert_eq!(house.get(&format!("/v1/files/{id}")).await.status, 404);
    let house = house.restart().await;
    assert_eq!(house.get(&format!("/v1/files/{}", second["id"].as_str().expect("an id"))).await.status, 200);
    let kept: Vec<_> = std::fs::read_dir(house.folder().join("files")).expect("a folder").flatten().collect();
    assert_eq!(kept.len(), 1, "nothing else is left in the folder");
}

#[tokio::test]
async fn what_is_no_upload_or_too_large_is_refused_and_leaves_nothing() {
    let files = FileSettings { max_file_bytes: 100_000, max_bytes: 150_000, max_files: 3, ..FileSettings::default() };
    let house = House::start_with(&["embed"], GatewayConfig { files, ..GatewayConfig::default() }).await;
    let big = vec![b'x'; 200_000];
    let batch: (&str, Option<&str>, &[u8]) = ("purpose", None, b"batch");
    for (parts, status, says) in [
        (vec![batch], 400, "`file` is missing"),
        (vec![("file", Some("a"), &b"x"[..])], 400, "`purpose` is missing"),
        (vec![("purpose", None, &b"fine-tune"[..]), ("file", Some("a"), b"x")], 400, "purpose is `fine-tune`"),
        (vec![batch, ("file", Some("a"), &b"x"[..]), ("file", Some("b"), b"x")], 400, "given twice"),
        (vec![batch, ("else", None, &b"x"[..])], 400, "`else` is not known"),
        (vec![batch, ("file", Some("a"), &big)], 413, "over the limit of 100000 bytes"),
    ] {
        let reply = send_form(&house, form(&parts)).await;
        assert_eq!(reply.status, status, "{says}: {}", reply.text);
        assert!(reply.json()["error"]["message"].as_str().is_some_and(|text| text.contains(says)), "{}", reply.text);
    }
    let plain = house.post("/v1/files", &json!({"purpose": "batch"})).await;
    assert_eq!(plain.status, 415, "{}", plain.text);
    let cut = form(&[batch, ("file", Some("a"), b"abc")]);
    assert_eq!(send_form(&house, cut[..cut.len() - 30].to_vec()).await.status, 400, "a form that breaks off");
    upload(&house, &big[..90_000]).await;
    let full = send_form(&house, form(&[batch, ("file", Some("a"), &big[..90_000])])).await;
    assert!(full.status == 413 && full.text.contains("150000"), "{}", full.text);
    // What was refused is deleted beside its answer.
    let left = || std::fs::read_dir(house.folder().join("files")).expect("a folder").flatten().collect::<Vec<_>>();
    for _ in 0..3_000 {
        if left().len() == 1 {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("more than the kept file is left: {:?}", left());
}

#[tokio::test]
async fn two_gigabytes_are_refused_before_they_are_sent() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let house = House::start().await;
    let mut socket = tokio::net::TcpStream::connect(house.gateway.http_addr()).await.expect("connects");
    let head = format!(
        "POST /v1/files HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary={BOUNDARY}\r\n\
         Content-Length: 2147483648\r\n\r\n"
    );
    socket.write_all(head.as_bytes()).await.expect("sends");
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).await.expect("an answer");
    let text = String::from_utf8_lossy(&answer);
    assert!(text.starts_with("HTTP/1.1 413"), "{text}");
    assert!(text.contains("209715200 bytes"), "{text}");
}
