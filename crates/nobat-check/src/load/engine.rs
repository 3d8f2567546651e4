//! The load test itself: threads that send, and one task that watches them.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nobat_core::{Error, Result};

use super::cost::ThreadCost;
use super::latencies::Latencies;
use super::plan::{Load, LoadPlan, WarmUpLength};
use super::sending::{Caller, Thread};
use super::shared::{Counts, Course, Ledger, Place, Silence};
use super::tally::{Sample, Tally};
use super::warm_up::{WarmUp, warm_up};
use super::words::ms;

/// How often the threads are looked at.
const LOOK: Duration = Duration::from_millis(50);
/// How often a person is told.
const TELL: Duration = Duration::from_millis(500);
/// A server that answers nothing for so long, to so many requests, is gone.
const GONE: (Duration, u64) = (Duration::from_secs(2), 5);

/// What a person sees while it runs.
#[derive(Clone, Debug)]
pub struct LoadProgress {
    /// The run, from 0; `None` while warming up.
    pub run: Option<usize>,
    /// Time since the first run began, or since the start.
    pub elapsed: Duration,
    /// Length of all runs; `None` while warming up.
    pub length: Option<Duration>,
    /// Requests that were due a second, of all runs so far.
    pub offered_per_s: f64,
    /// Predictions a second, of all runs so far.
    pub answered_per_s: f64,
    /// Requests under way.
    pub in_flight: u64,
    /// What was counted, over all runs so far.
    pub tally: Tally,
    /// How late the client is.
    pub lag_p99: Duration,
}

/// What the watching task tells while a test runs.
pub enum LoadEvent<'a> {
    /// Twice a second.
    Progress(&'a LoadProgress),
    /// The first run begins.
    Begin,
    /// A run is over.
    RunEnded(usize),
}

/// What the client itself was like.
#[derive(Clone, Debug, PartialEq)]
pub struct ClientCost {
    /// Share of a core that the busiest thread used, where the system tells.
    pub busiest: Option<f64>,
    /// Half of the requests that found a free connection went out no later than this.
    pub lag_p50: Duration,
    /// And 99 in 100 no later than this.
    pub lag_p99: Duration,
    /// Share of the requests that had to wait for a connection.
    pub waited: f64,
}

impl ClientCost {
    /// Why what was measured is the client's and not the server's, where it is: a thread that
    /// is busy for over 80 % of the time, or a lag of over 5 % of the latency, at the median or
    /// at the 99th percentile. A server that answers nothing has no latency to be part of.
    pub fn is_late(&self, latencies: &Latencies) -> Option<String> {
        if latencies.count() == 0 {
            return None;
        }
        if let Some(busiest) = self.busiest.filter(|&busiest| busiest > 0.8) {
            return Some(format!("a thread that sends was busy for {:.0} % of the time", busiest * 100.0));
        }
        let late = [(0.5, self.lag_p50, "median"), (0.99, self.lag_p99, "99th percentile")];
        late.into_iter().find(|&(q, lag, _)| lag.as_secs_f64() > 0.05 * latencies.quantile(q).as_secs_f64()).map(
            |(q, lag, name)| {
                let latency = ms(latencies.quantile(q));
                format!("at the {name} it sent {} late, of a latency of {latency}", ms(lag))
            },
        )
    }
}

/// What a load test came to.
#[derive(Clone, Debug)]
pub struct LoadOutcome {
    /// The runs that were finished, and a last one that was not where the server went away.
    pub runs: Vec<Tally>,
    /// How long each took.
    pub run: Duration,
    /// Length of the warm-up.
    pub warmed_up: Duration,
    /// Whether latencies settled in it; `true` where it had a fixed length.
    pub stable: bool,
    /// Where the server went away.
    pub gone: Option<ServerGone>,
    /// The client.
    pub client: ClientCost,
    /// Every request, where they were asked for.
    pub samples: Vec<Sample>,
}

impl LoadOutcome {
    /// All runs in one.
    pub fn whole(&self) -> Tally {
        let mut whole = Tally::default();
        self.runs.iter().for_each(|run| whole.add(run));
        whole
    }

    /// Time that was measured.
    pub fn measured(&self) -> Duration {
        let whole = self.run * self.runs.len() as u32;
        self.gone.as_ref().map_or(whole, |gone| gone.stopped.min(whole))
    }
}

/// How a server went away.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerGone {
    /// Since when nothing was answered, from the start of the first run.
    pub at: Duration,
    /// When it was given up.
    pub stopped: Duration,
    /// The last failure.
    pub why: String,
}

/// Runs a load test. `caller` is called on each thread that sends, in its runtime.
///
/// # Errors
/// What `caller` gives, or when the system has no thread or timer left.
///
/// # Cancel safety
/// Dropped, the threads stop within a tenth of a second.
pub async fn measure<C: Caller>(
    plan: &LoadPlan,
    caller: impl Fn() -> Result<C> + Clone + Send + 'static,
    mut hear: impl FnMut(LoadEvent<'_>),
) -> Result<LoadOutcome> {
    // A thread without a connection to make would be done before the test begins.
    let most = match &plan.load {
        Load::Open(_) => plan.connections,
        Load::Closed { users, .. } => *users,
    };
    let plan = Arc::new(LoadPlan { threads: plan.threads.min(most), ..plan.clone() });
    let course = Arc::new(Course::new(Instant::now(), plan.run, plan.runs));
    let mut threads = Threads { course: course.clone(), ledgers: Vec::new(), handles: Vec::new() };
    for at in 0..plan.threads {
        let ledger = Arc::new(Ledger::new(plan.runs));
        threads.ledgers.push(ledger.clone());
        let (caller, plan, course) = (caller.clone(), plan.clone(), course.clone());
        let run = move || Thread { plan, course, ledger, at }.run(caller);
        let handle = std::thread::Builder::new().name(format!("load-{at}")).spawn(run);
        threads
            .handles
            .push(handle.map_err(|error| Error::internal(format!("there is no thread to send from: {error}")))?);
    }
    let (warmed_up, stable) = threads.warm_up(&plan, &mut hear).await?;
    hear(LoadEvent::Begin);
    let from = course.begin();
    let before = threads.costs();
    let mut costs = before.clone();
    let (mut told, mut ended, mut gone) = (Instant::now(), 0, None);
    while !threads.are_done() {
        tokio::time::sleep(LOOK).await;
        let elapsed = course.now() - from;
        while ended < plan.runs && elapsed >= plan.run * (ended as u32 + 1) {
            hear(LoadEvent::RunEnded(ended));
            ended += 1;
        }
        if ended < plan.runs {
            // A thread that has ended can no longer be asked.
            costs = threads.costs();
        }
        if gone.is_none() {
            gone = threads.gone().map(|silence| ServerGone {
                at: silence.since.unwrap_or_default().saturating_sub(from),
                stopped: elapsed,
                why: silence.words,
            });
            if gone.is_some() {
                course.stop();
            }
        }
        if told.elapsed() >= TELL {
            told = Instant::now();
            hear(LoadEvent::Progress(&threads.progress(&plan)));
        }
    }
    let mut outcome = threads.join(&plan)?;
    outcome.client.busiest = busiest(&before, &costs);
    if let Some(gone) = &gone {
        // The run in which it was given up stays, those after it never were.
        outcome.runs.truncate((gone.stopped.as_nanos() / plan.run.as_nanos().max(1)) as usize + 1);
    }
    Ok(LoadOutcome { warmed_up, stable, gone, ..outcome })
}

/// The threads that send; they stop when it is dropped.
struct Threads {
    course: Arc<Course>,
    ledgers: Vec<Arc<Ledger>>,
    handles: Vec<JoinHandle<Result<()>>>,
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.course.stop();
    }
}

impl Threads {
    fn are_done(&self) -> bool {
        self.handles.iter().all(JoinHandle::is_finished)
    }

    /// Waits until the server is warm; how long that took, and whether it is.
    async fn warm_up(&self, plan: &LoadPlan, hear: &mut impl FnMut(LoadEvent<'_>)) -> Result<(Duration, bool)> {
        let (mut judged, mut told) = (0, Instant::now());
        loop {
            let now = self.course.now();
            let state = match plan.warm_up {
                WarmUpLength::Fixed(length) if now >= length => WarmUp::Warm,
                WarmUpLength::UntilStable if now.as_secs() as usize > judged => {
                    judged = now.as_secs() as usize;
                    warm_up(&self.seconds(judged))
                }
                _ => WarmUp::Cold,
            };
            // A thread that cannot start ends; a server that is gone is found in the first run.
            if state != WarmUp::Cold || self.handles.iter().any(JoinHandle::is_finished) || self.gone().is_some() {
                return Ok((now, state != WarmUp::Unstable));
            }
            if told.elapsed() >= TELL {
                told = Instant::now();
                hear(LoadEvent::Progress(&self.progress(plan)));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The whole seconds of the warm-up.
    fn seconds(&self, count: usize) -> Vec<Latencies> {
        let mut seconds = vec![Latencies::default(); count];
        for ledger in &self.ledgers {
            let counts = ledger.counts();
            seconds.iter_mut().zip(&counts.warm_up).for_each(|(all, one)| all.add(one));
        }
        seconds
    }

    /// Whether the server answers nothing any more, and the last failure.
    fn gone(&self) -> Option<Silence> {
        let silence = self.course.silence();
        let long = self.course.now().saturating_sub(silence.since?) >= GONE.0;
        (long && silence.requests >= GONE.1).then_some(silence)
    }

    fn progress(&self, plan: &LoadPlan) -> LoadProgress {
        let (mut tally, mut lag, mut in_flight) = (Tally::default(), Latencies::default(), 0);
        let now = self.course.now();
        let from = self.course.from();
        for ledger in &self.ledgers {
            let counts = ledger.counts();
            in_flight += counts.in_flight;
            lag.add(&counts.lag);
            match from {
                Some(_) => counts.runs.iter().for_each(|run| tally.add(run)),
                None => counts.warm_up.iter().for_each(|second| tally.latencies.add(second)),
            }
        }
        let elapsed = now - from.unwrap_or_default();
        let run = match self.course.place(now) {
            Place::Run(run) => Some(run),
            Place::WarmUp => None,
            Place::After => Some(plan.runs.saturating_sub(1)),
        };
        let per_s = |count: u64| count as f64 / elapsed.as_secs_f64().max(1e-3);
        LoadProgress {
            run,
            elapsed,
            length: from.map(|_| plan.run * plan.runs as u32),
            offered_per_s: per_s(tally.due),
            answered_per_s: per_s(tally.latencies.count()),
            in_flight,
            lag_p99: lag.quantile(0.99),
            tally,
        }
    }

    fn costs(&self) -> Vec<Option<ThreadCost>> {
        self.ledgers.iter().map(|ledger| ThreadCost::of(ledger.counts().thread.as_deref()?)).collect()
    }

    /// What the threads counted.
    fn join(mut self, plan: &LoadPlan) -> Result<LoadOutcome> {
        for handle in std::mem::take(&mut self.handles) {
            handle.join().map_err(|_| Error::internal("a thread that sends panicked"))??;
        }
        let (mut runs, mut lag, mut waited, mut samples) =
            (vec![Tally::default(); plan.runs], Latencies::default(), 0, Vec::new());
        for ledger in &self.ledgers {
            let counts: Counts = std::mem::take(&mut *ledger.counts());
            runs.iter_mut().zip(&counts.runs).for_each(|(all, one)| all.add(one));
            lag.add(&counts.lag);
            waited += counts.waited;
            samples.extend(counts.samples);
        }
        runs.iter_mut().for_each(Tally::close);
        samples.sort_by_key(|sample| sample.due);
        let taken = lag.count() + waited;
        let client = ClientCost {
            busiest: None,
            lag_p50: lag.quantile(0.5),
            lag_p99: lag.quantile(0.99),
            waited: if taken == 0 { 0.0 } else { waited as f64 / taken as f64 },
        };
        Ok(LoadOutcome { runs, run: plan.run, warmed_up: Duration::ZERO, stable: true, gone: None, client, samples })
    }
}

/// The share of a core that the busiest thread used between two readings.
fn busiest(before: &[Option<ThreadCost>], after: &[Option<ThreadCost>]) -> Option<f64> {
    let shares = before.iter().zip(after).map(|(before, after)| Some(after.as_ref()?.since(before.as_ref()?)));
    shares.collect::<Option<Vec<f64>>>()?.into_iter().reduce(f64::max)
}
