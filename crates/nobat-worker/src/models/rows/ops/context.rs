//! What a rule sees of its node, and the answers it can give.

use crate::models::rows::dim::{Size, Symbols};
use crate::models::rows::graph::Node;
use crate::models::rows::value::{Kind, RowAxis, Value, any_dims};

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The rows are mixed.
    Mixed(String),
    /// Whether they are is not known.
    Unknown(String),
}

/// A value for each output.
pub(crate) type RuleResult = Result<Vec<Value>, Stop>;

pub(crate) type Rule = fn(&mut Context<'_>) -> RuleResult;

pub(crate) fn mixed<T>(what: &str) -> Result<T, Stop> {
    Err(Stop::Mixed(what.to_owned()))
}

pub(crate) fn unknown<T>(what: &str) -> Result<T, Stop> {
    Err(Stop::Unknown(what.to_owned()))
}

pub(crate) struct Context<'a> {
    pub(crate) node: &'a Node,
    pub(crate) opset: i64,
    /// Its inputs; `None` where one is left out.
    pub(crate) inputs: &'a [Option<Value>],
    pub(crate) symbols: &'a mut Symbols,
}

impl Context<'_> {
    pub(crate) fn input(&self, at: usize) -> Option<&Value> {
        self.inputs.get(at)?.as_ref()
    }

    pub(crate) fn need(&self, at: usize) -> Result<&Value, Stop> {
        self.input(at).map_or_else(|| unknown("lacks an input"), Ok)
    }

    pub(crate) fn dims(&self, at: usize) -> Result<Vec<Size>, Stop> {
        self.need(at)?.dims.clone().map_or_else(|| unknown("has an input whose axes are not known"), Ok)
    }

    /// Where the rows of an input are; an input that is the same has none.
    pub(crate) fn row_axis(&self, at: usize) -> Result<Option<RowAxis>, Stop> {
        match self.input(at).map(|value| &value.kind) {
            None | Some(Kind::Same) => Ok(None),
            Some(Kind::Rows(row)) => Ok(Some(row.clone())),
            Some(_) => mixed("depends on how many rows there are"),
        }
    }

    /// Whether each of these inputs is left out or the same for all rows.
    pub(crate) fn are_same(&self, inputs: &[usize]) -> bool {
        inputs.iter().all(|&at| self.input(at).is_none_or(Value::is_same))
    }

    /// Refuses unless all inputs from `first` on are the same for all rows.
    pub(crate) fn others_same(&self, first: usize) -> Result<(), Stop> {
        match self.inputs.iter().skip(first).flatten().all(Value::is_same) {
            true => Ok(()),
            false => unknown("has more than one input that goes with the rows"),
        }
    }

    /// The first input's dimensions and where its rows are, which is the first axis or
    /// nowhere; no other input has rows.
    pub(crate) fn first_axis(&self) -> Result<(Option<RowAxis>, Vec<Size>), Stop> {
        self.others_same(1)?;
        match self.row_axis(0)? {
            Some(row) if row.axis != 0 => unknown("has rows on another axis than the first"),
            row => Ok((row, self.dims(0)?)),
        }
    }

    /// An attribute that names an axis of `rank`.
    pub(crate) fn axis(&self, name: &str, default: i64, rank: usize) -> Result<usize, Stop> {
        axis(self.node.int(name, default), rank)
    }

    /// The axes that an input or an attribute names; `None` where neither is there.
    pub(crate) fn named_axes(&self, input: usize, attribute: &str) -> Result<Option<Vec<i64>>, Stop> {
        match (self.input(input), self.node.attribute(attribute)) {
            (Some(axes), _) if !axes.is_same() => unknown("takes its axes from the data"),
            (Some(axes), _) => {
                axes.numbers().map_or_else(|| unknown("has axes that are not known"), |own| Ok(Some(own)))
            }
            (None, Some(own)) if !own.refers.is_empty() => unknown("takes its axes from the function's caller"),
            (None, Some(own)) => Ok(Some(own.ints.clone())),
            (None, None) => Ok(None),
        }
    }

    /// Dimensions of which nothing is known but their number.
    pub(crate) fn any(&mut self, rank: usize) -> Vec<Size> {
        any_dims(self.symbols, rank)
    }

    /// As [`Context::any`], with the first one that of `dims`.
    pub(crate) fn any_after(&mut self, dims: &[Size], rank: usize) -> Vec<Size> {
        let mut to = self.any(rank);
        if let (Some(place), Some(first)) = (to.first_mut(), dims.first()) {
            *place = first.clone();
        }
        to
    }

    /// What is made of an input that is the same, with as many axes.
    pub(crate) fn same_rank(&mut self, value: &Value) -> RuleResult {
        let dims = value.rank().map(|rank| self.any(rank));
        Ok(vec![Value::same(dims)])
    }
}

/// An axis that may be counted from the end.
pub(crate) fn axis(number: i64, rank: usize) -> Result<usize, Stop> {
    let at = if number < 0 { number + rank as i64 } else { number };
    match usize::try_from(at) {
        Ok(at) if at < rank => Ok(at),
        _ => unknown("names an axis that is not there"),
    }
}

/// As [`axis`], of several.
pub(crate) fn axes(numbers: &[i64], rank: usize) -> Result<Vec<usize>, Stop> {
    numbers.iter().map(|&own| axis(own, rank)).collect()
}

/// A value of these dimensions on which the rows of an input stay where they are,
/// or one that is the same where the input is.
pub(crate) fn kept(row: Option<RowAxis>, dims: Vec<Size>) -> Value {
    match row {
        Some(row) => Value::rows(row, dims),
        None => Value::same(Some(dims)),
    }
}

/// The rule of operators that keep the dimensions and treat each of the first axis by itself.
pub(crate) fn first_axis_kept(cx: &mut Context<'_>) -> RuleResult {
    let (row, dims) = cx.first_axis()?;
    Ok(vec![kept(row, dims)])
}
