//! `nobat bench`: load on a running service, as a closed loop (so many requests
//! in flight) or an open one (so many arrivals a second, whatever the answers do).
//!
//! For a feeling of what a deployment does; it shares the machine with the
//! server when they stand on one, so compare its figures only with its own.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use reqwest::{Method, header};
use tokio::sync::mpsc;

use crate::client::{Client, Server, segment};
use crate::input;

/// Not counted: connections open, caches and controllers find their place.
const WARM_UP: Duration = Duration::from_secs(1);

/// Measure requests a second and latency of a running service.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    nobat bench digits --input digit.json\n  \
    nobat bench digits --input digit.json --connections 64 --duration 10\n  \
    nobat bench digits --input digit.json --rate 2000 --deadline 50   (arrivals at random, 2000 a second)")]
pub(crate) struct Args {
    /// Name of the model.
    model: String,
    /// A JSON file, an .npy array, or - for standard input; sent with every request.
    #[arg(long, short, value_name = "FILE")]
    input: PathBuf,
    /// Requests in flight.
    #[arg(long, short, default_value_t = 16)]
    connections: usize,
    /// Arrivals a second, at random moments (a Poisson process), instead of a
    /// number in flight.
    #[arg(long, value_name = "PER_SECOND", conflicts_with = "connections")]
    rate: Option<f64>,
    /// Deadline of each request, in milliseconds; later answers are not useful.
    #[arg(long, value_name = "MS")]
    deadline: Option<f64>,
    /// Seconds to measure, after one to warm up.
    #[arg(long, short, default_value_t = 5, value_name = "SECONDS")]
    duration: u64,
    /// Writes a line per request: seconds since the start, latency in
    /// milliseconds, HTTP status (0: no answer).
    #[arg(long, value_name = "FILE")]
    samples: Option<PathBuf>,
    #[command(flatten)]
    server: Server,
}

/// One request's end.
struct Sample {
    start: Instant,
    took: Duration,
    /// 0 when there was no answer.
    status: u16,
    retry_after: bool,
}

pub(crate) fn run(args: Args) -> Result<()> {
    ensure!(args.connections > 0, "--connections must be 1 or more");
    ensure!(args.rate.is_none_or(|rate| rate > 0.0 && rate < 1e6), "--rate must be over 0 and under 1000000");
    ensure!(args.deadline.is_none_or(|ms| ms > 0.0), "--deadline must be over 0 milliseconds");
    let body: Arc<[u8]> = input::read(&args.input)?.into();
    let query = args.deadline.map(|ms| format!("?deadline={ms}ms")).unwrap_or_default();
    let path = format!("/v1/models/{}:predict{query}", segment(&args.model));
    let asked = Arc::new(Asked { client: args.server.client(Duration::from_secs(60))?, path, body });
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(measure(args, asked))
}

/// The request, ready to be sent again and again.
struct Asked {
    client: Client,
    path: String,
    body: Arc<[u8]>,
}

impl Asked {
    fn request(&self) -> reqwest::RequestBuilder {
        let request = self.client.request(Method::POST, &self.path).header(header::CONTENT_TYPE, "application/json");
        request.body(self.body.to_vec())
    }

    async fn sample(&self) -> Sample {
        let start = Instant::now();
        let answer = match self.client.send(self.request()).await {
            Ok(response) => {
                let head = (response.status().as_u16(), response.headers().contains_key(header::RETRY_AFTER));
                response.bytes().await.map(|_| head).ok()
            }
            Err(_) => None,
        };
        let (status, retry_after) = answer.unwrap_or_default();
        Sample { start, took: start.elapsed(), status, retry_after }
    }
}

async fn measure(args: Args, asked: Arc<Asked>) -> Result<()> {
    // The first answer proves the request: a refusal is told here, not counted.
    asked.client.json(asked.request()).await?;
    let bar = ProgressBar::new(args.duration + WARM_UP.as_secs())
        .with_style(ProgressStyle::with_template("{elapsed:>4} [{bar:40}] {msg}")?.progress_chars("=> "));
    let from = Instant::now() + WARM_UP;
    let end = from + Duration::from_secs(args.duration);
    let (tell, mut told) = mpsc::unbounded_channel();
    match args.rate {
        None => (0..args.connections).for_each(|_| drop(tokio::spawn(closed(asked.clone(), end, tell.clone())))),
        Some(rate) => drop(tokio::spawn(open(asked.clone(), rate, end, tell.clone()))),
    }
    drop(tell);
    let mut samples: Vec<Sample> = Vec::new();
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            sample = told.recv() => match sample {
                Some(sample) if sample.start >= from && sample.start < end => samples.push(sample),
                Some(_) => {}
                None => break,
            },
            _ = tick.tick() => {
                bar.set_position((WARM_UP + Duration::from_secs(args.duration)).saturating_sub(end - Instant::now().min(end)).as_secs());
                bar.set_message(format!("{} answers", samples.len()));
            }
        }
    }
    bar.finish_and_clear();
    if let Some(file) = &args.samples {
        write_samples(file, &samples, from).with_context(|| format!("cannot write `{}`", file.display()))?;
    }
    print!("{}", report(&args, &samples));
    Ok(())
}

/// One connection's requests, each after the other's answer.
async fn closed(asked: Arc<Asked>, end: Instant, tell: mpsc::UnboundedSender<Sample>) {
    while Instant::now() < end {
        let sample = asked.sample().await;
        let refused = sample.status != 200;
        if tell.send(sample).is_err() {
            return;
        }
        if refused {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Arrivals that do not wait for answers: exponential gaps from a fixed seed, so
/// that two runs offer the same load.
async fn open(asked: Arc<Asked>, rate: f64, end: Instant, tell: mpsc::UnboundedSender<Sample>) {
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    let mut at = Instant::now();
    while at < end {
        tokio::time::sleep_until(at.into()).await;
        let (asked, tell) = (asked.clone(), tell.clone());
        tokio::spawn(async move { tell.send(asked.sample().await) });
        // xorshift64*; the top 53 bits as a number in (0, 1].
        seed ^= seed >> 12;
        seed ^= seed << 25;
        seed ^= seed >> 27;
        let uniform = ((seed.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) + 1) as f64 / (1u64 << 53) as f64;
        at += Duration::from_secs_f64(-uniform.ln() / rate);
    }
}

fn write_samples(file: &std::path::Path, samples: &[Sample], from: Instant) -> Result<()> {
    let mut out = std::io::BufWriter::new(std::fs::File::create(file)?);
    writeln!(out, "start_s,latency_ms,status")?;
    for sample in samples {
        let (at, ms) = ((sample.start - from).as_secs_f64(), sample.took.as_secs_f64() * 1e3);
        writeln!(out, "{at:.6},{ms:.3},{}", sample.status)?;
    }
    Ok(out.flush()?)
}

/// The smallest value that `share` of `sorted` do not exceed; zero when there are none.
fn percentile(sorted: &[Duration], share: f64) -> Duration {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied().unwrap_or_default()
}

fn report(args: &Args, samples: &[Sample]) -> String {
    let answered = samples.iter().filter(|sample| sample.status == 200);
    let mut took: Vec<Duration> = answered.map(|sample| sample.took).collect();
    took.sort_unstable();
    let seconds = args.duration as f64;
    let ms = |share: f64| percentile(&took, share).as_secs_f64() * 1e3;
    let mut lines = vec![match args.rate {
        None => format!("connections     {}", args.connections),
        Some(_) => format!("arrivals/s      {:.0}", samples.len() as f64 / seconds),
    }];
    lines.push(format!("requests/s      {:.0}", took.len() as f64 / seconds));
    lines.push(format!(
        "latency ms      p50 {:.2}   p90 {:.2}   p99 {:.2}   max {:.2}",
        ms(0.5),
        ms(0.9),
        ms(0.99),
        ms(1.0)
    ));
    if let Some(deadline) = args.deadline {
        let useful =
            samples.iter().filter(|sample| sample.status == 200 && sample.took.as_secs_f64() * 1e3 <= deadline);
        lines.push(format!("in time/s       {:.0}", useful.count() as f64 / seconds));
    }
    let refused = |status| samples.iter().filter(move |sample| sample.status == status);
    let mut statuses: Vec<u16> = samples.iter().map(|sample| sample.status).filter(|&status| status != 200).collect();
    statuses.sort_unstable();
    statuses.dedup();
    lines.push(format!("failed          {}", samples.len() - took.len()));
    for status in statuses {
        let with = refused(status).filter(|sample| sample.retry_after).count();
        let name = if status == 0 { "no answer".to_owned() } else { format!("HTTP {status}") };
        lines.push(format!("  {name:<13} {} ({with} with Retry-After)", refused(status).count()));
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn latencies_of_every_length_are_told() {
        let line = Line::parse_from(["bench", "digits", "--input", "digit.json", "--deadline", "100"]);
        let start = Instant::now();
        let sample = |ms, status| Sample { start, took: Duration::from_millis(ms), status, retry_after: status == 429 };
        let mut samples: Vec<Sample> = (1..=100).rev().map(|ms| sample(ms, 200)).collect();
        samples.extend([sample(30_000, 200), sample(1, 429)]);
        let told = report(&line.args, &samples);
        assert!(told.contains("p50 51.00   p90 91.00   p99 100.00   max 30000.00"), "{told}");
        assert!(told.contains("in time/s       20\n") && told.contains("failed          1\n"), "{told}");
        assert!(told.contains("HTTP 429      1 (1 with Retry-After)"), "{told}");
        assert!(report(&line.args, &[]).contains("p50 0.00"));
    }
}
