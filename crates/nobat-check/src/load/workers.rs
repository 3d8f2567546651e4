//! Whether the memory of any worker behind the gateway grows with its requests: of those apart from
//! the processes that are read here, wherever they run, by what they report of themselves.

use std::collections::BTreeMap;

use tokio::task::JoinHandle;

use super::growth::{Growth, LEVEL, chart, too_few};
use super::memory::ServerProcesses;
use super::words::size;
use crate::client::{ServingWorker, Target};
use crate::stage::{Finding, Verdict};
use crate::statistical::words::count;

/// Lines of the chart; a reader tells no more apart.
const DRAWN: usize = 4;
/// Workers that are named in a sentence.
const NAMED: usize = 8;

/// Reads the workers' memory, beside the requests.
pub(super) struct WorkerReadings {
    target: Target,
    readings: Vec<JoinHandle<Result<Vec<ServingWorker>, String>>>,
}

impl WorkerReadings {
    pub(super) fn new(target: &Target) -> WorkerReadings {
        WorkerReadings { target: target.clone(), readings: Vec::new() }
    }

    /// Begins a reading; those that are among `read_here` are left out.
    pub(super) fn read(&mut self, read_here: Option<&ServerProcesses>) {
        let (target, names) = (self.target.clone(), read_here.map(ServerProcesses::names).unwrap_or_default());
        self.readings.push(tokio::spawn(async move {
            let mut workers = target.workers().await?;
            workers.retain(|worker| !names.contains(&worker.host));
            Ok(workers)
        }));
    }

    /// The readings that were answered, in order.
    ///
    /// # Errors
    /// Why none was.
    pub(super) async fn all(self) -> Result<Vec<Vec<ServingWorker>>, String> {
        let (mut answered, mut refused) = (Vec::new(), None);
        for reading in self.readings {
            match reading.await {
                Ok(Ok(workers)) => answered.push(workers),
                Ok(Err(why)) => refused = Some(why),
                Err(error) => refused = Some(error.to_string()),
            }
        }
        match refused.filter(|_| answered.is_empty()) {
            Some(why) => Err(why),
            None => Ok(answered),
        }
    }
}

/// One start of a worker: what it had at each reading that it was in.
struct WorkerSeries {
    name: String,
    points: Vec<(usize, f64)>,
}

impl WorkerSeries {
    fn growth(&self, level: f64) -> Option<Growth> {
        Growth::of(&self.points.iter().map(|point| point.1).collect::<Vec<_>>(), level)
    }

    /// Why it has fewer than `readings`.
    fn absence(&self, readings: usize) -> Option<String> {
        let (first, last) = (self.points.first()?.0, self.points.last()?.0);
        match (first > 0, last + 1 < readings) {
            _ if self.points.len() == readings => None,
            (true, false) => Some(format!("`{}` came in run {first}", self.name)),
            (false, true) => Some(format!("`{}` left in run {}", self.name, last + 1)),
            (true, true) => Some(format!("`{}` came in run {first} and left in run {}", self.name, last + 1)),
            (false, false) => Some(format!("`{}` was away in between", self.name)),
        }
    }
}

/// The series of the workers that have `model`, or of all where none says that it has: a route's
/// models have other names.
fn series(readings: &[Vec<ServingWorker>], model: &str) -> Vec<WorkerSeries> {
    let has_it = |worker: &ServingWorker| worker.models.iter().any(|held| held.name == model);
    let anybody = readings.iter().flatten().any(has_it);
    let mut all: BTreeMap<&str, WorkerSeries> = BTreeMap::new();
    for (at, workers) in readings.iter().enumerate() {
        for worker in workers.iter().filter(|worker| !anybody || has_it(worker)) {
            let Some(bytes) = worker.resident_bytes.filter(|bytes| *bytes > 0) else { continue };
            let new = || WorkerSeries { name: worker.host.clone(), points: Vec::new() };
            all.entry(&worker.id).or_insert_with(new).points.push((at, bytes as f64));
        }
    }
    let mut all: Vec<WorkerSeries> = all.into_values().collect();
    all.sort_by(|a, b| a.name.cmp(&b.name).then_with(|| a.points[0].0.cmp(&b.points[0].0)));
    all
}

/// The finding, without words.
pub(super) fn workers_finding(verdict: Verdict) -> Finding {
    Finding::new("memory.workers", "no worker's memory grows with requests", verdict)
}

/// Judges each worker by itself; `requests` were answered in all. `None` where there is no worker
/// apart from the processes that were read here, or none says what it has.
pub(super) fn judge_workers(readings: &[Vec<ServingWorker>], model: &str, requests: u64) -> Option<Finding> {
    let all = series(readings, model);
    let (runs, mut whole, mut unjudged) = (readings.len().saturating_sub(1), Vec::new(), Vec::new());
    // So many workers are so many chances to see a leak where there is none.
    let level = 1.0 - (1.0 - LEVEL) / all.len().max(1) as f64;
    for one in &all {
        match (one.growth(level), one.absence(readings.len())) {
            (Some(growth), None) => whole.push((one, growth)),
            (Some(growth), Some(_)) if growth.leaks => whole.push((one, growth)),
            (_, Some(absence)) => unjudged.push(absence),
            (None, None) => return Some(workers_finding(too_few(readings.len()))),
        }
    }
    whole.sort_by(|a, b| b.1.slope.total_cmp(&a.1.slope));
    let leaking: Vec<_> = whole.iter().filter(|(_, growth)| growth.leaks).collect();
    let verdict = match (leaking.is_empty(), unjudged.len()) {
        (false, _) => Verdict::Failed,
        (true, 0) => Verdict::Passed,
        (true, _) => Verdict::needs(
            format!("of workers that come or go it cannot be said: {}", listed(&unjudged)),
            "a load during which none starts or ends",
        ),
    };
    let workers = match &all[..] {
        [] => return None,
        [one] => format!("The resident memory of worker `{}`", one.name),
        _ => format!("The resident memory of each of {} workers", all.len()),
    };
    let mut finding = workers_finding(verdict)
        .say(format!("{workers}, as it reports it itself, was read before and after each of {runs} runs."));
    for (one, growth) in leaking.iter().take(NAMED) {
        let (first, last, each) = (size(growth.first), size(growth.last), size(growth.slope));
        finding =
            finding.say(format!("Worker `{}` grew from {first} to {last}, run by run: about {each} a run.", one.name));
    }
    if leaking.len() > NAMED {
        finding = finding.say(format!("So did {} more.", leaking.len() - NAMED));
    }
    if let ([], Some((one, growth))) = (&leaking[..], whole.first()) {
        let (first, last) = (size(growth.first), size(growth.last));
        finding = finding.say(match (all.len(), whole.len()) {
            (1, _) => format!("It went from {first} to {last}."),
            (_, 1) => format!("Worker `{}` went from {first} to {last}.", one.name),
            _ => format!("Worker `{}` grew most of them, from {first} to {last}.", one.name),
        });
    }
    if !leaking.is_empty() && !unjudged.is_empty() {
        finding = finding.say(format!("Of those that come or go it cannot be said: {}.", listed(&unjudged)));
    }
    if let Some(smallest) = whole.iter().map(|(_, growth)| growth.smallest / growth.runs as f64).reduce(f64::max) {
        finding = finding.say(format!(
            "Over {} requests a leak of less than about {} a run in one worker would not be seen.",
            count(requests),
            size(smallest)
        ));
    }
    let lines = whole.iter().take(DRAWN).map(|(one, _)| (one.name.clone(), one.points.clone())).collect();
    let figures = whole.iter().map(|(one, growth)| {
        serde_json::json!({
            "worker": one.name,
            "first_bytes": growth.first as u64,
            "last_bytes": growth.last as u64,
            "rise_bytes_per_run": growth.slope,
            "rise_at_least_bytes_per_run": growth.slope_at_least,
        })
    });
    Some(finding.figure("workers", figures.collect::<Vec<_>>()).chart(chart(lines)))
}

fn listed(sentences: &[String]) -> String {
    let mut named = sentences[..sentences.len().min(NAMED)].join("; ");
    if sentences.len() > NAMED {
        named += &format!("; and {} more", sentences.len() - NAMED);
    }
    named
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::HeldVersion;

    const MIB: u64 = 1_048_576;

    fn worker(id: &str, host: &str, model: &str, mib: u64) -> ServingWorker {
        let models = vec![HeldVersion { name: model.into() }];
        ServingWorker { id: id.into(), host: host.into(), resident_bytes: Some(mib * MIB), models }
    }

    fn judged(readings: impl Iterator<Item = Vec<ServingWorker>>) -> Finding {
        judge_workers(&readings.collect::<Vec<_>>(), "m", 5_000).expect("workers")
    }

    #[test]
    fn the_worker_that_leaks_is_named_among_those_that_do_not() {
        let found = judged((0..6).map(|run| {
            // Of another model one may grow as it likes.
            vec![worker("1", "a:7", "m", 90), worker("2", "b:7", "m", 60 + 4 * run), worker("3", "c:7", "n", 60 * run)]
        }));
        assert_eq!(found.verdict, Verdict::Failed);
        let words = found.words.join(" ");
        assert!(
            words.contains("each of 2 workers") && words.contains("`b:7` grew from 60.0 MiB to 80.0 MiB"),
            "{words}"
        );
        assert!(words.contains("about 4.0 MiB a run") && !words.contains("a:7"), "{words}");
        let steady = judged((0..6).map(|run| vec![worker("1", "a:7", "m", 90), worker("2", "b:7", "m", 60 + run % 2)]));
        assert_eq!(steady.verdict, Verdict::Passed);
        assert!(steady.words[1].contains("`b:7` grew most of them, from 60.0 MiB to 61.0 MiB"), "{steady:?}");
    }

    #[test]
    fn a_worker_that_is_started_anew_is_another() {
        // Under the same name, as in a container: what the new one takes is no leak of the old one.
        let found = judged((0..6).map(|run| {
            vec![match run {
                0..3 => worker("1", "pod:1", "m", 60 + 4 * run),
                _ => worker("2", "pod:1", "m", 60 + 4 * run),
            }]
        }));
        let Verdict::NotJudged { why, needed: Some(_) } = &found.verdict else { panic!("{found:?}") };
        assert!(why.contains("`pod:1` left in run 3; `pod:1` came in run 3"), "{why}");
        // What leaks beside it is found all the same.
        let found = judged((0..6).map(|run| {
            vec![worker("9", "a:7", "m", 60 + 4 * run), worker(if run < 3 { "1" } else { "2" }, "pod:1", "m", 60)]
        }));
        assert_eq!(found.verdict, Verdict::Failed);
        let words = found.words.join(" ");
        assert!(words.contains("Worker `a:7` grew") && words.contains("come or go"), "{words}");
        // And so is one that leaks until it ends.
        let ends = judged((0..7).map(|run| if run < 6 { vec![worker("1", "a:7", "m", 60 + 8 * run)] } else { vec![] }));
        assert_eq!(ends.verdict, Verdict::Failed);
    }

    #[test]
    fn nothing_is_said_where_nothing_is_told() {
        let silent = ServingWorker { resident_bytes: None, ..worker("1", "a:7", "m", 0) };
        assert_eq!(judge_workers(&vec![vec![silent]; 6], "m", 5_000), None);
        assert_eq!(judge_workers(&[], "m", 5_000), None);
        assert_eq!(judge_workers(&vec![vec![]; 6], "m", 5_000), None);
        let few = judge_workers(&vec![vec![worker("1", "a:7", "m", 60)]; 3], "m", 5_000).expect("a finding");
        assert!(!few.verdict.is_judged(), "{few:?}");
        // A route's workers have its models under their own names.
        let found = judge_workers(&vec![vec![worker("1", "a:7", "other", 60)]; 6], "m", 5_000).expect("a finding");
        assert!(found.verdict == Verdict::Passed && found.words[0].contains("worker `a:7`"), "{found:?}");
    }
}
