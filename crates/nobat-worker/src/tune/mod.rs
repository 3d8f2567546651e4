//! What is found out about a model at load by running it: whether its rows are
//! independent ([`trial`], [`tower_trial`]), its best batch size ([`autotune`]), how many sessions fit
//! ([`sizing`]), what rows of unlike length cost ([`row_costs`]), and a request that it
//! answers ([`example`]).

pub(crate) mod autotune;
pub mod example;
pub(crate) mod limit;
pub(crate) mod row_costs;
pub(crate) mod samples;
pub(crate) mod sizing;
pub(crate) mod synthetic;
pub(crate) mod tower_trial;
pub(crate) mod trial;
