//! Tokens that models of texts have read, as they count them.

use nobat_core::infer::InferResponse;
use nobat_core::tensor::Datatype;

/// The output in which a task on texts says how many tokens each row had.
const OUTPUT: &str = "tokens";

/// Tokens of all rows of an answer; 0 where the model does not count any.
pub fn of(response: &InferResponse) -> u64 {
    let found = response.outputs.iter().find(|tensor| tensor.name == OUTPUT && tensor.datatype == Datatype::Int32);
    let counts = found.map_or(&[][..], |tensor| tensor.data.as_chunks().0);
    counts.iter().map(|&bytes| u64::try_from(i32::from_le_bytes(bytes)).unwrap_or(0)).sum()
}
