//! The rules: what each operator does to rows, one file a family.
//!
//! A rule sees inputs that are the same, rows, or counts; what is mixed or unknown
//! never reaches one. It answers with a value for each output, or says why not.
//! It may be wrong in one direction only: never rows where there are none.

mod classic;
mod context;
mod conv;
mod elementwise;
mod index;
mod matrix;
mod quantize;
mod recurrent;
mod reduce;
mod shape;
mod slices;
mod transformer;

use context::Rule;
pub(super) use context::{Context, Ruled, Stop};

/// The rule of an operator, if there is one.
pub(super) fn rule(domain: &str, op: &str) -> Option<Rule> {
    let standard = [
        elementwise::rule,
        shape::rule,
        slices::rule,
        index::rule,
        reduce::rule,
        matrix::rule,
        conv::rule,
        recurrent::rule,
        quantize::rule,
    ];
    match domain {
        "" => standard.iter().find_map(|find| find(op)).or_else(|| transformer::standard(op)),
        "ai.onnx.ml" => classic::rule(op),
        "com.microsoft" => transformer::rule(op).or_else(|| quantize::of_microsoft(op)),
        _ => None,
    }
}

/// Whether what an operator does hangs on its data or on places in ways that no trial
/// of three rows shows: a
/// model with one on the way is not tried.
pub(super) fn is_suspect(op: &str) -> bool {
    const SUSPECTS: [&str; 28] = [
        "NonZero",
        "Unique",
        "TopK",
        "If",
        "Loop",
        "Scan",
        "Where",
        "Compress",
        "NonMaxSuppression",
        "StringSplit",
        "StringNormalizer",
        "Tokenizer",
        "RoiAlign",
        "MaxRoiPool",
        "ScatterND",
        "ScatterElements",
        "Scatter",
        "GatherND",
        "ReduceMax",
        "ReduceMin",
        "ArgMax",
        "ArgMin",
        "SequenceAt",
        "DynamicQuantizeLinear",
        "SplitToSequence",
        "Trilu",
        "EyeLike",
        "ReverseSequence",
    ];
    SUSPECTS.contains(&op)
}
