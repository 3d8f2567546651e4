//! When requests are due: decided before the first one is sent, from a seed. Pure.
//!
//! In an **open loop** requests come when they come, whatever the answers do, as those of
//! people and programs that know nothing of each other. In a **closed loop** each user waits
//! for an answer before the next request, so that a slow server is asked less: it shows what
//! so many users get, and hides what the ones who did not come would have had to wait.

use std::sync::Arc;
use std::time::Duration;

use nobat_core::{Error, Result};
use nobat_statistics::random::{Random, seeded};
use rand::RngExt;

/// Requests a second: over 0, and at most a million.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Rate(f64);

impl Rate {
    /// The highest: nobody asks for more by intention.
    pub const MOST: f64 = 1e6;

    /// # Errors
    /// `invalid_parameter` for what is no rate, naming it.
    pub fn per_second(rate: f64) -> Result<Rate> {
        match rate > 0.0 && rate <= Rate::MOST {
            true => Ok(Rate(rate)),
            false => Err(Error::invalid(format!(
                "{rate} is no rate; give requests a second, over 0 and at most {}",
                Rate::MOST
            ))),
        }
    }

    /// Requests a second.
    pub fn get(self) -> f64 {
        self.0
    }

    /// The time from one request to the next, where they are even.
    fn gap(self) -> Duration {
        Duration::from_secs_f64(1.0 / self.0)
    }
}

/// The moments at which requests of an open loop come.
#[derive(Clone, Debug, PartialEq)]
pub enum Arrivals {
    /// At random, independent of each other: exponential gaps.
    Poisson(Rate),
    /// Evenly.
    Constant(Rate),
    /// As they were recorded: ascending, from the start.
    Trace(Arc<[Duration]>),
}

impl Arrivals {
    /// Reads a trace: a number a line, in seconds, ascending; of a CSV file the first column, so
    /// that what `nobat bench --samples` wrote can be played again. The first arrival is the start.
    ///
    /// # Errors
    /// `invalid_parameter` naming the line.
    pub fn trace(text: &str) -> Result<Arrivals> {
        let mut due: Vec<f64> = Vec::new();
        for (at, line) in text.lines().enumerate() {
            let first = line.split(',').next().unwrap_or_default().trim();
            match first.parse::<f64>() {
                Ok(seconds) if seconds.is_finite() => due.push(seconds),
                // A heading.
                Err(_) if at == 0 => {}
                _ if first.is_empty() => {}
                _ => {
                    return Err(Error::invalid(format!(
                        "line {} of the trace is no number of seconds: `{first}`",
                        at + 1
                    )));
                }
            }
        }
        let (Some(&first), Some(&last)) = (due.first(), due.last()) else {
            return Err(Error::invalid("the trace is empty; give a file with a number of seconds a line"));
        };
        if !due.is_sorted() {
            return Err(Error::invalid("the trace is not in the order of time; sort it by its first column"));
        }
        if last <= first {
            return Err(Error::invalid("the trace takes no time; give at least two moments"));
        }
        Ok(Arrivals::Trace(due.iter().map(|seconds| Duration::from_secs_f64(seconds - first)).collect()))
    }

    /// Requests a second, over all of it.
    pub fn rate(&self) -> Rate {
        match self {
            Arrivals::Poisson(rate) | Arrivals::Constant(rate) => *rate,
            Arrivals::Trace(due) => {
                let length = self.length().map_or(1.0, |length| length.as_secs_f64());
                Rate((due.len() as f64 / length).clamp(f64::MIN_POSITIVE, Rate::MOST))
            }
        }
    }

    /// How long it goes on, the gap after the last arrival being as long as the others on
    /// average; `None` for ever.
    pub fn length(&self) -> Option<Duration> {
        match self {
            Arrivals::Poisson(_) | Arrivals::Constant(_) => None,
            Arrivals::Trace(due) => {
                let last = due.last().copied().unwrap_or_default();
                Some(last + last / (due.len() as u32 - 1).max(1))
            }
        }
    }

    /// The moments, from the start, ascending; the same for the same seed. A trace starts
    /// again at its end.
    pub fn moments(&self, seed: u64) -> Moments {
        Moments { arrivals: self.clone(), random: seeded(seed), next: 0, at: 0.0 }
    }
}

/// The moments of [`Arrivals`], one after the other and without end.
pub struct Moments {
    arrivals: Arrivals,
    random: Random,
    next: u64,
    at: f64,
}

impl Iterator for Moments {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let next = self.next;
        self.next += 1;
        Some(match &self.arrivals {
            Arrivals::Poisson(rate) => {
                self.at += exponential(&mut self.random) / rate.0;
                Duration::from_secs_f64(self.at)
            }
            Arrivals::Constant(rate) => Duration::from_secs_f64(next as f64 / rate.0),
            Arrivals::Trace(due) => {
                let rounds = u32::try_from(next / due.len() as u64).unwrap_or(u32::MAX);
                let length = self.arrivals.length().unwrap_or_default();
                length.saturating_mul(rounds) + due[(next % due.len() as u64) as usize]
            }
        })
    }
}

/// What a user of a closed loop does between an answer and the next request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pause {
    /// Nothing.
    None,
    /// Thinks, so long on average; exponential, so that users do not march in step.
    Think(Duration),
    /// Makes so many requests a second, or fewer where answers take longer.
    Pace(Rate),
}

impl Pause {
    /// So many requests a minute.
    ///
    /// # Errors
    /// As [`Rate::per_second`].
    pub fn requests_a_minute(requests: f64) -> Result<Pause> {
        match Rate::per_second(requests / 60.0) {
            Ok(rate) => Ok(Pause::Pace(rate)),
            Err(_) => Err(Error::invalid(format!("{requests} is no number of requests a minute; give one over 0"))),
        }
    }

    /// How long after the start a user makes the first request: spread over one pause.
    pub fn first(self, random: &mut Random) -> Duration {
        match self {
            Pause::None => Duration::ZERO,
            Pause::Think(mean) => mean.mul_f64(random.random::<f64>()),
            Pause::Pace(rate) => rate.gap().mul_f64(random.random::<f64>()),
        }
    }

    /// When the next request follows one that went out at `sent` and was answered at `answered`.
    pub fn next(self, random: &mut Random, sent: Duration, answered: Duration) -> Duration {
        match self {
            Pause::None => answered,
            Pause::Think(mean) => answered + mean.mul_f64(exponential(random)),
            Pause::Pace(rate) => answered.max(sent + rate.gap()),
        }
    }
}

/// Exponential with mean 1.
fn exponential(random: &mut Random) -> f64 {
    -(1.0 - random.random::<f64>()).ln()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rate(rate: f64) -> Rate {
        Rate::per_second(rate).expect("a rate")
    }

    #[test]
    fn what_is_no_rate_is_named() {
        for bad in [0.0, -5.0, f64::NAN, f64::INFINITY, 2e6] {
            let why = Rate::per_second(bad).expect_err("refused").message;
            assert!(why.starts_with(&format!("{bad} is no rate")) && why.contains("over 0"), "{why}");
        }
        let why = Pause::requests_a_minute(-3.0).expect_err("refused").message;
        assert!(why.starts_with("-3 is no number of requests a minute"), "{why}");
    }

    #[test]
    fn poisson_arrivals_are_as_many_and_as_irregular_as_they_should_be() {
        let moments = Arrivals::Poisson(rate(200.0)).moments(7).take(40_000);
        let due: Vec<f64> = moments.map(|at| at.as_secs_f64()).collect();
        let mean = due[due.len() - 1] / due.len() as f64;
        assert!((mean * 200.0 - 1.0).abs() < 0.02, "{mean}");
        // Of a Poisson process the counts of equal spans vary as much as they are.
        let mut counts = [0u32; 400];
        for at in due {
            if let Some(count) = counts.get_mut((at / 0.4) as usize) {
                *count += 1;
            }
        }
        let mean = counts.iter().sum::<u32>() as f64 / 400.0;
        let variance = counts.iter().map(|&n| (f64::from(n) - mean).powi(2)).sum::<f64>() / 399.0;
        assert!((0.8..1.25).contains(&(variance / mean)), "{variance} of {mean}");
    }

    #[test]
    fn a_trace_is_read_from_lines_and_from_what_bench_wrote_and_starts_again() {
        let trace =
            Arrivals::trace("start_s,latency_ms,status\n10.5,3.2,200\n10.75,1.0,200\n12.5,9,503\n").expect("reads");
        let ms: Vec<u128> = trace.moments(0).take(5).map(|at| at.as_millis()).collect();
        assert_eq!(ms, [0, 250, 2_000, 3_000, 3_250]);
        assert_eq!((trace.rate().get(), trace.length()), (1.0, Some(Duration::from_secs(3))));
        for (text, why) in [
            ("", "empty"),
            ("1\nnext\n", "line 2 of the trace"),
            ("1\nNaN\n", "line 2 of the trace"),
            ("2\n1\n", "not in the order"),
            ("1\n1\n", "takes no time"),
        ] {
            let error = Arrivals::trace(text).expect_err(text).message;
            assert!(error.contains(why), "{text:?}: {error}");
        }
    }

    #[test]
    fn users_pace_themselves_and_wait_for_slow_answers() {
        let second = Duration::from_secs;
        let (mut random, pace) = (seeded(1), Pause::requests_a_minute(6.0).expect("a pace"));
        assert_eq!(pace.next(&mut random, second(100), second(101)), second(110));
        assert_eq!(pace.next(&mut random, second(100), second(115)), second(115));
        assert_eq!(Pause::None.next(&mut random, second(100), second(101)), second(101));
        let think = Pause::Think(second(2));
        let thought: f64 =
            (0..20_000).map(|_| (think.next(&mut random, second(0), second(1)) - second(1)).as_secs_f64()).sum();
        assert!((thought / 20_000.0 - 2.0).abs() < 0.05, "{thought}");
    }

    proptest! {
        #[test]
        fn moments_ascend_and_come_again_from_the_same_seed(seed: u64, per_second in 0.1..50_000.0f64, threads in 1usize..9) {
            for arrivals in [Arrivals::Poisson(rate(per_second)), Arrivals::Constant(rate(per_second))] {
                let due: Vec<Duration> = arrivals.moments(seed).take(500).collect();
                prop_assert!(due.is_sorted());
                prop_assert_eq!(&due, &arrivals.moments(seed).take(500).collect::<Vec<_>>());
                // Threads that take every nth share them out: each moment once.
                let mut shared: Vec<Duration> =
                    (0..threads).flat_map(|at| arrivals.moments(seed).take(500).skip(at).step_by(threads)).collect();
                shared.sort();
                prop_assert_eq!(&due, &shared);
            }
        }
    }
}
