//! Webhooks on jobs: who asked to be told of a job's end is told, at least once.
//!
//! Owns the subscriptions ([`subscription`]), the deliveries ([`delivery`]) and their
//! sending ([`sender`]), the retry schedule and the circuit breaker ([`pace`]), what
//! administrators see and repeat ([`admin`]), and the requests to addresses that other
//! people chose ([`outbound`]): signatures and the guard over addresses, which the
//! monitor's alerts use too. It deliberately knows no HTTP server and no model.
//!
//! A caller's 202 comes after the subscription is in the metadata store, so a gateway killed at
//! any point loses no delivery:
//!
//! ```text
//! enqueue -> subscription (timer) -> answer        … job ends …
//! subscription due -> delivery (timer, same id however often) -> subscription removed
//! delivery due -> POST -> 2xx: log, removed | else: due again by the schedule
//! ```
//!
//! Invariants:
//! - A taken timer comes back when its taker dies: at-least-once, and a receiver
//!   tells repetitions by `webhook-id`, which never changes.
//! - What is stored and logged is the URL as given; what is shown is its host.

pub mod admin;
pub mod delivery;
pub mod outbound;
pub mod pace;
pub mod sender;
pub mod settings;
pub mod subscription;
pub mod webhooks;

pub use delivery::{ResultView, rfc3339};
pub use settings::WebhookSettings;
pub use webhooks::Webhooks;
