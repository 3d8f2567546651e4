//! Deliveries against a receiver that fails at random and restarts, by a sender
//! that is ended again and again: each arrives at least once, and every
//! signature verifies. And hostile URLs: no connection is made.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use nobat_core::job::{JobOptions, JobResult, NewJob, Outcome, Settlement};
use nobat_core::{JobId, OwnerId};
use nobat_queue::Queue;
use nobat_queue::QueueSettings;
use nobat_queue::sqlite::SqliteQueue;
use nobat_runtime::Metrics;
use nobat_webhooks::outbound::{AddressPolicy, WebhookSecret};
use nobat_webhooks::{ResultView, WebhookSettings, Webhooks, sender};

const VIEW: ResultView = ResultView { url: |id| format!("/api/v1/jobs/{id}/result"), json: |_| b"{}".to_vec() };

const DELIVERIES: usize = 1_000;
const OLD: &str = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3";
const NEW: &str = "whsec_YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4";

fn settings(allow: bool) -> WebhookSettings {
    WebhookSettings {
        // Both, as while one secret replaces the other.
        secrets: vec![NEW.into(), OLD.into()],
        addresses: AddressPolicy { allow_http: allow, allow_private: allow },
        retry_s: vec![0; 40],
        concurrent: 32,
        ..WebhookSettings::default()
    }
}

/// What has arrived, by message id, and how much of it did not verify.
#[derive(Default)]
struct Inbox {
    accepted: Mutex<HashMap<String, usize>>,
    refused: AtomicUsize,
    forged: AtomicUsize,
    seed: AtomicUsize,
    stop: AtomicBool,
}

impl Inbox {
    fn serve(self: Arc<Inbox>, listener: TcpListener) {
        listener.set_nonblocking(true).expect("set");
        while !self.stop.load(Ordering::Relaxed) {
            match listener.accept() {
                Ok((socket, _)) => {
                    let inbox = self.clone();
                    std::thread::spawn(move || inbox.take(socket));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(2)),
            }
        }
    }

    fn take(&self, socket: TcpStream) -> Option<()> {
        socket.set_nonblocking(false).ok()?;
        socket.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        let mut reader = BufReader::new(socket);
        let mut headers = HashMap::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            if line.trim().is_empty() {
                break;
            }
            if let Some((name, value)) = line.split_once(':') {
                headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
            }
        }
        let mut body = vec![0; headers.get("content-length")?.parse().ok()?];
        reader.read_exact(&mut body).ok()?;
        let (id, stamp) = (headers.get("webhook-id")?, headers.get("webhook-timestamp")?.parse().ok()?);
        let signature = headers.get("webhook-signature")?;
        for secret in [OLD, NEW] {
            let secret = WebhookSecret::parse(secret).expect("a secret");
            if !secret.verify(id, stamp, &body, signature, stamp) {
                self.forged.fetch_add(1, Ordering::Relaxed);
            }
        }
        let draw = self.seed.fetch_add(1, Ordering::Relaxed).wrapping_mul(2_654_435_761) >> 7;
        let status = if draw.is_multiple_of(5) {
            self.refused.fetch_add(1, Ordering::Relaxed);
            "500 Internal Server Error"
        } else {
            *self.accepted.lock().expect("not poisoned").entry(id.clone()).or_default() += 1;
            "204 No Content"
        };
        let mut socket = reader.into_inner();
        socket.write_all(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").as_bytes()).ok()
    }
}

async fn settled_jobs(queue: &SqliteQueue, webhooks: &Webhooks, url: &str, count: usize) -> Vec<JobId> {
    let lane = queue.client();
    let mut ids = Vec::new();
    for _ in 0..count {
        let job = NewJob {
            model: "m".into(),
            owner: OwnerId::ANONYMOUS,
            options: JobOptions::default(),
            payload: Bytes::from_static(b"p"),
            rows: 1,
            trace: "".into(),
        };
        let id = lane.enqueue(job).await.expect("enqueued").id;
        webhooks.subscribe(id, OwnerId::ANONYMOUS, url).await.expect("watched");
        ids.push(id);
    }
    let mut consumer = queue.consumer("m", "w").await.expect("a consumer");
    let (mut settle, mut done) = (Vec::new(), 0);
    while done < count {
        let step = consumer.settle_and_lease(std::mem::take(&mut settle), 64).await.expect("a step");
        done += step.leased.len();
        let result = JobResult { timings: Default::default(), outputs: Bytes::from_static(b"r") }.encode();
        settle = step
            .leased
            .iter()
            .map(|job| Settlement { id: job.id, token: job.token, outcome: Outcome::Succeeded(result.clone()) })
            .collect();
    }
    consumer.settle_and_lease(settle, 0).await.expect("a step");
    ids
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_delivery_arrives_through_failures_restarts_and_kills_of_the_sender() {
    let dir = tempfile::tempdir().expect("a folder");
    let queue = SqliteQueue::open(dir.path(), QueueSettings::default()).expect("opens");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let url = format!("http://{address}/hook");
    let new_sender = || Webhooks::new(&settings(true), queue.metadata(), VIEW, &Metrics::new()).expect("webhooks");
    let ids = settled_jobs(&queue, &new_sender(), &url, DELIVERIES).await;

    let inbox = Arc::new(Inbox::default());
    let mut server = std::thread::spawn({
        let inbox = inbox.clone();
        move || inbox.serve(listener)
    });
    let began = Instant::now();
    let mut kills = 0;
    loop {
        let sending = tokio::spawn(sender::run(new_sender(), queue.clone()));
        // The first few are ended in the middle of their work.
        tokio::time::sleep(Duration::from_millis(if kills < 5 { 400 } else { 5_000 })).await;
        sending.abort();
        kills += 1;
        if kills == 3 {
            // The receiver restarts.
            inbox.stop.store(true, Ordering::Relaxed);
            server.join().expect("ended");
            inbox.stop.store(false, Ordering::Relaxed);
            let again = || {
                std::thread::sleep(Duration::from_millis(20));
                TcpListener::bind(address).ok()
            };
            let listener = (0..100).find_map(|_| again()).expect("the port is free again");
            let inbox = inbox.clone();
            server = std::thread::spawn(move || inbox.serve(listener));
        }
        let accepted = inbox.accepted.lock().expect("not poisoned").len();
        if accepted == DELIVERIES {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(240), "only {accepted} of {DELIVERIES} arrived");
    }
    inbox.stop.store(true, Ordering::Relaxed);
    server.join().expect("ended");
    let accepted = inbox.accepted.lock().expect("not poisoned");
    for id in ids {
        assert!(accepted.contains_key(&format!("msg_{id}_job.succeeded")), "the end of {id} was lost");
    }
    assert_eq!(inbox.forged.load(Ordering::Relaxed), 0);
    let (refused, times) = (inbox.refused.load(Ordering::Relaxed), accepted.values().sum::<usize>());
    println!("{DELIVERIES} deliveries arrived {times} times, {refused} refusals, {kills} kills of the sender");
}

#[tokio::test]
async fn a_hundred_hostile_urls_are_refused_and_nothing_is_connected_to() {
    let dir = tempfile::tempdir().expect("a folder");
    let queue = SqliteQueue::open(dir.path(), QueueSettings::default()).expect("opens");
    // Whoever walks around the guard to this machine knocks here.
    let trap = TcpListener::bind("0.0.0.0:0").expect("a port");
    trap.set_nonblocking(true).expect("set");
    let port = trap.local_addr().expect("bound").port();
    #[rustfmt::skip]
    let hosts = [
        "127.0.0.1", "127.1", "127.0.1", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "017700000001", "0.0.0.0",
        "0", "127.255.255.254", "10.0.0.1", "10.255.255.255", "172.16.0.1", "172.31.255.255", "192.168.0.1",
        "192.168.255.255", "169.254.169.254", "169.254.0.1", "100.64.0.1", "100.127.255.255", "192.0.0.1", "192.0.2.1",
        "192.88.99.1", "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.255",
        "240.0.0.1", "255.255.255.255", "[::]", "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::ffff:a00:1]",
        "[::127.0.0.1]", "[64:ff9b::7f00:1]", "[64:ff9b:1::1]", "[2002:7f00:1::]", "[2001::1]", "[2001:db8::1]",
        "[fe80::1]", "[fec0::1]", "[fc00::1]", "[fd12:3456::1]", "[ff02::1]", "[100::1]", "[3fff::1]", "localhost",
        "localhost.", "LOCALHOST", "%31%32%37.0.0.1", "①②⑦.0.0.1", "127。0。0。1",
    ];
    let mut urls: Vec<String> = hosts.iter().map(|host| format!("https://{host}:{port}/")).collect();
    urls.extend(hosts.iter().take(32).map(|host| format!("http://{host}:{port}/")));
    #[rustfmt::skip]
    let others = [
        "file:///etc/passwd", "gopher://127.0.0.1/", "ftp://127.0.0.1/", "dict://127.0.0.1/", "ldap://127.0.0.1/",
        "javascript:alert(1)", "data:text/plain,x", "//127.0.0.1/", "127.0.0.1", "", " ", "https://",
    ];
    urls.extend(others.map(String::from));
    urls.push(format!("https://user:pw@127.0.0.1:{port}/"));
    urls.push(format!("https://example.com@127.0.0.1:{port}/"));
    assert!(urls.len() >= 100, "{}", urls.len());

    let webhooks = Webhooks::new(&settings(false), queue.metadata(), VIEW, &Metrics::new()).expect("webhooks");
    // Names are resolved only when they are called: these pass here and are stopped there.
    let names = urls.iter().filter(|url| webhooks.check(url).is_ok()).count();
    assert!(names <= 3, "{names} passed");
    // As if a caller had got past the check all the same.
    for url in &urls {
        settled_jobs(&queue, &webhooks, url, 1).await;
    }
    let sending = tokio::spawn(sender::run(webhooks.clone(), queue.clone()));
    tokio::time::sleep(Duration::from_secs(8)).await;
    sending.abort();
    assert!(trap.accept().is_err(), "a connection was made");
    println!("{} hostile URLs: no connection", urls.len());
}

/// Answers the first request with 429 and a `Retry-After`, the others with 204; says
/// when each came, and what it was.
fn busy_once(listener: TcpListener, retry_after_s: u64) -> Arc<Mutex<Vec<(Instant, String)>>> {
    let got: Arc<Mutex<Vec<(Instant, String)>>> = Arc::default();
    let seen = got.clone();
    std::thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            let came = Instant::now();
            let mut reader = BufReader::new(socket);
            let (mut id, mut length) = (String::new(), 0);
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).expect("a request");
                match line.trim().split_once(": ") {
                    Some((name, value)) if name.eq_ignore_ascii_case("webhook-id") => id = value.to_owned(),
                    Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                        length = value.parse().expect("a length");
                    }
                    Some(_) => {}
                    None if line.trim().is_empty() => break,
                    None => {}
                }
            }
            reader.read_exact(&mut vec![0; length]).expect("a body");
            let first = seen.lock().expect("not poisoned").is_empty();
            seen.lock().expect("not poisoned").push((came, id));
            let status = match first {
                true => format!("429 Too Many Requests\r\nretry-after: {retry_after_s}"),
                false => "204 No Content".to_owned(),
            };
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            let _ = reader.into_inner().write_all(answer.as_bytes());
        }
    });
    got
}

#[tokio::test]
async fn a_receiver_that_says_retry_after_is_left_alone_for_so_long() {
    let dir = tempfile::tempdir().expect("a folder");
    let queue = SqliteQueue::open(dir.path(), QueueSettings::default()).expect("opens");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}/hook", listener.local_addr().expect("bound"));
    let got = busy_once(listener, 3);
    // Retries are at once by the schedule, and one POST goes at a time.
    let settings = WebhookSettings { concurrent: 1, ..settings(true) };
    let webhooks = Webhooks::new(&settings, queue.metadata(), VIEW, &Metrics::new()).expect("webhooks");
    settled_jobs(&queue, &webhooks, &url, 1).await;
    let sending = tokio::spawn(sender::run(webhooks.clone(), queue.clone()));
    let count = || got.lock().expect("not poisoned").len();
    while count() == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // A second message to the receiver that rests.
    settled_jobs(&queue, &webhooks, &url, 1).await;
    while count() < 3 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    sending.abort();
    let got = got.lock().expect("not poisoned");
    let waited = got[1].0.duration_since(got[0].0);
    assert!(waited >= Duration::from_secs(3), "{waited:?}: nothing, of either message, came before its time");
    assert_eq!(got[1..].iter().filter(|(_, id)| *id == got[0].1).count(), 1, "the refused one came again, once");
}
