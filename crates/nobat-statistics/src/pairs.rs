//! Two versions of a model on the same requests.
//!
//! "Safe" is a claim to be shown, not the absence of a finding: each gate asks whether the
//! one-sided bound of how much worse the new version is stays under a margin. Answers are
//! compared request by request, which needs far fewer of them than two separate samples:
//! 3,426 instead of 15,415 for a point of accuracy when the versions differ on 4 %.

use std::collections::BTreeMap;

use rand::RngExt;
use statrs::distribution::{Binomial, ChiSquared, ContinuousCDF, DiscreteCDF};

use crate::classes::FULL_CELL;
use crate::intervals::{Interval, normal_quantile, one_sided};
use crate::random::{Random, bootstrap, p_value, quantile};

/// McNemar's exact test: whether of the requests on which one version alone is right, as
/// many are the old one's as the new one's.
pub fn mcnemar(only_old: u64, only_new: u64) -> f64 {
    let discordant = only_old + only_new;
    let tail = Binomial::new(0.5, discordant).map_or(1.0, |coin| coin.cdf(only_old.min(only_new)));
    (2.0 * tail).min(1.0)
}

/// Bowker's test: whether as many answers change from one class to another as back. `changes`
/// counts requests by the two classes they got, old and new, where these differ. Where
/// changes are few, each is turned around by a coin `draws` times instead.
pub fn bowker<C: Ord + Clone>(changes: &BTreeMap<(C, C), u64>, draws: usize, random: &mut Random) -> f64 {
    let mut pairs: BTreeMap<(&C, &C), [u64; 2]> = BTreeMap::new();
    for ((old, new), &count) in changes.iter().filter(|((old, new), _)| old != new) {
        let forth = old < new;
        pairs.entry(if forth { (old, new) } else { (new, old) }).or_default()[usize::from(forth)] += count;
    }
    let statistic = |pairs: &mut dyn Iterator<Item = [u64; 2]>| -> f64 {
        pairs.map(|[a, b]| (a as f64 - b as f64).powi(2) / (a + b) as f64).sum()
    };
    let found = statistic(&mut pairs.values().copied());
    if pairs.values().all(|[a, b]| (a + b) as f64 / 2.0 >= FULL_CELL) {
        return ChiSquared::new(pairs.len() as f64).map_or(1.0, |chi| chi.sf(found));
    }
    let totals: Vec<u64> = pairs.values().map(|[a, b]| a + b).collect();
    p_value(draws, || {
        let mut turned = totals.iter().map(|&total| {
            let forth = (0..total).filter(|_| random.random::<bool>()).count() as u64;
            [forth, total - forth]
        });
        statistic(&mut turned) >= found * (1.0 - 1e-9)
    })
}

/// What a gate says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case", tag = "verdict", content = "rows")]
pub enum GateVerdict {
    /// The new version is shown to be worse by less than the margin.
    Safe,
    /// It is shown to be worse by more.
    Unsafe,
    /// Neither is shown; about so many requests would be needed in all.
    MoreNeeded(u64),
}

/// How much worse the new version is in one respect, and whether that is too much.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Gate {
    /// The difference seen; positive is worse.
    pub worse_by: f64,
    /// Its bounds, each one-sided at 95 %.
    pub bounds: Interval,
    /// What is still accepted.
    pub margin: f64,
    /// The outcome.
    #[serde(flatten)]
    pub verdict: GateVerdict,
}

/// Level of each gate's one-sided bounds. All gates must pass, so none pays for the others.
pub const SAFE_LEVEL: f64 = 0.95;
/// Sum of the normal quantiles of a level of 0.05 and a power of 0.9, squared.
const NINE_IN_TEN: f64 = 8.56;

impl Gate {
    /// From bounds that hold at the level asked for; `needed` says how many requests it would
    /// take in all where they do not decide.
    pub(crate) fn new(worse_by: f64, bounds: Interval, margin: f64, needed: impl FnOnce() -> f64) -> Gate {
        let verdict = if bounds.1 <= margin {
            GateVerdict::Safe
        } else if bounds.0 > margin {
            GateVerdict::Unsafe
        } else {
            GateVerdict::MoreNeeded(needed().min(1e12).ceil() as u64)
        };
        Gate { worse_by, bounds, margin, verdict }
    }

    /// Requests that the versions answer differently.
    pub fn disagreement(differ: u64, rows: u64, margin: f64) -> Gate {
        let share = differ as f64 / rows.max(1) as f64;
        Gate::new(share, one_sided(differ, rows, SAFE_LEVEL), margin, || {
            // As many as bring the bound under the margin if the share stays; three in
            // `margin` where none differs. At the margin itself no number does.
            let room = (margin - share).abs().max(margin / 10.0);
            (NINE_IN_TEN * share * (1.0 - share) / (room * room)).max(3.0 / margin).max(rows as f64 + 1.0)
        })
    }

    /// Accuracy, or any share of requests: those that only the old version got right, and only the new.
    pub fn lost(only_old: u64, only_new: u64, rows: u64, margin: f64) -> Gate {
        let (n, b, c) = (rows as f64, only_old as f64, only_new as f64);
        if rows == 0 {
            return Gate::new(0.0, (-1.0, 1.0), margin, || NINE_IN_TEN / margin);
        }
        // Half a request on each side keeps the interval honest where none or few differ
        // (Agresti and Min, 2005).
        let (wide_n, wide_b, wide_c) = (n + 2.0, b + 0.5, c + 0.5);
        let middle = (wide_b - wide_c) / wide_n;
        let error = ((wide_b + wide_c) / wide_n - middle * middle).max(0.0).sqrt() / wide_n.sqrt();
        let half = normal_quantile(SAFE_LEVEL) * error;
        Gate::new((b - c) / n, (middle - half, middle + half), margin, || {
            (NINE_IN_TEN * (b + c + 1.0) / n / (margin * margin)).max(n + 1.0)
        })
    }

    /// A quantile of the latencies: the new version's over the old one's, less 1. Requests
    /// are drawn anew with both their latencies, so that slow inputs cancel out.
    pub fn latency(pairs: &[(f64, f64)], q: f64, margin: f64, draws: usize, random: &mut Random) -> Gate {
        let ratio = |rows: &mut dyn Iterator<Item = usize>| -> f64 {
            let (mut old, mut new): (Vec<f64>, Vec<f64>) = rows.map(|row| pairs[row]).unzip();
            old.sort_by(f64::total_cmp);
            new.sort_by(f64::total_cmp);
            quantile(&new, q) / quantile(&old, q) - 1.0
        };
        Gate::resampled(pairs.len(), margin, draws, random, ratio)
    }

    /// A score: the mean of old less new over the old one's standard deviation, either way.
    pub fn score(pairs: &[(f64, f64)], margin: f64, draws: usize, random: &mut Random) -> Gate {
        let n = pairs.len().max(1) as f64;
        let mean = pairs.iter().map(|(old, _)| old).sum::<f64>() / n;
        let deviation = (pairs.iter().map(|(old, _)| (old - mean).powi(2)).sum::<f64>() / n).sqrt();
        let unit = if deviation > 0.0 { deviation } else { 1.0 };
        let moved = |rows: &mut dyn Iterator<Item = usize>| -> f64 {
            rows.map(|row| pairs[row].1 - pairs[row].0).sum::<f64>() / n / unit
        };
        let signed = Gate::resampled(pairs.len(), margin, draws, random, moved);
        // A score may be too high as well as too low: the side that it moved to counts.
        let bounds = if signed.worse_by >= 0.0 { signed.bounds } else { (-signed.bounds.1, -signed.bounds.0) };
        let further = bounds.1.max(-bounds.0);
        Gate::new(signed.worse_by.abs(), (bounds.0, further), margin, || {
            needed_by_width(n, signed.worse_by.abs(), further, margin)
        })
    }

    fn resampled(
        rows: usize,
        margin: f64,
        draws: usize,
        random: &mut Random,
        statistic: impl Fn(&mut dyn Iterator<Item = usize>) -> f64,
    ) -> Gate {
        if rows == 0 {
            return Gate::new(0.0, (f64::NEG_INFINITY, f64::INFINITY), margin, || 100.0);
        }
        let seen = statistic(&mut (0..rows));
        let again = bootstrap(random, rows, draws, |picked| statistic(&mut picked.iter().copied()));
        let bounds = (quantile(&again, 1.0 - SAFE_LEVEL), quantile(&again, SAFE_LEVEL));
        Gate::new(seen, bounds, margin, || needed_by_width(rows as f64, seen, bounds.1, margin))
    }
}

/// What several gates say together. All must pass, so none pays for the others.
pub fn overall(verdicts: impl Iterator<Item = GateVerdict>) -> GateVerdict {
    verdicts.fold(GateVerdict::Safe, |all, one| match (all, one) {
        (GateVerdict::Unsafe, _) | (_, GateVerdict::Unsafe) => GateVerdict::Unsafe,
        (GateVerdict::MoreNeeded(a), GateVerdict::MoreNeeded(b)) => GateVerdict::MoreNeeded(a.max(b)),
        (GateVerdict::Safe, other) | (other, GateVerdict::Safe) => other,
    })
}

/// Rows at which a bound that is now at `high` comes under `margin`: widths shrink with the root of rows.
fn needed_by_width(rows: f64, seen: f64, high: f64, margin: f64) -> f64 {
    let room = (margin - seen).abs().max(margin / 10.0);
    (rows * ((high - seen) / room).powi(2)).max(rows + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::seeded;
    use proptest::prelude::*;

    #[test]
    fn the_least_that_can_be_found_is_six_one_sided_changes() {
        assert!(mcnemar(0, 5) > 0.05 && mcnemar(0, 6) < 0.05 && mcnemar(7, 0) > 0.01 && mcnemar(8, 0) < 0.01);
        assert_eq!((mcnemar(0, 0), mcnemar(9, 9)), (1.0, 1.0));
    }

    #[test]
    fn changes_that_go_one_way_are_found_whether_few_or_many() {
        let changes =
            |forth: u64, back: u64| BTreeMap::from([(("a", "b"), forth), (("b", "a"), back), (("a", "a"), 999)]);
        let p = |forth, back| bowker(&changes(forth, back), 1_999, &mut seeded(1));
        assert!(p(40, 10) < 1e-4 && p(26, 24) > 0.7, "{} {}", p(40, 10), p(26, 24));
        // Few: 8 of 8 is 2 in 256.
        assert!((p(8, 0) - 2.0 / 256.0).abs() < 0.006 && p(4, 4) > 0.99, "{}", p(8, 0));
        assert_eq!(bowker(&BTreeMap::<(u8, u8), u64>::new(), 99, &mut seeded(1)), 1.0);
    }

    #[test]
    fn safe_is_shown_or_it_says_how_many_more() {
        assert_eq!(Gate::disagreement(0, 299, 0.01).verdict, GateVerdict::Safe);
        assert_eq!(Gate::disagreement(0, 100, 0.01).verdict, GateVerdict::MoreNeeded(300));
        assert_eq!(Gate::disagreement(50, 1_000, 0.01).verdict, GateVerdict::Unsafe);
        // 4 % discordant, margin of a point.
        let GateVerdict::MoreNeeded(rows) = Gate::lost(20, 20, 1_000, 0.01).verdict else { panic!("not shown yet") };
        assert!((3_300..3_700).contains(&rows), "{rows}");
        assert_eq!(Gate::lost(80, 80, 4_000, 0.01).verdict, GateVerdict::Safe);
        assert_eq!(Gate::lost(150, 10, 4_000, 0.01).verdict, GateVerdict::Unsafe);
        assert!(matches!(Gate::lost(0, 0, 0, 0.01).verdict, GateVerdict::MoreNeeded(_)));
    }

    #[test]
    fn slow_inputs_cancel_out() {
        let mut random = seeded(2);
        let base: Vec<f64> = (0..2_000).map(|_| -random.random::<f64>().ln() * 10.0 + 1.0).collect();
        let pairs = |factor: f64| base.iter().map(|x| (*x, x * factor)).collect::<Vec<_>>();
        assert_eq!(Gate::latency(&pairs(1.02), 0.99, 0.05, 199, &mut seeded(1)).verdict, GateVerdict::Safe);
        assert_eq!(Gate::latency(&pairs(1.2), 0.99, 0.05, 199, &mut seeded(1)).verdict, GateVerdict::Unsafe);
        assert!(matches!(Gate::latency(&[], 0.99, 0.05, 199, &mut seeded(1)).verdict, GateVerdict::MoreNeeded(_)));
    }

    #[test]
    fn a_score_may_move_either_way() {
        let scores = |by: f64| (0..1_000).map(|i| (f64::from(i % 100), f64::from(i % 100) + by)).collect::<Vec<_>>();
        for by in [8.0, -8.0] {
            let gate = Gate::score(&scores(by), 0.05, 199, &mut seeded(1));
            assert_eq!(gate.verdict, GateVerdict::Unsafe);
            assert!((gate.worse_by - 8.0 / 28.87).abs() < 0.01, "{gate:?}");
            assert_eq!(Gate::score(&scores(by / 10.0), 0.05, 199, &mut seeded(1)).verdict, GateVerdict::Safe);
        }
    }

    proptest! {
        #[test]
        fn bounds_hold_the_difference_and_narrow_with_rows(b in 0u64..60, c in 0u64..60, rows in 200u64..2_000) {
            let (gate, more) = (Gate::lost(b, c, rows, 0.01), Gate::lost(b * 9, c * 9, rows * 9, 0.01));
            for gate in [gate, more, Gate::disagreement(b, rows, 0.01)] {
                prop_assert!(gate.bounds.0 <= gate.worse_by + 1e-3 && gate.worse_by <= gate.bounds.1 + 1e-3, "{:?}", gate);
            }
            prop_assert!(more.bounds.1 - more.bounds.0 < gate.bounds.1 - gate.bounds.0);
        }
    }
}
