//! The search for the knee: the highest rate at which a server holds its goal. Pure.
//!
//! Double until the goal is missed, then halve the bracket until its ends are 5 % apart. A
//! run near the knee comes out either way by chance, so each rate has the majority of three.

/// The ends of a bracket that is narrow enough: 5 % apart.
const NARROW: f64 = 1.05;
/// Runs that decide a rate.
const MAJORITY: u32 = 2;
/// Halvings below the first rate after which nothing holds.
const GIVE_UP: u32 = 10;

/// The state of a search. [`Knee::rate`] is to be tried, and [`Knee::tell`] how it went, until
/// there is none.
#[derive(Clone, Debug, PartialEq)]
pub struct Knee {
    held: Option<f64>,
    missed: Option<f64>,
    rate: f64,
    highest: f64,
    votes: [u32; 2],
    halvings: u32,
}

/// What the search came to, in requests a second.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Bracket {
    /// The highest rate that held; `None` where none did.
    pub held: Option<f64>,
    /// The lowest rate that did not; `None` where all did, up to the highest that was allowed.
    pub missed: Option<f64>,
}

impl Knee {
    /// Starts at `rate` and tries nothing over `highest`.
    pub fn new(rate: f64, highest: f64) -> Knee {
        Knee { held: None, missed: None, rate: rate.min(highest), highest, votes: [0; 2], halvings: 0 }
    }

    /// The rate to try next; `None` when the search is over.
    pub fn rate(&self) -> Option<f64> {
        let over = match (self.held, self.missed) {
            (Some(held), Some(missed)) => missed <= held * NARROW,
            (Some(held), None) => held >= self.highest,
            (None, Some(_)) => self.halvings > GIVE_UP,
            (None, None) => false,
        };
        (!over).then_some(self.rate)
    }

    /// Hears whether a run at [`Knee::rate`] held the goal.
    pub fn tell(&mut self, held: bool) {
        self.votes[usize::from(held)] += 1;
        if self.votes[usize::from(held)] < MAJORITY {
            return;
        }
        self.votes = [0; 2];
        match held {
            true => self.held = Some(self.rate),
            false => self.missed = Some(self.rate),
        }
        self.rate = match (self.held, self.missed) {
            (Some(held), Some(missed)) => (held * missed).sqrt(),
            (Some(held), None) => (held * 2.0).min(self.highest),
            _ => {
                self.halvings += 1;
                self.rate / 2.0
            }
        };
    }

    /// What is known so far.
    pub fn bracket(&self) -> Bracket {
        Bracket { held: self.held, missed: self.missed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nobat_statistics::random::{Random, seeded};
    use proptest::prelude::*;
    use rand::RngExt;

    fn search(knee: &mut Knee, mut holds: impl FnMut(f64) -> bool) -> (Bracket, usize) {
        let mut runs = 0;
        while let Some(rate) = knee.rate() {
            knee.tell(holds(rate));
            runs += 1;
            assert!(runs < 200, "the search ends: {knee:?}");
        }
        (knee.bracket(), runs)
    }

    proptest! {
        #[test]
        fn the_truth_is_in_a_bracket_of_5_percent(start in 0.5..1e4f64, truth in 1.0..1e5f64) {
            let (bracket, _) = search(&mut Knee::new(start, 1e6), |rate| rate <= truth);
            match bracket {
                Bracket { held: Some(held), missed: Some(missed) } => {
                    prop_assert!(held <= truth && truth < missed && missed <= held * NARROW * 1.0001, "{:?}", bracket);
                }
                _ => prop_assert!(bracket.held.is_none() && start > truth * 1e3, "{:?}", bracket),
            }
        }
    }

    #[test]
    fn a_server_that_always_holds_and_one_that_never_does_end_the_search() {
        assert_eq!(search(&mut Knee::new(10.0, 500.0), |_| true).0, Bracket { held: Some(500.0), missed: None });
        let (bracket, runs) = search(&mut Knee::new(64.0, 500.0), |_| false);
        assert_eq!((bracket.held, runs), (None, 2 * 11));
        assert_eq!(search(&mut Knee::new(900.0, 500.0), |_| true).0.held, Some(500.0));
    }

    /// The 99th percentile of `n` waits in a queue with one server that takes 1/100 s on average.
    fn p99(random: &mut Random, rate: f64, n: usize) -> f64 {
        let mut draw = |mean: f64| -(1.0 - random.random::<f64>()).ln() * mean;
        let mut sojourn = 0.0;
        let mut all: Vec<f64> = Vec::with_capacity(n);
        // Lindley: who comes `gap` later waits for what is left, then for service.
        for _ in 0..n {
            sojourn = f64::max(sojourn - draw(1.0 / rate), 0.0) + draw(0.01);
            all.push(sojourn);
        }
        all.sort_by(f64::total_cmp);
        all[(n as f64 * 0.99) as usize]
    }

    #[test]
    fn the_knee_of_a_simulated_queue_is_found() {
        // M/M/1 with 100 services a second: p99 is ln 100 / (100 - rate), 0.1 s at 53.9.
        let truth = 100.0 - 100f64.ln() / 0.1;
        let mut random = seeded(5);
        let mut middles: Vec<f64> = (0..60)
            .map(|_| {
                let (bracket, _) = search(&mut Knee::new(8.0, 1e4), |rate| p99(&mut random, rate, 5_000) <= 0.1);
                let (held, missed) = (bracket.held.expect("held"), bracket.missed.expect("missed"));
                (held * missed).sqrt()
            })
            .collect();
        middles.sort_by(f64::total_cmp);
        assert!((middles[30] / truth - 1.0).abs() < 0.04, "median {} for {truth}", middles[30]);
        assert!(middles[3] > 48.0 && middles[56] < 60.0, "nine in ten: {} to {}", middles[3], middles[56]);
    }
}
