//! A load or unload on its way through the workers: sent, and followed until all
//! of them have carried it out.
//!
//! Each worker counts the commands of a model that it has taken up and carried out
//! ([`LoadProgress`]), so that an answer neither comes before the work is done nor
//! takes what served before, or failed before, for its outcome. Workers of earlier
//! builds do not count: where there is no other, what they serve has to do.

use std::collections::HashMap;
use std::time::Duration;

use nobat_core::signature::ModelState;
use nobat_core::{Error, ErrorCode, Result};
use nobat_queue::{LoadProgress, WorkerCommand, WorkerInfo};
use smol_str::SmolStr;

use crate::registry::{ModelEntry, VersionEntry, Want};
use crate::state::ServingState;

/// Longest wait for a load or an unload; large models take minutes.
const COMMAND_WAIT: Duration = Duration::from_secs(120);
/// How long a worker has to show that it took the command up.
const UPTAKE_WAIT: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(25);

/// What the workers are told to do with a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadCommand {
    /// Load it, or load it again.
    Load,
    /// Serve it no more.
    Unload,
}

impl LoadCommand {
    fn name(self) -> &'static str {
        match self {
            LoadCommand::Load => "load",
            LoadCommand::Unload => "unload",
        }
    }

    fn command(self, model: &str) -> WorkerCommand {
        match self {
            LoadCommand::Load => WorkerCommand::Load { model: model.into() },
            LoadCommand::Unload => WorkerCommand::Unload { model: model.into() },
        }
    }
}

/// Where a command stands.
#[derive(Debug, PartialEq)]
enum Progress {
    /// A worker has not taken it up yet.
    NotBegun,
    /// A worker is at it.
    Under,
    /// Every worker is done, and it did what was asked where it could.
    Done,
    /// Every worker is done, and one of them failed.
    Failed(String),
    /// Every worker is done, and none has the model.
    Missing,
}

/// Sends a command and waits until every worker has carried it out.
///
/// # Errors
/// `model_not_found` when no worker has the model; `model_not_ready` with the
/// reason when it failed, or was not done within [`COMMAND_WAIT`]; `queue_unavailable`.
pub async fn carry_out(state: &ServingState, model: &str, verb: LoadCommand) -> Result<()> {
    let name = verb.name();
    state.registry.refresh(&*state.queue).await?;
    let before = Before::of(&state.registry.load().workers, model);
    state.queue.command(&verb.command(model)).await?;
    let mut waited = Duration::ZERO;
    loop {
        tokio::time::sleep(PAUSE).await;
        waited += PAUSE;
        state.registry.refresh(&*state.queue).await?;
        let registry = state.registry.load();
        let by_state = || by_state(registry.model(model).ok(), verb);
        let progress = before.progress(&registry.workers, model).unwrap_or_else(by_state);
        drop(registry);
        match progress {
            Progress::Done => return Ok(()),
            Progress::Failed(reason) => {
                let serves = state.registry.resolve(model, Want::Default).is_ok_and(|target| target.live);
                let rest = if serves { "; the version before goes on serving" } else { "" };
                return Err(Error::new(
                    ErrorCode::ModelNotReady,
                    format!("failed to {name} model `{model}`: {reason}{rest}"),
                ));
            }
            Progress::Missing => return Err(nobody_has(model, name)),
            Progress::NotBegun if waited >= UPTAKE_WAIT => {
                return Err(match state.registry.load().model(model) {
                    Err(_) => nobody_has(model, name),
                    Ok(_) => Error::new(
                        ErrorCode::ModelNotReady,
                        format!(
                            "not every live worker took up the {name} of model `{model}` within {} s; send it again",
                            UPTAKE_WAIT.as_secs()
                        ),
                    ),
                });
            }
            Progress::NotBegun | Progress::Under => {}
        }
        if waited >= COMMAND_WAIT {
            let seconds = COMMAND_WAIT.as_secs();
            return Err(Error::new(
                ErrorCode::ModelNotReady,
                format!("model `{model}` did not {name} within {seconds} s and goes on; see the repository index"),
            ));
        }
    }
}

fn nobody_has(model: &str, verb: &str) -> Error {
    Error::new(
        ErrorCode::ModelNotFound,
        format!("failed to {verb} model `{model}`: no live worker's repository has it"),
    )
}

/// The workers that were alive before a command was sent, and how many commands of
/// its model each had taken up.
struct Before(HashMap<SmolStr, u64>);

impl Before {
    fn of(workers: &[WorkerInfo], model: &str) -> Before {
        let told = workers.iter().filter_map(|worker| Some((worker.id.clone(), worker.load_progress(model)?.taken)));
        Before(told.collect())
    }

    /// Where the command stands by what these workers tell; `None` when none of them
    /// does. A worker that came after the command has read its repository since.
    fn progress(&self, workers: &[WorkerInfo], model: &str) -> Option<Progress> {
        let (mut begun, mut under, mut served) = (true, false, false);
        let mut failed = None;
        let mut told = false;
        for worker in workers {
            let Some((&before, LoadProgress { taken, done, error })) =
                self.0.get(&worker.id).zip(worker.load_progress(model))
            else {
                continue;
            };
            told = true;
            match error {
                _ if taken <= before => begun = false,
                // Done with everything it was sent, this command included.
                _ if done < taken => under = true,
                None => served = true,
                Some(error) if error.code == ErrorCode::ModelNotFound => {}
                Some(error) => failed = failed.or(Some(format!("worker {}: {}", worker.host, error.message))),
            }
        }
        told.then_some(match failed {
            _ if under => Progress::Under,
            _ if !begun => Progress::NotBegun,
            Some(reason) => Progress::Failed(reason),
            None if served => Progress::Done,
            None => Progress::Missing,
        })
    }
}

/// Where a command stands by what is served.
fn by_state(entry: Option<&ModelEntry>, verb: LoadCommand) -> Progress {
    let live = || {
        let versions = entry.map_or(&[][..], |entry| &entry.versions);
        versions.iter().filter(|version: &&VersionEntry| version.is_live()).map(|version| &version.signature)
    };
    let any = |state| live().any(|signature| signature.state == state);
    match verb {
        // The registry forgets a model that was unloaded on purpose.
        LoadCommand::Unload if live().any(|signature| signature.state != ModelState::Failed) => Progress::Under,
        LoadCommand::Unload => Progress::Done,
        LoadCommand::Load if any(ModelState::Loading) => Progress::Under,
        LoadCommand::Load if any(ModelState::Ready) => Progress::Done,
        LoadCommand::Load => match live().find(|signature| signature.state == ModelState::Failed) {
            Some(failed) => Progress::Failed(failed.reason.clone()),
            None => Progress::NotBegun,
        },
    }
}

#[cfg(test)]
mod tests {
    use nobat_core::job::JobError;
    use serde_json::json;

    use super::*;

    fn worker(id: &str, loads: Option<LoadProgress>) -> WorkerInfo {
        WorkerInfo {
            id: id.into(),
            host: format!("host-{id}"),
            started_at_ms: 0,
            sessions: 1,
            models: vec![],
            report: loads.map_or_else(|| json!({}), |loads| json!({ "loads": { "m": loads } })),
        }
    }

    fn stands(taken: u64, done: u64) -> Option<LoadProgress> {
        Some(LoadProgress { taken, done, error: None })
    }

    fn failed(taken: u64, code: ErrorCode) -> Option<LoadProgress> {
        let error = JobError { code, message: "it is cut short".into() };
        Some(LoadProgress { taken, done: taken, error: Some(error) })
    }

    #[test]
    fn a_command_is_done_when_every_worker_has_carried_it_out() {
        let before = Before::of(&[worker("a", stands(3, 3)), worker("b", failed(1, ErrorCode::ModelNotReady))], "m");
        let progress = |a, b| before.progress(&[worker("a", a), worker("b", b)], "m").expect("they tell");
        let old_failure = || failed(1, ErrorCode::ModelNotReady);
        assert_eq!(progress(stands(3, 3), old_failure()), Progress::NotBegun, "an earlier failure is no answer");
        assert_eq!(progress(stands(4, 3), old_failure()), Progress::Under);
        assert_eq!(progress(stands(4, 4), old_failure()), Progress::NotBegun);
        assert_eq!(progress(stands(4, 4), stands(3, 2)), Progress::Under, "others' commands came too");
        assert_eq!(progress(stands(4, 4), stands(2, 2)), Progress::Done);
        assert_eq!(progress(stands(4, 4), failed(2, ErrorCode::ModelNotFound)), Progress::Done, "one has it");
        let missing = || failed(9, ErrorCode::ModelNotFound);
        assert_eq!(progress(missing(), missing()), Progress::Missing);
        let Progress::Failed(reason) = progress(stands(4, 4), failed(2, ErrorCode::ModelNotReady)) else {
            panic!("one failed");
        };
        assert_eq!(reason, "worker host-b: it is cut short");
    }

    #[test]
    fn workers_that_came_left_or_do_not_tell_are_not_waited_for() {
        let before = Before::of(&[worker("a", stands(0, 0)), worker("gone", stands(0, 0)), worker("old", None)], "m");
        let now = [worker("a", stands(1, 1)), worker("new", stands(0, 0)), worker("old", None)];
        assert_eq!(before.progress(&now, "m"), Some(Progress::Done));
        assert_eq!(before.progress(&now[1..], "m"), None);
        assert_eq!(before.progress(&[], "m"), None);
    }
}
