//! Sending the same requests to two versions.

use std::fmt::Display;
use std::time::Instant;

use futures::StreamExt;
use nobat_core::tensor::Tensor;
use nobat_statistics::random::seeded;
use rand::RngExt;

use super::comparison::{CompareSettings, Comparison, VersionAnswer};
use super::report::CompareReport;

/// Requests in flight: few, so that the versions' latencies are those of a server at ease.
const IN_FLIGHT: usize = 4;
/// Requests that are answered before any is counted.
const WARM_UP: usize = 20;

/// One recorded request: its inputs and, where it is known, the right answer.
pub type ReplayedRequest = (Vec<Tensor>, Option<String>);

/// Sends each request to both, in an order thrown by a coin, and compares the answers.
/// `progress` hears of requests done.
pub async fn compare<E: Display>(
    old: &impl AsyncFn(Vec<Tensor>) -> Result<Vec<Tensor>, E>,
    new: &impl AsyncFn(Vec<Tensor>) -> Result<Vec<Tensor>, E>,
    requests: impl Iterator<Item = ReplayedRequest>,
    settings: CompareSettings,
    progress: impl Fn(u64),
) -> CompareReport {
    let mut coin = seeded(settings.seed);
    let mut comparison = Comparison::new(settings);
    let mut requests = requests.peekable();
    // The first requests find connections and caches cold: one is sent ahead, many times.
    if let Some((inputs, _)) = requests.peek() {
        for _ in 0..WARM_UP {
            let _ = futures::join!(old(inputs.clone()), new(inputs.clone()));
        }
    }
    let both = async |(inputs, label, old_first): (Vec<Tensor>, Option<String>, bool)| {
        // One after the other: together they would compete, the first one ahead.
        let (first, second) = if old_first {
            let first = timed(old, &inputs).await;
            (first, timed(new, &inputs).await)
        } else {
            let second = timed(new, &inputs).await;
            (timed(old, &inputs).await, second)
        };
        (inputs, label, first, second)
    };
    let thrown = requests.map(|(inputs, label)| (inputs, label, coin.random::<bool>()));
    let mut pairs = std::pin::pin!(futures::stream::iter(thrown).map(both).buffered(IN_FLIGHT));
    let mut done = 0;
    while let Some((inputs, label, first, second)) = pairs.next().await {
        comparison.add(&inputs, label.as_deref(), &first, &second);
        done += 1;
        progress(done);
    }
    comparison.finish()
}

async fn timed<E: Display>(
    predict: &impl AsyncFn(Vec<Tensor>) -> Result<Vec<Tensor>, E>,
    inputs: &[Tensor],
) -> VersionAnswer {
    let start = Instant::now();
    let outputs = predict(inputs.to_vec()).await.map_err(|e| e.to_string())?;
    Ok((outputs, start.elapsed().as_secs_f64() * 1e3))
}
