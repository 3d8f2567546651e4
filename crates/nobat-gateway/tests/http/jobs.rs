//! The native jobs API.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::{House, Reply, instance, poll};

#[tokio::test]
async fn a_prediction_is_accepted_at_once_and_its_result_read_later() {
    let house = House::start().await;
    let reply = house
        .post("/api/v1/predict/digits?priority=10&result_ttl=60s&max_retries=3", instance([1.0, 2.0, 3.0, 4.0]))
        .await;
    assert_eq!(reply.status, 202);
    let job = reply.json();
    let id = job["id"].as_str().expect("an id");
    assert_eq!(reply.header("location"), format!("/api/v1/jobs/{id}"));
    assert_eq!(reply.header("preference-applied"), "respond-async");
    assert!(!reply.header("retry-after").is_empty());
    assert_eq!(
        (job["model"].as_str(), job["state"].as_str(), job["priority"].as_u64()),
        (Some("digits"), Some("queued"), Some(10))
    );

    let result = house.get(&format!("/api/v1/jobs/{id}/result?wait=10")).await;
    assert_eq!(result.status, 200, "{}", result.text);
    let body = result.json();
    assert_eq!(body["predictions"][0]["label"], 10);
    assert_eq!(
        (&body["version"], &body["state"], &body["explain"]["worker"]),
        (&json!("1"), &json!("succeeded"), &json!("scripted"))
    );
    assert!(result.header("server-timing").starts_with("queue;dur="));
    let column = house.get(&format!("/api/v1/jobs/{id}/result?form=column")).await.json();
    assert_eq!(column["outputs"]["label"], json!([10]));

    let status = house.get(&format!("/api/v1/jobs/{id}")).await.json();
    assert_eq!((&status["state"], &status["attempts"]), (&json!("succeeded"), &json!(1)));
    assert!(status["finished_at_ms"].as_u64().expect("finished") > 0);
    house.stop().await;
}

#[tokio::test]
async fn a_job_was_made_when_its_acceptance_says_and_every_time_is_told_in_both_forms() {
    let house = House::start().await;
    let accepted = house.post("/api/v1/predict/digits?delay=1h", instance([1.0, 0.0, 0.0, 0.0])).await.json();
    let id = accepted["id"].as_str().expect("an id");
    assert!(accepted["created_at_ms"].as_u64().is_some_and(|at| at > 1_577_836_800_000), "{accepted}");
    let later = house.get(&format!("/api/v1/jobs/{id}")).await.json();
    for member in ["created_at", "created_at_ms"] {
        assert_eq!(accepted[member], later[member], "{member}");
    }
    let text = later["created_at"].as_str().expect("RFC 3339");
    let read = chrono::DateTime::parse_from_rfc3339(text).expect("RFC 3339");
    assert_eq!(u64::try_from(read.timestamp_millis()).ok(), later["created_at_ms"].as_u64());
    let cancelled = house.post(&format!("/api/v1/jobs/{id}/cancel"), "").await.json();
    assert!(cancelled["finished_at"].is_string() && cancelled["finished_at_ms"].is_u64(), "{cancelled}");
    let dead = house.enqueue("?max_retries=0", [666.0, 0.0, 0.0, 0.0]).await;
    house.get(&format!("/api/v1/jobs/{dead}/result?wait=10")).await;
    let error = house.get(&format!("/api/v1/jobs/{dead}")).await.json()["error"].clone();
    assert!(error["detail"].is_string() && error["detail"] == error["message"], "{error}");
    house.stop().await;
}

#[tokio::test]
async fn a_caller_that_waits_gets_the_answer_in_the_form_it_asked() {
    let house = House::start().await;
    let url = house.url("/api/v1/predict/digits");
    let request = house.client.post(&url).header("prefer", "wait=10").body(instance([1.0, 0.0, 0.0, 0.0]));
    let reply = house.send(request).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    assert_eq!(reply.json()["predictions"], json!([{ "label": 1, "probabilities": [1.0, 0.0, 0.0, 0.0] }]));
    assert_eq!(reply.header("vary"), "prefer");

    let column =
        house.post("/api/v1/predict/digits?wait=10s", r#"{"inputs":[[1,1,0,0],[3,0,0,0]],"outputs":["label"]}"#).await;
    assert_eq!(column.json()["outputs"]["label"], json!([2, 3]));

    let both = house.client.post(&url).header("prefer", "respond-async, wait=10").body(instance([2.0, 0.0, 0.0, 0.0]));
    assert_eq!(house.send(both).await.status, 200);
    house.stop().await;
}

#[tokio::test]
async fn a_wait_that_ends_first_answers_with_the_job_and_the_job_goes_on() {
    let house = House::start().await;
    assert_eq!(house.post("/api/v1/queues/digits/pause", "").await.json()["paused"], true);
    let reply = house.post("/api/v1/predict/digits?wait=0.05", instance([5.0, 0.0, 0.0, 0.0])).await;
    assert_eq!(reply.status, 202, "{}", reply.text);
    let id = reply.json()["id"].as_str().expect("an id").to_owned();
    let pending = house.get(&format!("/api/v1/jobs/{id}/result?wait=0.01")).await;
    assert_eq!((pending.status, pending.json()["state"].as_str()), (202, Some("queued")));
    assert_eq!(house.post("/api/v1/queues/digits/resume", "").await.json()["paused"], false);
    let result = house.get(&format!("/api/v1/jobs/{id}/result?wait=10")).await;
    assert_eq!(result.json()["predictions"][0]["label"], 5);
    house.stop().await;
}

#[tokio::test]
async fn many_requests_make_many_jobs_and_a_bad_one_refuses_the_call() {
    let house = House::start().await;
    let requests: Vec<_> = (0..20).map(|n| json!({ "instances": [[n, 0, 0, 0]] })).collect();
    let reply = house.post("/api/v1/predict/digits/many", json!({ "requests": requests }).to_string()).await;
    assert_eq!(reply.status, 202, "{}", reply.text);
    let jobs = reply.json()["jobs"].as_array().expect("a list").clone();
    assert_eq!(jobs.len(), 20);
    for (n, job) in jobs.iter().enumerate() {
        let id = job["id"].as_str().expect("an id");
        let result = house.get(&format!("/api/v1/jobs/{id}/result?wait=10")).await;
        assert_eq!(result.json()["predictions"][0]["label"], n);
    }
    let bad = r#"{"requests":[{"instances":[[1,2,3,4]]},{"instances":[[1,2,3]]}]}"#;
    let refused = house.post("/api/v1/predict/digits/many", bad).await;
    assert_eq!(refused.refusal(), (400, "invalid_tensor".into()));
    assert!(refused.json()["detail"].as_str().expect("a detail").starts_with("requests[1]: "), "{}", refused.text);
    house.stop().await;
}

#[tokio::test]
async fn a_cancelled_job_says_so_and_cannot_be_cancelled_again() {
    let house = House::start().await;
    let id = house.enqueue("?delay=1h", [1.0, 0.0, 0.0, 0.0]).await;
    assert_eq!(house.get(&format!("/api/v1/jobs/{id}")).await.json()["state"], "scheduled");
    let cancelled = house.post(&format!("/api/v1/jobs/{id}/cancel"), "").await;
    assert_eq!((cancelled.status, cancelled.json()["state"].as_str()), (200, Some("cancelled")));
    assert_eq!(house.get(&format!("/api/v1/jobs/{id}/result")).await.refusal(), (409, "job_cancelled".into()));
    let again = house.post(&format!("/api/v1/jobs/{id}/cancel"), "").await;
    assert_eq!(again.refusal(), (409, "job_already_finished".into()));
    house.stop().await;
}

#[tokio::test]
async fn a_failed_job_becomes_a_dead_letter_that_can_be_retried_listed_and_purged() {
    let house = House::start().await;
    let id = house.enqueue("?max_retries=0", [666.0, 0.0, 0.0, 0.0]).await;
    let dead = house.get(&format!("/api/v1/jobs/{id}/result?wait=10")).await;
    assert_eq!(dead.refusal(), (500, "inference_failed".into()));
    assert_eq!(dead.json()["job"], id.as_str());
    assert!(dead.text.contains("number of the beast"));
    let listed = house.get("/api/v1/queues/digits/dead").await.json();
    assert_eq!(listed["jobs"][0]["id"], id.as_str());

    // What it was sent, to look at.
    let input = house.get(&format!("/api/v1/jobs/{id}/input")).await;
    assert_eq!(input.status, 200, "{}", input.text);
    let tensor = &input.json()["inputs"][0];
    assert_eq!((&tensor["shape"], &tensor["data"]), (&json!([1, 4]), &json!([666.0, 0.0, 0.0, 0.0])), "{}", input.text);

    let retried = house.post(&format!("/api/v1/jobs/{id}/retry"), "").await;
    assert_eq!(retried.status, 202, "{}", retried.text);
    assert_eq!(house.get(&format!("/api/v1/jobs/{id}/result?wait=10")).await.status, 500);
    assert_eq!(house.post("/api/v1/queues/digits/dead/redrive?limit=5", "").await.json()["count"], 1);
    assert_eq!(house.get(&format!("/api/v1/jobs/{id}/result?wait=10")).await.status, 500);
    let purged = house.send(house.client.delete(house.url(&format!("/api/v1/queues/digits/dead?ids={id}")))).await;
    assert_eq!(purged.json()["count"], 1, "{}", purged.text);

    let done = house.enqueue("", [1.0, 0.0, 0.0, 0.0]).await;
    assert_eq!(house.get(&format!("/api/v1/jobs/{done}/result?wait=10")).await.status, 200);
    assert_eq!(
        house.post(&format!("/api/v1/jobs/{done}/retry"), "").await.refusal(),
        (409, "job_already_finished".into())
    );
    house.stop().await;
}

#[tokio::test]
async fn a_result_past_its_ttl_is_gone_and_an_invented_id_was_never_there() {
    let house = House::start().await;
    let id = house.enqueue("?result_ttl=50ms", [1.0, 0.0, 0.0, 0.0]).await;
    assert_eq!(house.get(&format!("/api/v1/jobs/{id}/result?wait=10")).await.status, 200);
    let gone = poll(Duration::from_secs(10), async || {
        let reply = house.get(&format!("/api/v1/jobs/{id}/result")).await;
        (reply.status != 200).then(|| reply.refusal())
    });
    assert_eq!(gone.await, (410, "result_expired".into()));
    let mut forged = id.clone().into_bytes();
    forged[0] = if forged[0] == b'a' { b'b' } else { b'a' };
    let forged = String::from_utf8(forged).expect("ASCII");
    for text in [forged.as_str(), "x", "%ff", "..", "0"] {
        // A client takes `..` with the name before it: `/api/v1/events` is a path of its own.
        let tails: &[&str] = if text == ".." { &["", "/result"] } else { &["", "/result", "/events"] };
        for tail in tails {
            let refusal = house.get(&format!("/api/v1/jobs/{text}{tail}")).await;
            assert_eq!(refusal.status, 404, "{text}{tail}");
        }
    }
    house.stop().await;
}

#[tokio::test]
async fn jobs_are_listed_with_filters_and_a_cursor() {
    let house = House::start().await;
    let mut expected = Vec::new();
    for n in 0..5 {
        expected.push(house.enqueue("?delay=1h", [n as f32, 0.0, 0.0, 0.0]).await);
    }
    let (mut found, mut cursor) = (Vec::new(), String::new());
    for _ in 0..50 {
        let page = house.get(&format!("/api/v1/jobs?model=digits&state=scheduled&limit=2{cursor}")).await.json();
        let jobs = page["jobs"].as_array().expect("a list");
        assert!(jobs.len() <= 2);
        found.extend(jobs.iter().map(|job| job["id"].as_str().expect("an id").to_owned()));
        let Some(next) = page["cursor"].as_str() else { break };
        let next: String = form_urlencoded::byte_serialize(next.as_bytes()).collect();
        cursor = format!("&cursor={next}");
    }
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
    assert_eq!(house.get("/api/v1/jobs?model=pair").await.json()["jobs"], json!([]));
    assert_eq!(house.get("/api/v1/jobs?state=done").await.refusal(), (400, "invalid_parameter".into()));
    house.stop().await;
}

#[tokio::test]
async fn the_events_of_a_job_end_with_its_end_and_resume_after_the_last_seen() {
    let house = House::start().await;
    house.post("/api/v1/queues/digits/pause", "").await;
    let id = house.enqueue("", [1.0, 0.0, 0.0, 0.0]).await;
    let url = house.url(&format!("/api/v1/jobs/{id}/events"));
    let stream = tokio::spawn(house.client.get(&url).send());
    // The stream begins with the state it finds; let it find `queued`.
    tokio::time::sleep(Duration::from_millis(200)).await;
    house.post("/api/v1/queues/digits/resume", "").await;
    let response = stream.await.expect("joins").expect("answers");
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let text = response.text().await.expect("ends");
    assert!(text.starts_with("id: 1\nevent: queued\ndata: {\"id\":"), "{text}");
    assert!(text.contains("id: 19\nevent: succeeded\n"), "{text}");
    let resumed = house.send(house.client.get(&url).header("last-event-id", "19")).await;
    assert_eq!(resumed.text, "");
    house.stop().await;
}

#[tokio::test]
async fn an_idempotency_key_returns_the_same_job_and_refuses_another_body() {
    let house = House::start().await;
    let send = async |key: &str, values| {
        let request = house.client.post(house.url("/api/v1/predict/digits")).header("idempotency-key", key);
        house.send(request.body(instance(values))).await
    };
    let first = send("\"order-1\"", [1.0, 0.0, 0.0, 0.0]).await.json()["id"].clone();
    assert_eq!(send("order-1", [1.0, 0.0, 0.0, 0.0]).await.json()["id"], first);
    assert_eq!(send("order-1", [2.0, 0.0, 0.0, 0.0]).await.refusal(), (422, "idempotency_mismatch".into()));
    assert_ne!(send("order-2", [1.0, 0.0, 0.0, 0.0]).await.json()["id"], first);
    assert_eq!(send(&"k".repeat(256), [1.0; 4]).await.refusal(), (400, "invalid_parameter".into()));
    house.stop().await;
}

/// A document, the binary tensors after it, and the header between them.
async fn send_binary(house: &House, path: &str, document: &serde_json::Value, tensors: &[u8]) -> Reply {
    let document = document.to_string();
    let request = house.client.post(house.url(path)).header("inference-header-content-length", document.len());
    house.send(request.body([document.as_bytes(), tensors].concat())).await
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn binary_input(name: &str, datatype: &str, shape: &[i64], size: usize) -> serde_json::Value {
    json!({"name": name, "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": size}})
}

#[tokio::test]
async fn a_job_of_binary_tensors_is_the_job_of_the_same_numbers_in_json() {
    let house = House::start().await;
    let tensors = floats(&[1.0, 2.0, 3.0, 4.0, 5.0, 0.0, 0.0, 0.5]);
    let document =
        json!({"inputs": [binary_input("input", "FP32", &[2, 4], tensors.len())], "outputs": [{"name": "label"}]});
    let accepted = send_binary(&house, "/api/v1/predict/digits?priority=3", &document, &tensors).await;
    assert_eq!((accepted.status, &accepted.json()["priority"]), (202, &json!(3)), "{}", accepted.text);
    let id = accepted.json()["id"].as_str().expect("an id").to_owned();
    let result = house.get(&format!("/api/v1/jobs/{id}/result?wait=10&form=column")).await;
    assert_eq!((result.status, &result.json()["outputs"]["label"]), (200, &json!([10, 5])), "{}", result.text);

    let waited = send_binary(&house, "/api/v1/predict/digits?wait=10", &document, &tensors).await;
    assert_eq!((waited.status, &waited.json()["outputs"]["label"]), (200, &json!([10, 5])), "{}", waited.text);

    // Several tensors, in the document's order.
    let inputs = json!({"inputs": [binary_input("b", "INT32", &[1], 4), binary_input("a", "INT32", &[1], 4)]});
    let sum = send_binary(&house, "/api/v1/predict/pair?wait=10", &inputs, &[2, 0, 0, 0, 40, 0, 0, 0]).await;
    assert_eq!((sum.status, &sum.json()["outputs"]), (200, &json!([[42.0]])), "{}", sum.text);

    // Without a document the body is the only input, as it is.
    let raw = house.client.post(house.url("/api/v1/predict/text?wait=10")).header("inference-header-content-length", 0);
    let raw = house.send(raw.body("{ no JSON")).await;
    assert_eq!((raw.status, &raw.json()["outputs"]), (200, &json!(["{ no JSON"])), "{}", raw.text);
    house.stop().await;
}

#[tokio::test]
async fn a_binary_body_that_does_not_add_up_or_asks_for_more_is_refused_by_name() {
    let house = House::start().await;
    let tensors = floats(&[1.0, 2.0, 3.0, 4.0]);
    let input = binary_input("input", "FP32", &[1, 4], 16);
    let cases = [
        (json!({"inputs": [binary_input("input", "FP32", &[1, 4], 12)]}), "invalid_tensor", "has 4 more"),
        (
            json!({"inputs": [binary_input("input", "FP32", &[1, 4], 20)]}),
            "invalid_tensor",
            "16 bytes of the body are left",
        ),
        (json!({"inputs": [binary_input("input", "FP64", &[1, 2], 16)]}), "invalid_tensor", "FP64"),
        (json!({"inputs": [binary_input("inputs", "FP32", &[1, 4], 16)]}), "invalid_tensor", "`input` is missing"),
        (json!({"inputs": [input], "parameters": {"priority": 1}}), "invalid_parameter", "?priority=10"),
        (json!({"inputs": [input], "parameters": {"timeout": 9}}), "invalid_parameter", "deadline="),
        (
            json!({"inputs": [input], "parameters": {"binary_data_output": true}}),
            "invalid_parameter",
            "binary_data_output",
        ),
        (
            json!({"inputs": [input], "outputs": [{"name": "label", "parameters": {"classification": 1}}]}),
            "invalid_parameter",
            "`label` asks for",
        ),
    ];
    for (document, code, words) in cases {
        let refused = send_binary(&house, "/api/v1/predict/digits", &document, &tensors).await;
        assert_eq!(refused.refusal(), (400, code.into()), "{document}: {}", refused.text);
        assert!(refused.text.contains(words), "{document}: {}", refused.text);
    }
    let beyond = house.client.post(house.url("/api/v1/predict/digits")).header("inference-header-content-length", 99);
    assert_eq!(house.send(beyond.body("{}")).await.refusal(), (400, "invalid_parameter".into()));
    house.stop().await;
}

#[tokio::test]
async fn a_client_that_leaves_cancels_its_queued_job_unless_it_asked_for_async() {
    let house = House::start().await;
    house.post("/api/v1/queues/digits/pause", "").await;
    for (prefer, expected) in [("wait=30", "cancelled"), ("respond-async, wait=30", "queued")] {
        let body = instance([3.0, 0.0, 0.0, 0.0]);
        let mut socket = tokio::net::TcpStream::connect(house.addr()).await.expect("connects");
        let head = format!(
            "POST /api/v1/predict/digits HTTP/1.1\r\nHost: x\r\nPrefer: {prefer}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        socket.write_all(head.as_bytes()).await.expect("sends");
        let id = poll(Duration::from_secs(10), async || {
            let jobs = house.get("/api/v1/jobs?state=queued").await.json();
            jobs["jobs"][0]["id"].as_str().map(str::to_owned)
        })
        .await;
        drop(socket);
        let state = async || house.get(&format!("/api/v1/jobs/{id}")).await.json()["state"].as_str().map(str::to_owned);
        if expected == "cancelled" {
            poll(Duration::from_secs(10), async || (state().await.as_deref() == Some(expected)).then_some(())).await;
        } else {
            tokio::time::sleep(Duration::from_millis(300)).await;
            assert_eq!(state().await.as_deref(), Some(expected));
        }
    }
    house.stop().await;
}

#[tokio::test]
async fn sixty_four_clients_each_get_their_own_answer() {
    let house = House::start().await;
    let clients = (0..64u16).map(|n| {
        let request =
            house.client.post(house.url("/v1/models/digits:predict")).body(instance([f32::from(n), 1.0, 0.0, 0.0]));
        async move {
            for _ in 0..10 {
                let again = request.try_clone().expect("a plain body");
                let body: serde_json::Value = again.send().await.expect("an answer").json().await.expect("JSON");
                assert_eq!(body["predictions"][0]["label"], n + 1);
            }
        }
    });
    futures::future::join_all(clients).await;
    house.stop().await;
}

#[tokio::test]
async fn models_and_queues_say_what_they_are() {
    let house = House::start().await;
    let models = house.get("/api/v1/models").await.json();
    let names: Vec<_> =
        models["models"].as_array().expect("a list").iter().map(|model| model["name"].clone()).collect();
    assert_eq!(names, ["digits", "pair", "text"]);
    let digits = house.get("/api/v1/models/digits").await.json();
    assert_eq!(
        digits["versions"][0]["inputs"][0],
        json!({"name": "input", "datatype": "FP32", "shape": [-1, 4], "optional": false})
    );
    assert_eq!((&digits["ready"], &digits["default_version"]), (&json!(true), &json!("1")));
    assert_eq!(digits["workers"][0]["report"]["controller"]["cap"], 8);
    house.enqueue("?delay=1h", [0.0; 4]).await;
    assert_eq!(house.get("/api/v1/queues/digits").await.json()["scheduled"], 1);
    assert_eq!(house.get("/api/v1/queues").await.json()["queues"].as_array().map(Vec::len), Some(3));
    assert_eq!(house.post("/api/v1/queues/nope/pause", "").await.refusal(), (404, "model_not_found".into()));
    house.stop().await;
}

#[tokio::test]
async fn a_drain_finishes_what_is_in_flight_and_refuses_what_is_new() {
    let house = House::start().await;
    house.post("/api/v1/queues/digits/pause", "").await;
    let waiting = tokio::spawn(
        house.client.post(house.url("/api/v1/predict/digits?wait=20")).body(instance([7.0, 0.0, 0.0, 0.0])).send(),
    );
    poll(Duration::from_secs(10), async || {
        (house.get("/api/v1/queues/digits").await.json()["queued"] == 1).then_some(())
    })
    .await;
    house.gateway.serving().start_draining();
    assert_eq!(house.post("/v1/models/digits:predict", instance([1.0; 4])).await.refusal(), (503, "draining".into()));
    house.post("/api/v1/queues/digits/resume", "").await;
    assert_eq!(waiting.await.expect("joins").expect("answers").status(), 200);
    let addr = house.addr();
    house.stop().await;
    assert!(tokio::net::TcpStream::connect(addr).await.is_err());
}

#[tokio::test]
async fn a_request_id_goes_out_as_it_came_in() {
    let house = House::start().await;
    let request = house.client.get(house.url("/api/v1/jobs/x")).header("x-request-id", "mine-1");
    let reply = house.send(request).await;
    assert_eq!(reply.header("x-request-id"), "mine-1");
    assert_eq!(reply.json()["request_id"], "mine-1");
    assert_eq!(reply.header("content-type"), "application/problem+json");
    house.stop().await;
}

#[tokio::test]
async fn head_and_body_leave_in_one_piece() {
    let house = House::start().await;
    let mut socket = tokio::net::TcpStream::connect(house.addr()).await.expect("connects");
    socket.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("sends");
    let mut first = [0; 4096];
    let count = socket.read(&mut first).await.expect("reads");
    let text = std::str::from_utf8(&first[..count]).expect("ASCII");
    assert!(text.ends_with(r#"{"status":"alive"}"#), "{text}");
    house.stop().await;
}
