//! How many requests of a chain are under way, and how fast they end: by both, when one that
//! begins now would end (Little's law). Pure.
//!
//! What steps take says too little of that under load: requests wait in batches, behind runs
//! that have begun, and for cores that all steps share.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Ends that are remembered.
const WINDOW: usize = 256;
/// Ends before which nobody is refused: fewer may be one batch.
const MIN_SAMPLES: usize = 16;
/// How long an end counts, by the time in which there was something to do.
const AGE: Duration = Duration::from_secs(10);
/// Those that a request waits for take so much longer than they seem to: one that was let in and is late
/// costs the runs of others.
const MARGIN: f64 = 0.25;
/// A pace that was seen with so few under way, as a share of those now, says nothing: more
/// of them share runs.
const COMPARABLE: u32 = 2;

/// The requests of one chain that a worker has begun.
#[derive(Debug, Default)]
pub(super) struct Throughput {
    under_way: u32,
    /// How long at least one was under way, ever, until `seen`.
    busy: Duration,
    seen: Option<Instant>,
    answered: VecDeque<Answered>,
}

#[derive(Debug)]
struct Answered {
    /// When, by `busy`.
    at: Duration,
    /// Since the one before it.
    gap: Duration,
    /// Those under way then, with itself.
    of: u32,
}

impl Throughput {
    /// How long one that begins now takes to its end; `None` where no more than `parallel` would be under
    /// way, which may wait for nothing at all, or too little is known of so many.
    pub(super) fn estimate(&self, parallel: u32) -> Option<Duration> {
        if self.under_way < parallel {
            return None;
        }
        let known = self.answered.iter().filter(|own| own.of.saturating_mul(COMPARABLE) >= self.under_way);
        let (ends, took) = known.fold((0, Duration::ZERO), |(ends, took), own| (ends + 1, took + own.gap));
        let each = (ends >= MIN_SAMPLES).then(|| took / ends as u32)?;
        let (all, waiting) = (self.under_way + 1, self.under_way - parallel + 1);
        Some(each.mul_f64(f64::from(all) + MARGIN * f64::from(waiting)))
    }

    /// Counts one that begins.
    pub(super) fn begin(&mut self, now: Instant) {
        self.advance(now);
        self.under_way += 1;
    }

    /// Counts one that ends, with its answer or without.
    pub(super) fn end(&mut self, is_answered: bool, now: Instant) {
        self.advance(now);
        let of = self.under_way;
        self.under_way = of.saturating_sub(1);
        if !is_answered {
            return;
        }
        let (at, before) = (self.busy, self.answered.back().map_or(Duration::ZERO, |last| last.at));
        self.answered.push_back(Answered { at, gap: at.saturating_sub(before), of });
        let too_old = at.saturating_sub(AGE);
        let is_old = |first: &Answered| first.at < too_old;
        while self.answered.len() > WINDOW
            || (self.answered.len() > MIN_SAMPLES && self.answered.front().is_some_and(is_old))
        {
            self.answered.pop_front();
        }
    }

    fn advance(&mut self, now: Instant) {
        if let Some(seen) = self.seen.filter(|_| self.under_way > 0) {
            self.busy += now.saturating_duration_since(seen);
        }
        self.seen = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn one_that_begins_waits_for_those_before_it_at_their_pace() {
        let (mut own, mut now) = (Throughput::default(), Instant::now());
        for _ in 0..MIN_SAMPLES {
            assert_eq!(own.estimate(0), None, "too few have ended");
            own.begin(now);
            now += ms(10);
            own.end(true, now);
            // What nobody asked for is no time that it took.
            now += ms(500);
        }
        (0..2).for_each(|_| own.begin(now));
        assert_eq!(
            (own.estimate(1), own.estimate(2), own.estimate(3)),
            (Some(ms(35)), Some(ms(10).mul_f64(3.25)), None)
        );
        own.begin(now);
        assert_eq!(own.estimate(0), None, "three were never under way");
        own.end(false, now + ms(10));
        assert_eq!(own.estimate(1), Some(ms(35)), "what is given up is no answer");
    }

    #[test]
    fn a_slow_spell_is_forgotten() {
        let (mut own, mut now) = (Throughput::default(), Instant::now());
        for took in [ms(1_000); 20].into_iter().chain([ms(10); 1_100]) {
            own.begin(now);
            now += took;
            own.end(true, now);
        }
        own.begin(now);
        assert_eq!(own.estimate(1), Some(ms(10).mul_f64(2.25)));
    }

    /// Three models one after the other, with a run at a time each, at 1.5 times what they can do: how many
    /// are answered in time, of those that could be.
    fn goodput(deadline: Duration, runs: impl Fn(u32, usize) -> Duration, capacity_ms: f64) -> f64 {
        let (mut own, began) = (Throughput::default(), Instant::now());
        let mut free = [began; 3];
        let mut ends: VecDeque<(Instant, bool)> = VecDeque::new();
        let (seconds, mut in_time) = (40.0, 0);
        let gap = Duration::from_secs_f64(capacity_ms / 1.5e3);
        for number in 0..(seconds / gap.as_secs_f64()) as u32 {
            let now = began + gap * number;
            while let Some((end, _)) = ends.pop_front_if(|(end, _)| *end <= now) {
                own.end(true, end);
            }
            if own.estimate(3).is_some_and(|takes| takes > deadline) {
                continue;
            }
            own.begin(now);
            let mut at = now;
            for (step, free) in free.iter_mut().enumerate() {
                at = at.max(*free) + runs(number, step);
                *free = at;
            }
            in_time += u32::from(at <= now + deadline);
            ends.push_back((at, true));
        }
        f64::from(in_time) * capacity_ms / 1e3 / seconds
    }

    #[test]
    fn at_half_as_much_again_as_a_chain_can_do_it_answers_nearly_as_many_as_it_can() {
        // Wherever the slowest step is, and however much runs differ.
        for slowest in 0..3 {
            let even = |_, step| if step == slowest { ms(8) } else { ms(4) };
            assert!(goodput(ms(160), even, 8.0) > 0.95, "{slowest}");
            let uneven =
                |number: u32, step: usize| even(number, step).mul_f64(0.5 + f64::from(number * 7919 % 11) / 10.0);
            assert!(goodput(ms(160), uneven, 8.0) > 0.9, "{slowest}");
        }
        assert!(goodput(ms(40), |_, _| ms(8), 8.0) > 0.9, "little time to wait");
    }
}
