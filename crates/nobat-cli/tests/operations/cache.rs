//! How soon an answer that is kept is given, over HTTP, digits model.

use std::time::{Duration, Instant};

use crate::amount;
use crate::rig::golden;
use crate::rig::process::{Service, root};

#[test]
fn a_kept_answer_is_given_without_a_run_and_at_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let env = [("NOBAT_GATEWAY__CACHE__DIGITS__POLICY", "lru")];
    let mut service = Service::serve(folder.path(), &root().join("models"), &[], &env);
    service.wait_for_model("digits");
    let digits = golden::digits();
    let body = golden::body(&digits[..1]);
    let mut http = service.http();
    let first = http.post("/v1/models/digits:predict", &body).expect("an answer");
    assert_eq!(first.header("cache-status"), Some("nobat; fwd=miss; stored"), "{}", first.text());
    let mut times: Vec<Duration> = (0..amount(2_000, 50_000))
        .map(|_| {
            let start = Instant::now();
            let answer = http.post("/v1/models/digits:predict", &body).expect("an answer");
            let took = start.elapsed();
            assert_eq!((answer.header("cache-status"), &answer.body), (Some("nobat; hit"), &first.body));
            took
        })
        .collect();
    golden::check(&digits[..1], &first.json());
    times.sort_unstable();
    let (p50, p99) = (times[times.len() / 2], times[times.len() * 99 / 100]);
    println!("{} hits, one blocking client: p50 {p50:?}, p99 {p99:?}", times.len());
    assert!(p50 <= amount(Duration::from_millis(50), Duration::from_micros(150)), "p50 {p50:?}");
}
