//! Ten times the load that a service can serve: it serves what it can, refuses
//! the rest with a time to come again, and its memory stays where it was.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use crate::amount;
use crate::rig::http::Http;
use crate::rig::onnx;
use crate::rig::process::Service;

#[derive(Default)]
struct Counts {
    sent: AtomicU64,
    served: AtomicU64,
    refused: AtomicU64,
    stop: AtomicBool,
}

/// Sends a request every `pace` (at once when late) until told to stop.
fn client(address: SocketAddr, value: u32, pace: Duration, counts: &Counts) {
    let mut http = Http::new(address);
    let body = onnx::body(value, 1);
    let mut due = Instant::now() + pace.mul_f64(f64::from(value % 97) / 97.0);
    while !counts.stop.load(SeqCst) {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        due = (due + pace).max(Instant::now() - pace);
        counts.sent.fetch_add(1, SeqCst);
        let answer = http.post("/v1/models/echo:predict", &body).expect("an answer, whatever it is");
        match answer.status {
            200 => {
                assert_eq!(answer.json()["predictions"][0][1].as_f64(), Some(f64::from(value)));
                counts.served.fetch_add(1, SeqCst);
            }
            429 | 503 => {
                let after = answer.header("retry-after").and_then(|after| after.parse::<u32>().ok());
                assert!(after.is_some_and(|after| after >= 1), "{}", answer.text());
                counts.refused.fetch_add(1, SeqCst);
            }
            other => panic!("{other}: {}", answer.text()),
        }
    }
}

/// Runs `clients` for `time`; served per second, sent per second, refused, and
/// the most memory seen, in MiB.
fn run(service: &Service, clients: u32, pace: Duration, time: Duration) -> (f64, f64, u64, f64) {
    let counts = Arc::new(Counts::default());
    let threads: Vec<_> = (0..clients)
        .map(|value| {
            let (counts, address) = (counts.clone(), service.address);
            let thread = std::thread::Builder::new().stack_size(256 << 10);
            thread.spawn(move || client(address, value, pace, &counts)).expect("a thread")
        })
        .collect();
    let start = Instant::now();
    let mut most: f64 = 0.0;
    while start.elapsed() < time {
        std::thread::sleep(Duration::from_millis(100));
        most = most.max(memory_mib(service));
    }
    let seconds = start.elapsed().as_secs_f64();
    let [served, sent, refused] = [&counts.served, &counts.sent, &counts.refused].map(|count| count.load(SeqCst));
    counts.stop.store(true, SeqCst);
    threads.into_iter().for_each(|thread| thread.join().expect("a client"));
    (served as f64 / seconds, sent as f64 / seconds, refused, most)
}

fn memory_mib(service: &Service) -> f64 {
    let status = fs::read_to_string(format!("/proc/{}/status", service.process.id())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
    line.trim().trim_end_matches(" kB").parse::<f64>().expect("a number") / 1024.0
}

#[test]
fn ten_times_the_load_is_served_at_the_pace_of_the_peak_and_the_rest_told_when_to_come_again() {
    let folder = tempfile::tempdir().expect("a folder");
    // Milliseconds a run and one run at a time: the model is the bottleneck.
    let models = onnx::echo(folder.path(), 1024, 60);
    let env = [
        ("NOBAT_WORKER__SESSIONS", "1"),
        ("NOBAT_WORKER__BATCHING__MAX_BATCH_SIZE", "1"),
        ("NOBAT_GATEWAY__LIMITS__MAX_IN_FLIGHT", "32"),
    ];
    let mut service = Service::serve(folder.path(), &models, &[], &env);
    service.wait_for_model("echo");
    let (warm_up, time) = (Duration::from_secs(1), Duration::from_secs(amount(4, 60)));
    run(&service, 8, Duration::ZERO, warm_up);
    let (peak, _, refused, before) = run(&service, 8, Duration::ZERO, time.min(Duration::from_secs(10)));
    assert_eq!(refused, 0, "the peak is without refusals");
    // Most clients are refused at once and wait for their next turn; those that
    // are served wait, so there are enough of them to keep the pace.
    let clients = 240;
    let pace = Duration::from_secs_f64(f64::from(clients) / (peak * 11.0));
    let (served, sent, refused, most) = run(&service, clients, pace, time);
    std::thread::sleep(Duration::from_secs(amount(1, 15)));
    let after = memory_mib(&service);
    println!(
        "peak {peak:.0}/s; {:.0} s at {sent:.0}/s ({:.1} x): {served:.0}/s served ({:.0} % of the peak), {refused} refused; \
         memory {before:.0} MiB at the peak, at most {most:.0} MiB, {after:.0} MiB afterwards",
        time.as_secs_f64(),
        sent / peak,
        100.0 * served / peak
    );
    assert!(refused > 0 && sent > amount(3.0, 9.5) * peak, "{sent:.0}/s is not an overload of {peak:.0}/s");
    assert!(served >= amount(0.4, 0.9) * peak, "{served:.0}/s of {peak:.0}/s");
    assert!(most < before + 64.0, "{before:.0} MiB grew to {most:.0} MiB");
    assert!(service.process.is_running());
}
