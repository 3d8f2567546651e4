//! Operators that work element by element, with broadcasting.

use super::context::{Context, RuleResult, Stop, mixed, unknown};
use crate::models::rows::dim::{Element, Size};
use crate::models::rows::value::{Kind, MOST_ELEMENTS, RowAxis, Value};

/// One output, each element of which comes from those at its place in the inputs.
pub(crate) fn elementwise(cx: &mut Context<'_>) -> RuleResult {
    if cx.node.domain.is_empty() && cx.node.attribute("broadcast").is_some() {
        return unknown("broadcasts as the standard did before version 7");
    }
    let mut inputs: Vec<&Value> = cx.inputs.iter().flatten().collect();
    // Only the datatype of the second input matters.
    if cx.node.op == "CastLike" {
        inputs.truncate(1);
    }
    let inputs: Vec<Value> = inputs.into_iter().cloned().collect();
    let mut value = broadcast(cx, &inputs.iter().collect::<Vec<_>>())?;
    if value.row_axis().is_none()
        && let Some(elements) = elements(cx, &inputs, &value)
        && let Some(dims) = value.dims.clone()
    {
        value = Value::of_elements(dims, elements);
    }
    Ok(vec![value])
}

/// What broadcasting makes of these.
pub(crate) fn broadcast(cx: &mut Context<'_>, inputs: &[&Value]) -> Result<Value, Stop> {
    let has_rows = inputs.iter().any(|value| value.row_axis().is_some());
    let counts = inputs.iter().any(|value| value.kind == Kind::Counts);
    if has_rows && counts {
        return mixed("depends on how many rows there are");
    }
    let dims: Option<Vec<&Vec<Size>>> = inputs.iter().map(|value| value.dims.as_ref()).collect();
    let Some(dims) = dims else {
        return match (has_rows, counts) {
            (true, _) => unknown("has an input whose axes are not known"),
            (false, true) => Ok(Value::counts(None)),
            (false, false) => Ok(Value::same(None)),
        };
    };
    let rank = dims.iter().map(|dims| dims.len()).max().unwrap_or(0);
    let row = joint_rows(inputs, rank)?;
    let mut joined = Vec::with_capacity(rank);
    for at in 0..rank {
        let own = dims.iter().filter_map(|dims| dims.get((at + dims.len()).checked_sub(rank)?));
        let mut size = Size::of(1);
        for own in own {
            size = match (size.has_rows(), own.has_rows()) {
                (false, false) => cx.symbols.broadcast(&size, own),
                (_, true) if size.is(1) || size == *own => own.clone(),
                (true, _) if own.is(1) => size,
                _ if row.is_some() => return unknown("has axes that do not go together"),
                _ => return Ok(Value::counts(None)),
            };
        }
        joined.push(size);
    }
    let kind = match row {
        Some(row) => Kind::Rows(row),
        None if counts => Kind::Counts,
        None => Kind::Same,
    };
    Ok(Value { kind, dims: Some(joined), elements: None })
}

/// Where the rows of inputs that are broadcast to `rank` are in the output.
fn joint_rows(inputs: &[&Value], rank: usize) -> Result<Option<RowAxis>, Stop> {
    let mut joint = None;
    for value in inputs {
        let (Some(row), Some(own)) = (value.row_axis(), value.rank()) else { continue };
        let row = row.on(row.axis + rank - own);
        match &joint {
            None => joint = Some(row),
            Some(first) if *first == row => {}
            Some(_) => return mixed("sets each row against the others"),
        }
    }
    let Some(row) = joint else { return Ok(None) };
    for value in inputs.iter().filter(|value| value.row_axis().is_none()) {
        let own = value.dims.as_ref().and_then(|dims| dims.get((row.axis + dims.len()).checked_sub(rank)?));
        match own {
            None => {}
            Some(size) if size.is(1) => {}
            Some(size) if size.number().is_some() => return mixed("has a value for each of a fixed number of rows"),
            Some(_) => return unknown("may have a value for each of a number of rows"),
        }
    }
    Ok(Some(row))
}

/// The elements of an operator on small tensors that are followed.
fn elements(cx: &mut Context<'_>, inputs: &[Value], joined: &Value) -> Option<Vec<Element>> {
    let dims = joined.dims.as_ref()?;
    let count = usize::try_from(Size::product(dims)?.number()?).ok().filter(|&count| count <= MOST_ELEMENTS)?;
    let mut columns = Vec::new();
    for value in inputs {
        let own = value.elements.as_ref()?;
        // A single element goes with all; else the positions must match.
        let places = own.len() == count
            && value.dims.as_ref()?.iter().skip_while(|dim| dim.is(1)).eq(dims.iter().skip_while(|dim| dim.is(1)));
        match own.len() {
            1 => columns.push(vec![own[0].clone(); count]),
            _ if places => columns.push(own.clone()),
            _ => return None,
        }
    }
    let op = cx.node.op.as_str();
    (0..count)
        .map(|at| {
            Some(match &columns[..] {
                [one] => cx.symbols.unary(op, &one[at]),
                [one, other] => cx.symbols.binary(op, &one[at], &other[at]),
                [condition, yes, no] if op == "Where" => cx.symbols.choose(&condition[at], &yes[at], &no[at]),
                _ => return None,
            })
        })
        .collect()
}

/// The mask is of the input's shape; what training would do has no rule.
pub(crate) fn dropout(cx: &mut Context<'_>) -> RuleResult {
    let trains = cx.input(2).is_some_and(|training| training.scalar().is_none_or(|own| !own.is(0)));
    if trains || cx.node.int("is_test", 1) == 0 {
        return unknown("may drop values at random");
    }
    let value = cx.need(0)?.clone();
    let mask = Value { elements: None, ..value.clone() };
    Ok(vec![value, mask])
}
