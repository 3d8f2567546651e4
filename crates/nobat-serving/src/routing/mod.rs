//! Exchanges: a caller names a route where a model name stands, and the route
//! decides which models answer.
//!
//! Owns what a route is ([`route`]), AMQP topic patterns ([`topic`]), the
//! sticky weighted choice ([`weight`]), the table that resolves a name into a
//! [`Plan`] ([`table`]), a route's own
//! signature (`signature`) and the joining of several answers ([`join`]): all of that is
//! pure. At work are the deployment's routes ([`Routes`]), the carrying out of plans
//! (`run`), the jobs of routes that nobody waits for ([`jobs`]), what canaries and copies
//! have shown (`evidence`, of what: `scope`) and whether one may take over ([`promotion`]).
//!
//! Invariants:
//! - A [`Table`] that was built has no cycle, no unknown join and weights that
//!   add up to 100 %: resolving never loops and always ends at models.
//! - The same request key gives the same model, in every process that sees the same
//!   models served.
//! - A copy, a share or a skippable child that nobody serves is passed over and told; it
//!   never takes the route down.
//! - A shadow never delays or fails the answer it copies.

pub mod bound;
mod evidence;
pub mod jobs;
pub mod join;
mod parent;
pub mod plan;
pub mod promotion;
pub mod route;
mod routes;
pub(crate) mod run;
mod scope;
mod signature;
pub mod table;
pub mod topic;
pub mod weight;

pub use bound::{BoundRoute, BoundTable};
pub use evidence::{PairSide, ShadowPair};
pub use plan::Plan;
pub use route::{FanOut, Join, OnFailure, OnMissing, Route, Rule, Shadow, Topic, Weighted};
pub use routes::{Routes, ShadowCounts, no_route};
pub use signature::{MissingTarget, ServedModel};
pub use table::Table;
pub use topic::Pattern;
