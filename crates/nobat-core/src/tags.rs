//! Tags: a caller's own words about a job, by which it is found again.
//!
//! A job has at most [`MOST`] of [`LONGEST`] bytes each. They are kept as one text, a line
//! each, so that a job without any costs nothing and one with some a single allocation.
//!
//! A tag that begins with `nobat:` is the server's own: of a job that was made for another,
//! by which the other finds it ([`Tags::of_parent`]).

use std::fmt;

use smol_str::{SmolStr, format_smolstr};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::error::{Error, ErrorCode, Result, clip};
use crate::id::JobId;

/// Most tags of a job.
pub const MOST: usize = 8;
/// Most bytes of a tag.
pub const LONGEST: usize = 64;
/// What begins no caller's tag.
const OURS: &str = "nobat:";
const PARENT: &str = "nobat:parent=";

/// The tags of one job, in the order they were given, each once.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Tags(SmolStr);

impl Tags {
    /// Adds a tag; one that is there already changes nothing.
    ///
    /// # Errors
    /// `invalid_parameter` for a tag that is empty, too long or holds a control character,
    /// and for one too many.
    pub fn add(&mut self, tag: &str) -> Result<()> {
        check(tag)?;
        if self.iter().any(|own| own == tag) {
            return Ok(());
        }
        if self.iter().count() == MOST {
            let message = format!("tag `{}` is one too many; a job takes up to {MOST}", clip(tag));
            return Err(Error::new(ErrorCode::InvalidParameter, message));
        }
        self.0 = match self.0.is_empty() {
            true => tag.into(),
            false => format!("{}\n{tag}", self.0).into(),
        };
        Ok(())
    }

    /// Of a job that is made for `parent`.
    pub fn of_parent(parent: JobId) -> Tags {
        Tags(tag_of_parent(parent))
    }

    /// The job that it was made for.
    pub fn parent(&self) -> Option<JobId> {
        self.lines().find_map(|tag| tag.strip_prefix(PARENT)?.parse().ok())
    }

    /// Each tag that the caller gave.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.lines().filter(|tag| !tag.starts_with(OURS))
    }

    /// By what an index finds their job.
    pub fn hashes(&self) -> impl Iterator<Item = u64> {
        self.lines().map(hash_of_tag)
    }

    fn lines(&self) -> impl Iterator<Item = &str> {
        self.0.split('\n').filter(|tag| !tag.is_empty())
    }

    /// Whether it is one of them.
    pub fn contains(&self, tag: &str) -> bool {
        self.lines().any(|own| own == tag)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// As stores keep them.
    pub fn stored(&self) -> &str {
        &self.0
    }

    /// Reads [`Tags::stored`].
    pub fn of_stored(text: &str) -> Tags {
        Tags(text.into())
    }
}

impl fmt::Debug for Tags {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_list().entries(self.iter()).finish()
    }
}

/// Refuses what is no tag.
///
/// # Errors
/// `invalid_parameter`, naming it.
pub fn check(tag: &str) -> Result<()> {
    let wrong = match tag {
        "" => "is empty",
        _ if tag.len() > LONGEST => "is too long",
        _ if tag.starts_with(OURS) => "begins as the server's own do",
        _ if tag.chars().any(char::is_control) => "holds a control character",
        _ => return Ok(()),
    };
    let message =
        format!("tag `{}` {wrong}; a tag is a text of 1 to {LONGEST} bytes", clip(&tag.escape_debug().to_string()));
    Err(Error::new(ErrorCode::InvalidParameter, message))
}

/// The tag of the jobs that were made for this one.
pub fn tag_of_parent(parent: JobId) -> SmolStr {
    format_smolstr!("{PARENT}{parent}")
}

/// By what an index finds the jobs of a tag.
pub fn hash_of_tag(tag: &str) -> u64 {
    xxh3_64_with_seed(tag.as_bytes(), 0)
}

/// By what an index finds the jobs of a request: no tag has the same.
pub fn hash_of_request(id: &str) -> u64 {
    xxh3_64_with_seed(id.as_bytes(), 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tags(given: &[&str]) -> Result<Tags> {
        let mut tags = Tags::default();
        given.iter().try_for_each(|tag| tags.add(tag)).map(|()| tags)
    }

    #[test]
    fn each_tag_is_kept_once_and_bad_ones_are_named() {
        let own = tags(&["team=a", "b", "team=a"]).expect("tags");
        assert_eq!(own.iter().collect::<Vec<_>>(), ["team=a", "b"]);
        assert_eq!(Tags::of_stored(own.stored()), own);
        assert!(own.contains("b") && !own.contains("team"));
        assert_eq!(
            tags(&["a\nb"]).expect_err("a line").message,
            "tag `a\\nb` holds a control character; a tag is a text of 1 to 64 bytes"
        );
        for bad in ["", "\u{0}", &"x".repeat(65)] {
            assert_eq!(tags(&[bad]).expect_err(bad).code, ErrorCode::InvalidParameter);
        }
        assert!(tags(&["1", "2", "3", "4", "5", "6", "7", "8"]).is_ok());
        assert!(tags(&["1", "2", "3", "4", "5", "6", "7", "8", "9"]).is_err());
    }

    #[test]
    fn a_parent_is_no_tag_of_a_callers_and_finds_its_children() {
        let parent = JobId { random: u128::MAX, tombstone_min: 62u32.pow(5) - 1, mac: u32::MAX, locator: u64::MAX };
        let own = Tags::of_parent(parent);
        assert!(own.stored().len() <= LONGEST, "{}", own.stored());
        assert_eq!((own.parent(), own.iter().count()), (Some(parent), 0));
        assert_eq!(own.hashes().collect::<Vec<_>>(), [hash_of_tag(&tag_of_parent(parent))]);
        assert!(own.contains(&tag_of_parent(parent)));
        let refused = tags(&[own.stored()]).expect_err("the server's own");
        assert!(refused.message.contains("begins as the server's own do"), "{}", refused.message);
        assert_eq!(tags(&["nobat", "parent=1"]).expect("tags").parent(), None);
    }

    proptest! {
        #[test]
        fn what_is_taken_reads_back(given in prop::collection::vec("\\PC{1,16}", 0..8)) {
            let given: Vec<&str> = given.iter().map(String::as_str).collect();
            let own = tags(&given).expect("within bounds");
            let again = Tags::of_stored(own.stored());
            prop_assert!(given.iter().all(|tag| again.contains(tag)));
            prop_assert!(again.iter().all(|tag| given.contains(&tag)));
        }
    }
}
