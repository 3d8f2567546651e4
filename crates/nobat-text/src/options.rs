//! What a request sets: its parameters, over the model's own settings.

use nobat_core::parameters::Parameters;
use nobat_core::task::TaskKind;
use nobat_core::{Error, Result, clip};

use crate::settings::{Aggregation, Side};

/// What is asked of the tokenizer alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Tokenize,
    Decode,
}

/// A request's options.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Options {
    pub(crate) truncate: bool,
    pub(crate) side: Side,
    /// A prompt by its name; the model's own unless said.
    pub(crate) prompt: Option<String>,
    /// Whether vectors have length 1; the model's own unless said.
    pub(crate) normalize: Option<bool>,
    pub(crate) dimensions: Option<u64>,
    /// The tokens' vectors instead of one.
    pub(crate) every_token: bool,
    pub(crate) raw_scores: bool,
    pub(crate) multi_label: bool,
    pub(crate) hypothesis: String,
    pub(crate) aggregation: Aggregation,
    /// How many words for a mask.
    pub(crate) top_k: usize,
    pub(crate) operation: Option<Operation>,
    /// Each element is a list of token ids instead of a text.
    pub(crate) ids: bool,
    /// For operations alone: special tokens are put around (tokenize), or left out (decode).
    pub(crate) special_tokens: bool,
}

/// The parameters that a task's requests take.
pub(crate) fn taken(kind: TaskKind) -> Vec<&'static str> {
    let own: &[&str] = match kind {
        TaskKind::Embed => &["dimensions", "normalize", "pooling", "prompt_name"],
        TaskKind::Sparse => &["prompt_name"],
        TaskKind::Classify | TaskKind::Rerank => &["raw_scores"],
        TaskKind::Tokens => &["aggregation"],
        TaskKind::FillMask => &["top_k"],
        TaskKind::ZeroShot => &["hypothesis_template", "multi_label"],
        _ => &[],
    };
    let all = ["add_special_tokens", "input", "operation", "skip_special_tokens", "truncate", "truncation_direction"];
    own.iter().copied().chain(all).collect()
}

impl Options {
    /// Reads a request's parameters over the model's own options.
    ///
    /// # Errors
    /// `invalid_parameter`, naming the parameter, its value and what it takes.
    pub(crate) fn read(&self, given: &Parameters) -> Result<Options> {
        if given.is_empty() {
            return Ok(self.clone());
        }
        let mut options = self.clone();
        if let Some(truncate) = given.truth("truncate")? {
            options.truncate = truncate;
        }
        if let Some(word) = given.text("truncation_direction")? {
            options.side = match word.to_lowercase().as_str() {
                "left" => Side::Left,
                "right" => Side::Right,
                _ => return Err(unknown("truncation_direction", word, "left or right")),
            };
        }
        if let Some(name) = given.text("prompt_name")? {
            options.prompt = Some(name.to_owned());
        }
        options.normalize = given.truth("normalize")?.or(options.normalize);
        options.dimensions = given.count("dimensions")?;
        if let Some(word) = given.text("pooling")? {
            options.every_token = match word {
                "none" => true,
                "model" => false,
                _ => return Err(unknown("pooling", word, "none, for every token's vector, or model")),
            };
        }
        options.raw_scores = given.truth("raw_scores")?.unwrap_or(options.raw_scores);
        options.multi_label = given.truth("multi_label")?.unwrap_or(options.multi_label);
        if let Some(template) = given.text("hypothesis_template")? {
            check_hypothesis(template)?;
            options.hypothesis = template.to_owned();
        }
        if let Some(word) = given.text("aggregation")? {
            options.aggregation = match word {
                "simple" => Aggregation::Simple,
                "none" => Aggregation::None,
                _ => return Err(unknown("aggregation", word, "simple or none")),
            };
        }
        if let Some(top_k) = given.count("top_k")? {
            if !(1..=1000).contains(&top_k) {
                return Err(Error::invalid(format!("parameter `top_k` is {top_k}; it takes 1 to 1000")));
            }
            options.top_k = top_k as usize;
        }
        if let Some(word) = given.text("operation")? {
            options.operation = match word {
                "infer" => None,
                "tokenize" => Some(Operation::Tokenize),
                "decode" => Some(Operation::Decode),
                _ => return Err(unknown("operation", word, "infer, tokenize or decode")),
            };
        }
        if let Some(word) = given.text("input")? {
            options.ids = match word {
                "text" => false,
                "ids" => true,
                _ => return Err(unknown("input", word, "text or ids")),
            };
        }
        let special = match options.operation {
            Some(Operation::Decode) => "skip_special_tokens",
            _ => "add_special_tokens",
        };
        options.special_tokens = given.truth(special)?.unwrap_or(options.special_tokens);
        Ok(options)
    }
}

/// # Errors
/// A template without a place for the label.
pub(crate) fn check_hypothesis(template: &str) -> Result<()> {
    match template.contains("{}") {
        true => Ok(()),
        false => Err(unknown("hypothesis_template", template, "a sentence with {} where the label goes")),
    }
}

fn unknown(name: &str, value: &str, takes: &str) -> Error {
    Error::invalid(format!("parameter `{name}` is `{}`; it takes {takes}", clip(value)))
}
