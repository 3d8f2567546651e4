//! What all threads of one gateway share. Fields are handles: cloning the
//! `Arc` around this is how a thread, a task or a protocol gets at everything.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nobat_queue::Queue;

use crate::config::GatewayConfig;
use crate::registry::Registry;

/// One gateway's shared state.
pub struct Shared {
    /// Settings it was started with.
    pub config: GatewayConfig,
    /// The deployment's queues.
    pub queue: Arc<dyn Queue>,
    /// Models that workers serve.
    pub registry: Registry,
    draining: AtomicBool,
}

impl Shared {
    /// Wraps a queue and its settings; the registry is empty until refreshed.
    pub fn new(config: GatewayConfig, queue: Arc<dyn Queue>) -> Shared {
        Shared { config, queue, registry: Registry::default(), draining: AtomicBool::new(false) }
    }

    /// Whether the gateway is shutting down: ready no more, accepting no more.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Starts to refuse new predictions; those in flight go on.
    pub fn start_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }
}
