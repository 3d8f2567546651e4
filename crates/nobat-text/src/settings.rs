//! `[text]` of a model's `model.toml`: what its owner says where the folder does not, or
//! says otherwise.

use serde::{Deserialize, Serialize};

use crate::folder::pooling::Pooling;

/// Which end of a text over the limit is cut off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// Its beginning.
    Left,
    /// Its end.
    #[default]
    Right,
}

/// How tokens become entities.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Aggregation {
    /// Neighbours of one kind are one entity.
    #[default]
    Simple,
    /// Each token is its own.
    None,
}

/// What a model's owner says of a folder; everything is optional.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TextSettings {
    /// `embed`, `classify`, `rerank`, `tokens`, `fill_mask`, `zero_shot`, `sparse`, or `tensors`
    /// for the graph as it is; found from the folder unless said.
    pub task: Option<String>,
    /// Which ONNX file: `fp16` for `model_fp16.onnx`, or a path in the folder.
    pub variant: Option<String>,
    /// How the tokens' vectors become one.
    pub pooling: Option<Pooling>,
    /// Whether embeddings have length 1.
    pub normalize: Option<bool>,
    /// Most tokens of a text, special ones counted.
    pub max_length: Option<usize>,
    /// Whether a text over the limit is cut; else it is refused.
    pub truncate: Option<bool>,
    /// Which end is cut.
    pub truncation_direction: Option<Side>,
    /// The prompt put before a text that names none: a name among the folder's prompts.
    pub prompt_name: Option<String>,
    /// The session's output that is read.
    pub output: Option<String>,
    /// How tokens become entities.
    pub aggregation: Option<Aggregation>,
    /// The sentence a label is put into, at `{}`.
    pub hypothesis_template: Option<String>,
}
