//! What a load test does.

use std::time::Duration;

use super::schedule::{Arrivals, Pause};

/// How requests come.
#[derive(Clone, Debug, PartialEq)]
pub enum Load {
    /// At their moments, whatever the answers do.
    Open(Arrivals),
    /// From users who wait for their answers.
    Closed {
        /// How many at once.
        users: usize,
        /// What each does between an answer and the next request.
        pause: Pause,
    },
}

impl Load {
    /// In words, the same for the same load: what a baseline is told apart by.
    pub fn words(&self) -> String {
        match self {
            Load::Open(Arrivals::Poisson(rate)) => format!("{} requests a second at random", number(rate.get())),
            Load::Open(Arrivals::Constant(rate)) => format!("{} requests a second evenly", number(rate.get())),
            Load::Open(arrivals @ Arrivals::Trace(due)) => {
                let seconds = arrivals.length().unwrap_or_default().as_secs_f64();
                format!("a trace of {} requests in {} s", due.len(), number(seconds))
            }
            Load::Closed { users, pause } => {
                let users = if *users == 1 { "1 user".into() } else { format!("{users} users") };
                match pause {
                    Pause::None => format!("{users} without pause"),
                    Pause::Think(mean) => format!("{users} who think for {} s", number(mean.as_secs_f64())),
                    Pause::Pace(rate) => format!("{users} at {} requests a minute each", number(rate.get() * 60.0)),
                }
            }
        }
    }

    /// Whether users wait for answers.
    pub fn is_closed(&self) -> bool {
        matches!(self, Load::Closed { .. })
    }
}

/// Three digits after the point, and no more than there are.
fn number(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// How long before the first run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WarmUpLength {
    /// Until three seconds are alike, at most 30.
    UntilStable,
    /// So long.
    Fixed(Duration),
}

/// A load test, whole.
#[derive(Clone, Debug, PartialEq)]
pub struct LoadPlan {
    /// How requests come.
    pub load: Load,
    /// Most connections at once, over all threads; a request that finds none waits, and its
    /// waiting counts. A closed loop has one a user.
    pub connections: usize,
    /// Threads that send.
    pub threads: usize,
    /// What is not counted.
    pub warm_up: WarmUpLength,
    /// Runs, one after the other without a pause.
    pub runs: usize,
    /// Length of a run.
    pub run: Duration,
    /// How long answers that are open at the end are waited for.
    pub grace: Duration,
    /// The latency that is good enough.
    pub goal: Option<Duration>,
    /// Of all that is drawn.
    pub seed: u64,
    /// Whether to list every request.
    pub samples: bool,
}

impl LoadPlan {
    /// Connections that an open loop makes at most.
    pub const CONNECTIONS: usize = 256;

    /// A plan of five runs that take `length` together.
    pub fn new(load: Load, length: Duration) -> LoadPlan {
        LoadPlan {
            load,
            connections: LoadPlan::CONNECTIONS,
            threads: default_threads(),
            warm_up: WarmUpLength::UntilStable,
            runs: 5,
            run: length / 5,
            grace: Duration::from_secs(10),
            goal: None,
            seed: 1,
            samples: false,
        }
    }
}

/// Half of the cores send; a server on the same machine has the others.
pub fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get() / 2).clamp(1, 4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::schedule::Rate;

    #[test]
    fn a_load_reads_as_a_person_would_say_it() {
        let rate = Rate::per_second(12.5).expect("a rate");
        let closed = |users, pause| Load::Closed { users, pause }.words();
        assert_eq!(Load::Open(Arrivals::Poisson(rate)).words(), "12.5 requests a second at random");
        assert_eq!(Load::Open(Arrivals::Constant(rate)).words(), "12.5 requests a second evenly");
        let trace = Arrivals::trace("0\n1\n4\n").expect("a trace");
        assert_eq!(Load::Open(trace).words(), "a trace of 3 requests in 6 s");
        assert_eq!(closed(1, Pause::None), "1 user without pause");
        assert_eq!(closed(8, Pause::Think(Duration::from_millis(500))), "8 users who think for 0.5 s");
        let pace = Pause::requests_a_minute(6.0).expect("a pace");
        assert_eq!(closed(20, pace), "20 users at 6 requests a minute each");
    }
}
