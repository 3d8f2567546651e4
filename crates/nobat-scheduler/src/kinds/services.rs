//! What a kind of task may need, and what it leaves.

use std::sync::Arc;
use std::time::Duration;

use nobat_core::{Error, Result};
use nobat_queue::{MetadataStore, Queue, QueueClient};

use crate::run_queue::RunQueue;

/// The deployment that tasks work on.
pub(crate) struct Services {
    pub(crate) queue: Arc<dyn Queue>,
    pub(crate) queue_client: Arc<dyn QueueClient>,
    pub(crate) metadata: Arc<dyn MetadataStore>,
    pub(crate) run_queue: RunQueue,
    pub(crate) http: reqwest::Client,
}

impl Services {
    /// # Errors
    /// `internal` when TLS cannot be set up.
    pub(crate) fn new(
        queue: Arc<dyn Queue>,
        metadata: Arc<dyn MetadataStore>,
        run_queue: RunQueue,
    ) -> Result<Services> {
        nobat_runtime::tls::use_ring();
        let http = reqwest::Client::builder()
            .user_agent(concat!("nobat/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_secs(10))
            .build()
            .map_err(|error| Error::internal(format!("cannot set up the fetching client: {error}")))?;
        Ok(Services { queue_client: queue.client(), queue, metadata, run_queue, http })
    }
}

/// What a successful attempt leaves in the history.
#[derive(Clone, Debug, Default)]
pub(crate) struct Done {
    pub(crate) message: String,
    pub(crate) exit_code: Option<i32>,
    pub(crate) output: String,
    pub(crate) job: Option<String>,
}

impl Done {
    pub(crate) fn said(message: impl Into<String>) -> Done {
        Done { message: message.into(), ..Done::default() }
    }
}
