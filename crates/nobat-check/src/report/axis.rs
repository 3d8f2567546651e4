//! Where values stand along an axis, and which of them are labelled: pure.

use crate::stage::AxisScale;
use crate::statistical::words::count;

/// Labels that a narrow screen has room for.
const MOST_TICKS: usize = 6;
/// The percentages that are labelled where the nines count.
const NINES: [f64; 6] = [50.0, 90.0, 99.0, 99.9, 99.99, 99.999];

/// An axis from one end to the other.
pub(super) struct Axis {
    from: f64,
    to: f64,
    scale: AxisScale,
}

impl Axis {
    /// One that holds these values, which are finite; `None` for none.
    pub(super) fn of(values: impl Iterator<Item = f64>, scale: AxisScale) -> Option<Axis> {
        let values = values.filter(|value| scale == AxisScale::Linear || placed(*value, scale).is_finite());
        let (from, to) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), value| (a.min(value), b.max(value)));
        (from <= to).then_some(Axis { from, to, scale })
    }

    /// One from zero to the first round number that is not exceeded; `None` where all is zero.
    pub(super) fn from_zero(values: impl Iterator<Item = f64>) -> Option<Axis> {
        let most = values.fold(0.0, f64::max);
        let step = step(most / (MOST_TICKS - 2) as f64);
        (most > 0.0).then(|| Axis { from: 0.0, to: (most / step - 1e-9).ceil() * step, scale: AxisScale::Linear })
    }

    /// Where a value stands, in per cent of the axis.
    pub(super) fn place(&self, value: f64) -> f64 {
        let at = |value| placed(value, self.scale);
        let (from, to) = (at(self.from), at(self.to));
        if to > from { ((at(value) - from) / (to - from) * 100.0).clamp(0.0, 100.0) } else { 50.0 }
    }

    /// What is labelled: round numbers, ascending.
    pub(super) fn ticks(&self) -> Vec<f64> {
        let within = |tick: &f64| *tick >= self.from * (1.0 - 1e-9) && *tick <= self.to * (1.0 + 1e-9);
        match self.scale {
            AxisScale::Linear => {
                let step = step((self.to - self.from) / (MOST_TICKS - 2) as f64);
                let first = (self.from / step - 1e-9).ceil() as i64;
                (first..).map(|n| n as f64 * step).take_while(within).take(MOST_TICKS + 1).collect()
            }
            AxisScale::Logarithmic => {
                let powers = self.from.log10().floor() as i32..=self.to.log10().ceil() as i32;
                let ticks = |steps: &'static [f64]| {
                    let all = powers.clone().flat_map(|power| steps.iter().map(move |step| step * 10f64.powi(power)));
                    all.filter(within).collect::<Vec<f64>>()
                };
                let fine = ticks(&[1.0, 2.0, 5.0]);
                if fine.len() <= MOST_TICKS { fine } else { ticks(&[1.0]) }
            }
            AxisScale::Nines => NINES.into_iter().filter(within).collect(),
        }
    }
}

/// Where a value stands on a ruler of this scale.
fn placed(value: f64, scale: AxisScale) -> f64 {
    match scale {
        AxisScale::Linear => value,
        AxisScale::Logarithmic => value.log10(),
        AxisScale::Nines => -(1.0 - value / 100.0).log10(),
    }
}

/// The next of 1, 2, 5, 10, 20, 50, …
fn step(least: f64) -> f64 {
    if !(least > 0.0 && least.is_finite()) {
        return 1.0;
    }
    let power = 10f64.powf(least.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|step| step * power);
    steps.into_iter().find(|step| *step >= least * (1.0 - 1e-9)).unwrap_or(10.0 * power)
}

/// A tick as it is read: no more digits than it has.
pub(super) fn label(tick: f64) -> String {
    match tick.abs() {
        large if large >= 1_000.0 && tick.fract() == 0.0 && tick > 0.0 => count(tick as u64),
        small if small > 0.0 && small < 1e-4 => format!("{tick:.0e}"),
        _ => {
            let text = format!("{tick:.6}");
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn labels(axis: Option<Axis>) -> Vec<String> {
        axis.expect("an axis").ticks().into_iter().map(label).collect()
    }

    #[test]
    fn ticks_are_round_numbers() {
        assert_eq!(labels(Axis::from_zero([31.2, 50.0].into_iter())), ["0", "20", "40", "60"]);
        assert_eq!(labels(Axis::from_zero([0.27].into_iter())), ["0", "0.1", "0.2", "0.3"]);
        assert_eq!(labels(Axis::of([0.0, 5.0].into_iter(), AxisScale::Linear)), ["0", "2", "4"]);
        let rates = [11.25, 22.5, 1_440.0];
        assert_eq!(
            labels(Axis::of(rates.into_iter(), AxisScale::Logarithmic)),
            ["20", "50", "100", "200", "500", "1,000"]
        );
        assert_eq!(labels(Axis::of([1.0, 99.95].into_iter(), AxisScale::Nines)), ["50", "90", "99", "99.9"]);
        assert!(Axis::from_zero([0.0].into_iter()).is_none() && Axis::of([].into_iter(), AxisScale::Linear).is_none());
    }

    #[test]
    fn each_nine_is_as_wide_as_the_one_before() {
        let axis = Axis::of([0.0, 99.9].into_iter(), AxisScale::Nines).expect("an axis");
        let at = [90.0, 99.0, 99.9].map(|percent| axis.place(percent).round());
        assert_eq!(at, [33.0, 67.0, 100.0]);
    }

    proptest! {
        #[test]
        fn all_that_is_shown_is_on_the_axis(values in prop::collection::vec(1e-6..1e9f64, 1..20), log: bool) {
            let scale = if log { AxisScale::Logarithmic } else { AxisScale::Linear };
            for axis in [Axis::of(values.iter().copied(), scale), Axis::from_zero(values.iter().copied())] {
                let axis = axis.expect("an axis");
                let ticks = axis.ticks();
                prop_assert!(ticks.len() <= 12 && ticks.is_sorted(), "{:?}", ticks);
                for value in values.iter().chain(&ticks) {
                    prop_assert!((0.0..=100.0).contains(&axis.place(*value)));
                }
            }
        }
    }
}
