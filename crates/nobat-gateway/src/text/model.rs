//! Which model answers a call that is made for a task.

use nobat_core::job::JobOptions;
use nobat_core::task::{Task, TaskKind};
use nobat_core::{Error, ErrorCode, Result};
use nobat_serving::registry::{ResolvedModel, Want};
use nobat_serving::{Predictor, RequestContext};

/// A model and its task.
pub(crate) struct TaskModel {
    pub(crate) target: ResolvedModel,
    pub(crate) task: Task,
}

impl TaskModel {
    /// The model's name.
    pub(crate) fn name(&self) -> &str {
        &self.target.signature.name
    }

    /// Options of a job that its caller waits for.
    pub(crate) fn options(&self) -> JobOptions {
        self.target.after_wait(JobOptions::default())
    }

    /// Whether it takes a parameter.
    pub(crate) fn takes(&self, parameter: &str) -> bool {
        self.task.parameters.iter().any(|known| known == parameter)
    }
}

/// The model of this name, else the only one, or the default one, of these tasks.
///
/// # Errors
/// `model_not_found`, `model_not_ready`, `permission_denied`; `wrong` for a model of
/// another task, naming those that would do.
pub(crate) async fn find(
    predictor: &Predictor,
    context: &RequestContext,
    name: Option<&str>,
    kinds: &[TaskKind],
    wrong: ErrorCode,
) -> Result<TaskModel> {
    let chosen;
    let name = match name {
        Some(name) => name,
        None => {
            chosen = choose(predictor, context, kinds)?;
            &chosen
        }
    };
    context.notes.set_model(&name.into());
    context.require_model(name)?;
    let patience = predictor.state().settings.sync_timeout;
    let target = predictor.resolve_loaded(context, Some(name), Want::Default, patience).await?;
    match &target.signature.task {
        Some(task) if kinds.contains(&task.kind) => Ok(TaskModel { task: task.clone(), target }),
        other => {
            let is =
                other.as_ref().map_or("no task: it takes tensors".to_owned(), |task| format!("task {}", task.kind));
            let others = those(predictor, context, kinds);
            let others = if others.is_empty() { "none is served".to_owned() } else { others.join(", ") };
            let message =
                format!("model `{name}` has {is}; this call is for {}, models of which: {others}", listed(kinds));
            Err(Error::new(wrong, message))
        }
    }
}

/// The name of the model that is meant where none is named.
fn choose(predictor: &Predictor, context: &RequestContext, kinds: &[TaskKind]) -> Result<String> {
    let names = those(predictor, context, kinds);
    let preferred = predictor.state().settings.default_model.as_str();
    match &names[..] {
        _ if names.iter().any(|name| name == preferred) => Ok(preferred.to_owned()),
        [only] => Ok(only.clone()),
        [] if !predictor.state().readiness.is_started() => {
            Err(Error::new(ErrorCode::ModelNotReady, "the models are loading; try again"))
        }
        [] => Err(Error::new(ErrorCode::ModelNotFound, format!("no model of {} is served", listed(kinds)))),
        names => {
            let message = format!(
                "{} models of {} are served: {}; name one as `model` in the body, or set `gateway.default_model`",
                names.len(),
                listed(kinds),
                names.join(", ")
            );
            Err(Error::new(ErrorCode::InvalidParameter, message))
        }
    }
}

/// Names of the models of these tasks that the caller may use.
fn those(predictor: &Predictor, context: &RequestContext, kinds: &[TaskKind]) -> Vec<String> {
    let registry = predictor.state().registry.load();
    let does = |task: &Task| kinds.contains(&task.kind);
    let fits = registry.models().filter(|model| model.default_version().signature.task.as_ref().is_some_and(does));
    let mut names: Vec<_> =
        fits.filter(|model| context.covers(&model.name)).map(|model| model.name.to_string()).collect();
    names.sort_unstable();
    names
}

fn listed(kinds: &[TaskKind]) -> String {
    kinds.iter().map(|kind| format!("task {kind}")).collect::<Vec<_>>().join(" or ")
}
