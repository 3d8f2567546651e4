//! The model repository extension: what models there are, and loading and
//! unloading them by name in every worker.
//!
//! A load or unload is a command to the workers; this module sends it and
//! waits until the registry shows its effect. It never touches a file: a name
//! that could be a path is refused before it travels.

use std::time::Duration;

use nobat_core::signature::ModelState;
use nobat_core::{Error, ErrorCode, Result};
use nobat_queue::queue::WorkerCommand;

use super::parameters::clip;
use crate::grpc::proto::RepositoryIndexResponse;
use crate::grpc::proto::repository_index_response::ModelIndex;
use crate::registry::{ModelEntry, VersionEntry};
use crate::state::Shared;

/// Longest wait for a load or an unload; large models take minutes.
const COMMAND_WAIT: Duration = Duration::from_secs(120);
/// How long a worker has to show that it took the command up.
const UPTAKE_WAIT: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(25);
const MAX_NAME: usize = 200;

/// Every model version and its state; only those that serve with `ready_only`.
pub(crate) fn index(shared: &Shared, ready_only: bool) -> RepositoryIndexResponse {
    let registry = shared.registry.load();
    let mut entries: Vec<&ModelEntry> = registry.models().collect();
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    let versions = entries.iter().flat_map(|entry| entry.versions.iter().rev());
    let models = versions.map(row).filter(|row| !ready_only || row.state == "READY").collect();
    RepositoryIndexResponse { models }
}

fn row(version: &VersionEntry) -> ModelIndex {
    let signature = &version.signature;
    let (state, reason) = match signature.state {
        _ if !version.is_live() => ("UNAVAILABLE", "unloaded"),
        ModelState::Ready => ("READY", ""),
        ModelState::Loading => ("LOADING", signature.reason.as_str()),
        ModelState::Unloading => ("UNLOADING", signature.reason.as_str()),
        ModelState::Failed => ("UNAVAILABLE", signature.reason.as_str()),
    };
    ModelIndex {
        name: signature.name.to_string(),
        version: signature.version.to_string(),
        state: state.into(),
        reason: reason.into(),
    }
}

/// Loads a model, or loads it again, in every worker, and waits until it serves.
///
/// # Errors
/// `invalid_parameter` for a name that could be a path; `model_not_found` when
/// no worker has such a model; `model_not_ready` when it fails to load or takes
/// longer than two minutes; `queue_unavailable`.
pub(crate) async fn load(shared: &Shared, model: &str) -> Result<()> {
    check_name(model)?;
    shared.queue.command(&WorkerCommand::Load { model: model.into() }).await?;
    let state = |entry: Option<&ModelEntry>| {
        let Some(entry) = entry else { return Progress::NotBegun };
        let live = || entry.versions.iter().filter(|version| version.is_live()).map(|version| &version.signature);
        if live().any(|signature| signature.state == ModelState::Loading) {
            return Progress::Under;
        }
        if live().any(|signature| signature.state == ModelState::Ready) {
            return Progress::Done;
        }
        match live().find(|signature| signature.state == ModelState::Failed) {
            Some(failed) => Progress::Failed(failed.reason.clone()),
            None => Progress::NotBegun,
        }
    };
    follow(shared, model, "load", state).await
}

/// Unloads a model in every worker and waits until none serves it.
///
/// # Errors
/// As [`load`].
pub(crate) async fn unload(shared: &Shared, model: &str) -> Result<()> {
    check_name(model)?;
    shared.registry.load().model(model)?;
    shared.queue.command(&WorkerCommand::Unload { model: model.into() }).await?;
    // The registry forgets a model that was unloaded on purpose.
    let serving = |entry: Option<&ModelEntry>| {
        let held = |version: &VersionEntry| version.is_live() && !matches!(version.signature.state, ModelState::Failed);
        if entry.is_some_and(|entry| entry.versions.iter().any(held)) { Progress::Under } else { Progress::Done }
    };
    follow(shared, model, "unload", serving).await
}

/// Where a command stands, as the registry shows it.
enum Progress {
    NotBegun,
    Under,
    Done,
    Failed(String),
}

async fn follow(
    shared: &Shared,
    model: &str,
    verb: &str,
    progress: impl Fn(Option<&ModelEntry>) -> Progress,
) -> Result<()> {
    // The command travels to every worker; the first look comes after it can
    // have arrived, so that a model that served before is not taken for the answer.
    let mut waited = Duration::ZERO;
    loop {
        tokio::time::sleep(PAUSE).await;
        waited += PAUSE;
        shared.registry.refresh(&*shared.queue).await?;
        match progress(shared.registry.load().model(model).ok()) {
            Progress::Done => return Ok(()),
            Progress::Failed(reason) => {
                return Err(Error::new(
                    ErrorCode::ModelNotReady,
                    format!("failed to {verb} model `{model}`: {reason}"),
                ));
            }
            Progress::NotBegun if waited >= UPTAKE_WAIT => {
                return Err(Error::new(
                    ErrorCode::ModelNotFound,
                    format!("failed to {verb} model `{model}`: no live worker's repository has it"),
                ));
            }
            Progress::NotBegun | Progress::Under => {}
        }
        if waited >= COMMAND_WAIT {
            return Err(Error::new(
                ErrorCode::ModelNotReady,
                format!("model `{model}` did not {verb} within {} s; see the repository index", COMMAND_WAIT.as_secs()),
            ));
        }
    }
}

/// Refuses to load from a request: models come from the repositories of the
/// workers, never from a client's files or configuration.
///
/// # Errors
/// `unsupported`.
pub(crate) fn check_load_parameters<'a>(mut names: impl Iterator<Item = &'a str>) -> Result<()> {
    match names.find(|name| *name == "config" || name.starts_with("file:")) {
        None => Ok(()),
        Some(name) => Err(Error::new(
            ErrorCode::Unsupported,
            format!("parameter `{}` brings a model with the request; put it into a worker's repository", clip(name)),
        )),
    }
}

/// Refuses names that a worker could take for a path.
fn check_name(model: &str) -> Result<()> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'@' | b'+' | b' ');
    let fits = (1..=MAX_NAME).contains(&model.len())
        && model.bytes().all(plain)
        && model.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric() || first == b'_')
        && !model.contains("..");
    if fits {
        return Ok(());
    }
    Err(Error::new(
        ErrorCode::InvalidParameter,
        format!("`{}` is not a model name; names are letters, digits, `_`, `-` and `.`", clip(model)),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_be_paths_are_refused() {
        for name in ["", "..", ".", "a/b", "../../etc/passwd", "a\\b", "a\0b", ".hidden", "a..b", "é", &"x".repeat(201)]
        {
            assert_eq!(check_name(name).expect_err(name).code, ErrorCode::InvalidParameter);
        }
        for name in ["digits", "resnet50.v2", "_m", "m-1_x"] {
            assert!(check_name(name).is_ok(), "{name}");
        }
    }
}
