//! The rules: what each operator does to rows, one file a family.
//!
//! A rule sees inputs that are the same, rows, or counts; what is mixed or unknown
//! never reaches one. It answers with a value for each output, or says why not.
//! It may be wrong in one direction only: never rows where there are none.

mod classic;
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

use super::dim::{Size, Symbols};
use super::graph::Node;
use super::value::{Kind, Lie, Value, any_dims};

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// The rows are mixed.
    Mixed(String),
    /// Whether they are is not known.
    Unknown(String),
}

/// What a rule answers: a value for each output.
pub(super) type Ruled = Result<Vec<Value>, Stop>;

/// Says that rows mix.
fn mixed<T>(what: impl Into<String>) -> Result<T, Stop> {
    Err(Stop::Mixed(what.into()))
}

/// Says that nothing is known.
fn unknown<T>(what: impl Into<String>) -> Result<T, Stop> {
    Err(Stop::Unknown(what.into()))
}

/// One node under its rule.
pub(super) struct Context<'a> {
    /// The node.
    pub(super) node: &'a Node,
    /// The version of its domain.
    pub(super) opset: i64,
    /// Its inputs; `None` where one is left out.
    pub(super) inputs: &'a [Option<Value>],
    /// The analysis's symbols.
    pub(super) symbols: &'a mut Symbols,
}

impl Context<'_> {
    fn input(&self, at: usize) -> Option<&Value> {
        self.inputs.get(at)?.as_ref()
    }

    fn need(&self, at: usize) -> Result<&Value, Stop> {
        match self.input(at) {
            Some(value) => Ok(value),
            None => unknown("lacks an input"),
        }
    }

    fn dims(&self, at: usize) -> Result<Vec<Size>, Stop> {
        match &self.need(at)?.dims {
            Some(dims) => Ok(dims.clone()),
            None => unknown("has an input whose axes are not known"),
        }
    }

    /// Where the rows of an input lie; an input that is the same has none.
    fn lie(&self, at: usize) -> Result<Option<Lie>, Stop> {
        match self.input(at).map(|value| &value.kind) {
            None | Some(Kind::Same) => Ok(None),
            Some(Kind::Rows(lie)) => Ok(Some(lie.clone())),
            Some(_) => mixed("depends on how many rows there are"),
        }
    }

    /// Refuses unless all inputs from `first` on are the same for all rows.
    fn others_same(&self, first: usize) -> Result<(), Stop> {
        let mut others = self.inputs.iter().skip(first).flatten();
        match others.all(Value::is_same) {
            true => Ok(()),
            false => unknown("has more than one input that goes with the rows"),
        }
    }

    /// An attribute that names an axis of `rank`.
    fn axis(&self, name: &str, default: i64, rank: usize) -> Result<usize, Stop> {
        axis(self.node.int(name, default), rank)
    }

    fn any(&mut self, rank: usize) -> Vec<Size> {
        any_dims(self.symbols, rank)
    }
}

/// An axis that may be counted from the end.
fn axis(number: i64, rank: usize) -> Result<usize, Stop> {
    let at = if number < 0 { number + rank as i64 } else { number };
    match usize::try_from(at) {
        Ok(at) if at < rank => Ok(at),
        _ => unknown("names an axis that is not there"),
    }
}

/// A value of these dimensions on which the rows of an input stay where they are,
/// or one that is the same where the input is.
fn kept(lie: Option<Lie>, dims: Vec<Size>) -> Value {
    match lie {
        Some(lie) => Value::rows(lie, dims),
        None => Value::same(Some(dims)),
    }
}

type Rule = fn(&mut Context<'_>) -> Ruled;

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
