//! How long a single call takes when nothing else is asked.

use nobat_core::tensor::Tensor;

use super::asker::Asker;
use crate::client::{ModelDescription, ServerTimings, Target};
use crate::stage::{Chart, Finding, Verdict};

/// Calls that are not counted: connections and caches are cold.
const WARM_UP: usize = 5;
/// Calls that are.
const CALLS: usize = 50;

/// Calls one row after the other, and holds the median to the limit, else to the model's slo.
pub(super) async fn single_call(
    asker: &Asker<'_>,
    target: &Target,
    row: &[Tensor],
    model: &ModelDescription,
    limit_ms: Option<f64>,
) -> Finding {
    const TITLE: &str = "latency of a single call";
    let (mut took_ms, mut server): (Vec<f64>, Vec<ServerTimings>) = (Vec::new(), Vec::new());
    for call in 0..WARM_UP + CALLS {
        match asker.ask(target, row).await {
            Ok((_, reply)) if call >= WARM_UP => {
                took_ms.push(reply.took.as_secs_f64() * 1e3);
                server.extend(reply.timings());
            }
            Ok(_) => {}
            Err(why) => {
                return Finding::new("latency", TITLE, Verdict::Failed)
                    .say(format!("Call {} failed: {why}.", call + 1));
            }
        }
    }
    took_ms.sort_by(f64::total_cmp);
    let at = |share: f64| took_ms[((share * took_ms.len() as f64).ceil() as usize).clamp(1, took_ms.len()) - 1];
    let (median, most) = (at(0.5), at(1.0));
    let limit = limit_ms.map(|limit| (limit, "the limit")).or(model.slo_ms.map(|slo| (slo, "the model's slo")));
    let verdict = match limit {
        Some((limit, _)) => Verdict::of(median <= limit),
        None => Verdict::needs("there is no limit to hold it to", "--latency MS, or `slo_ms` in the model's settings"),
    };
    let mut finding = Finding::new("latency", TITLE, verdict)
        .say(format!(
            "{CALLS} calls over {}, one after the other: median {median:.2} ms, slowest {most:.2} ms.",
            target.protocol().name()
        ))
        .figure("median_ms", median)
        .figure("p90_ms", at(0.9))
        .figure("max_ms", most);
    if let Some((limit, whose)) = limit {
        finding = finding.say(format!("The median is held to {whose}, {limit} ms.")).figure("limit_ms", limit);
    }
    let mut bars = vec![("median".into(), median), ("p90".into(), at(0.9)), ("slowest".into(), most)];
    if !server.is_empty() {
        let mean = |of: fn(&ServerTimings) -> f64| server.iter().map(of).sum::<f64>() / server.len() as f64;
        let parts = [("queue", mean(|t| t.queue_ms)), ("batch", mean(|t| t.batch_ms)), ("run", mean(|t| t.run_ms))];
        finding = finding.say(format!(
            "By the server's own account {:.2} ms of it waiting in the queue, {:.2} ms in the batch and {:.2} ms running.",
            parts[0].1, parts[1].1, parts[2].1
        ));
        bars.extend(parts.map(|(name, ms)| (format!("of it {name}"), ms)));
    }
    finding.chart(Chart::Values { unit: "ms".into(), bars })
}
