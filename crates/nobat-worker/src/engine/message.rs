//! ONNX Runtime's messages for people: one line, without what only its own
//! developers read, and with what to do about a refused model.

use ort::ErrorCode;

/// What to do about a refusal that contains the first.
const REMEDIES: [(&str, &str); 6] = [
    ("opset", "export it with a lower opset or install a newer ONNX Runtime (NOBAT_ORT_LIB)"),
    ("IR version", "save it with a lower `ir_version` or install a newer ONNX Runtime (NOBAT_ORT_LIB)"),
    (
        "Could not find an implementation",
        "the runtime has no such operator for these datatypes on this provider: export the node in float32",
    ),
    ("xternal", EXTERNAL),
    ("out of bounds", EXTERNAL),
    ("Protobuf parsing failed", "the file is damaged: copy or export it again"),
];
const EXTERNAL: &str =
    "the external data do not hold what the model file says of them: copy both again, or export them together";
const OTHERWISE: &str = "run onnx.checker on it and export it again";

/// Longest line; names of nodes are the model's own words.
const MOST: usize = 2_000;

/// Parts that only say that there was an error.
const NOISE: [&str; 2] = ["Exception during initialization: ", "[ONNXRuntimeError] : 1 : FAIL : "];

/// Whether a run failed because of its input, so that every attempt would fail: by the
/// runtime's code, and where that does not tell (kernels give `FAIL` for a wrong shape and
/// for missing memory alike) by its words.
pub(super) fn of_the_input(code: ErrorCode, words: &str) -> bool {
    match code {
        ErrorCode::InvalidArgument | ErrorCode::NotImplemented => true,
        ErrorCode::GenericFailure | ErrorCode::RuntimeException => {
            let words = words.to_ascii_lowercase();
            let says = |parts: &[&str]| parts.iter().any(|part| words.contains(part));
            // Only a node that ran can have met an input.
            words.contains("while running") && !says(&PASSING) && says(&INPUT)
        }
        _ => false,
    }
}

/// Words of failures that may not happen again, or not on another worker.
const PASSING: [&str; 9] =
    ["alloc", "out of memory", "memory", "cuda", "cublas", "cudnn", "device", "timeout", "terminate"];

/// Words of failures that an input's values or shape cause.
const INPUT: [&str; 13] = [
    "bounds",
    "out of range",
    "indices",
    "index",
    "by zero",
    "shape",
    "dimension",
    "broadcast",
    "rank",
    "axis",
    "mismatch",
    "channels",
    "should not be greater",
];

/// Why a model was refused, with the remedy.
pub(super) fn refusal(message: &str) -> String {
    let reason = clean(message);
    let told = reason.trim_end_matches('.');
    if UNKNOWN_OPERATOR.iter().any(|part| reason.contains(part)) {
        return match custom_domain(&reason) {
            Some(domain) => format!(
                "{told}; the runtime does not know this operator: name a library with the operators of domain `{domain}` in worker.provider.custom_ops, or export the model with standard ones"
            ),
            None => format!(
                "{told}; the runtime does not know this operator: export the model with standard ones, or install a newer ONNX Runtime (NOBAT_ORT_LIB)"
            ),
        };
    }
    let remedy = REMEDIES.iter().find(|(part, _)| reason.contains(part)).map_or(OTHERWISE, |(_, remedy)| remedy);
    format!("{told}; {remedy}")
}

/// What is said of an operator that nobody has.
const UNKNOWN_OPERATOR: [&str; 2] = ["is not a registered function/op", "No Op registered"];

/// The domain of an operator that is not a standard one, as in `ai.onnx.contrib:Tokenize(-1)`.
fn custom_domain(reason: &str) -> Option<&str> {
    let operator = reason.split(" is not a registered function/op").next()?.rsplit(' ').next()?;
    let (domain, _) = operator.rsplit_once(':')?;
    (!matches!(domain, "" | "ai.onnx" | "ai.onnx.ml") && reason.contains(" is not a registered")).then_some(domain)
}

/// One line of a message, without the runtime's own file and function names.
pub(super) fn clean(message: &str) -> String {
    let line = message.lines().find(|line| !line.trim().is_empty()).unwrap_or("unknown failure");
    let mut line: String = without_model_path(line).chars().take(MOST).collect();
    // A nested error names the place of each.
    while let Some((head, tail)) = source_location(&line) {
        let head = head.rsplit_once([' ', ':']).map_or("", |(head, _)| head);
        line = format!("{} {}", head.trim_end(), without_function(tail));
    }
    NOISE.iter().fold(line, |line, noise| line.replace(noise, "")).trim().to_owned()
}

/// Drops the model's path: the caller's message names it.
fn without_model_path(line: &str) -> &str {
    let Some(after) = line.strip_prefix("Load model from ") else { return line };
    let end = after.find(".onnx").map(|at| at + ".onnx".len());
    end.map_or(line, |end| after[end..].trim_start_matches(" failed:").trim_start())
}

/// The text before and after a place in the runtime's source, such as `graph.cc:12`.
fn source_location(line: &str) -> Option<(&str, &str)> {
    let found = [".cc:", ".h:"].iter().filter_map(|end| Some((line.find(end)?, end.len())));
    let (at, length) = found.min()?;
    let tail = line[at + length..].trim_start_matches(|c: char| c.is_ascii_digit());
    Some((&line[..at], tail.trim_start()))
}

/// Drops the name or the whole signature of a C++ function at the beginning.
fn without_function(text: &str) -> &str {
    let Some(open) = text.find('(').filter(|&open| text[..open].contains("::")) else {
        let is_name = |word: &str| word.chars().filter(char::is_ascii_uppercase).count() > 1;
        return text.split_once(' ').filter(|(word, _)| is_name(word)).map_or(text, |(_, rest)| rest);
    };
    let mut depth = 0;
    for (at, character) in text[open..].char_indices() {
        match character {
            '(' => depth += 1,
            ')' if depth == 1 => {
                let rest = text[open + at + 1..].trim_start();
                return rest.strip_prefix("const ").unwrap_or(rest);
            }
            ')' => depth -= 1,
            _ => {}
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_with_an_endless_name_costs_no_endless_line() {
        let line =
            clean(&format!("Non-zero status code returned while running {}.h:1 Div node", ".h:".repeat(100_000)));
        assert!(line.len() <= MOST, "{}", line.len());
    }

    #[test]
    fn refusals_name_what_is_wrong_and_what_to_do() {
        let cases = [
            (
                "Load model from /m/odd.onnx failed:Fatal error: not.here:Nonsense(-1) is not a registered function/op",
                "Fatal error: not.here:Nonsense(-1) is not a registered function/op; the runtime does not know this operator: name a library with the operators of domain `not.here` in worker.provider.custom_ops",
            ),
            (
                "Fatal error: ai.onnx.contrib:BertTokenizer(-1) is not a registered function/op",
                "Fatal error: ai.onnx.contrib:BertTokenizer(-1) is not a registered function/op; the runtime does not know this operator: name a library with the operators of domain `ai.onnx.contrib` in",
            ),
            (
                "Fatal error: ai.onnx:Nonsense(-1) is not a registered function/op",
                "Fatal error: ai.onnx:Nonsense(-1) is not a registered function/op; the runtime does not know this operator: export",
            ),
            (
                "Load model from /m/new.onnx failed:/onnxruntime_src/onnxruntime/core/graph/model_load_utils.h:46 void onnxruntime::model_load_utils::ValidateOpsetForDomain(const std::unordered_map<std::__cxx11::basic_string<char>, int>&, bool, int) ONNX Runtime only *guarantees* support for opset 26.",
                "ONNX Runtime only *guarantees* support for opset 26; export it with a lower opset",
            ),
            (
                "Load model from /m/ir.onnx failed:/onnxruntime_src/onnxruntime/core/graph/model.cc:181 onnxruntime::Model::Model(onnx::ModelProto&&, const onnxruntime::PathString&) Unsupported model IR version: 99, max supported IR version: 13",
                "Unsupported model IR version: 99, max supported IR version: 13; save it with a lower",
            ),
            (
                "Could not find an implementation for Conv(11) node with name 'convolves'",
                "Could not find an implementation for Conv(11) node with name 'convolves'; the runtime has no such",
            ),
            (
                "Exception during initialization: /onnxruntime_src/onnxruntime/core/optimizer/initializer.cc:43 onnxruntime::Initializer::Initializer(const onnx::TensorProto&) [ONNXRuntimeError] : 1 : FAIL : tensorprotoutils.cc:1876 GetExtDataFromTensorProto External initializer: w offset: 0 size to read: 8 given file_length: 4 are out of bounds or can not be read in full.",
                "External initializer: w offset: 0 size to read: 8 given file_length: 4 are out of bounds or can not be read in full; the external data do not hold",
            ),
            (
                "Load model from /m/x.onnx failed:This is an invalid model. Error: the graph is not acyclic.",
                "This is an invalid model. Error: the graph is not acyclic; run onnx.checker",
            ),
        ];
        for (message, wanted) in cases {
            let refusal = refusal(message);
            assert!(refusal.starts_with(wanted), "{refusal}");
        }
    }

    #[test]
    fn what_an_input_causes_is_told_from_what_may_pass() {
        use ErrorCode::{ExecutionProviderFailure, GenericFailure, InvalidArgument, NotImplemented, RuntimeException};
        let ran =
            |said: &str| format!("Non-zero status code returned while running X node. Name:'' Status Message: {said}");
        // As ONNX Runtime 1.2x says them.
        let inputs = [
            (InvalidArgument, "indices element out of data bounds, idx=99 must be within the inclusive range [-4,3]"),
            (InvalidArgument, "anything at all"),
            (NotImplemented, "no such thing for rank 9"),
            (GenericFailure, "GatherElements op: Value in indices must be within bounds [-4 , 3]. Actual value is 99"),
            (GenericFailure, "The input tensor cannot be reshaped to the requested shape. Input shape:{1,4}"),
            (GenericFailure, "MatMul dimension mismatch"),
            (GenericFailure, "Attempting to broadcast an axis by a dimension other than 1. 5 by 2"),
            (GenericFailure, "Non concat axis dimensions must match: Axis 1 has mismatched dimensions of 2 and 5"),
            (
                GenericFailure,
                "Input channels C is not equal to kernel channels * group. C: 5 kernel channels: 3 group: 1",
            ),
            (GenericFailure, "Integer division by zero"),
            (GenericFailure, "k argument [30] should not be greater than specified axis dim value [2]"),
        ];
        for (code, said) in inputs {
            assert!(of_the_input(code, &ran(said)), "{code:?} {said}");
        }
        let others = [
            (GenericFailure, "Failed to allocate memory for requested buffer of size 17592186044416"),
            (GenericFailure, "CUDA error cudaErrorIllegalAddress: an illegal memory access, index 3"),
            (RuntimeException, "std::bad_alloc"),
            (RuntimeException, "something broke"),
            (ExecutionProviderFailure, "shape of the cache"),
        ];
        for (code, said) in others {
            assert!(!of_the_input(code, &ran(said)), "{code:?} {said}");
        }
        assert!(!of_the_input(GenericFailure, "the session's index is out of range"));
    }

    #[test]
    fn failures_keep_the_node_and_lose_the_place_in_the_source() {
        let message = "Non-zero status code returned while running Gather node. Name:'g' Status Message: /onnxruntime_src/include/onnxruntime/core/framework/op_kernel_context.h:42 virtual onnxruntime::common::Status onnxruntime::Gather::Compute(onnxruntime::OpKernelContext*) const indices element out of data bounds\nmore";
        assert_eq!(
            clean(message),
            "Non-zero status code returned while running Gather node. Name:'g' Status Message: indices element out of data bounds"
        );
        assert_eq!(clean("\nplain words\n"), "plain words");
    }
}
