//! Kill the only worker: the operator's receiver hears of it, and of its return.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nobat_serving::auth::now_s;
use nobat_webhooks::outbound::WebhookSecret;
use serde_json::Value;

use crate::rig::http::Http;
use crate::rig::onnx;
use crate::rig::process::{Redis, Service, free_port, worker};

/// The key of the published test vector.
const SECRET: &str = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3";

/// One delivery: headers in lower case, and the body.
struct Delivery {
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Delivery {
    fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str()).expect(name)
    }
}

/// Takes deliveries on a thread of its own.
fn receiver() -> (String, mpsc::Receiver<Delivery>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}/alerts", listener.local_addr().expect("bound"));
    let (sender, deliveries) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let mut reader = BufReader::new(stream);
            let mut headers = Vec::new();
            let mut line = String::new();
            while reader.read_line(&mut line).is_ok_and(|read| read > 2) {
                if let Some((name, value)) = line.trim_end().split_once(": ") {
                    headers.push((name.to_lowercase(), value.to_owned()));
                }
                line.clear();
            }
            let mut delivery = Delivery { headers, body: Vec::new() };
            let length: usize = delivery.header("content-length").parse().expect("a length");
            delivery.body = vec![0; length];
            reader.read_exact(&mut delivery.body).expect("a body");
            reader.get_mut().write_all(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n").expect("answered");
            if sender.send(delivery).is_err() {
                return;
            }
        }
    });
    (url, deliveries)
}

#[test]
fn the_death_of_the_only_worker_and_its_return_reach_the_receiver_in_time_and_signed() {
    let folder = tempfile::tempdir().expect("a folder");
    let models = onnx::echo(folder.path(), 64, 1);
    let redis = Redis::start(folder.path(), false);
    let (url, deliveries) = receiver();
    let env = [
        ("NOBAT_GATEWAY__MONITOR__WEBHOOK", url.as_str()),
        ("NOBAT_GATEWAY__MONITOR__WEBHOOK_SECRET", SECRET),
        ("NOBAT_GATEWAY__MONITOR__ADDRESSES__ALLOW_HTTP", "true"),
        ("NOBAT_GATEWAY__MONITOR__ADDRESSES__ALLOW_PRIVATE", "true"),
    ];
    let mut only = worker(folder.path(), &redis.url(), &models, &[]);
    let mut gateway = Service::gateway(folder.path(), &redis.url(), free_port(), &env);
    gateway.wait_for_model("echo");
    // A look of the monitor has seen the worker.
    std::thread::sleep(Duration::from_secs(3));

    let secret = WebhookSecret::parse(SECRET).expect("a secret");
    let expect = |kind: &str, since: Instant| {
        let delivery = deliveries.recv_timeout(Duration::from_secs(60)).expect(kind);
        let took = since.elapsed();
        let event: Value = serde_json::from_slice(&delivery.body).expect("JSON");
        assert_eq!((&event["type"], &event["data"]["check"]), (&kind.into(), &"workers".into()), "{event}");
        let stamp = delivery.header("webhook-timestamp").parse().expect("seconds");
        let signature = delivery.header("webhook-signature");
        assert!(secret.verify(delivery.header("webhook-id"), stamp, &delivery.body, signature, now_s()), "{signature}");
        println!("{kind} after {:.1} s", took.as_secs_f64());
        took
    };
    let killed = Instant::now();
    only.kill();
    assert!(expect("monitor.check.failing", killed) < Duration::from_secs(20));
    let back = Instant::now();
    let _again = worker(folder.path(), &redis.url(), &models, &[]);
    assert!(expect("monitor.check.recovered", back) < Duration::from_secs(20));
}

#[test]
fn an_alert_address_that_cannot_be_used_is_told_and_one_that_is_away_is_survived() {
    let folder = tempfile::tempdir().expect("a folder");
    let models = onnx::echo(folder.path(), 64, 1);
    let gone = format!("http://127.0.0.1:{}/secret-path", free_port());
    let env = [
        ("NOBAT_GATEWAY__MONITOR__WEBHOOK", gone.as_str()),
        ("NOBAT_GATEWAY__MONITOR__ADDRESSES__ALLOW_HTTP", "true"),
        ("NOBAT_GATEWAY__MONITOR__ADDRESSES__ALLOW_PRIVATE", "true"),
        // Fails at once: nobody has so much disk.
        ("NOBAT_GATEWAY__MONITOR__MIN_DISK_BYTES", "9000000000000000000"),
    ];
    let mut service = Service::serve(folder.path(), &models, &[], &env);
    service.wait_for_model("echo");
    crate::rig::wait_for("the receiver is told to be away", || service.process.output().contains("cannot tell"));
    let output = service.process.output();
    assert!(output.contains("disk is failing") && !output.contains("secret-path"), "{output}");
    let answer = service.http().post("/v1/models/echo:predict", &onnx::body(1, 1)).expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.text());

    // The name passes at start; its address is refused when it is resolved.
    let named = format!("https://localhost:{}/", free_port());
    let env = [env[3], ("NOBAT_GATEWAY__MONITOR__WEBHOOK", named.as_str())];
    let folder = tempfile::tempdir().expect("a folder");
    let mut service = Service::serve(folder.path(), &models, &[], &env);
    service.wait_for_model("echo");
    crate::rig::wait_for("the private address is refused", || {
        service.process.output().contains("address of `localhost`")
    });
    assert!(service.process.is_running());
}

#[test]
fn a_short_outage_of_redis_is_seen_by_probes_and_told_in_order() {
    let folder = tempfile::tempdir().expect("a folder");
    let models = onnx::echo(folder.path(), 64, 1);
    let mut redis = Redis::start(folder.path(), true);
    let (url, deliveries) = receiver();
    let env = [
        ("NOBAT_GATEWAY__MONITOR__WEBHOOK", url.as_str()),
        ("NOBAT_GATEWAY__MONITOR__ADDRESSES__ALLOW_HTTP", "true"),
        ("NOBAT_GATEWAY__MONITOR__ADDRESSES__ALLOW_PRIVATE", "true"),
        // The store is followed, not looked at.
        ("NOBAT_GATEWAY__MONITOR__EVERY_S", "60"),
    ];
    let _worker = worker(folder.path(), &redis.url(), &models, &[]);
    let mut gateway = Service::gateway(folder.path(), &redis.url(), free_port(), &env);
    gateway.wait_for_model("echo");
    let address = gateway.address;
    let readyz = move || Http::new(address).get("/readyz").expect("the gateway answers").status;
    crate::rig::wait_for("it is ready", || readyz() == 200);
    let told = |kind: &str| {
        let delivery = deliveries.recv_timeout(Duration::from_secs(60)).expect(kind);
        let event: Value = serde_json::from_slice(&delivery.body).expect("JSON");
        assert_eq!((&event["type"], &event["data"]["check"]), (&kind.into(), &"store".into()), "{event}");
    };
    redis.kill();
    crate::rig::wait_for("it is not ready", || readyz() == 503);
    told("monitor.check.failing");
    let before = gateway.process.output().lines().count();
    let mut http = gateway.http();
    for value in 0..5 {
        let answer = http.post("/api/v1/predict/echo", &onnx::body(value, 1)).expect("an answer");
        assert_eq!(answer.status, 503, "{}", answer.text());
    }
    let lines = gateway.process.output().lines().count() - before;
    assert!(lines < 60, "{lines} lines of one outage:\n{}", gateway.process.output());
    redis.restart();
    crate::rig::wait_for("it is ready again", || readyz() == 200);
    let answer = http.post("/v1/models/echo:predict", &onnx::body(1, 1)).expect("an answer");
    assert_eq!(answer.status, 200, "ready means that it serves: {}", answer.text());
    told("monitor.check.recovered");
}
