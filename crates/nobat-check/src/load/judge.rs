//! What a load test's figures mean, in words. Pure.

use std::time::Duration;

use nobat_statistics::runs::bounds;
use serde_json::json;

use super::baseline::BaselineComparison;
use super::engine::{LoadOutcome, ServerGone};
use super::latencies::{LEVEL, Latencies};
use super::search::{GOOD, KneeOutcome};
use super::tally::Tally;
use super::words::{capital, ms, rate};
use crate::stage::{AxisScale, Chart, Finding, Verdict};
use crate::statistical::words::{count, percent};

/// More failures than one in a thousand are failures of the test.
const FAILURES: f64 = 0.001;
/// Under this share of answers right and in time no interval is needed to see that 99 in 100 do not hold.
const FAR_FROM_GOOD: f64 = 0.9;

/// Why a failure may be the client's: one that is late makes a server look slower, never faster.
pub(super) fn void(outcome: &LoadOutcome, whole: &Tally) -> Option<Verdict> {
    let why = outcome.client.is_late(&whole.latencies)?;
    Some(Verdict::needs(
        format!("the client was the bottleneck: {why}"),
        "more --threads, a lower rate, or a machine of its own for the client",
    ))
}

/// Whether requests were answered.
pub(super) fn judge_answers(outcome: &LoadOutcome, whole: &Tally) -> Finding {
    let failed = whole.failed();
    let share = failed as f64 / whole.due.max(1) as f64;
    let verdict = match (&outcome.gone, failed) {
        (Some(_), _) => Verdict::Failed,
        (None, 0) if whole.due == 0 => {
            Verdict::needs("nothing was due in the time", "a longer --duration or a higher --rate")
        }
        (None, 0) => Verdict::Passed,
        (None, _) if share <= FAILURES => Verdict::Warned,
        (None, _) => Verdict::Failed,
    };
    let seconds = outcome.measured().as_secs_f64().max(1e-3);
    let mut finding = Finding::new("answers", "requests are answered", verdict)
        .say(format!(
            "{} requests were due in {seconds:.1} s ({}); {} were answered with a prediction, {} were not ({}).",
            count(whole.due),
            rate(whole.due as f64 / seconds),
            count(whole.latencies.count()),
            count(failed),
            percent(share)
        ))
        .figure("due", whole.due)
        .figure("answered", whole.latencies.count())
        .figure("failed", failed)
        .figure("answered_per_s", whole.latencies.count() as f64 / seconds)
        .figure("errors", json!(whole.errors));
    for (code, times) in &whole.errors {
        finding = finding.say(format!("{} times: {code}.", count(*times)));
    }
    if whole.retry_after > 0 {
        finding = finding.say(format!("{} refusals said when to come back.", count(whole.retry_after)));
    }
    if let Some(ServerGone { at, why, .. }) = &outcome.gone {
        finding = finding.say(format!(
            "The server went away {:.1} s after the first run began ({why}); what it did until then is kept.",
            at.as_secs_f64()
        ));
    }
    if outcome.client.waited > 0.001 {
        finding = finding.say(format!(
            "{} of the requests had to wait for a free connection, which counts as latency.",
            percent(outcome.client.waited)
        ));
    }
    finding
}

/// The bounds of the 99th percentile from its runs: each one-sided at 95 %.
pub(super) fn p99_bounds(outcome: &LoadOutcome) -> Option<(Duration, Duration)> {
    let runs: Vec<f64> = outcome.runs.iter().map(|run| run.latencies.quantile(0.99).as_secs_f64()).collect();
    let (low, high) = bounds(&runs, LEVEL)?;
    Some((Duration::try_from_secs_f64(low).ok()?, Duration::try_from_secs_f64(high).ok()?))
}

/// Latency, against the goal where there is one.
pub(super) fn judge_latency(outcome: &LoadOutcome, whole: &Tally, goal: Option<Duration>, closed: bool) -> Finding {
    let latencies = &whole.latencies;
    let bounds = p99_bounds(outcome);
    let void = void(outcome, whole);
    let verdict = match (latencies.lacks(0.99), goal) {
        // However few the predictions are: what never came was not in time either.
        (_, Some(_)) if whole.goodput() < FAR_FROM_GOOD => Verdict::Failed,
        (Some(needed), _) => Verdict::needs(
            format!("{} predictions are too few for a 99th percentile", count(latencies.count())),
            format!("{} of them: a longer --duration or a higher --rate", count(needed)),
        ),
        (None, None) => {
            Verdict::needs("there is no goal for the latency", "--slo MS, or slo_ms in the model's model.toml")
        }
        (None, Some(goal)) => match bounds {
            Some((low, _)) if low > goal => Verdict::Failed,
            Some((_, high)) if high <= goal => Verdict::of(whole.goodput() >= GOOD),
            Some((low, high)) => Verdict::needs(
                format!(
                    "the 99th percentile is between {} and {}, the goal of {} between them",
                    ms(low),
                    ms(high),
                    ms(goal)
                ),
                "a longer --duration",
            ),
            None => Verdict::of(latencies.quantile(0.99) <= goal && whole.goodput() >= GOOD),
        },
    };
    let verdict = void.clone().filter(|_| verdict == Verdict::Failed).unwrap_or(verdict);
    let title = goal.map_or("latency".into(), |goal| format!("99 of 100 requests are answered within {}", ms(goal)));
    let at = |q| ms(latencies.quantile(q));
    let mut finding = Finding::new("latency", title, verdict).say(match latencies.count() {
        0 => "No prediction came.".into(),
        _ => format!(
            "Half of the predictions took {} or less, 90 % {}, 99 % {}; the longest {}.",
            at(0.5),
            at(0.9),
            at(0.99),
            ms(latencies.max())
        ),
    });
    if let Some((low, high)) = bounds {
        let runs = outcome.runs.len();
        finding = finding.say(format!(
            "Over {runs} runs the 99th percentile lies between {} and {} (each bound at 95 %).",
            ms(low),
            ms(high)
        ));
    }
    if goal.is_some() {
        finding = finding.say(format!("{} of what was due was answered right and in time.", percent(whole.goodput())));
    }
    if let Some(Verdict::NotJudged { why, .. }) = void {
        finding = finding.say(format!("{}; the server is no slower than that.", capital(&why)));
    }
    if closed {
        finding = finding.say(
            "The users waited for their answers: who would have come meanwhile is not counted. Give --rate for what callers meet who do not wait.",
        );
    }
    if !outcome.stable {
        finding = finding.say("Latencies had not settled after 30 s of warm-up, so that these may not last.");
    }
    if latencies.clipped() > 0 {
        finding = finding.say(format!("{} took longer than a minute and count as one.", count(latencies.clipped())));
    }
    if latencies.count() > 0 {
        let figures = [("p50_ms", 0.5), ("p90_ms", 0.9), ("p99_ms", 0.99), ("p999_ms", 0.999), ("max_ms", 1.0)];
        for (name, q) in figures {
            finding = finding.figure(name, millis(latencies.quantile(q)));
        }
        finding = finding.figure("mean_ms", millis(latencies.mean())).chart(curve(latencies, goal));
    }
    finding
        .figure("goodput", whole.goodput())
        .figure("client_busiest_thread", json!(outcome.client.busiest))
        .figure("client_lag_p50_ms", millis(outcome.client.lag_p50))
        .figure("client_lag_p99_ms", millis(outcome.client.lag_p99))
        .figure("runs", outcome.runs.len())
}

/// Latency over its percentiles.
fn curve(latencies: &Latencies, goal: Option<Duration>) -> Chart {
    let points = latencies.curve().into_iter().map(|(q, latency)| (q * 100.0, millis(latency))).collect();
    Chart::Lines {
        x: "% of the predictions".into(),
        y: "ms".into(),
        lines: vec![("latency".into(), points)],
        scale: AxisScale::Nines,
        limit: goal.map(millis),
    }
}

/// Where the time goes, by the server's own account; `None` where it gives none.
pub(super) fn judge_server_time(whole: &Tally) -> Option<Finding> {
    let server = whole.server.as_deref()?;
    let parts = [("queue", &server.queue), ("batch", &server.batch), ("run", &server.run)];
    let told: Duration = parts.iter().map(|(_, latencies)| latencies.mean()).sum();
    // Of the answers that have an account alone; others are a cache's.
    let all = server.whole.mean();
    let rest = all.saturating_sub(told);
    let adds_up = told <= all.mul_f64(1.05) + Duration::from_micros(50);
    let verdict = if adds_up { Verdict::Passed } else { Verdict::Warned };
    let mut finding = Finding::new("server_time", "the server's account of the time adds up", verdict).say(format!(
        "Of {} on average, {} were spent in the queue, {} waiting for the batch, {} in the run, and {} elsewhere: on the network, in HTTP, in the client.",
        ms(all),
        ms(server.queue.mean()),
        ms(server.batch.mean()),
        ms(server.run.mean()),
        ms(rest)
    ));
    if !adds_up {
        finding = finding.say("That is more than the callers waited.");
    }
    let without = whole.latencies.count().saturating_sub(server.whole.count());
    if without > 0 {
        finding = finding.say(format!("{} answers have no account, such as those of a cache.", count(without)));
    }
    let mut bars = Vec::new();
    for (name, latencies) in parts {
        bars.push((name.to_owned(), millis(latencies.mean())));
        finding = finding
            .figure(&format!("{name}_mean_ms"), millis(latencies.mean()))
            .figure(&format!("{name}_p99_ms"), millis(latencies.quantile(0.99)));
    }
    bars.push(("elsewhere".into(), millis(rest)));
    Some(finding.chart(Chart::Values { unit: "ms".into(), bars }))
}

/// Today against the baseline, a finding a figure.
pub(super) fn judge_baseline(comparison: &BaselineComparison, change: f64, void: Option<&Verdict>) -> Finding {
    let BaselineComparison { figure, unit, old, new, sessions, of_sessions, ratio, verdict } = comparison;
    let id = format!("baseline.{}", figure.replace(' ', "_"));
    let title = format!("{figure} is at most {} worse than the baseline", percent(change));
    let verdict = void.filter(|_| *verdict == Verdict::Failed).unwrap_or(verdict).clone();
    let unit = if unit.is_empty() { String::new() } else { format!(" {unit}") };
    let mut finding = Finding::new(id, title, verdict)
        .say(format!("{figure} was {old:.3}{unit} and is {new:.3}{unit} (geometric means over runs)."))
        .figure("old", *old)
        .figure("new", *new)
        .figure("sessions", *sessions);
    if let Some(ratio) = ratio {
        finding = finding
            .say(format!(
                "That is {:.2} times as slow, and between {:.2} and {:.2} times (each bound at 95 %).",
                ratio.ratio, ratio.low, ratio.high
            ))
            .figure("ratio", ratio.ratio)
            .figure("ratio_low", ratio.low)
            .figure("ratio_high", ratio.high)
            .figure("noise", ratio.spread);
        finding = finding.say(match of_sessions {
            true => format!("From one session to the next the same version varied by {} (standard deviation).", percent(ratio.spread)),
            false => format!(
                "From one run to the next it varied by {}; what the machine does between sessions is not in the bounds, as the baseline has fewer than three (it has {sessions}).",
                percent(ratio.spread)
            ),
        });
    }
    finding
}

/// Where the knee is.
pub(super) fn judge_knee(found: &KneeOutcome, goal: Duration) -> Finding {
    let title = format!("the highest rate at which 99 of 100 are answered within {}", ms(goal));
    let (held, missed) = (found.bracket.held, found.bracket.missed);
    let verdict = match (&found.ended_by, held) {
        (Some(why), _) => Verdict::not_judged(why.clone()),
        (None, Some(_)) => Verdict::Passed,
        (None, None) => Verdict::Failed,
    };
    let words = match (held, missed) {
        (Some(held), Some(missed)) => format!("It held at {} and did not at {}.", rate(held), rate(missed)),
        (Some(held), None) => format!("It held at {}, the highest rate that was tried.", rate(held)),
        (None, Some(missed)) => format!("It did not even hold at {}.", rate(missed)),
        (None, None) => "No rate was decided.".into(),
    };
    // A rate was run two or three times: its middle one stands for it.
    let mut runs: Vec<(f64, f64)> = found.runs.iter().map(|run| (run.rate, millis(run.p99))).collect();
    runs.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
    let points = runs.chunk_by(|a, b| a.0 == b.0).map(|runs| runs[runs.len() / 2]).collect();
    let chart = Chart::Lines {
        x: "requests/s".into(),
        y: "p99, ms".into(),
        lines: vec![("p99".into(), points)],
        scale: AxisScale::Logarithmic,
        limit: Some(millis(goal)),
    };
    Finding::new("knee", title, verdict)
        .say(words)
        .say(format!("Each rate has the majority of three runs; {} runs were made.", found.runs.len()))
        .figure("held_per_s", json!(held))
        .figure("missed_per_s", json!(missed))
        .chart(chart)
}

fn millis(latency: Duration) -> f64 {
    latency.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::super::engine::ClientCost;
    use super::super::tally::{Answer, ServerShares};
    use super::*;

    #[test]
    fn a_server_too_slow_to_answer_anything_fails_and_the_client_is_not_to_blame() {
        let ms = Duration::from_millis;
        let mut tally = Tally { due: 400, ..Tally::default() };
        tally.close();
        let client = ClientCost { busiest: Some(0.1), lag_p50: ms(1), lag_p99: ms(2), waited: 0.0 };
        let outcome = LoadOutcome {
            runs: vec![tally.clone(); 5],
            run: ms(1_000),
            warmed_up: ms(0),
            stable: true,
            gone: None,
            client,
            samples: vec![],
        };
        let silent = judge_latency(&outcome, &tally, Some(ms(500)), false);
        assert_eq!((silent.verdict, silent.words[0].as_str()), (Verdict::Failed, "No prediction came."));
        // One that answers half of them in time is as far from it.
        (0..200).for_each(|_| tally.answer(ms(100), &Answer { right: true, ..Answer::default() }, Some(ms(500))));
        assert_eq!(judge_latency(&outcome, &tally, Some(ms(500)), false).verdict, Verdict::Failed);
        let no_goal = judge_latency(&outcome, &Tally { due: 400, ..Tally::default() }, None, false);
        assert!(!no_goal.verdict.is_judged(), "{no_goal:?}");
    }

    #[test]
    fn an_account_of_more_than_the_callers_waited_is_told_beside_answers_without_one() {
        let ms = Duration::from_millis;
        let right = Answer { right: true, ..Answer::default() };
        let told = |run| Answer { server: Some(ServerShares { run, ..ServerShares::default() }), ..right.clone() };
        let mut tally = Tally { due: 30, ..Tally::default() };
        (0..10).for_each(|_| tally.answer(ms(10), &told(ms(8)), None));
        // A cache is faster than any account.
        (0..20).for_each(|_| tally.answer(ms(1), &right, None));
        let finding = judge_server_time(&tally).expect("an account");
        assert_eq!(finding.verdict, Verdict::Passed, "{finding:#?}");
        assert!(finding.words[1].starts_with("20 answers have no account"), "{finding:#?}");
        (0..10).for_each(|_| tally.answer(ms(10), &told(ms(40)), None));
        assert_eq!(judge_server_time(&tally).expect("an account").verdict, Verdict::Warned);
    }
}
