//! What all threads of one gateway share. Fields are handles: cloning the
//! `Arc` around this is how a thread, a task or a protocol gets at everything.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nobat_core::Result;
use nobat_queue::{Condition, Queue};
use nobat_runtime::Metrics;
use nobat_webhooks::outbound::Fetcher;
use nobat_webhooks::{ResultView, Webhooks};
use tokio::sync::watch;

use crate::admission::Admission;
use crate::audit::Audit;
use crate::cache::Caches;
use crate::drift::Drift;
use crate::limits::Backlog;
use crate::metrics::PredictionMetrics;
use crate::monitor::{Status, TimeSeries};
use crate::readiness::Readiness;
use crate::record::Recorder;
use crate::registry::Registry;
use crate::routing::Routes;
use crate::settings::ServingSettings;
use crate::shared_counts::SharedCounts;
use crate::statistics::Statistics;

/// One gateway's shared state.
pub struct ServingState {
    /// Settings it was started with.
    pub settings: ServingSettings,
    /// The deployment's queues.
    pub queue: Arc<dyn Queue>,
    /// Whether they take jobs.
    pub condition: Condition,
    /// Models that workers serve.
    pub registry: Registry,
    /// Who may come in, and how many.
    pub admission: Admission,
    /// The log of changes.
    pub audit: Audit,
    /// Answers kept for models that ask for it.
    pub caches: Caches,
    /// The pace of every queue.
    pub backlog: Backlog,
    /// What is counted.
    pub predictions: PredictionMetrics,
    /// Where everything that is counted is shown.
    pub metrics: Metrics,
    /// What the monitor saw last.
    pub status: Status,
    /// What it saw over the last 15 minutes.
    pub series: TimeSeries,
    /// What workers have counted, for the v2 statistics call.
    pub statistics: Statistics,
    /// The recording of requests.
    pub recorder: Recorder,
    /// Whether rows still look like the models' profiles.
    pub drift: Drift,
    pub(crate) shared_counts: SharedCounts,
    /// Exchanges in front of the models.
    pub routes: Routes,
    /// Who is told of a job's end.
    pub webhooks: Webhooks,
    /// What fetches pictures that are given by their address.
    pub(crate) fetcher: Fetcher,
    /// Whether it can serve.
    pub readiness: Readiness,
    /// Held while an operation over jobs begins.
    pub(crate) beginning: tokio::sync::Mutex<()>,
    draining: AtomicBool,
    /// Tells those who wait for what may not come that it drains.
    drains: watch::Sender<bool>,
}

impl ServingState {
    /// Wraps a queue and its settings; the registry is empty until refreshed.
    /// Series are shown in `metrics`, results told of as `view` has them.
    ///
    /// # Errors
    /// `invalid_parameter` for settings that contradict each other or keys that
    /// cannot be read.
    pub fn new(
        settings: ServingSettings,
        queue: Arc<dyn Queue>,
        view: ResultView,
        metrics: Metrics,
        readiness: Readiness,
    ) -> Result<ServingState> {
        settings.validate()?;
        let (metadata, condition) = (queue.metadata(), queue.condition());
        Ok(ServingState {
            admission: Admission::new(&settings.auth, settings.limits.clone(), queue.clone())?,
            audit: Audit::new(settings.audit.clone()),
            caches: Caches::new(queue.ids().derive("result cache"), settings.cache.clone())?,
            condition,
            registry: Registry::default(),
            routes: Routes::new(settings.routes.clone(), metadata.clone(), &metrics)?,
            webhooks: Webhooks::new(&settings.webhooks, metadata, view, &metrics)?,
            fetcher: Fetcher::new(&settings.fetch)?,
            backlog: Backlog::default(),
            predictions: PredictionMetrics::new(&metrics),
            recorder: Recorder::start(&settings.record, &metrics)?,
            metrics,
            status: Status::default(),
            series: TimeSeries::default(),
            statistics: Statistics::default(),
            drift: Drift::default(),
            shared_counts: SharedCounts::new(queue.metadata()),
            readiness,
            beginning: tokio::sync::Mutex::default(),
            draining: AtomicBool::new(false),
            drains: watch::Sender::new(false),
            settings,
            queue,
        })
    }

    /// Whether the gateway is shutting down: ready no more, accepting no more.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Resolves when the gateway begins to shut down.
    pub(crate) async fn drain_begins(&self) {
        // The sender lives as long as this state.
        let _ = self.drains.subscribe().wait_for(|drains| *drains).await;
    }

    /// Starts to refuse new predictions; those in flight go on.
    pub fn start_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
        self.drains.send_replace(true);
        self.readiness.tell(false);
        // Who waits for a model hears of it.
        self.registry.look_again();
    }

    /// Whether predictions can be taken.
    pub fn is_ready(&self) -> bool {
        !self.is_draining() && self.readiness.is_started() && self.condition.refusal().is_none()
    }
}
