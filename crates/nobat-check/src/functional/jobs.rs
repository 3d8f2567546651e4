//! Whether every job that was accepted ends, with its own answer.

use std::time::Duration;

use futures::StreamExt;
use nobat_core::tensor::Tensor;

use super::asker::Asker;
use crate::client::Target;
use crate::data::{Tolerances, difference};
use crate::stage::{Finding, Verdict};

pub(super) const TITLE: &str = "every accepted job ends with its own answer";
/// A server that drops one job in a hundred drops one of so many in 997 runs of 1,000.
pub(crate) const JOBS: usize = 594;
/// Jobs whose results are waited for at once.
const AT_ONCE: usize = 64;

/// Enqueues jobs and polls each until it ends.
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
    let ask = async |job: usize| {
        let row = job % prepared.len();
        let outputs = asker.outputs_of(&target.send(&prepared[row]).await);
        match outputs {
            Ok(got) => difference(&wanted[row], &got, tolerances).first,
            Err(why) => Some(why),
        }
    };
    let answers: Vec<Option<String>> =
        futures::stream::iter(0..JOBS).map(ask).buffer_unordered(AT_ONCE).collect().await;
    let wrong: Vec<&String> = answers.iter().flatten().collect();
    let finding =
        Finding::new("jobs", TITLE, Verdict::of(wrong.is_empty())).figure("jobs", JOBS).figure("wrong", wrong.len());
    let finding = match wrong.first() {
        None => finding.say(format!("{JOBS} jobs were enqueued, and {JOBS} ended with what belongs to their inputs.")),
        Some(first) => finding.say(format!("{} of {JOBS} jobs did not, the first: {first}.", wrong.len())),
    };
    finding.say("A server that loses one job in a hundred would have been found in 99.7 % of runs.")
}
