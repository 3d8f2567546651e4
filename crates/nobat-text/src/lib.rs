//! A Hugging Face folder is a model: texts in, its task's answer out.
//!
//! [`TextFolder`] reads what the folder's files say, [`TextModel`] joins it to the graph's inputs
//! and outputs and is the [`Transform`](nobat_transform::Transform) that the worker calls. Embedding,
//! classification, reranking, entities, masks, zero-shot classification and sparse weights equal what
//! sentence-transformers and transformers give for the same graph.
//!
//! Deliberately knows no ONNX Runtime, no queue, no HTTP, and has no threads. Files are read once,
//! beneath the folder, and bounded.
//!
//! Invariants:
//! - A text's answer does not depend on the rows beside it, except where the graph itself mixes them.
//! - What is guessed is said ([`TextModel::found`]); what cannot be known is refused with the setting
//!   that decides it.
//! - Offsets count characters.

mod embed;
mod entities;
mod fills;
mod folder;
#[doc(hidden)]
pub mod fuzz;
mod graph;
mod head;
mod model;
mod numbers;
mod operations;
mod options;
mod outputs;
mod pool;
mod row;
mod row_encoder;
mod scores;
mod settings;
mod signature;
mod sparse;
mod task;
mod texts;
mod tokenizer;
mod window;

pub use folder::pooling::Pooling;
pub use folder::{GraphFile, Reading, SIDE_FILES, TextFolder, graph_file, is_model_folder};
pub use model::TextModel;
pub use settings::{Aggregation, Side, TextSettings};
