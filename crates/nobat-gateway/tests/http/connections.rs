//! HTTP at the level of its connection: lines that end wrongly, bodies that are
//! asked for in vain, callers that shut one side, HTTP/2 without TLS. Raw sockets.

use std::time::Duration;

use nobat_gateway::GatewayConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{House, instance, poll};

async fn house() -> House {
    House::start_with(GatewayConfig { max_body_bytes: 1 << 20, threads: 1, ..GatewayConfig::default() }).await
}

async fn open(house: &House) -> TcpStream {
    TcpStream::connect(house.addr()).await.expect("connects")
}

/// Reads until the server closes.
async fn rest(socket: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(30), socket.read_to_end(&mut answer)).await;
    assert!(read.is_ok(), "the connection stayed open after {:?}", String::from_utf8_lossy(&answer));
    String::from_utf8_lossy(&answer).into_owned()
}

/// Reads until what came ends in `end`.
async fn until(socket: &mut TcpStream, end: &str) -> String {
    let mut answer = Vec::new();
    while !answer.ends_with(end.as_bytes()) {
        let mut piece = [0; 4096];
        let read = tokio::time::timeout(Duration::from_secs(30), socket.read(&mut piece)).await;
        let length = read.unwrap_or_else(|_| panic!("only {:?} came", String::from_utf8_lossy(&answer)));
        let length = length.expect("reads");
        assert!(length > 0, "closed after {:?}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&piece[..length]);
    }
    String::from_utf8_lossy(&answer).into_owned()
}

fn post(path: &str, body: &str, headers: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn heads_with_a_bare_lf_are_refused_and_the_connection_with_them() {
    let house = house().await;
    for head in [
        "GET /livez HTTP/1.1\nHost: localhost\r\n\r\n",
        "GET /livez HTTP/1.1\r\nHost: localhost\n\r\n",
        "GET /livez HTTP/1.1\r\nHost: localhost\r\n\n",
        "GET /livez HTTP/1.1\r\nHost: localhost\r\nX: y\nGET /smuggled HTTP/1.1\r\n\r\n",
        "\nGET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ] {
        // In one piece, and cut before the LF and after it.
        let cut = head.find('\n').expect("a LF");
        for pieces in [vec![head], vec![&head[..cut], &head[cut..]], vec![&head[..=cut], &head[cut + 1..]]] {
            let mut socket = open(&house).await;
            for piece in &pieces {
                // It may be refused, and closed, before the rest is sent.
                let _ = socket.write_all(piece.as_bytes()).await;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let answer = rest(&mut socket).await;
            assert!(answer.starts_with("HTTP/1.1 400 "), "{pieces:?}: {answer}");
            assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{pieces:?}: {answer}");
        }
    }
    // The second request of a connection too; bodies may hold what they like.
    let mut socket = open(&house).await;
    let body = "{\n\"instances\":\n[[1,2,3,4]]\n}";
    socket.write_all(post("/v1/models/digits:predict", body, "").as_bytes()).await.expect("sends");
    assert!(until(&mut socket, "}").await.starts_with("HTTP/1.1 200 "));
    socket.write_all(b"GET /livez HTTP/1.1\nHost: localhost\r\n\r\n").await.expect("sends");
    assert!(rest(&mut socket).await.starts_with("HTTP/1.1 400 "));
    house.stop().await;
}

#[tokio::test]
async fn a_body_that_is_refused_by_its_head_is_not_asked_for() {
    let house = house().await;
    let ask = async |path: &str, headers: &str| {
        let mut socket = open(&house).await;
        let head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n{headers}\r\n");
        socket.write_all(head.as_bytes()).await.expect("sends");
        until(&mut socket, "}").await
    };
    for (path, headers, status) in [
        ("/v1/models/digits:predict", "Content-Length: 99999999\r\n", 413),
        ("/v1/models/digits:predict", "Content-Length: 9\r\nContent-Encoding: br\r\n", 415),
        ("/v1/models/none:predict", "Content-Length: 9\r\n", 404),
        ("/api/v1/predict/none", "Content-Length: 9\r\n", 404),
        ("/api/v1/predict/digits?priority=256", "Content-Length: 9\r\n", 400),
        ("/v2/models/none/infer", "Content-Length: 9\r\n", 404),
        ("/nothing", "Content-Length: 9\r\n", 404),
        ("/livez", "Content-Length: 9\r\n", 405),
        ("/v1/models/digits:predict", "Content-Length: 9\r\nOrigin: https://evil.example\r\n", 403),
    ] {
        let answer = ask(path, headers).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{path} {headers}: {answer}");
    }
    // One that is wanted is asked for, and only then sent.
    for path in ["/v1/models/digits:predict", "/api/v1/predict/digits?wait=10"] {
        let body = instance([1.0; 4]);
        let mut socket = open(&house).await;
        let head = post(path, "", "Expect: 100-continue\r\nConnection: close\r\n");
        let head = head.replace("Content-Length: 0", &format!("Content-Length: {}", body.len()));
        socket.write_all(head.as_bytes()).await.expect("sends");
        assert_eq!(until(&mut socket, "\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n", "{path}");
        socket.write_all(body.as_bytes()).await.expect("sends");
        let answer = rest(&mut socket).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{path}: {answer}");
    }
    house.stop().await;
}

#[tokio::test]
async fn a_caller_that_shuts_its_sending_side_is_answered() {
    let house = house().await;
    // Waits in the queue first: its end comes long before its answer.
    house.post("/api/v1/queues/digits/pause", "").await;
    let large = format!("{{\"instances\":[{}[1,2,3,4]]}}", "[1,2,3,4],".repeat(20_000));
    for (path, body) in [
        ("/v1/models/digits:predict", instance([1.0; 4])),
        ("/api/v1/predict/digits?wait=30", instance([1.0; 4])),
        (
            "/v2/models/digits/infer",
            r#"{"inputs":[{"name":"input","shape":[1,4],"datatype":"FP32","data":[1,2,3,4]}]}"#.into(),
        ),
        ("/v1/models/digits:predict", large),
    ] {
        let is_large = body.len() > 100_000;
        let mut socket = open(&house).await;
        socket.write_all(post(path, &body, "").as_bytes()).await.expect("sends");
        socket.shutdown().await.expect("shuts its side");
        let queued = async || house.get("/api/v1/queues/digits").await.json()["queued"].as_u64();
        if !is_large {
            poll(Duration::from_secs(10), async || (queued().await == Some(1)).then_some(())).await;
            // Long enough for the looks at a caller that may have left.
            tokio::time::sleep(Duration::from_millis(150)).await;
            assert_eq!(queued().await, Some(1), "{path}: who listens has not left");
        }
        house.post("/api/v1/queues/digits/resume", "").await;
        let answer = rest(&mut socket).await;
        house.post("/api/v1/queues/digits/pause", "").await;
        let last = answer.replace("HTTP/1.1 100 Continue\r\n\r\n", "");
        // The large one is over the model's rows, and told so: its body was read whole.
        let expected = if is_large { "HTTP/1.1 4" } else { "HTTP/1.1 200 " };
        assert!(last.starts_with(expected), "{path}: {answer:.300}");
        assert!(!last.contains("broke off"), "{path}: {answer:.300}");
    }
    // HTTP/1.0 knows no interim answers.
    house.post("/api/v1/queues/digits/resume", "").await;
    let mut socket = open(&house).await;
    socket.write_all(b"GET /livez HTTP/1.0\r\n\r\n").await.expect("sends");
    socket.shutdown().await.expect("shuts its side");
    let answer = rest(&mut socket).await;
    assert!(answer.starts_with("HTTP/1.0 200 ") || answer.starts_with("HTTP/1.1 200 "), "{answer}");
    house.stop().await;
}

#[tokio::test]
async fn cleartext_http_2_is_served() {
    let house = house().await;
    let client = reqwest::Client::builder().http2_prior_knowledge().build().expect("a client");
    let answer = client.get(house.url("/api/v1/models")).send().await.expect("an answer");
    assert_eq!((answer.version(), answer.status().as_u16()), (reqwest::Version::HTTP_2, 200));
    let predict = client.post(house.url("/v1/models/digits:predict")).body(instance([1.0; 4])).send().await;
    assert_eq!(predict.expect("an answer").status(), 200);
    let rebound = client.get(house.url("/livez")).header("host", "evil.example").send().await.expect("an answer");
    assert_eq!(rebound.status(), 403, "a Host is judged in HTTP/2 too");
    // An answer that is not read to its end keeps the connection, and that the drain.
    drop((answer, rebound, client));
    house.stop().await;
}

#[tokio::test]
async fn a_connection_that_says_nothing_does_not_hold_a_drain_up() {
    let house = house().await;
    let silent = open(&house).await;
    // It is accepted before a later one is answered, on the one thread there is.
    assert_eq!(house.get("/livez").await.status, 200);
    tokio::time::timeout(Duration::from_secs(10), house.stop()).await.expect("drains at once");
    drop(silent);
}
