//! How a job is packed into one Redis string: while it lives ([`layout`]), and once it
//! has ended ([`ended`]).

mod ended;
mod layout;
#[cfg(test)]
mod tests;

pub(crate) use ended::{CORRUPT, StoredJob, corrupt_view, read, set_result, succeeded};
pub(crate) use layout::{Encoded, Record, TIMES_END, code_number, encode, flag, queued_us, state, time_left};
