//! Products: rows may lie on any axis that is not summed over.

use super::context::{Context, RuleResult, Stop, kept, mixed, unknown};
use super::elementwise::broadcast;
use crate::models::rows::dim::Size;
use crate::models::rows::value::{Kind, RowAxis, Value};

const SUMS: &str = "sums over the rows";
const PAIRS: &str = "sets each row against the others";

pub(crate) fn matmul(cx: &mut Context<'_>) -> RuleResult {
    let (one, other) = (cx.need(0)?.clone(), cx.need(1)?.clone());
    Ok(vec![product(cx, &one, &other)?])
}

/// The matrix product of two, with broadcasting over the axes before the last two.
pub(crate) fn product(cx: &mut Context<'_>, one: &Value, other: &Value) -> Result<Value, Stop> {
    if one.kind == Kind::Counts || other.kind == Kind::Counts {
        let rows = one.row_axis().is_some() || other.row_axis().is_some();
        return if rows { mixed("depends on how many rows there are") } else { Ok(Value::counts(None)) };
    }
    let (Some(own), Some(their)) = (&one.dims, &other.dims) else {
        let same = one.is_same() && other.is_same();
        return if same { Ok(Value::same(None)) } else { unknown("has an input whose axes are not known") };
    };
    if own.is_empty() || their.is_empty() {
        return unknown("has an input without axes");
    }
    // A vector is a matrix of one row on the left, of one column on the right.
    let (left_vector, right_vector) = (own.len() == 1, their.len() == 1);
    let (mut left, mut right) = (own.clone(), their.clone());
    let (mut left_row, right_row) = (one.row_axis().cloned(), other.row_axis().cloned());
    if left_vector {
        left.insert(0, Size::of(1));
        left_row = left_row.map(|row| row.on(1));
    }
    if right_vector {
        right.push(Size::of(1));
    }
    let (last_left, last_right) = (left.len() - 1, right.len() - 1);
    if left_row.as_ref().is_some_and(|row| row.axis == last_left)
        || right_row.as_ref().is_some_and(|row| row.axis + 1 == last_right)
    {
        return mixed(SUMS);
    }
    let rank = left.len().max(right.len());
    let rows_left = left_row.as_ref().is_some_and(|row| row.axis + 1 == last_left);
    let columns_right = right_row.as_ref().is_some_and(|row| row.axis == last_right);
    let (mut to, row) = match (left_row, right_row) {
        (Some(row), None) if rows_left => (stacked(cx, &left, &right), Some(row.on(rank - 2))),
        (None, Some(row)) if columns_right => (stacked(cx, &left, &right), Some(row.on(rank - 1))),
        (Some(_), Some(_)) if rows_left || columns_right => return mixed(PAIRS),
        (left_row, right_row) => {
            let batch = |dims: &[Size], row: Option<RowAxis>| {
                let dims = dims[..dims.len() - 2].to_vec();
                row.map_or_else(|| Value::same(Some(dims.clone())), |row| Value::rows(row, dims.clone()))
            };
            let joined = broadcast(cx, &[&batch(&left, left_row), &batch(&right, right_row)])?;
            let row = joined.row_axis().cloned();
            let Some(to) = joined.dims else { return unknown("has axes that are not known") };
            (to, row)
        }
    };
    to.truncate(rank - 2);
    to.extend([left[last_left - 1].clone(), right[last_right].clone()]);
    let mut row = row;
    if left_vector {
        to.remove(rank - 2);
        row = row.map(|row| row.on(if row.axis > rank - 2 { row.axis - 1 } else { row.axis }));
    }
    if right_vector {
        to.pop();
    }
    Ok(match row {
        Some(row) => Value::rows(row, to),
        None => Value::same(Some(to)),
    })
}

/// The axes before the last two, where none has rows.
fn stacked(cx: &mut Context<'_>, left: &[Size], right: &[Size]) -> Vec<Size> {
    let rank = left.len().max(right.len());
    let one = Size::of(1);
    let of = |dims: &[Size], at: usize| {
        (at + dims.len()).checked_sub(rank).map_or_else(|| one.clone(), |at| dims[at].clone())
    };
    (0..rank - 2).map(|at| cx.symbols.broadcast(&of(left, at), &of(right, at))).collect()
}

/// A value with its last two axes swapped, if they are to be.
pub(crate) fn swapped(value: &Value, swap: bool) -> Value {
    let Some(mut dims) = value.dims.clone().filter(|dims| swap && dims.len() > 1) else { return value.clone() };
    let last = dims.len() - 1;
    dims.swap(last - 1, last);
    let kind = match &value.kind {
        Kind::Rows(row) if row.axis == last => Kind::Rows(row.on(last - 1)),
        Kind::Rows(row) if row.axis + 1 == last => Kind::Rows(row.on(last)),
        kind => kind.clone(),
    };
    Value { kind, dims: Some(dims), elements: None }
}

pub(crate) fn gemm(cx: &mut Context<'_>) -> RuleResult {
    if [0, 1].iter().any(|&at| cx.input(at).and_then(Value::rank).is_some_and(|rank| rank != 2)) {
        return unknown("has an input of other than two axes");
    }
    let one = swapped(cx.need(0)?, cx.node.int("transA", 0) != 0);
    let other = swapped(cx.need(1)?, cx.node.int("transB", 0) != 0);
    let product = product(cx, &one, &other)?;
    match cx.input(2).cloned() {
        None => Ok(vec![product]),
        Some(sum) => {
            let joined = broadcast(cx, &[&product, &sum])?;
            // What is added is broadcast to the product's dimensions.
            Ok(vec![Value { dims: product.dims, ..joined }])
        }
    }
}

/// The rows' letter must be the same in all inputs that have rows, stand in the
/// output, and in no other input.
pub(crate) fn einsum(cx: &mut Context<'_>) -> RuleResult {
    let Some(equation) = cx.node.attribute("equation") else { return unknown("has no equation") };
    let equation: String = equation.text.chars().filter(|letter| !letter.is_whitespace()).collect();
    let Some((terms, to)) = equation.split_once("->") else { return unknown("has an equation without its output") };
    if equation.contains('.') {
        return unknown("has an equation with an ellipsis");
    }
    let terms: Vec<Vec<char>> = terms.split(',').map(|term| term.chars().collect()).collect();
    let to: Vec<char> = to.chars().collect();
    let mut found: Option<(char, RowAxis)> = None;
    let mut sizes: Vec<(char, Size)> = Vec::new();
    for (at, term) in terms.iter().enumerate() {
        let (row, dims) = (cx.row_axis(at)?, cx.dims(at)?);
        if dims.len() != term.len() {
            return unknown("has an equation of other axes");
        }
        sizes.extend(term.iter().copied().zip(dims));
        let Some(row) = row else { continue };
        let letter = term[row.axis];
        if term.iter().filter(|own| **own == letter).count() > 1 {
            return mixed(PAIRS);
        }
        match &found {
            None => found = Some((letter, row)),
            Some((first, own)) if *first == letter && own.on(0) == row.on(0) => {}
            Some(_) => return mixed(PAIRS),
        }
    }
    let dims: Option<Vec<Size>> = to
        .iter()
        .map(|letter| {
            sizes
                .iter()
                .find(|(own, size)| own == letter && !size.is(1))
                .or_else(|| sizes.iter().find(|(own, _)| own == letter))
                .map(|(_, size)| size.clone())
        })
        .collect();
    let Some(dims) = dims else { return unknown("has an output of other axes") };
    let Some((letter, row)) = found else { return Ok(vec![Value::same(Some(dims))]) };
    for (at, term) in terms.iter().enumerate() {
        if cx.row_axis(at)?.is_none() && term.contains(&letter) {
            return mixed("has a value for each of a fixed number of rows");
        }
    }
    match to.iter().position(|own| *own == letter) {
        Some(at) if to.iter().filter(|own| **own == letter).count() == 1 => Ok(vec![Value::rows(row.on(at), dims)]),
        Some(_) => unknown("has an output with an axis twice"),
        None => mixed(SUMS),
    }
}

pub(crate) fn square_to_number(cx: &mut Context<'_>) -> RuleResult {
    let (row, mut dims) = (cx.row_axis(0)?, cx.dims(0)?);
    dims.truncate(dims.len().saturating_sub(2));
    match row {
        Some(row) if row.axis >= dims.len() => mixed(SUMS),
        row => Ok(vec![kept(row, dims)]),
    }
}
