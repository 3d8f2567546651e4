//! One run of a periodic task, as it travels from the scheduler that saw its tick to
//! the one that carries it out.

use std::sync::Arc;

use futures::future::BoxFuture;
use nobat_core::{Error, Result};
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

use crate::schedule::Periodic;

/// One run to carry out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRequest {
    /// Which task.
    pub task: SmolStr,
    /// The tick, or the instant of the request, Unix seconds.
    pub tick: i64,
    /// Whether somebody asked for it outside the schedule.
    pub manual: bool,
    /// The same for every scheduler that sees this tick.
    pub key: String,
}

/// Carries out one run.
pub type Handler = Arc<dyn Fn(RunRequest) -> BoxFuture<'static, ()> + Send + Sync>;

impl RunRequest {
    /// The run of a task's tick.
    pub fn at(task: &Periodic, tick: i64) -> RunRequest {
        RunRequest { task: task.name.clone(), tick, manual: false, key: format!("{}@{tick}", task.name) }
    }

    /// As it is stored until somebody carries it out.
    pub(crate) fn to_json(&self) -> Result<Vec<u8>> {
        to_json(self)
    }

    /// As it is stored while one process, and no other, carries it out.
    pub(crate) fn to_held(&self) -> Result<Vec<u8>> {
        to_json(&Held { run: self, holder: random_id() })
    }
}

/// Reads as the run that it is.
#[derive(Serialize)]
struct Held<'a> {
    #[serde(flatten)]
    run: &'a RunRequest,
    holder: String,
}

/// What is stored about periodic tasks, as JSON.
pub(crate) fn to_json(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value)
        .map_err(|error| Error::internal(format!("what a periodic task stores cannot be written: {error}")))
}

/// 64 random bits, as text.
pub(crate) fn random_id() -> String {
    format!("{:016x}", getrandom::u64().unwrap_or_else(|_| nobat_core::units::unix_ms(std::time::SystemTime::now())))
}
