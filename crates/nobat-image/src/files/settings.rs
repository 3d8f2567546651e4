//! `[bytes]` of a model's `model.toml`.

use serde::{Deserialize, Serialize};

use crate::settings::Activation;

/// What a model's owner says of the files that it takes; everything is optional.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BytesSettings {
    /// How many of a file's first bytes the graph is given.
    pub begin: Option<usize>,
    /// How many of its last, behind them.
    pub end: Option<usize>,
    /// The number in the place of bytes that a short file does not have.
    pub padding: Option<u16>,
    /// Whether spaces before the first and behind the last bytes are left out.
    pub strip: Option<bool>,
    /// Bytes at either end among which they are taken, spaces counted.
    pub block: Option<usize>,
    /// A file of fewer bytes is not given to the graph: it is `empty`, `txt` or `unknown`.
    pub least: Option<usize>,
    /// The graph's input.
    pub input: Option<String>,
    /// The graph's output that is read.
    pub output: Option<String>,
    /// Names of the classes, by their number.
    pub labels: Option<Vec<String>>,
    /// What makes scores of the classes' numbers.
    pub activation: Option<Activation>,
    /// Labels of a file where a request does not say.
    pub top_k: Option<usize>,
}
