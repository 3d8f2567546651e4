//! What the OpenAPI document says besides its operations, which stand at their handlers.

mod document;
mod parameters;
mod refusals;

pub(crate) use document::base;
pub(crate) use parameters::{DeadlineParameter, EndParameter, JobParameters, WaitParameter};
pub(crate) use refusals::{OpenAiRefusals, PlainError, PlainRefusals, Problem, Refusals, RerankRefusals, TeiRefusals};

/// A handwritten seven, 8 x 8 grey values of 0..=16, as the demo model takes it.
pub(crate) fn digit_example() -> Vec<f32> {
    const ROWS: [[u8; 8]; 8] = [
        [0, 0, 7, 8, 13, 16, 15, 1],
        [0, 0, 7, 7, 4, 11, 12, 0],
        [0, 0, 0, 0, 8, 13, 1, 0],
        [0, 4, 8, 8, 15, 15, 6, 0],
        [0, 2, 11, 15, 15, 4, 0, 0],
        [0, 0, 0, 16, 5, 0, 0, 0],
        [0, 0, 9, 15, 1, 0, 0, 0],
        [0, 0, 13, 5, 0, 0, 0, 0],
    ];
    ROWS.concat().into_iter().map(f32::from).collect()
}
