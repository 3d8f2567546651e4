//! What a model does for those who have no tensors: texts or pictures in, its task's
//! answer out. Workers publish it with the signature, so that protocols made for a task
//! find the models that do it.

use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

use crate::error::{Error, Result, clip};
use crate::parameters::Parameters;
use crate::spelled::spelled;

spelled! {
    /// The tasks that are known.
    pub enum TaskKind {
        /// A vector for each text.
        Embed = "embed",
        /// Scores over labels for each text.
        Classify = "classify",
        /// How well each document answers its query.
        Rerank = "rerank",
        /// Entities in each text.
        Tokens = "tokens",
        /// Words for the mask in each text.
        FillMask = "fill_mask",
        /// Scores over labels that the caller gives.
        ZeroShot = "zero_shot",
        /// Weights over the vocabulary for each text.
        Sparse = "sparse",
        /// Labels, boxes, text or vectors of each picture; see [`ImageTask`].
        Image = "image",
        /// Labels of each file, by its first and last bytes.
        Bytes = "bytes",
    }
}

impl TaskKind {
    /// Whether it is a matter of texts, which have tokens.
    pub fn reads_texts(self) -> bool {
        !matches!(self, TaskKind::Image | TaskKind::Bytes)
    }
}

spelled! {
    /// What is made of pictures.
    pub enum ImageTask {
        /// Labels of each picture.
        Classify = "classify",
        /// Things in each picture, with their boxes.
        Detect = "detect",
        /// A class for each pixel.
        Segment = "segment",
        /// The characters of each picture.
        Read = "read",
        /// A vector for each picture.
        Embed = "embed",
    }
}

/// What a model does, and what callers of it may set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Which task.
    pub kind: TaskKind,
    /// Of a model that takes pictures, also beside texts, what it makes of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageTask>,
    /// The labels, by class number.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<SmolStr>,
    /// Whether several labels may hold at once: scores are then no distribution.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub multi_label: bool,
    /// Numbers in an embedding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dimensions: Option<u32>,
    /// Tokens that one text may have, the special ones included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
    /// Names of the prompts that the parameter `prompt_name` takes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prompts: Vec<SmolStr>,
    /// Names of the request parameters that it takes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parameters: Vec<SmolStr>,
    /// Names of the BYTES outputs whose elements are JSON, which JSON answers carry as such.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub json_outputs: Vec<SmolStr>,
}

impl Task {
    /// A task of which nothing more is known.
    pub fn new(kind: TaskKind) -> Task {
        Task {
            kind,
            image: None,
            labels: Vec::new(),
            multi_label: false,
            dimensions: None,
            max_tokens: None,
            prompts: Vec::new(),
            parameters: Vec::new(),
            json_outputs: Vec::new(),
        }
    }

    /// Checks that every parameter is one that it takes.
    ///
    /// # Errors
    /// `invalid_parameter`, naming the parameter and those that there are.
    pub fn check(&self, parameters: &Parameters) -> Result<()> {
        match parameters.iter().find(|(name, _)| !self.parameters.contains(name)) {
            None => Ok(()),
            Some((name, _)) => Err(Error::invalid(format!(
                "parameter `{}` is not known; a model of task {} takes: {}",
                clip(name),
                self.kind,
                if self.parameters.is_empty() { "none".to_owned() } else { self.parameters.join(", ") }
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parameters::Parameter;

    #[test]
    fn a_parameter_that_no_model_of_the_task_takes_is_refused_with_those_that_there_are() {
        let task = Task { parameters: vec!["normalize".into(), "truncate".into()], ..Task::new(TaskKind::Embed) };
        let given = |name: &str| Parameters::from_iter([(SmolStr::new(name), Parameter::Bool(true))]);
        assert!(task.check(&given("normalize")).is_ok());
        assert_eq!(
            task.check(&given("normalise")).expect_err("misspelt").message,
            "parameter `normalise` is not known; a model of task embed takes: normalize, truncate"
        );
        assert!(Task::new(TaskKind::Image).check(&given("x")).expect_err("none").message.ends_with("takes: none"));
    }

    #[test]
    fn a_task_reads_back_and_what_is_not_there_is_not_written() {
        let task = Task { dimensions: Some(384), ..Task::new(TaskKind::Embed) };
        let text = serde_json::to_string(&task).expect("writes");
        assert_eq!(text, r#"{"kind":"embed","dimensions":384}"#);
        assert_eq!(serde_json::from_str::<Task>(&text).expect("reads"), task);
    }
}
