//! The order in which a queue's ready jobs run.
//!
//! One ordered set per priority in use, compared by their heads: the oldest job
//! of each priority is at hand (that is the queue's age), and a job that comes
//! back from a lost lease finds its old place. Costs O(log n) a job, plus one
//! comparison per priority in use.

use std::collections::{BTreeMap, BTreeSet};

use nobat_core::score::Aging;

use super::job::Row;

/// Ready jobs of one queue.
#[derive(Debug, Default)]
pub(crate) struct Ready {
    levels: BTreeMap<u8, BTreeSet<(i64, Row)>>,
    len: usize,
}

impl Ready {
    /// Puts a job in its place.
    pub(crate) fn insert(&mut self, priority: u8, position: i64, row: Row) {
        if self.levels.entry(priority).or_default().insert((position, row)) {
            self.len += 1;
        }
    }

    /// Takes a job out, wherever it stands.
    pub(crate) fn remove(&mut self, priority: u8, position: i64, row: Row) {
        if let Some(level) = self.levels.get_mut(&priority)
            && level.remove(&(position, row))
        {
            self.len -= 1;
            if level.is_empty() {
                self.levels.remove(&priority);
            }
        }
    }

    /// The job that runs next.
    pub(crate) fn first(&self, aging: Aging) -> Option<Row> {
        let heads = self.levels.iter().filter_map(|(&priority, level)| level.first().map(|&head| (priority, head)));
        heads.min_by_key(|&(priority, (position, row))| (aging.score(position, priority), row)).map(|(_, (_, row))| row)
    }

    /// The oldest job of every priority in use.
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
            jobs in prop::collection::vec((0u8..4, 0i64..300_000_000), 0..200), gone in prop::collection::vec(any::<bool>(), 200),
            strict: bool,
        ) {
            let aging = if strict { Aging::Strict } else { Aging::default() };
            let mut ready = Ready::default();
            let mut expected = Vec::new();
            for (row, &(priority, position)) in jobs.iter().enumerate() {
                ready.insert(priority, position, row as Row);
            }
            for (row, &(priority, position)) in jobs.iter().enumerate() {
                if gone[row] {
                    ready.remove(priority, position, row as Row);
                } else {
                    expected.push((aging.score(position, priority), row as Row));
                }
            }
            expected.sort_unstable();
            prop_assert_eq!(ready.len(), expected.len());
            for (_, row) in expected {
                prop_assert_eq!(ready.first(aging), Some(row));
                let (priority, position) = jobs[row as usize];
                ready.remove(priority, position, row);
            }
            prop_assert_eq!(ready.first(aging), None);
        }
    }
}
