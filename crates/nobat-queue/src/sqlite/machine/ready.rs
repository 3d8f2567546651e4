//! The order in which a queue's ready jobs run.
//!
//! One ordered set per rank in use, compared by their heads: the oldest job
//! of each rank is at hand (that is the queue's age), and a job that comes
//! back from a lost lease finds its old place. Costs O(log n) a job, plus one
//! comparison per rank in use.

use std::collections::{BTreeMap, BTreeSet};

use nobat_core::score::Aging;

use super::job::Row;

/// Ready jobs of one queue.
#[derive(Debug, Default)]
pub(crate) struct Ready {
    levels: BTreeMap<i16, BTreeSet<(i64, Row)>>,
    len: usize,
}

impl Ready {
    /// Puts a job in its place.
    pub(crate) fn insert(&mut self, rank: i16, position: i64, row: Row) {
        if self.levels.entry(rank).or_default().insert((position, row)) {
            self.len += 1;
        }
    }

    /// Takes a job out, wherever it stands.
    pub(crate) fn remove(&mut self, rank: i16, position: i64, row: Row) {
        if let Some(level) = self.levels.get_mut(&rank)
            && level.remove(&(position, row))
        {
            self.len -= 1;
            if level.is_empty() {
                self.levels.remove(&rank);
            }
        }
    }

    /// The job that runs next.
    pub(crate) fn first(&self, aging: Aging) -> Option<Row> {
        let heads = self.levels.iter().filter_map(|(&rank, level)| level.first().map(|&head| (rank, head)));
        heads.min_by_key(|&(rank, (position, row))| (aging.score(position, rank), row)).map(|(_, (_, row))| row)
    }

    /// The oldest job of every rank in use.
    pub(crate) fn heads(&self) -> impl Iterator<Item = Row> + '_ {
        self.levels.values().filter_map(|level| level.first().map(|&(_, row)| row))
    }

    /// How many are ready.
    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn jobs_leave_by_score_then_arrival(
            jobs in prop::collection::vec((-1i16..4, 0i64..300_000_000), 0..200), gone in prop::collection::vec(any::<bool>(), 200),
            strict: bool,
        ) {
            let aging = if strict { Aging::Strict } else { Aging::default() };
            let mut ready = Ready::default();
            let mut expected = Vec::new();
            for (row, &(rank, position)) in jobs.iter().enumerate() {
                ready.insert(rank, position, row as Row);
            }
            for (row, &(rank, position)) in jobs.iter().enumerate() {
                if gone[row] {
                    ready.remove(rank, position, row as Row);
                } else {
                    expected.push((aging.score(position, rank), row as Row));
                }
            }
            expected.sort_unstable();
            prop_assert_eq!(ready.len(), expected.len());
            for (_, row) in expected {
                prop_assert_eq!(ready.first(aging), Some(row));
                let (rank, position) = jobs[row as usize];
                ready.remove(rank, position, row);
            }
            prop_assert_eq!(ready.first(aging), None);
        }
    }
}
