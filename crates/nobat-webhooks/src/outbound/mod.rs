//! Requests that nobat makes to addresses other people chose: webhooks of jobs,
//! alerts of the monitor, and pictures that are given by their address ([`fetch`]).
//!
//! Owns the [`signature`] (Standard Webhooks), the [`guard`] over addresses
//! (server-side request forgery) and the bounded [`client`]. It does not own
//! when to send or to send again: the caller schedules, one call is one attempt.
//!
//! Invariants:
//! - A host name is resolved once per connection and the connection goes to an
//!   address that the guard has seen; a rebinding name cannot slip through.
//! - A webhook follows no redirect and reads no answer's body; what fetches follows
//!   a few, each checked, and reads a bounded number of bytes. No proxy of the
//!   environment is used.
//! - Targets show as scheme and host only: paths and queries carry secrets.

pub mod client;
pub mod fetch;
pub mod guard;
pub mod signature;

pub use client::{Outbound, PostOutcome};
pub use fetch::{FetchSettings, Fetcher};
pub use guard::{AddressPolicy, WebhookUrl, endpoint_of};
pub use signature::WebhookSecret;
