//! JSON straight to tensors and back, with no tree in between.
//!
//! [`Reader`] is a strict cursor over the body's bytes; [`tensor`] reads nested
//! lists into the little-endian buffer that goes into the job; [`request`]
//! knows the row and column forms of TensorFlow Serving, which the native API
//! shares; [`mod@write`] prints outputs into one buffer.
//!
//! Invariants:
//! - Strict RFC 8259: no NaN tokens, no trailing commas, no control characters
//!   in strings, valid UTF-8 only.
//! - No recursion over the body: nesting is bounded and costs no stack.
//! - Memory is bounded by a small factor of the body's length, whatever it claims.
//! - An error names the value and its place, such as `instances[2][17]`.

mod number;
mod reader;
pub mod request;
pub mod tensor;
pub mod write;

pub use number::Number;
pub use reader::Reader;
