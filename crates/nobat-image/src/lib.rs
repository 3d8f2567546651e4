//! Pictures in, labels, boxes, masks, characters or vectors out, where the graph takes numbers and gives
//! numbers.
//!
//! [`ImageModel::read`] joins a graph to what its maker left (Hugging Face's processor files, the ONNX file's
//! metadata, `labels.txt`) and to what its owner says ([`ImageSettings`]), and is the
//! [`Transform`](nobat_transform::Transform) that the worker calls: decode, orient, resize, crop or letterbox,
//! normalize; then top labels, boxes in pixels of the picture as it was sent, masks, text.
//!
//! [`BytesModel`] does the same for graphs that tell files apart by their first and last bytes.
//!
//! Deliberately knows no ONNX Runtime, no queue, no HTTP, and has no threads. Fetches nothing: base64, data
//! URLs and addresses are others' matter.
//!
//! Invariants:
//! - Whatever bytes are sent, a picture is decoded within bounds that its header is held to first, or refused
//!   with what it looks like; nothing panics.
//! - Pixels are Pillow's and numbers the reference processors', within a step of 255.
//! - What is guessed is said ([`ImageModel::found`]); what cannot be known is refused with the setting that
//!   decides it.

mod classify;
mod decode;
mod detect;
mod files;
mod folder;
#[doc(hidden)]
pub mod fuzz;
mod graph;
mod head;
mod masks;
mod metadata;
mod model;
mod numbers;
mod options;
mod picture;
mod pillow;
mod preparation;
mod processor;
mod read;
mod resize;
mod segment;
mod settings;
mod sizes;
pub mod steps;
mod task;
mod tensors;
#[cfg(test)]
mod testing;

pub use files::{BYTES_FILES, BytesModel, BytesSettings};
pub use folder::{SIDE_FILES, has_processor};
pub use model::{Graph, ImageModel, Reading};
pub use settings::{
    Activation, Blank, Boxes, Channels, ImageSettings, Layout, PerChannel, Resample, RoundWidth, SixteenBit, Size,
};
