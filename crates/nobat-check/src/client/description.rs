//! A model as its callers know it.

use nobat_core::signature::TensorSpec;

/// A model as its callers know it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelDescription {
    /// Its name.
    pub name: String,
    /// The version that answers; empty where nobody says.
    pub version: String,
    /// What it takes.
    pub inputs: Vec<TensorSpec>,
    /// What it gives.
    pub outputs: Vec<TensorSpec>,
    /// Whether the first axis of every input is the batch axis.
    pub batched: bool,
    /// Most rows in one request, where it is known.
    pub max_rows: Option<u32>,
    /// The owner's goal for the latency, where there is one, in milliseconds.
    pub slo_ms: Option<f64>,
}
