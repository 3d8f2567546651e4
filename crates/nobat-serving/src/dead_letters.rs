//! Dead letters by what they died of: counted, shown by samples, and moved as a group.
//!
//! Two letters are of one group when their errors have the same code and the same words,
//! but for what holds a digit: ids, indices and sizes tell jobs apart, not errors. A
//! group's id is a hash of that, so it means the same on every gateway and after a restart.

use std::collections::BTreeMap;

use nobat_core::job::JobView;
use nobat_core::{Error, ErrorCode, JobId, Result, clip};
use xxhash_rust::xxh3::xxh3_64;

use crate::context::RequestContext;
use crate::predictor::Predictor;

/// Most dead letters looked through, the newest of the queue.
pub const LOOKED_THROUGH: usize = 10_000;
/// Ids shown of a group.
const SAMPLES: usize = 10;
const PAGE: usize = 1_000;
/// Letters moved by one call to the store.
const MOVED_AT_ONCE: usize = 500;

/// Letters that died of the same.
#[derive(Clone, Debug, PartialEq)]
pub struct DeadGroup {
    /// Names it in calls.
    pub id: String,
    /// The error's code; none for a letter that says nothing.
    pub code: Option<ErrorCode>,
    /// The error's words, of the newest letter.
    pub message: String,
    /// How many letters.
    pub count: u64,
    /// The first of them died, milliseconds since 1970.
    pub first_ms: u64,
    /// The last of them died, milliseconds since 1970.
    pub last_ms: u64,
    /// The newest.
    pub samples: Vec<JobId>,
}

/// The groups of one queue.
#[derive(Clone, Debug, PartialEq)]
pub struct DeadGroups {
    /// The largest first.
    pub groups: Vec<DeadGroup>,
    /// Letters that were looked through.
    pub looked_through: u64,
    /// Whether there are more than that.
    pub more: bool,
}

/// What is done to a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupMove {
    /// Back to their queue, their attempts forgotten.
    Redrive,
    /// Deleted for good.
    Purge,
}

impl Predictor {
    /// A queue's dead letters by what they died of.
    ///
    /// # Errors
    /// As [`Predictor::dead_letters`].
    pub async fn dead_groups(&self, context: &RequestContext, name: &str) -> Result<DeadGroups> {
        let (letters, more) = self.every_dead_letter(context, name).await?;
        Ok(DeadGroups { groups: grouped(&letters), looked_through: letters.len() as u64, more })
    }

    /// Moves every letter of a group, or what is left of it; how many went.
    ///
    /// # Errors
    /// As [`Predictor::dead_letters`]; `job_not_found` for a group that has no letters.
    pub async fn move_dead_group(
        &self,
        context: &RequestContext,
        name: &str,
        group: &str,
        how: GroupMove,
    ) -> Result<u64> {
        let (letters, _) = self.every_dead_letter(context, name).await?;
        let ids: Vec<JobId> =
            letters.iter().filter(|letter| group_id(letter) == group).map(|letter| letter.id).collect();
        if ids.is_empty() {
            let message =
                format!("no dead letter of `{name}` is of the group `{}`; it was moved, or never was", clip(group));
            return Err(Error::new(ErrorCode::JobNotFound, message));
        }
        let mut count = 0;
        for some in ids.chunks(MOVED_AT_ONCE) {
            count += match how {
                GroupMove::Redrive => self.redrive(context, name, some, some.len()).await?,
                GroupMove::Purge => self.purge(context, name, some, some.len()).await?,
            };
        }
        Ok(count)
    }

    async fn every_dead_letter(&self, context: &RequestContext, name: &str) -> Result<(Vec<JobView>, bool)> {
        let mut letters = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let page = self.dead_letters(context, name, cursor.as_deref(), PAGE).await?;
            letters.extend(page.jobs);
            cursor = page.cursor;
            if cursor.is_none() || letters.len() >= LOOKED_THROUGH {
                letters.truncate(LOOKED_THROUGH);
                return Ok((letters, cursor.is_some()));
            }
        }
    }
}

/// The groups of these letters, the largest first, of equal ones the newest.
fn grouped(letters: &[JobView]) -> Vec<DeadGroup> {
    let mut groups: BTreeMap<String, DeadGroup> = BTreeMap::new();
    let mut letters: Vec<&JobView> = letters.iter().collect();
    letters.sort_by_key(|letter| std::cmp::Reverse(letter.finished_at_ms));
    for letter in letters {
        let id = group_id(letter);
        let died_ms = letter.finished_at_ms.unwrap_or_default();
        let group = groups.entry(id.clone()).or_insert_with(|| DeadGroup {
            id,
            code: letter.error.as_ref().map(|error| error.code),
            message: letter.error.as_ref().map(|error| error.message.clone()).unwrap_or_default(),
            count: 0,
            first_ms: died_ms,
            last_ms: died_ms,
            samples: Vec::new(),
        });
        group.count += 1;
        group.first_ms = group.first_ms.min(died_ms);
        if group.samples.len() < SAMPLES {
            group.samples.push(letter.id);
        }
    }
    let mut groups: Vec<DeadGroup> = groups.into_values().collect();
    groups.sort_by(|a, b| b.count.cmp(&a.count).then(b.last_ms.cmp(&a.last_ms)));
    groups
}

fn group_id(letter: &JobView) -> String {
    let (code, message) = letter.error.as_ref().map_or(("", ""), |error| (error.code.as_str(), error.message.as_str()));
    format!("{:016x}", xxh3_64(format!("{code} {}", alike(message)).as_bytes()))
}

/// A message without what tells jobs apart: each word that holds a digit is one mark.
fn alike(message: &str) -> String {
    let is_of_word = |letter: char| letter.is_alphanumeric() || matches!(letter, '_' | '-' | '.');
    let mut text = String::with_capacity(message.len());
    let mut rest = message;
    while let Some(first) = rest.chars().next() {
        let is_word = is_of_word(first);
        let end = rest.find(|letter| is_of_word(letter) != is_word).unwrap_or(rest.len());
        let (part, after) = rest.split_at(end);
        let tells_apart = is_word && part.contains(|letter: char| letter.is_numeric());
        text.push_str(if tells_apart { "#" } else { part });
        rest = after;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use nobat_core::job::{JobError, JobState};
    use nobat_core::{IdIssuer, OwnerId};
    use proptest::prelude::*;

    fn letter(at: u64, code: ErrorCode, message: &str) -> JobView {
        JobView {
            id: IdIssuer::new([1; 16]).issue(u128::from(at), 1, at, OwnerId::ANONYMOUS),
            model: "m".into(),
            owner: OwnerId::ANONYMOUS,
            state: JobState::Dead,
            priority: 0,
            attempts: 1,
            created_at_ms: at,
            finished_at_ms: Some(at),
            error: Some(JobError { code, message: message.into() }),
            result: None,
            tags: Default::default(),
        }
    }

    #[test]
    fn letters_that_differ_in_numbers_alone_are_of_one_group() {
        let failed = ErrorCode::InferenceFailed;
        let letters = [
            letter(1, failed, "idx=99 must be within [-10,9]"),
            letter(3, failed, "idx=-100.5 must be within [-10,9]"),
            letter(2, failed, "job a1b2c3 was held by 3 workers that died"),
            letter(4, ErrorCode::InvalidTensor, "idx=99 must be within [-10,9]"),
        ];
        let groups = grouped(&letters);
        let shown: Vec<_> = groups.iter().map(|group| (group.count, group.first_ms, group.last_ms)).collect();
        assert_eq!(shown, [(2, 1, 3), (1, 4, 4), (1, 2, 2)]);
        assert_eq!(groups[0].message, "idx=-100.5 must be within [-10,9]", "the newest");
        assert_eq!(groups[0].samples, [letters[1].id, letters[0].id]);
        assert_eq!(group_id(&letters[0]), groups[0].id);
        assert_eq!(alike("row 17 of x_2: NaN at 3.5"), "row # of #: NaN at #");
    }

    proptest! {
        #[test]
        fn every_letter_is_in_one_group(messages in prop::collection::vec("[a-c0-2 é]{0,6}", 0..60)) {
            let letters: Vec<JobView> = messages.iter().enumerate().map(|(at, message)| letter(at as u64, ErrorCode::Internal, message)).collect();
            let groups = grouped(&letters);
            prop_assert_eq!(groups.iter().map(|group| group.count).sum::<u64>(), letters.len() as u64);
            prop_assert!(groups.is_sorted_by(|a, b| a.count >= b.count));
            for group in &groups {
                let own = letters.iter().filter(|letter| group_id(letter) == group.id).count() as u64;
                prop_assert_eq!(own, group.count);
                prop_assert!(group.first_ms <= group.last_ms && !group.samples.is_empty());
            }
        }

        #[test]
        fn numbers_never_make_a_difference(before in "[a-z ]{0,8}", a: u32, b: u32, after in "[a-z ]{0,8}") {
            prop_assert_eq!(alike(&format!("{before} {a} {after}")), alike(&format!("{before} {b} {after}")));
        }
    }
}
