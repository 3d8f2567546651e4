//! Rows for a model from files: `.npz`, `.npy`, CSV, JSONL, or a folder of them.

mod array;
mod dataset;
mod inputs;
mod text;

pub use dataset::Dataset;
pub use inputs::ModelInputs;
