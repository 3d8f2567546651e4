//! The workers behind nobat's gateway, and the memory of each, as they report it.

use serde::Deserialize;

use super::http;
use super::target::Target;

/// A live worker, as nobat's native API tells of it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ServingWorker {
    /// Another for each start.
    pub id: String,
    /// Host name and process id.
    pub host: String,
    /// Resident memory of its process, where it says so.
    pub resident_bytes: Option<u64>,
    /// The versions that it has.
    pub models: Vec<HeldVersion>,
}

/// A version that a worker has.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct HeldVersion {
    /// Its model.
    pub name: String,
}

#[derive(Deserialize)]
struct WorkerList {
    workers: Vec<ServingWorker>,
}

impl Target {
    /// The live workers, with what each reports at this moment.
    ///
    /// # Errors
    /// In words: what the server answered instead.
    pub async fn workers(&self) -> Result<Vec<ServingWorker>, String> {
        // Statistics are asked of every worker anew, and its memory comes with them; without, it is
        // as old as the worker's last heartbeat. Where that is not answered the older will do.
        drop(http::get(self, &["v2", "models", "stats"]).await);
        let list = http::get(self, &["api", "v1", "workers"]).await?;
        let list = serde_json::from_value::<WorkerList>(list);
        list.map(|list| list.workers).map_err(|error| format!("its list of workers cannot be read: {error}"))
    }
}
