//! The search for the knee, carried out.

use std::time::Duration;

use nobat_core::Result;

use super::engine::{LoadEvent, measure};
use super::knee::{Bracket, Knee};
use super::plan::{Load, LoadPlan, WarmUpLength};
use super::schedule::{Arrivals, Rate};
use super::sending::Caller;

/// The share of requests that must be answered right and in time.
pub(super) const GOOD: f64 = 0.99;
/// What is not counted before each run.
const WARM_UP: Duration = Duration::from_millis(300);
/// Requests that one rate is judged by at least: fewer do not show that 99 in 100 hold.
const FEWEST: u64 = 100;
/// Most seconds that one rate is tried to reach them.
const LONGEST_RUN_S: f64 = 60.0;

/// One run of a search.
#[derive(Clone, Debug, PartialEq)]
pub struct KneeRun {
    /// Requests a second that were due.
    pub rate: f64,
    /// The 99th percentile of what was answered.
    pub p99: Duration,
    /// The share of all due requests that were answered right and in time.
    pub goodput: f64,
    /// Whether that is good enough.
    pub held: bool,
}

/// What a search came to.
#[derive(Clone, Debug, PartialEq)]
pub struct KneeOutcome {
    /// Where the knee is.
    pub bracket: Bracket,
    /// The runs, in their order.
    pub runs: Vec<KneeRun>,
    /// Why the search ended early: the client could send no more, or the server went away.
    pub ended_by: Option<String>,
}

/// Searches for the highest rate, of random arrivals, at which 99 in 100 requests are answered
/// within `goal`. Each run is as long as one of the plan's; what is open at its end is waited
/// for, so that runs do not meet each other's requests.
///
/// # Errors
/// As [`measure`].
pub async fn find_knee<C: Caller>(
    plan: &LoadPlan,
    goal: Duration,
    rates: (Rate, Rate),
    caller: impl Fn() -> Result<C> + Clone + Send + 'static,
    mut hear: impl FnMut(&KneeOutcome, f64),
) -> Result<KneeOutcome> {
    let mut knee = Knee::new(rates.0.get(), rates.1.get());
    let mut outcome = KneeOutcome { bracket: knee.bracket(), runs: Vec::new(), ended_by: None };
    while let Some(rate) = knee.rate() {
        hear(&outcome, rate);
        let load = Load::Open(Arrivals::Poisson(Rate::per_second(rate)?));
        let one = LoadPlan {
            load,
            warm_up: WarmUpLength::Fixed(WARM_UP),
            run: plan.run.max(Duration::from_secs_f64((2.0 * FEWEST as f64 / rate).min(LONGEST_RUN_S))),
            runs: 1,
            goal: Some(goal),
            grace: (goal * 4).max(Duration::from_secs(1)),
            seed: plan.seed + outcome.runs.len() as u64,
            samples: false,
            ..plan.clone()
        };
        let measured = measure(&one, caller.clone(), |_: LoadEvent<'_>| ()).await?;
        let tally = measured.whole();
        let (p99, goodput) = (tally.latencies.quantile(0.99), tally.goodput());
        if tally.due < FEWEST && measured.gone.is_none() {
            outcome.ended_by =
                Some(format!("{} requests at {rate:.2} a second are too few to say that 99 in 100 hold", tally.due));
            break;
        }
        let held = goodput >= GOOD && p99 <= goal;
        outcome.runs.push(KneeRun { rate, p99, goodput, held });
        if let Some(gone) = measured.gone {
            outcome.ended_by = Some(format!("the server went away at {rate:.0} requests a second: {}", gone.why));
            break;
        }
        // A client that is late makes a server look slow, and no server refuse.
        if let Some(why) = measured.client.is_late(&tally.latencies).filter(|_| p99 > goal) {
            outcome.ended_by = Some(format!("at {rate:.0} requests a second the client was the bottleneck: {why}"));
            break;
        }
        knee.tell(held);
        outcome.bracket = knee.bracket();
    }
    Ok(outcome)
}
