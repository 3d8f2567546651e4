//! Idempotency keys: which job a caller's key stands for, until it is forgotten.

use std::collections::{HashMap, VecDeque};

use nobat_core::OwnerId;
use smol_str::SmolStr;

use super::job::{QueueNo, Row};

/// A key's scope: caller and model.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct KeyScope {
    pub(crate) owner: OwnerId,
    pub(crate) queue: QueueNo,
    pub(crate) key: SmolStr,
}

/// What a key stands for. The id's parts are kept here because the job may be
/// gone long before its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KnownKey {
    pub(crate) row: Row,
    pub(crate) random: u128,
    pub(crate) tombstone_min: u32,
    pub(crate) fingerprint: u128,
    pub(crate) expires_us: u64,
    /// When the record of its job ends, milliseconds since 1970; `None` while the job
    /// lives, or is a dead letter.
    pub(crate) ends_ms: Option<u64>,
}

/// All keys that are remembered. The ttl is the same for all of one run, so the
/// order of arrival is the order of expiry. A key whose job has left no record names
/// nothing, though it takes up room until then.
#[derive(Debug, Default)]
pub(crate) struct IdempotencyKeys {
    known: HashMap<KeyScope, KnownKey>,
    by_age: VecDeque<(u64, Row, KeyScope)>,
}

impl IdempotencyKeys {
    /// What `scope` stands for at `now_us`.
    pub(crate) fn find(&self, scope: &KeyScope, now_us: u64) -> Option<&KnownKey> {
        let lives = |known: &&KnownKey| known.ends_ms.is_none_or(|at_ms| at_ms > now_us / 1_000);
        self.known.get(scope).filter(|known| known.expires_us > now_us).filter(lives)
    }

    /// Remembers a key.
    pub(crate) fn insert(&mut self, scope: KeyScope, known: KnownKey) {
        self.by_age.push_back((known.expires_us, known.row, scope.clone()));
        self.known.insert(scope, known);
    }

    /// The key a job came with, while it is remembered.
    pub(crate) fn of_row(&self, row: Row) -> Option<(&KeyScope, &KnownKey)> {
        let at = self.by_age.binary_search_by_key(&row, |&(_, row, _)| row).ok()?;
        self.known.get_key_value(&self.by_age.get(at)?.2).filter(|(_, known)| known.row == row)
    }

    /// The job of this row has ended: its key names something until `at_ms`.
    pub(crate) fn end(&mut self, row: Row, at_ms: u64) {
        if let Some(scope) = self.of_row(row).map(|(scope, _)| scope.clone())
            && let Some(known) = self.known.get_mut(&scope)
        {
            known.ends_ms = Some(at_ms);
        }
    }

    /// Forgets the key of a job that was refused after all, or is deleted.
    pub(crate) fn remove(&mut self, row: Row) {
        if let Some(scope) = self.of_row(row).map(|(scope, _)| scope.clone()) {
            self.known.remove(&scope);
        }
    }

    /// Forgets up to `limit` keys that expired; the last job row among them.
    pub(crate) fn expire(&mut self, now_us: u64, limit: usize) -> Option<Row> {
        let mut last = None;
        for _ in 0..limit {
            if self.next_expiry().is_none_or(|at| at > now_us) {
                break;
            }
            if let Some((_, row, scope)) = self.by_age.pop_front() {
                if self.known.get(&scope).is_some_and(|known| known.row == row) {
                    self.known.remove(&scope);
                }
                last = Some(row);
            }
        }
        last
    }

    /// When the oldest key expires.
    pub(crate) fn next_expiry(&self) -> Option<u64> {
        self.by_age.front().map(|&(at, _, _)| at)
    }
}
