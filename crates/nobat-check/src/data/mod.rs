//! What is sent to a model and expected of it: rows from files (`.npz`, `.npy`, CSV, JSONL,
//! or a folder of them), golden inputs and outputs, and inputs that are made up.

mod array;
mod dataset;
mod golden;
mod inputs;
mod made_up;
mod text;

pub use dataset::Dataset;
pub use golden::{Difference, GoldenSet, Tolerances, difference, slice, stack};
pub use inputs::ModelInputs;
pub use made_up::synthetic;
