//! `Server-Timing` (W3C): where an answer's time went and how it came about, in
//! one line that every protocol sends beside a blocking answer: an HTTP header,
//! initial metadata of a gRPC call, a parameter of a streamed response.
//!
//! The phases carry `dur` in milliseconds; `batch` carries the rows of its batch,
//! `attempts`, `worker` and `cache` their value, each as `desc`. An answer that no
//! run of its own brought (a cache's, another request's) has `cache` alone. Of a chain, each
//! step follows as `step-NAME`: from its start to its end, with the rows of its batch.

use crate::cache::CacheOutcome;
use crate::prediction::Prediction;

/// The name, of the header and of the metadata key.
pub const NAME: &str = "server-timing";
/// Most steps of a chain that a line has: it is a header.
const MOST_STEPS: usize = 32;
/// Room for usual numbers: the line is allocated once.
const USUAL_LENGTH: usize = 224;

/// The line for a prediction.
pub fn server_timing(prediction: &Prediction) -> String {
    let (timings, cache) = (&prediction.timings, prediction.cache);
    let mut line = String::with_capacity(USUAL_LENGTH);
    if timings.attempts > 0 {
        phase(&mut line, "queue", timings.queue_us);
        phase(&mut line, ", batch", timings.batch_wait_us);
        told(&mut line, "", itoa::Buffer::new().format(timings.batch_size));
        phase(&mut line, ", input", timings.input_us);
        phase(&mut line, ", infer", timings.infer_us);
        phase(&mut line, ", output", timings.output_us);
        told(&mut line, ", attempts", itoa::Buffer::new().format(timings.attempts));
        // A worker's word: only what a header can carry unquoted goes into it.
        if timings.worker.bytes().all(|byte| byte.is_ascii_alphanumeric()) && !timings.worker.is_empty() {
            told(&mut line, ", worker", &timings.worker);
        }
        for step in timings.steps.iter().take(MOST_STEPS) {
            line.push_str(", step-");
            // A token of HTTP: what else an owner may have written becomes a line.
            let is_token = |letter: char| letter.is_ascii_alphanumeric() || "-._~".contains(letter);
            line.extend(step.name.chars().take(64).map(|letter| if is_token(letter) { letter } else { '_' }));
            phase(&mut line, "", step.wait_us + step.run_us);
            told(&mut line, "", itoa::Buffer::new().format(step.batch_size));
        }
    }
    if cache != CacheOutcome::None {
        let name = if line.is_empty() { "cache" } else { ", cache" };
        told(&mut line, name, cache.name());
    }
    line
}

/// Milliseconds to the microsecond, digit by digit: every blocking answer has five of
/// these, and the formatting machinery would cost it a microsecond.
fn phase(line: &mut String, name: &str, us: u64) {
    line.push_str(name);
    line.push_str(";dur=");
    line.push_str(itoa::Buffer::new().format(us / 1_000));
    line.push('.');
    for place in [100, 10, 1] {
        line.push(char::from(b'0' + (us / place % 10) as u8));
    }
}

fn told(line: &mut String, name: &str, what: &str) {
    line.push_str(name);
    line.push_str(";desc=");
    line.push_str(what);
}

#[cfg(test)]
mod tests {
    use nobat_core::infer::InferResponse;
    use nobat_core::timings::{StepTiming, Timings};

    use super::*;

    fn line(timings: Timings, cache: CacheOutcome) -> String {
        let response = InferResponse { version: "1".into(), outputs: vec![], mark: 0 };
        server_timing(&Prediction { job: None, cache, timings, response })
    }

    #[test]
    fn a_line_tells_the_phases_the_batch_the_attempts_the_worker_and_the_cache() {
        let timings = Timings {
            queue_us: 1_234,
            batch_wait_us: 5,
            input_us: 60,
            infer_us: 2_000_001,
            output_us: 0,
            batch_size: 32,
            attempts: 2,
            worker: "abc123".into(),
            steps: vec![],
        };
        let told = "queue;dur=1.234, batch;dur=0.005;desc=32, input;dur=0.060, infer;dur=2000.001, output;dur=0.000, \
                    attempts;desc=2, worker;desc=abc123";
        assert_eq!(line(timings.clone(), CacheOutcome::None), told);
        assert_eq!(line(timings.clone(), CacheOutcome::Miss), format!("{told}, cache;desc=miss"));
        let strange = line(Timings { worker: "a b\r\nx: y".into(), ..timings.clone() }, CacheOutcome::None);
        assert!(strange.ends_with("attempts;desc=2"), "{strange}");
        let step = |name: &str, batch_size| StepTiming {
            name: name.into(),
            wait_us: 1_000,
            run_us: 234,
            batch_size,
            ..StepTiming::default()
        };
        let steps = vec![step("detect", 2), step("a b\r\n", 1)];
        let chain = line(Timings { steps, ..timings.clone() }, CacheOutcome::None);
        assert_eq!(chain, format!("{told}, step-detect;dur=1.234;desc=2, step-a_b__;dur=1.234;desc=1"));
        let many = Timings { steps: vec![step("s", 1); 100], ..timings };
        assert_eq!(line(many, CacheOutcome::None).matches("step-s").count(), MOST_STEPS);
    }

    #[test]
    fn an_answer_without_a_run_tells_the_cache_alone() {
        assert_eq!(line(Timings::default(), CacheOutcome::Hit), "cache;desc=hit");
    }
}
