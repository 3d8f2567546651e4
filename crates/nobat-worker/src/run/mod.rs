//! Running batches: one [`session`] per thread, which leases jobs and hands batches to
//! its [`executor`]; [`gather`] joins their inputs, [`scatter`] splits the outputs, and
//! [`row_runs`] does both for models that are transformed; [`answer`] ends a job;
//! [`renewal`] keeps every session's leases alive from a thread of its own.

pub(crate) mod answer;
pub(crate) mod executor;
pub(crate) mod failure;
mod gather;
pub(crate) mod renewal;
mod row_runs;
mod scatter;
pub(crate) mod session;

#[cfg(test)]
mod overload_tests;
#[cfg(test)]
mod row_tests;
#[cfg(test)]
mod tests;
