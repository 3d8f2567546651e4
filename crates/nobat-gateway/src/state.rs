//! What all threads of one gateway share. Fields are handles: cloning the
//! `Arc` around this is how a thread, a task or a protocol gets at everything.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nobat_core::Result;
use nobat_queue::{Condition, Queue};
use nobat_runtime::Metrics;

use crate::caches::Caches;
use crate::config::GatewayConfig;
use crate::edge::Edge;
use crate::limits::Backlog;
use crate::meters::Meters;
use crate::monitor::Status;
use crate::readiness::Readiness;
use crate::registry::Registry;
use crate::routing::Routes;
use crate::v2::Statistics;
use crate::webhook::Webhooks;

/// One gateway's shared state.
pub struct Shared {
    /// Settings it was started with.
    pub config: GatewayConfig,
    /// The deployment's queues.
    pub queue: Arc<dyn Queue>,
    /// Whether they take jobs.
    pub condition: Condition,
    /// Models that workers serve.
    pub registry: Registry,
    /// Who may come in, and how many.
    pub edge: Edge,
    /// Answers kept for models that ask for it.
    pub caches: Caches,
    /// The pace of every queue.
    pub backlog: Backlog,
    /// What is counted.
    pub meters: Meters,
    /// Where everything that is counted is shown.
    pub metrics: Metrics,
    /// What the monitor saw last.
    pub status: Status,
    /// What workers have counted, for the v2 statistics call.
    pub statistics: Statistics,
    /// Exchanges in front of the models.
    pub routes: Routes,
    /// Who is told of a job's end.
    pub webhooks: Webhooks,
    /// Whether it can serve.
    pub readiness: Readiness,
    draining: AtomicBool,
}

impl Shared {
    /// Wraps a queue and its settings; the registry is empty until refreshed.
    /// Series are shown in `metrics`.
    ///
    /// # Errors
    /// `invalid_parameter` for settings that contradict each other or keys that
    /// cannot be read.
    pub fn new(config: GatewayConfig, queue: Arc<dyn Queue>, metrics: Metrics, readiness: Readiness) -> Result<Shared> {
        config.validate()?;
        let (metadata, condition) = (queue.metadata(), queue.condition());
        Ok(Shared {
            edge: Edge::new(&config)?,
            caches: Caches::new(queue.ids().derive("result cache"), config.cache.clone())?,
            condition,
            registry: Registry::default(),
            routes: Routes::new(config.routes.clone(), metadata.clone(), &metrics)?,
            webhooks: Webhooks::new(&config.webhooks, metadata, &metrics)?,
            backlog: Backlog::default(),
            meters: Meters::new(&metrics),
            metrics,
            status: Status::default(),
            statistics: Statistics::default(),
            readiness,
            draining: AtomicBool::new(false),
            config,
            queue,
        })
    }

    /// Whether the gateway is shutting down: ready no more, accepting no more.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Starts to refuse new predictions; those in flight go on.
    pub fn start_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
        self.readiness.draining();
        // Who waits for a model hears of it.
        self.registry.look_again();
    }
}
