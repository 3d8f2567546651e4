//! Pauses between tries.

use std::time::Duration;

use nobat_core::retry::Backoff;

/// Jittered where they are taken, so that a fleet does not return in one instant.
pub(crate) const BACKOFF: Backoff = Backoff::new(Duration::from_millis(20), Duration::from_millis(500));
