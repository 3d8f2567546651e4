//! `nobat bench`: a closed loop of blocking requests against a running service.
//!
//! For a feeling of what a deployment does; it shares the machine with the
//! server when they stand on one, so compare its figures only with its own.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};
use reqwest::{Method, header};

use crate::client::{Client, Server, segment};
use crate::input;

/// Measure requests a second and latency of a running service.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    nobat bench digits --input digit.json\n  \
    nobat bench digits --input digit.json --connections 64 --duration 10")]
pub(crate) struct Args {
    /// Name of the model.
    model: String,
    /// A JSON file, an .npy array, or - for standard input; sent with every request.
    #[arg(long, short, value_name = "FILE")]
    input: PathBuf,
    /// Requests in flight.
    #[arg(long, short, default_value_t = 16)]
    connections: usize,
    /// Seconds to measure, after one to warm up.
    #[arg(long, short, default_value_t = 5, value_name = "SECONDS")]
    duration: u64,
    #[command(flatten)]
    server: Server,
}

pub(crate) fn run(args: Args) -> Result<()> {
    ensure!(args.connections > 0, "--connections must be 1 or more");
    let body: Body = input::read(&args.input)?.into();
    let path = format!("/v1/models/{}:predict", segment(&args.model));
    let client = Arc::new(args.server.client(Duration::from_secs(60))?);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(measure(args, client, path, body))
}

type Body = Arc<[u8]>;

async fn once(client: &Client, path: &str, body: &Body) -> Result<()> {
    let request = client.request(Method::POST, path).header(header::CONTENT_TYPE, "application/json");
    client.json(request.body(body.to_vec())).await.map(drop)
}

async fn measure(args: Args, client: Arc<Client>, path: String, body: Body) -> Result<()> {
    // The first answer proves the request: a refusal is told here, not counted.
    once(&client, &path, &body).await?;
    let bar = ProgressBar::new(args.duration + 1)
        .with_style(ProgressStyle::with_template("{elapsed:>4} [{bar:40}] {msg}")?.progress_chars("=> "));
    let (answered, failed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let measure_from = Instant::now() + Duration::from_secs(1);
    let end = measure_from + Duration::from_secs(args.duration);
    let tasks: Vec<_> = (0..args.connections)
        .map(|_| {
            let (client, path, body) = (client.clone(), path.clone(), body.clone());
            let (answered, failed) = (answered.clone(), failed.clone());
            tokio::spawn(async move {
                let mut latency_us = Histogram::<u64>::new(3).expect("3 digits are allowed");
                loop {
                    let start = Instant::now();
                    let done = once(&client, &path, &body).await;
                    let now = Instant::now();
                    if now > end {
                        return latency_us;
                    }
                    if now < measure_from {
                        continue;
                    }
                    match done {
                        Ok(()) => {
                            answered.fetch_add(1, Ordering::Relaxed);
                            latency_us.saturating_record((now - start).as_micros() as u64);
                        }
                        Err(_) => {
                            failed.fetch_add(1, Ordering::Relaxed);
                            tokio::time::sleep(Duration::from_millis(10)).await;
                        }
                    }
                }
            })
        })
        .collect();
    while Instant::now() < end {
        tokio::time::sleep(Duration::from_secs(1)).await;
        bar.inc(1);
        bar.set_message(format!("{} answers", answered.load(Ordering::Relaxed)));
    }
    let mut latency_us = Histogram::<u64>::new(3)?;
    for task in tasks {
        latency_us.add(task.await?)?;
    }
    bar.finish_and_clear();
    let ms = |quantile: f64| latency_us.value_at_quantile(quantile) as f64 / 1000.0;
    println!("connections     {}", args.connections);
    println!("requests/s      {:.0}", latency_us.len() as f64 / args.duration as f64);
    println!("latency ms      p50 {:.2}   p90 {:.2}   p99 {:.2}   max {:.2}", ms(0.5), ms(0.9), ms(0.99), ms(1.0));
    println!("failed          {}", failed.load(Ordering::Relaxed));
    Ok(())
}
