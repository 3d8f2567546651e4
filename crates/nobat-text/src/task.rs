//! Which task a text model has, found from its settings or its folder.

use nobat_core::task::TaskKind;
use nobat_core::{Error, Result, clip};

use crate::folder::config::ModelConfig;
use crate::folder::modules::Modules;

/// The tasks that this crate carries out.
const TASKS: [TaskKind; 7] = [
    TaskKind::Embed,
    TaskKind::Classify,
    TaskKind::Rerank,
    TaskKind::Tokens,
    TaskKind::FillMask,
    TaskKind::ZeroShot,
    TaskKind::Sparse,
];

/// A task, or none: then callers send the graph's own tensors.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct FoundTask {
    pub(crate) kind: Option<TaskKind>,
    /// How it is known.
    pub(crate) how: String,
}

/// Finds the task.
///
/// # Errors
/// When the setting names none that is known.
pub(crate) fn find(setting: Option<&str>, config: &ModelConfig, modules: Option<&Modules>) -> Result<FoundTask> {
    if let Some(word) = setting {
        let kind = TASKS.into_iter().find(|task| task.as_str() == word);
        if kind.is_none() && word != "tensors" {
            let known: Vec<&str> = TASKS.iter().map(|task| task.as_str()).collect();
            return Err(Error::invalid(format!(
                "task `{}` is unknown; `task` in `[text]` of model.toml takes: {}, tensors",
                clip(word),
                known.join(", ")
            )));
        }
        return Ok(FoundTask { kind, how: format!("task {word}: model.toml says so") });
    }
    let found = |kind: TaskKind, why: &str| FoundTask { kind: Some(kind), how: format!("task {kind}: {why}") };
    // A cross-encoder may have a modules.json as well; its head is in the graph.
    let head = config.architecture().filter(|name| name.ends_with("ForSequenceClassification"));
    if let (Some(modules), None) = (modules, head) {
        return Ok(match &modules.splade {
            Some(_) => found(TaskKind::Sparse, "modules.json has SpladePooling"),
            None => found(TaskKind::Embed, "modules.json"),
        });
    }
    let Some(architecture) = config.architecture() else {
        return Ok(found(TaskKind::Embed, "a guess, config.json names no architecture"));
    };
    let kind = if head.is_some() {
        match config.labels().as_slice() {
            [_] => TaskKind::Rerank,
            labels if entailment(labels).is_some() => TaskKind::ZeroShot,
            _ => TaskKind::Classify,
        }
    } else if architecture.ends_with("ForTokenClassification") {
        TaskKind::Tokens
    } else if architecture.ends_with("ForMaskedLM") {
        TaskKind::FillMask
    } else if architecture.ends_with("Model") || architecture.ends_with("ForTextEncoding") {
        TaskKind::Embed
    } else {
        let how = format!(
            "served as tensors: architecture {architecture} is of no task that is known here; \
             where it is one, say so: `task` in `[text]` of model.toml"
        );
        return Ok(FoundTask { kind: None, how });
    };
    Ok(found(kind, &format!("architecture {architecture}")))
}

/// Which label says that the first text entails the second.
pub(crate) fn entailment(labels: &[String]) -> Option<usize> {
    labels.iter().position(|label| label.to_lowercase().starts_with("entail"))
}
