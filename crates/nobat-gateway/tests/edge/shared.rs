//! Two gateways on one Redis: a caller's rate and cached answers are common to
//! both, and a Redis that is away leaves each gateway to itself.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nobat_gateway::GatewayConfig;
use nobat_queue::Queue;
use nobat_queue::QueueSettings;
use nobat_queue::redis::RedisQueue;
use nobat_serving::limits::LimitsConfig;
use serde_json::json;

use crate::house::House;

/// A redis-server of the test's own, killed by its id.
pub(crate) struct Redis {
    process: Child,
    port: u16,
    _dir: tempfile::TempDir,
}

impl Redis {
    pub(crate) fn start() -> Redis {
        let dir = tempfile::tempdir().expect("a folder");
        let port = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port").port();
        let process = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"])
            .arg(dir.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed (scripts/test-deps)");
        let end = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < end, "redis-server did not start");
            std::thread::sleep(Duration::from_millis(10));
        }
        Redis { process, port, _dir: dir }
    }

    pub(crate) async fn queue(&self) -> Arc<dyn Queue> {
        let url = format!("redis://127.0.0.1:{}", self.port);
        RedisQueue::connect(&url, QueueSettings::default(), "nobat").await.expect("a fresh server is fit")
    }

    /// Answers no write for so long.
    fn pause_writes(&self, for_ms: u32) {
        let mut socket = TcpStream::connect(("127.0.0.1", self.port)).expect("connects");
        socket.write_all(format!("CLIENT PAUSE {for_ms} WRITE\r\n").as_bytes()).expect("written");
        let mut answer = [0; 5];
        socket.read_exact(&mut answer).expect("an answer");
        assert_eq!(&answer, b"+OK\r\n");
    }

    fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

fn rated(rate_per_s: f64, burst: u32) -> GatewayConfig {
    let limits = LimitsConfig { rate_per_s, burst, ..LimitsConfig::default() };
    GatewayConfig { limits, ..GatewayConfig::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_is_one_bucket_over_all_gateways() {
    let mut redis = Redis::start();
    let config = rated(0.01, 6);
    let first = House::on(redis.queue().await, config.clone(), json!({}), Duration::ZERO).await;
    let second = House::on(redis.queue().await, config, json!({}), Duration::ZERO).await;
    for (turn, house) in [&first, &second, &first, &second, &first, &second].into_iter().enumerate() {
        let reply = house.predict(1.0, None, &[]).await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        let left = format!("\"default\";r={};", 5 - turn);
        assert!(reply.header("ratelimit").starts_with(&left), "turn {turn}: {}", reply.header("ratelimit"));
    }
    for house in [&first, &second] {
        let refused = house.predict(1.0, None, &[("x-request-id", "abc")]).await;
        assert_eq!((refused.status, refused.json()["code"].as_str()), (429, Some("rate_limited")));
        assert!(refused.header("retry-after").parse::<u32>().expect("seconds") > 60);
        assert_eq!(refused.header("x-request-id"), "abc");
        let counted = "nobat_http_requests_total{protocol=\"tensorflow\",status=\"429\"} 1";
        assert!(house.scrape().await.contains(counted), "a refusal is counted");
        let status = house.grpc().await.model_infer(nobat_core::oip::ModelInferRequest::default()).await;
        assert_eq!(status.expect_err("refused").code(), tonic::Code::ResourceExhausted);
    }
    assert_eq!(first.gateway.serving().admission.limits.in_flight(), 0, "a refusal gives its place back");
    // Without Redis a gateway goes by its own bucket, which has room left.
    redis.kill();
    let reply = first.predict(1.0, None, &[]).await;
    assert_ne!(reply.status, 429, "{}", reply.text);
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_kept_by_one_gateway_is_a_hit_at_the_other() {
    let redis = Redis::start();
    let settings = json!({ "cache": { "shared": true } });
    let config = GatewayConfig::default();
    let first = House::on(redis.queue().await, config.clone(), settings.clone(), Duration::ZERO).await;
    let second = House::on(redis.queue().await, config, settings, Duration::ZERO).await;
    let asked = first.predict(3.0, None, &[]).await;
    assert_eq!((asked.status, asked.header("cache-status")), (200, "nobat; fwd=miss; stored"), "{}", asked.text);
    let again = second.predict(3.0, None, &[]).await;
    assert_eq!((again.status, again.header("cache-status")), (200, "nobat; hit"), "{}", again.text);
    assert_eq!(asked.text, again.text);
    assert_eq!(first.run_count() + second.run_count(), 1);
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_shorter_than_the_enqueue_is_not_told_that_the_job_is_gone() {
    let redis = Redis::start();
    let house = House::on(redis.queue().await, GatewayConfig::default(), json!({}), Duration::ZERO).await;
    assert_eq!(house.predict(1.0, None, &[]).await.status, 200, "the connections are open");
    for number in 0..3 {
        redis.pause_writes(700);
        let answer = house.enqueue_and(&format!("?wait=100ms&priority={number}")).await;
        // It may have run by the time that it is read.
        assert!(matches!(answer.status, 200 | 202), "{} {}", answer.status, answer.text);
        let id = answer.json()["id"].as_str().expect("an id").to_owned();
        let result = house.get(&format!("/api/v1/jobs/{id}/result?wait=20"), None).await;
        assert_eq!(result.status, 200, "{}", result.text);
    }
    house.stop().await;
}
