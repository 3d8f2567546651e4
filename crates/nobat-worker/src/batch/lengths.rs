//! Which waiting rows of unlike length make the next run. Pure.
//!
//! A run is padded to its longest row, so a long text would make many short ones pay.
//! The waiting rows are sorted by length and cut into runs where that costs the least in
//! all; of these runs the one with the first row goes now. So whoever is first is in the
//! next run, and like lengths are together: with 96 waiting texts of everyday lengths,
//! padding and small runs cost under a tenth.
//!
//! An example: of lengths 5, 6, 90, 7, 95 waiting in this order, the cheapest cuts are
//! 5 6 7 | 90 95. The first row is in the left one, so 5, 6 and 7 run, and then the others.

/// Most rows that are looked at: the cost of a decision is this many times the rows of a run.
pub(super) const WINDOW: usize = 256;

/// The most that a run may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RunLimits {
    pub(crate) rows: u32,
    /// Rows times the longest of them. A longer row runs alone.
    pub(crate) padded: u32,
}

/// The rows of the next run: positions in `lengths`, which are in the order in which the rows
/// should run and not empty; ascending, 0 among them. `cost` says what a run of so many rows
/// takes, the longest of them so long.
pub(crate) fn next_run(lengths: &[u32], limits: &RunLimits, cost: impl Fn(u32, u32) -> f64) -> Vec<usize> {
    let mut sorted: Vec<usize> = (0..lengths.len().min(WINDOW)).collect();
    sorted.sort_by_key(|&at| lengths[at]);
    // least[n]: the least time for the n shortest rows, and where the last of their runs begins.
    let mut least: Vec<(f64, usize)> = vec![(0.0, 0)];
    for end in 1..=sorted.len() {
        let longest = lengths[sorted[end - 1]];
        let mut best = (f64::INFINITY, end - 1);
        for from in (0..end).rev() {
            let rows = (end - from) as u32;
            if rows > 1 && (rows > limits.rows || rows.saturating_mul(longest) > limits.padded) {
                break;
            }
            let took = least[from].0 + cost(rows, longest);
            if took < best.0 {
                best = (took, from);
            }
        }
        least.push(best);
    }
    let first = sorted.iter().position(|&at| at == 0).unwrap_or(0);
    let mut end = sorted.len();
    while least[end].1 > first {
        end = least[end].1;
    }
    let mut run = sorted[least[end].1..end].to_vec();
    run.sort_unstable();
    run
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// MiniLM's on one thread, in milliseconds.
    fn cost(rows: u32, longest: u32) -> f64 {
        let (rows, longest) = (f64::from(rows), f64::from(longest));
        2.9 + rows * (0.372 * longest + 0.00051 * longest * longest)
    }

    const LIMITS: RunLimits = RunLimits { rows: 64, padded: 512 };

    /// Runs all of `lengths`; the time, the padding, and the most runs that a row waited for.
    fn run_all(lengths: &[u32], limits: &RunLimits) -> (f64, u32, usize) {
        let mut waiting: Vec<u32> = lengths.to_vec();
        let (mut took, mut padding, mut turns) = (0.0, 0, 0);
        while !waiting.is_empty() {
            let run = next_run(&waiting, limits, cost);
            let longest = run.iter().map(|&at| waiting[at]).max().expect("not empty");
            took += cost(run.len() as u32, longest);
            padding += run.iter().map(|&at| longest - waiting[at]).sum::<u32>();
            run.into_iter().rev().for_each(|at| _ = waiting.remove(at));
            turns += 1;
        }
        (took, padding, turns)
    }

    /// Everyday lengths: log-normal, median 20, 3 to 250 tokens.
    fn everyday(count: usize, seed: u64) -> Vec<u32> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut chance = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 11) as f64 / (1u64 << 53) as f64
        };
        let mut normal = || (0..12).map(|_| chance()).sum::<f64>() - 6.0;
        (0..count).map(|_| ((20f64.ln() + 0.8 * normal()).exp() as u32).clamp(3, 250)).collect()
    }

    #[test]
    fn a_long_text_does_not_make_short_ones_pay() {
        let example = [5, 6, 90, 7, 95];
        assert_eq!(next_run(&example, &LIMITS, cost), [0, 1, 3]);
        assert_eq!(next_run(&example[2..], &RunLimits { padded: 256, ..LIMITS }, cost), [0, 2]);
        assert_eq!(next_run(&[600, 5], &LIMITS, cost), [0], "over the limit, alone");
    }

    #[test]
    fn with_96_waiting_texts_the_machine_does_nineteen_twentieths_of_what_it_could() {
        // What waits is topped up to `waiting` after each run, as callers would.
        let share = |waiting: usize, seed: u64| {
            let texts = everyday(3_000, seed);
            let mut sorted = texts.clone();
            sorted.sort_unstable();
            // The limit: all texts known and sorted, in the cheapest runs.
            let limit: f64 = sorted.chunks(WINDOW).map(|part| run_all(part, &LIMITS).0).sum();
            let (mut held, mut next): (Vec<u32>, usize) = (Vec::new(), 0);
            let (mut took, mut padded, mut tokens) = (0.0, 0u32, 0u32);
            loop {
                let more = (waiting - held.len()).min(texts.len() - next);
                held.extend_from_slice(&texts[next..next + more]);
                next += more;
                if held.is_empty() {
                    return (limit / took, f64::from(padded) / f64::from(tokens));
                }
                let run = next_run(&held, &LIMITS, cost);
                let longest = run.iter().map(|&at| held[at]).max().expect("not empty");
                took += cost(run.len() as u32, longest);
                padded += run.iter().map(|&at| longest - held[at]).sum::<u32>();
                tokens += run.iter().map(|&at| held[at]).sum::<u32>();
                run.into_iter().rev().for_each(|at| _ = held.remove(at));
            }
        };
        for seed in 1..4 {
            let (of_limit, padding) = share(96, seed);
            assert!(of_limit > 0.93 && padding < 0.05, "{of_limit} of the limit, {padding} padding");
            assert!(share(16, seed).0 > 0.84, "{:?} with 16 waiting", share(16, seed));
        }
    }

    proptest! {
        #[test]
        fn the_first_row_is_in_the_next_run_and_the_run_is_within_its_limits(
            lengths in prop::collection::vec(1u32..300, 1..400), rows in 1u32..64, padded in 1u32..2_000,
        ) {
            let limits = RunLimits { rows, padded };
            let run = next_run(&lengths, &limits, cost);
            prop_assert_eq!(run[0], 0);
            prop_assert!(run.windows(2).all(|pair| pair[0] < pair[1]) && run[run.len() - 1] < lengths.len());
            let longest = run.iter().map(|&at| lengths[at]).max().expect("not empty");
            prop_assert!(run.len() == 1 || (run.len() as u32 <= rows && run.len() as u32 * longest <= padded));
        }

        #[test]
        fn nobody_waits_for_more_runs_than_there_are_rows_before_it_and_none_is_worse_off_than_one_by_one(
            lengths in prop::collection::vec(1u32..300, 1..120),
        ) {
            let (took, _, turns) = run_all(&lengths, &LIMITS);
            let singly: f64 = lengths.iter().map(|&length| cost(1, length)).sum();
            prop_assert!(turns <= lengths.len());
            prop_assert!(took <= singly + 1e-6, "{took} against {singly} one by one");
        }
    }
}
