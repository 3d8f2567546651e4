//! Steps of chains that run no model: a picture to pixels and to a detector's input, a
//! detector's map to boxes around lines of text, boxes to pictures of their own, which are turned upright.
//!
//! Each is a pure function over whole tensors. Its settings, and what it takes and gives, are
//! [`nobat_core::chain::function`]'s.

mod crop;
mod geometry;
mod picture;
mod pixels;
mod tensors;
mod text_boxes;
mod turn;

use std::sync::Arc;

use nobat_core::chain::Function;
use nobat_transform::StepFunction;

/// What runs a function.
pub fn function(function: Function) -> Arc<dyn StepFunction> {
    match function {
        Function::Crop(settings) => Arc::new(crop::Crop(settings)),
        Function::Picture(settings) => Arc::new(picture::Picture(settings)),
        Function::TextBoxes(settings) => Arc::new(text_boxes::TextBoxes(settings)),
        Function::Turn(settings) => Arc::new(turn::Turn(settings)),
    }
}
