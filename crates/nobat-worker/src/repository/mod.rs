//! Models on disk: which folders are models, what their settings say, whether
//! their files may be opened, and what it takes to serve one.

pub mod batch_axis;
pub mod files;
pub mod guard;
pub mod load;
pub mod manifest;
pub mod memory;
mod pbtxt;
pub mod scan;
pub mod settings;
pub(crate) mod stream;
