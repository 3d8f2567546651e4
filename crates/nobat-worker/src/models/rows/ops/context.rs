//! What a rule sees of its node, and the answers it can give.

use crate::models::rows::dim::{Size, Symbols};
use crate::models::rows::graph::Node;
use crate::models::rows::value::{Kind, Lie, Value, any_dims};

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::models::rows) enum Stop {
    /// The rows are mixed.
    Mixed(String),
    /// Whether they are is not known.
    Unknown(String),
}

/// What a rule answers: a value for each output.
pub(in crate::models::rows) type Ruled = Result<Vec<Value>, Stop>;

/// Says that rows mix.
pub(super) fn mixed<T>(what: impl Into<String>) -> Result<T, Stop> {
    Err(Stop::Mixed(what.into()))
}

/// Says that nothing is known.
pub(super) fn unknown<T>(what: impl Into<String>) -> Result<T, Stop> {
    Err(Stop::Unknown(what.into()))
}

/// One node under its rule.
pub(in crate::models::rows) struct Context<'a> {
    /// The node.
    pub(in crate::models::rows) node: &'a Node,
    /// The version of its domain.
    pub(in crate::models::rows) opset: i64,
    /// Its inputs; `None` where one is left out.
    pub(in crate::models::rows) inputs: &'a [Option<Value>],
    /// The analysis's symbols.
    pub(in crate::models::rows) symbols: &'a mut Symbols,
}

impl Context<'_> {
    pub(super) fn input(&self, at: usize) -> Option<&Value> {
        self.inputs.get(at)?.as_ref()
    }

    pub(super) fn need(&self, at: usize) -> Result<&Value, Stop> {
        match self.input(at) {
            Some(value) => Ok(value),
            None => unknown("lacks an input"),
        }
    }

    pub(super) fn dims(&self, at: usize) -> Result<Vec<Size>, Stop> {
        match &self.need(at)?.dims {
            Some(dims) => Ok(dims.clone()),
            None => unknown("has an input whose axes are not known"),
        }
    }

    /// Where the rows of an input lie; an input that is the same has none.
    pub(super) fn lie(&self, at: usize) -> Result<Option<Lie>, Stop> {
        match self.input(at).map(|value| &value.kind) {
            None | Some(Kind::Same) => Ok(None),
            Some(Kind::Rows(lie)) => Ok(Some(lie.clone())),
            Some(_) => mixed("depends on how many rows there are"),
        }
    }

    /// Refuses unless all inputs from `first` on are the same for all rows.
    pub(super) fn others_same(&self, first: usize) -> Result<(), Stop> {
        let mut others = self.inputs.iter().skip(first).flatten();
        match others.all(Value::is_same) {
            true => Ok(()),
            false => unknown("has more than one input that goes with the rows"),
        }
    }

    /// An attribute that names an axis of `rank`.
    pub(super) fn axis(&self, name: &str, default: i64, rank: usize) -> Result<usize, Stop> {
        axis(self.node.int(name, default), rank)
    }

    pub(super) fn any(&mut self, rank: usize) -> Vec<Size> {
        any_dims(self.symbols, rank)
    }
}

/// An axis that may be counted from the end.
pub(super) fn axis(number: i64, rank: usize) -> Result<usize, Stop> {
    let at = if number < 0 { number + rank as i64 } else { number };
    match usize::try_from(at) {
        Ok(at) if at < rank => Ok(at),
        _ => unknown("names an axis that is not there"),
    }
}

/// A value of these dimensions on which the rows of an input stay where they are,
/// or one that is the same where the input is.
pub(super) fn kept(lie: Option<Lie>, dims: Vec<Size>) -> Value {
    match lie {
        Some(lie) => Value::rows(lie, dims),
        None => Value::same(Some(dims)),
    }
}

pub(super) type Rule = fn(&mut Context<'_>) -> Ruled;

/// Rows on the first axis of the first input, and nothing else with rows.
pub(super) fn first_axis(cx: &Context<'_>) -> Result<Option<Lie>, Stop> {
    cx.others_same(1)?;
    match cx.lie(0)? {
        Some(lie) if lie.axis != 0 => unknown("has rows on another axis than the first"),
        lie => Ok(lie),
    }
}

/// The axes that an input or an attribute names; `None` where neither is there.
pub(super) fn named_axes(cx: &Context<'_>, input: usize, attribute: &str) -> Result<Option<Vec<i64>>, Stop> {
    match (cx.input(input), cx.node.attribute(attribute)) {
        (Some(axes), _) if !axes.is_same() => unknown("takes its axes from the data"),
        (Some(axes), _) => axes.numbers().map_or_else(|| unknown("has axes that are not known"), |axes| Ok(Some(axes))),
        (None, Some(own)) if !own.refers.is_empty() => unknown("takes its axes from the function's caller"),
        (None, Some(own)) => Ok(Some(own.ints.clone())),
        (None, None) => Ok(None),
    }
}
