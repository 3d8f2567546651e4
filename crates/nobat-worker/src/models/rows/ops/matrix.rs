//! Products: rows may lie on any axis that is not summed over.

use super::context::{Context, Rule, Ruled, Stop, kept, mixed, unknown};
use super::elementwise::broadcast;
use crate::models::rows::dim::Size;
use crate::models::rows::value::{Kind, Lie, Value};

pub(super) fn rule(op: &str) -> Option<Rule> {
    Some(match op {
        "MatMul" => matmul,
        "Gemm" => gemm,
        "Einsum" => einsum,
        "Det" => square_to_number,
        _ => return None,
    })
}

const SUMS: &str = "sums over the rows";
const PAIRS: &str = "sets each row against the others";

fn matmul(cx: &mut Context<'_>) -> Ruled {
    let (one, other) = (cx.need(0)?.clone(), cx.need(1)?.clone());
    Ok(vec![product(cx, &one, &other)?])
}

/// The matrix product of two, with broadcasting over the axes before the last two.
pub(super) fn product(cx: &mut Context<'_>, one: &Value, other: &Value) -> Result<Value, Stop> {
    if one.kind == Kind::Counts || other.kind == Kind::Counts {
        let rows = one.lie().is_some() || other.lie().is_some();
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
    let (mut left_lie, right_lie) = (one.lie().cloned(), other.lie().cloned());
    if left_vector {
        left.insert(0, Size::of(1));
        left_lie = left_lie.map(|lie| lie.on(1));
    }
    if right_vector {
        right.push(Size::of(1));
    }
    let (last_left, last_right) = (left.len() - 1, right.len() - 1);
    if left_lie.as_ref().is_some_and(|lie| lie.axis == last_left)
        || right_lie.as_ref().is_some_and(|lie| lie.axis + 1 == last_right)
    {
        return mixed(SUMS);
    }
    let rank = left.len().max(right.len());
    let rows_left = left_lie.as_ref().is_some_and(|lie| lie.axis + 1 == last_left);
    let columns_right = right_lie.as_ref().is_some_and(|lie| lie.axis == last_right);
    let (mut to, lie) = match (left_lie, right_lie) {
        (Some(lie), None) if rows_left => (stacked(cx, &left, &right), Some(lie.on(rank - 2))),
        (None, Some(lie)) if columns_right => (stacked(cx, &left, &right), Some(lie.on(rank - 1))),
        (Some(_), Some(_)) if rows_left || columns_right => return mixed(PAIRS),
        (left_lie, right_lie) => {
            let batch = |dims: &[Size], lie: Option<Lie>| {
                let dims = dims[..dims.len() - 2].to_vec();
                lie.map_or_else(|| Value::same(Some(dims.clone())), |lie| Value::rows(lie, dims.clone()))
            };
            let joined = broadcast(cx, &[&batch(&left, left_lie), &batch(&right, right_lie)])?;
            let lie = joined.lie().cloned();
            let Some(to) = joined.dims else { return unknown("has axes that are not known") };
            (to, lie)
        }
    };
    to.truncate(rank - 2);
    to.extend([left[last_left - 1].clone(), right[last_right].clone()]);
    let mut lie = lie;
    if left_vector {
        to.remove(rank - 2);
        lie = lie.map(|lie| lie.on(if lie.axis > rank - 2 { lie.axis - 1 } else { lie.axis }));
    }
    if right_vector {
        to.pop();
    }
    Ok(match lie {
        Some(lie) => Value::rows(lie, to),
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

pub(super) fn gemm(cx: &mut Context<'_>) -> Ruled {
    let turned = |value: &Value, turn: bool| -> Result<Value, Stop> {
        let Some(dims) = &value.dims else { return Ok(value.clone()) };
        if dims.len() != 2 {
            return unknown("has an input of other than two axes");
        }
        if !turn {
            return Ok(value.clone());
        }
        let kind = match &value.kind {
            Kind::Rows(lie) => Kind::Rows(lie.on(1 - lie.axis)),
            kind => kind.clone(),
        };
        Ok(Value { kind, dims: Some(vec![dims[1].clone(), dims[0].clone()]), elements: None })
    };
    let one = turned(cx.need(0)?, cx.node.int("transA", 0) != 0)?;
    let other = turned(cx.need(1)?, cx.node.int("transB", 0) != 0)?;
    let product = product(cx, &one, &other)?;
    match cx.input(2).cloned() {
        None => Ok(vec![product]),
        Some(sum) => {
            let joined = broadcast(cx, &[&product, &sum])?;
            // What is added has no more axes, nor longer ones.
            Ok(vec![Value { dims: product.dims, ..joined }])
        }
    }
}

/// The rows' letter must be the same in all inputs that have rows, stand in the
/// output, and in no other input.
fn einsum(cx: &mut Context<'_>) -> Ruled {
    let Some(equation) = cx.node.attribute("equation") else { return unknown("has no equation") };
    let equation: String = equation.text.chars().filter(|letter| !letter.is_whitespace()).collect();
    let Some((terms, to)) = equation.split_once("->") else { return unknown("has an equation without its output") };
    if equation.contains('.') {
        return unknown("has an equation with an ellipsis");
    }
    let terms: Vec<Vec<char>> = terms.split(',').map(|term| term.chars().collect()).collect();
    let to: Vec<char> = to.chars().collect();
    let mut found: Option<(char, Lie)> = None;
    let mut sizes: Vec<(char, Size)> = Vec::new();
    for (at, term) in terms.iter().enumerate() {
        let (lie, dims) = (cx.lie(at)?, cx.dims(at)?);
        if dims.len() != term.len() {
            return unknown("has an equation of other axes");
        }
        sizes.extend(term.iter().copied().zip(dims));
        let Some(lie) = lie else { continue };
        let letter = term[lie.axis];
        if term.iter().filter(|own| **own == letter).count() > 1 {
            return mixed(PAIRS);
        }
        match &found {
            None => found = Some((letter, lie)),
            Some((first, own)) if *first == letter && own.on(0) == lie.on(0) => {}
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
    let Some((letter, lie)) = found else { return Ok(vec![Value::same(Some(dims))]) };
    for (at, term) in terms.iter().enumerate() {
        if cx.lie(at)?.is_none() && term.contains(&letter) {
            return mixed("has a value for each of a fixed number of rows");
        }
    }
    match to.iter().position(|own| *own == letter) {
        Some(at) if to.iter().filter(|own| **own == letter).count() == 1 => Ok(vec![Value::rows(lie.on(at), dims)]),
        Some(_) => unknown("has an output with an axis twice"),
        None => mixed(SUMS),
    }
}

fn square_to_number(cx: &mut Context<'_>) -> Ruled {
    let (lie, mut dims) = (cx.lie(0)?, cx.dims(0)?);
    dims.truncate(dims.len().saturating_sub(2));
    match lie {
        Some(lie) if lie.axis >= dims.len() => mixed(SUMS),
        lie => Ok(vec![kept(lie, dims)]),
    }
}
