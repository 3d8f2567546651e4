//! What each kind of task does. One call is one attempt; the caller bounds its
//! time by dropping it.

mod exec;
mod fetch;
mod file;
mod predict;
mod services;

use std::time::Duration;

use nobat_core::Result;
use nobat_queue::WorkerCommand;

use crate::run::RunRequest;
use crate::schedule::{Periodic, TaskKind};

pub(crate) use services::{Done, Services};

/// One attempt.
pub(crate) async fn carry_out(services: &Services, task: &Periodic, run: &RunRequest) -> Result<Done> {
    match task.kind()? {
        TaskKind::Predict(kind) => predict::predict(services, kind, run, task.retry.max_retries.into()).await,
        TaskKind::Fetch(kind) => fetch::fetch(services, kind).await,
        TaskKind::Reload(kind) => {
            services.queue.command(&WorkerCommand::Load { model: kind.model.clone() }).await?;
            Ok(Done::said(format!("asked the workers to load `{}` again", kind.model)))
        }
        TaskKind::Exec(kind) => exec::exec(kind).await,
        TaskKind::Vacuum(kind) => {
            let forgotten = services.run_queue.vacuum(Duration::from_secs(kind.keep_s)).await?;
            Ok(Done::said(format!("forgot {forgotten} finished runs")))
        }
    }
}
