//! JSON straight to tensors and back, with no tree in between.
//!
//! [`Reader`] is a strict cursor over the text; [`decode`] reads nested lists into
//! a tensor's little-endian buffer; [`encode`] prints tensors into one buffer.
//!
//! Invariants:
//! - Strict RFC 8259: no NaN tokens, no trailing commas, no control characters
//!   in strings, valid UTF-8 only.
//! - No recursion over the text: nesting costs no stack.
//! - Memory is bounded by a small factor of the text's length, whatever it claims.
//! - An error names the value and its place, such as `instances[2][17]`.

pub mod decode;
pub mod encode;
mod number;
mod reader;

pub use number::Number;
pub use reader::Reader;
