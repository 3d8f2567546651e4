//! The model repository extension: what models there are, and loading and
//! unloading them by name in every worker.
//!
//! A load or unload is a command to the workers ([`nobat_serving::loading`] sends it and waits
//! until they have carried it out). Nothing here touches a file: a name that could
//! be a path is refused before it travels.

use nobat_core::signature::ModelState;
use nobat_core::{Error, ErrorCode, Result, clip, model_name};
use nobat_serving::RequestContext;
use nobat_serving::loading::{self, LoadCommand};
use nobat_serving::registry::{ModelEntry, VersionEntry};
use nobat_serving::state::ServingState;

use crate::proto::RepositoryIndexResponse;
use crate::proto::repository_index_response::ModelIndex;

/// Every model version that the caller may see, and its state; only those that serve with `ready_only`.
pub(crate) fn index(shared: &ServingState, context: &RequestContext, ready_only: bool) -> RepositoryIndexResponse {
    let registry = shared.registry.load();
    let mut entries: Vec<&ModelEntry> = registry.models().filter(|entry| context.covers(&entry.name)).collect();
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    let versions = entries.iter().flat_map(|entry| entry.versions.iter().rev());
    let models = versions.map(row).filter(|row| !ready_only || row.state == "READY").collect();
    RepositoryIndexResponse { models }
}

fn row(version: &VersionEntry) -> ModelIndex {
    let signature = &version.signature;
    let (state, reason) = match signature.state {
        _ if !version.is_live() => ("UNAVAILABLE", "unloaded"),
        // Not empty where a worker could not load it anew.
        ModelState::Ready => ("READY", signature.reason.as_str()),
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

/// Loads a model, or loads it again, in every worker, and waits until that is done.
///
/// # Errors
/// `invalid_parameter` for a name that could be a path; `model_not_found` when
/// no worker has such a model; `model_not_ready` when it fails to load in any, also
/// where the version before goes on serving, or takes longer than two minutes;
/// `queue_unavailable`.
pub(crate) async fn load(shared: &ServingState, model: &str) -> Result<()> {
    check_name(model)?;
    loading::carry_out(shared, model, LoadCommand::Load).await
}

/// Unloads a model in every worker and waits until none serves it.
///
/// # Errors
/// As [`load`].
pub(crate) async fn unload(shared: &ServingState, context: &RequestContext, model: &str) -> Result<()> {
    check_name(model)?;
    shared.registry.load().model_among(model, |name| context.covers(name))?;
    loading::carry_out(shared, model, LoadCommand::Unload).await
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

/// Refuses names that no model can have.
fn check_name(model: &str) -> Result<()> {
    match model_name::objection(model) {
        None => Ok(()),
        Some(why) => {
            Err(Error::new(ErrorCode::InvalidParameter, format!("`{}` is not a model name: {why}", clip(model))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_be_paths_are_refused() {
        for name in ["", "..", ".", "a/b", "../../etc/passwd", "a\\b", "a\0b", ".hidden", "a..b", &"x".repeat(201)] {
            assert_eq!(check_name(name).expect_err(name).code, ErrorCode::InvalidParameter);
        }
        for name in ["digits", "resnet50.v2", "naïve-模型", "per%cent"] {
            assert!(check_name(name).is_ok(), "{name}");
        }
    }
}
