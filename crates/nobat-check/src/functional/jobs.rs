//! Whether every job that was accepted ends, with its own answer.

use std::time::{Duration, Instant};

use futures::StreamExt;
use nobat_core::tensor::Tensor;

use super::asker::Asker;
use crate::client::{Prepared, Reply, Target};
use crate::data::{Tolerances, difference};
use crate::stage::{Finding, Verdict};

pub(super) const TITLE: &str = "every accepted job ends with its own answer";
/// A server that drops one job in a hundred drops one of so many in 997 runs of 1,000.
pub(crate) const JOBS: usize = 594;
/// And in 95 of 100 runs one of so many.
const FEWEST: usize = 299;
/// Jobs whose results are waited for at once.
const AT_ONCE: usize = 64;
/// How long after a refusal a job is offered again.
const PAUSE: Duration = Duration::from_millis(250);

/// How a job came out.
enum JobEnd {
    Right,
    Wrong(String),
    /// It was never accepted, so that nothing of it can be lost.
    Refused(String),
}

/// Enqueues jobs and polls each until it ends. One that the server refuses for now is offered
/// again for as long as its `patience` lasts.
pub(super) async fn all_end(
    asker: &Asker<'_>,
    target: &Target,
    rows: &[Vec<Tensor>],
    wanted: &[Vec<Tensor>],
    tolerances: &Tolerances,
    patience: Duration,
) -> Finding {
    let target = target.with_patience(patience);
    let prepared: Result<Vec<_>, _> = rows.iter().map(|row| target.prepare(row)).collect();
    let prepared = match prepared {
        Ok(prepared) => prepared,
        Err(error) => return Finding::new("jobs", TITLE, Verdict::not_judged(error.message)),
    };
    let until = Instant::now() + patience;
    let ask = async |job: usize| {
        let row = job % prepared.len();
        let reply = offer(&target, &prepared[row], until).await;
        let outputs = asker.outputs_of(&reply);
        match outputs {
            Ok(got) => difference(&wanted[row], &got, tolerances).first.map_or(JobEnd::Right, JobEnd::Wrong),
            Err(why) if reply.is_refused_for_now() => JobEnd::Refused(why),
            Err(why) => JobEnd::Wrong(why),
        }
    };
    let ends: Vec<JobEnd> = futures::stream::iter(0..JOBS).map(ask).buffer_unordered(AT_ONCE).collect().await;
    judge(&ends)
}

/// Sends a job until it is accepted, or the time is over.
async fn offer(target: &Target, job: &Prepared, until: Instant) -> Reply {
    loop {
        let reply = target.send(job).await;
        if !reply.is_refused_for_now() || Instant::now() >= until {
            return reply;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn judge(ends: &[JobEnd]) -> Finding {
    let wrong: Vec<&String> =
        ends.iter().filter_map(|end| if let JobEnd::Wrong(why) = end { Some(why) } else { None }).collect();
    let refused: Vec<&String> =
        ends.iter().filter_map(|end| if let JobEnd::Refused(why) = end { Some(why) } else { None }).collect();
    let accepted = ends.len() - refused.len();
    let verdict = match refused.first() {
        _ if !wrong.is_empty() => Verdict::Failed,
        Some(why) if accepted < FEWEST => Verdict::needs(
            format!("{} of {} jobs were never accepted: {why}", refused.len(), ends.len()),
            "a key or a queue that takes more jobs at once",
        ),
        _ => Verdict::Passed,
    };
    let finding = Finding::new("jobs", TITLE, verdict)
        .figure("jobs", ends.len())
        .figure("accepted", accepted)
        .figure("wrong", wrong.len());
    let mut finding = match wrong.first() {
        None => finding
            .say(format!("{accepted} jobs were enqueued, and {accepted} ended with what belongs to their inputs.")),
        Some(first) => finding.say(format!("{} of {accepted} jobs did not, the first: {first}.", wrong.len())),
    };
    if let Some(why) = refused.first() {
        finding = finding.say(format!("{} more were refused, which loses nothing: {why}.", refused.len()));
    }
    let found = 100.0 * (1.0 - 0.99f64.powi(accepted as i32));
    finding.say(format!("A server that loses one job in a hundred would have been found in {found:.1} % of runs."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(right: usize, wrong: usize, refused: usize) -> Vec<JobEnd> {
        let many = |end: fn() -> JobEnd, count| (0..count).map(move |_| end());
        many(|| JobEnd::Right, right)
            .chain(many(|| JobEnd::Wrong("lost".into()), wrong))
            .chain(many(|| JobEnd::Refused("HTTP 503 (queue_full)".into()), refused))
            .collect()
    }

    #[test]
    fn a_job_that_was_never_accepted_is_not_lost() {
        let judged = judge(&ends(300, 0, 294));
        assert_eq!(judged.verdict, Verdict::Passed);
        assert!(
            judged.words[1].starts_with("294 more were refused") && judged.words[2].contains("95.1 %"),
            "{judged:#?}"
        );
        let few = judge(&ends(10, 0, 584));
        let Verdict::NotJudged { why, needed: Some(_) } = few.verdict else { panic!("{few:#?}") };
        assert!(why.contains("584 of 594 jobs were never accepted: HTTP 503 (queue_full)"), "{why}");
        assert_eq!(judge(&ends(10, 1, 583)).verdict, Verdict::Failed, "what was lost was lost");
    }
}
