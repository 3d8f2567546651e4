//! Running batches: one [`session`] per thread, which leases jobs and hands batches to
//! its [`executor`]; [`gather`] joins their inputs, [`scatter`] splits the outputs;
//! [`renewal`] keeps every session's leases alive from a thread of its own.

pub(crate) mod executor;
mod failure;
mod gather;
pub(crate) mod renewal;
mod scatter;
pub(crate) mod session;

#[cfg(test)]
mod overload_tests;
#[cfg(test)]
mod tests;
