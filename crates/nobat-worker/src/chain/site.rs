//! What a chain's runs need of their worker, and a chain's job on its way.

use std::sync::Arc;
use std::time::Instant;

use nobat_core::OwnerId;
use nobat_core::infer::InferRequest;
use nobat_core::job::LeasedJob;
use nobat_queue::{Queue, QueueClient};
use parking_lot::Mutex;
use smol_str::SmolStr;
use tokio::sync::OnceCell;

use crate::model::{Model, Version};
use crate::watchdog::Watchdog;

/// Finds a model that this worker has sessions of.
pub(crate) type FindModel = Arc<dyn Fn(&str) -> Option<Arc<Model>> + Send + Sync>;

/// What the runs of one session's chains share. They all run in that session's runtime.
pub(crate) struct Site {
    pub(crate) queue: Arc<dyn Queue>,
    pub(crate) find: FindModel,
    pub(crate) watchdog: Watchdog,
    /// Short id of the worker, for results.
    pub(crate) worker: SmolStr,
    /// Most bytes of one job's outputs.
    pub(crate) max_bytes: usize,
    /// The way to other workers' queues, opened with the first step that needs it.
    pub(super) client: OnceCell<Arc<dyn QueueClient>>,
}

impl Site {
    pub(crate) fn new(
        queue: Arc<dyn Queue>,
        find: FindModel,
        watchdog: Watchdog,
        worker: SmolStr,
        max_bytes: usize,
    ) -> Site {
        Site { queue, find, watchdog, worker, max_bytes, client: OnceCell::new() }
    }
}

/// A chain's job, checked against its signature.
pub(crate) struct ChainJob {
    pub(crate) leased: LeasedJob,
    pub(crate) version: Arc<Version>,
    pub(crate) request: InferRequest,
    pub(crate) rows: u32,
    /// It ranks below others of its priority.
    pub(crate) background: bool,
    pub(crate) since: Instant,
    pub(crate) deadline: Option<Instant>,
    pub(crate) steps: StepsOf,
}

/// What a chain's job knows of its steps.
#[derive(Default)]
pub(crate) struct StepsOf {
    /// Titles of those that run now.
    pub(super) running: Mutex<Vec<String>>,
    /// Of the job, for those that run elsewhere.
    pub(super) owner: OnceCell<OwnerId>,
}
