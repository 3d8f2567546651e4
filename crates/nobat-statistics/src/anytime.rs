//! Tests that may be looked at after every row.
//!
//! A p-value that is looked at again and again until it is small will be: chi-square at
//! level 0.01 cries wolf in one of five long runs. These tests bet against the right model
//! instead. Each row multiplies what was staked by how likely a mixture of alternatives
//! makes it, over how likely the right model does. A fair game makes a hundredfold win with
//! a chance of at most one in a hundred, however long it is played.
//!
//! Source: Lindon and Malek (2022), "Anytime-valid inference for multinomial count data".
//!
//! Rows must be independent: each counted twice gives 55 % false alarms. Cache hits,
//! retries and replays are not rows.

use std::collections::VecDeque;

use statrs::function::gamma::ln_gamma;

/// How closely the mixture is gathered around the right shares: sees small shifts late and
/// large ones soon. `(classes - 1) / w^2` is best for a shift of effect size `w`.
pub const CONCENTRATION: f64 = 300.0;

/// What a row is likely to be if nothing is wrong.
#[derive(Clone, Debug, PartialEq)]
enum Right {
    /// Logs of shares that are known exactly.
    Shares(Vec<f64>),
    /// A sample's counts, each and half a row: what is likely is learned on the way, or the
    /// sample's own noise would be taken for a shift.
    Sample(Vec<f64>),
}

/// Watches the classes of rows.
#[derive(Clone, Debug, PartialEq)]
pub struct AnytimeClasses {
    right: Right,
    /// The mixture's rows for each class, before any was seen.
    mixture: Vec<f64>,
    counts: Vec<u64>,
    rows: u64,
    ln_wealth: f64,
    ln_highest: f64,
}

impl AnytimeClasses {
    /// Against shares that are known exactly. A class of share 0 wins outright when it is seen.
    pub fn against_shares(shares: &[f64], concentration: f64) -> AnytimeClasses {
        let mixture = shares.iter().map(|share| share * concentration).collect();
        AnytimeClasses::new(Right::Shares(shares.iter().map(|share| share.ln()).collect()), mixture)
    }

    /// Against the counts of a sample; valid on average over samples.
    pub fn against_sample(counts: &[u64], concentration: f64) -> AnytimeClasses {
        let right: Vec<f64> = counts.iter().map(|&count| count as f64 + 0.5).collect();
        let all: f64 = right.iter().sum();
        // An alternative gathered closer than the sample itself would be none.
        let concentration = concentration.min(all / 2.0);
        let mixture = right.iter().map(|own| own / all * concentration).collect();
        AnytimeClasses::new(Right::Sample(right), mixture)
    }

    fn new(right: Right, mixture: Vec<f64>) -> AnytimeClasses {
        let counts = vec![0; mixture.len()];
        AnytimeClasses { right, mixture, counts, rows: 0, ln_wealth: 0.0, ln_highest: 0.0 }
    }

    /// Counts `times` rows of `class`. The order of rows does not matter.
    pub fn count(&mut self, class: usize, times: u64) {
        if times == 0 {
            return;
        }
        let (seen, rows) = (self.counts[class] as f64, self.rows as f64);
        let all: f64 = self.mixture.iter().sum();
        let bet = ln_rising(self.mixture[class] + seen, times) - ln_rising(all + rows, times);
        let likely = match &self.right {
            Right::Shares(ln_shares) if ln_shares[class] == f64::NEG_INFINITY => {
                self.ln_wealth = f64::INFINITY;
                0.0
            }
            Right::Shares(ln_shares) => times as f64 * ln_shares[class],
            Right::Sample(own) => {
                ln_rising(own[class] + seen, times) - ln_rising(own.iter().sum::<f64>() + rows, times)
            }
        };
        if self.ln_wealth != f64::INFINITY {
            self.ln_wealth += bet - likely;
        }
        self.counts[class] += times;
        self.rows += times;
        self.ln_highest = self.ln_highest.max(self.ln_wealth);
    }

    /// Rows counted.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Rows of each class.
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// Log of what a stake of 1 has become.
    pub fn ln_wealth(&self) -> f64 {
        self.ln_wealth
    }

    /// The p-value of all looks so far together; it never rises.
    pub fn p(&self) -> f64 {
        (-self.ln_highest).exp().min(1.0)
    }
}

/// Watches whether two versions, given requests at random, answer alike: immune to traffic
/// that changes, since both see the same. A class may as well be a status or a latency bin.
#[derive(Clone, Debug, PartialEq)]
pub struct AnytimeVersions {
    share: f64,
    concentration: f64,
    counts: Vec<[u64; 2]>,
    ln_wealth: f64,
    ln_highest: f64,
}

impl AnytimeVersions {
    /// Over `classes`, where the new version gets a `share` of requests by a coin that does
    /// not see the request. `concentration`: about 100 for even shares, 400 for a tenth.
    pub fn new(classes: usize, share: f64, concentration: f64) -> AnytimeVersions {
        AnytimeVersions { share, concentration, counts: vec![[0; 2]; classes], ln_wealth: 0.0, ln_highest: 0.0 }
    }

    /// All of `counts`, answers by the old version and by the new, at once: their order does
    /// not matter to what a stake has become.
    pub fn of_counts(counts: &[[u64; 2]], share: f64, concentration: f64) -> AnytimeVersions {
        let mut versions = AnytimeVersions::new(0, share, concentration);
        for &[old, new] in counts {
            let bet = ln_rising(concentration * (1.0 - share), old) + ln_rising(concentration * share, new)
                - ln_rising(concentration, old + new);
            versions.ln_wealth += bet - old as f64 * (1.0 - share).ln() - new as f64 * share.ln();
        }
        versions.ln_highest = versions.ln_wealth.max(0.0);
        versions.counts = counts.to_vec();
        versions
    }

    /// Counts an answer of `class`, by the new version or the old.
    pub fn count(&mut self, class: usize, by_new: bool) {
        let share = if by_new { self.share } else { 1.0 - self.share };
        let counts = &mut self.counts[class];
        let all = (counts[0] + counts[1]) as f64;
        let own = &mut counts[usize::from(by_new)];
        let bet = (self.concentration * share + *own as f64) / (self.concentration + all);
        self.ln_wealth += (bet / share).ln();
        self.ln_highest = self.ln_highest.max(self.ln_wealth);
        *own += 1;
    }

    /// Answers of each class, by the old version and by the new.
    pub fn counts(&self) -> &[[u64; 2]] {
        &self.counts
    }

    /// The p-value of all looks so far together; it never rises.
    pub fn p(&self) -> f64 {
        (-self.ln_highest).exp().min(1.0)
    }
}

/// Watches for ever: a shift that comes after a long time of none is seen nearly as soon as
/// one that was there from the start.
///
/// A single bet would first have to win back what it lost while nothing was wrong, so a new
/// one begins every [`DriftWatch::EVERY`] rows and the newest [`DriftWatch::KEPT`] go on. The
/// j-th stakes 1 / (j (j + 1)): all stakes together are 1, and so the chance of a false alarm
/// stays under the level over the watch's whole life.
#[derive(Clone, Debug)]
pub struct DriftWatch {
    fresh: AnytimeClasses,
    bets: VecDeque<(f64, AnytimeClasses)>,
    begun: u64,
    rows: u64,
    ln_highest: f64,
}

impl DriftWatch {
    /// Rows between the beginnings of two bets.
    pub const EVERY: u64 = 500;
    /// Bets that go on.
    pub const KEPT: usize = 20;

    /// Watches for rows leaving what `fresh` takes for right.
    pub fn new(fresh: AnytimeClasses) -> DriftWatch {
        DriftWatch { fresh, bets: VecDeque::new(), begun: 0, rows: 0, ln_highest: f64::NEG_INFINITY }
    }

    /// Counts rows that were seen since the last call, class by class.
    pub fn count(&mut self, rows: &[u64]) {
        if self.rows >= self.begun * Self::EVERY {
            // One for the time between calls too, however many rows came in it.
            self.begun = self.rows / Self::EVERY + 1;
            self.bets.push_back((self.begun as f64, self.fresh.clone()));
            if self.bets.len() > Self::KEPT {
                self.bets.pop_front();
            }
        }
        for (_, bet) in &mut self.bets {
            rows.iter().enumerate().for_each(|(class, &times)| bet.count(class, times));
        }
        self.rows += rows.iter().sum::<u64>();
        self.ln_highest = self.ln_highest.max(self.ln_wealth());
    }

    /// Rows counted.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// The rows that the bet which won most has seen, class by class: what a person is shown.
    pub fn telling(&self) -> &[u64] {
        let most = self.bets.iter().max_by(|a, b| a.1.ln_wealth().total_cmp(&b.1.ln_wealth()));
        most.map_or(self.fresh.counts(), |(_, bet)| bet.counts())
    }

    /// The p-value of the whole watch so far; it never rises.
    pub fn p(&self) -> f64 {
        (-self.ln_highest).exp().min(1.0)
    }

    fn ln_wealth(&self) -> f64 {
        let wealth = self.bets.iter().map(|(j, bet)| bet.ln_wealth() - (j * (j + 1.0)).ln());
        let most = wealth.clone().fold(f64::NEG_INFINITY, f64::max);
        if most.is_finite() { most + wealth.map(|ln| (ln - most).exp()).sum::<f64>().ln() } else { most }
    }
}

/// Bounds of a share that hold together at every look, `hits` of `n` being the latest, with a
/// chance of `alpha` that they ever do not. What is bet against each share is a mixture of all
/// others (Robbins, 1970); the shares that have not lost by `1 / alpha` are left.
pub fn share_bounds(hits: u64, n: u64, alpha: f64) -> (f64, f64) {
    if n == 0 {
        return (0.0, 1.0);
    }
    let (h, misses) = (hits as f64, (n - hits) as f64);
    let ln_beta = |a: f64, b: f64| ln_gamma(a) + ln_gamma(b) - ln_gamma(a + b);
    let mixed = ln_beta(h + 0.5, misses + 0.5) - ln_beta(0.5, 0.5);
    let times_ln = |times: f64, x: f64| if times == 0.0 { 0.0 } else { times * x.ln() };
    let lost = |share: f64| mixed - times_ln(h, share) - times_ln(misses, 1.0 - share) >= -alpha.ln();
    let seen = h / n as f64;
    // What is bet against a share grows with its distance from the one that was seen.
    let end = |mut outside: f64| {
        if !lost(outside) {
            return outside;
        }
        let mut inside = seen;
        for _ in 0..40 {
            let middle = (inside + outside) / 2.0;
            if lost(middle) { outside = middle } else { inside = middle }
        }
        outside
    };
    (end(0.0), end(1.0))
}

/// Log of x (x + 1) ... (x + n - 1).
fn ln_rising(x: f64, n: u64) -> f64 {
    match n {
        1 => x.ln(),
        2..=8 => (0..n).map(|i| (x + i as f64).ln()).sum(),
        _ => ln_gamma(x + n as f64) - ln_gamma(x),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{multinomial, seeded};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_order_of_rows_and_their_number_at_once_do_not_matter(
            counts in prop::collection::vec(0u64..40, 2..6), sample in prop::collection::vec(0u64..900, 2..6),
        ) {
            let classes = counts.len().min(sample.len());
            let (counts, sample) = (&counts[..classes], &sample[..classes]);
            let shares = vec![1.0 / classes as f64; classes];
            for fresh in [AnytimeClasses::against_shares(&shares, 300.0), AnytimeClasses::against_sample(sample, 300.0)] {
                let (mut at_once, mut by_turns) = (fresh.clone(), fresh);
                for (class, &count) in counts.iter().enumerate().rev() {
                    at_once.count(class, count);
                }
                for turn in 0..40 {
                    for (class, _) in counts.iter().enumerate().filter(|&(_, &count)| turn < count) {
                        by_turns.count(class, 1);
                    }
                }
                prop_assert_eq!(at_once.counts(), by_turns.counts());
                prop_assert!((at_once.ln_wealth() - by_turns.ln_wealth()).abs() < 1e-6 * (1.0 + at_once.ln_wealth().abs()));
            }
        }

        #[test]
        fn the_game_is_fair(shares in prop::collection::vec(0.05..1.0f64, 2..6), steps in prop::collection::vec(0usize..6, 0..30)) {
            let all: f64 = shares.iter().sum();
            let shares: Vec<f64> = shares.iter().map(|share| share / all).collect();
            let sample: Vec<u64> = shares.iter().map(|share| (share * 900.0) as u64).collect();
            let a: Vec<f64> = sample.iter().map(|&count| count as f64 + 0.5).collect();
            for (mut watch, learned) in [
                (AnytimeClasses::against_shares(&shares, 100.0), false),
                (AnytimeClasses::against_sample(&sample, 100.0), true),
            ] {
                for step in &steps {
                    watch.count(step % shares.len(), 1);
                }
                // Whatever came, the next row multiplies the stake by 1 on average.
                let seen = watch.rows() as f64 + a.iter().sum::<f64>();
                let mean: f64 = (0..shares.len()).map(|class| {
                    let mut next = watch.clone();
                    next.count(class, 1);
                    let chance = if learned { (a[class] + watch.counts()[class] as f64) / seen } else { shares[class] };
                    chance * (next.ln_wealth() - watch.ln_wealth()).exp()
                }).sum();
                prop_assert!((mean - 1.0).abs() < 1e-9, "{}", mean);
            }
        }

        #[test]
        fn versions_are_the_same_bet_at_once_and_one_by_one(answers in prop::collection::vec((0usize..4, any::<bool>()), 0..200)) {
            let mut one_by_one = AnytimeVersions::new(4, 0.2, 300.0);
            answers.iter().for_each(|&(class, by_new)| one_by_one.count(class, by_new));
            let at_once = AnytimeVersions::of_counts(one_by_one.counts(), 0.2, 300.0);
            prop_assert!((at_once.ln_wealth - one_by_one.ln_wealth).abs() < 1e-6);
            prop_assert!(at_once.p() >= one_by_one.p() - 1e-9, "a single look finds no more than all");
        }

        #[test]
        fn bounds_hold_what_was_seen_and_narrow(hits in 0u64..300, more in 0u64..300) {
            let (n, seen) = (hits + more, hits as f64 / (hits + more).max(1) as f64);
            let (low, high) = share_bounds(hits, n, 0.05);
            prop_assert!((0.0..=1.0).contains(&low) && low <= high && high <= 1.0);
            prop_assert!(n == 0 || (low <= seen && seen <= high));
            let (wide_low, wide_high) = share_bounds(hits, n, 0.01);
            prop_assert!(wide_low <= low + 1e-9 && high <= wide_high + 1e-9);
            if n > 20 {
                let (near_low, near_high) = share_bounds(hits * 10, n * 10, 0.05);
                prop_assert!(near_high - near_low < high - low);
            }
        }

        #[test]
        fn a_p_value_never_rises(classes in prop::collection::vec(0usize..3, 1..200)) {
            let mut watch = AnytimeClasses::against_shares(&[0.5, 0.3, 0.2], CONCENTRATION);
            let mut versions = AnytimeVersions::new(3, 0.1, 400.0);
            let mut last = (1.0, 1.0);
            for (i, class) in classes.into_iter().enumerate() {
                watch.count(class, 1);
                versions.count(class, i % 3 == 0);
                let now = (watch.p(), versions.p());
                prop_assert!(now.0 <= last.0 && now.1 <= last.1 && now.0 > 0.0 && now.1 > 0.0);
                last = now;
            }
        }
    }

    #[test]
    fn what_cannot_be_wins_outright() {
        let mut watch = AnytimeClasses::against_shares(&[1.0, 0.0], CONCENTRATION);
        watch.count(0, 1_000);
        assert_eq!(watch.p(), 1.0);
        watch.count(1, 1);
        watch.count(1, 1);
        assert_eq!(watch.p(), 0.0);
    }

    #[test]
    fn a_shift_that_comes_late_is_seen_nearly_as_soon() {
        let (before, mut after) = ([0.1; 10], [0.85 / 9.0; 10]);
        after[0] = 0.15;
        let mut random = seeded(11);
        let mut watch = DriftWatch::new(AnytimeClasses::against_shares(&before, CONCENTRATION));
        let mut feed = |watch: &mut DriftWatch, shares: &[f64], looks: usize| -> Option<usize> {
            (0..looks).find(|_| {
                watch.count(&multinomial(&mut random, 50, shares));
                watch.p() <= 0.01
            })
        };
        assert_eq!(feed(&mut watch, &before, 400), None, "20,000 right rows");
        let looks = feed(&mut watch, &after, 100).expect("five points in 5,000 rows");
        assert!(looks > 4, "some evidence is needed: {looks}");
        let telling = crate::classes::shares_of(watch.telling());
        assert!(telling[0] > 0.11, "{telling:?}");
    }
}
