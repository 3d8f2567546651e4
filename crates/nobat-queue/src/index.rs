//! By what an index finds a job: hashes of its tags, and of its request's id where the
//! caller gave it. Pure.

use nobat_core::job::NewJob;
use nobat_core::request_trace::is_given;
use nobat_core::tags::hash_of_request;
use nobat_core::{Error, ErrorCode};

/// The hashes of a new job; most have none.
pub(crate) fn hashes(job: &NewJob) -> Vec<u64> {
    let of_request = is_given(&job.trace.request_id).then(|| hash_of_request(&job.trace.request_id));
    job.options.tags.hashes().chain(of_request).collect()
}

/// What a search is answered where nothing is indexed.
pub(crate) fn unindexed() -> Error {
    Error::new(
        ErrorCode::Unsupported,
        "jobs are not indexed here; set `queue.index = true` to find those that come from then on",
    )
}
