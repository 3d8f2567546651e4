//! Operators that rearrange, read or make shapes. Exporters compute with shapes in
//! the graph, so small tensors are followed element by element.

use super::context::{Context, RuleResult, Stop, axes, axis, mixed, unknown};
use crate::models::rows::dim::Size;
use crate::models::rows::value::{Kind, MOST_ELEMENTS, RowAxis, Value};

pub(crate) fn constant(cx: &mut Context<'_>) -> RuleResult {
    let node = cx.node;
    let Some(own) = node.attributes.first() else { return unknown("has no value") };
    if !own.refers.is_empty() {
        return unknown("takes its value from the function's caller");
    }
    Ok(vec![match own.name.as_str() {
        "value" => own.tensor.as_ref().map_or_else(|| Value::same(None), |own| Value::constant(own, cx.symbols)),
        "value_int" => Value::of_elements(vec![], vec![Some(Size::of(own.int))]),
        "value_ints" if !own.ints.is_empty() => Value::list(own.ints.iter().map(|&own| Some(Size::of(own))).collect()),
        "value_float" | "value_string" => Value::same(Some(vec![])),
        "value_ints" | "value_floats" | "value_strings" => Value::same(Some(cx.any(1))),
        _ => Value::same(None),
    }])
}

pub(crate) fn shape(cx: &mut Context<'_>) -> RuleResult {
    let value = cx.need(0)?;
    let Some(dims) = value.dims.clone() else {
        return Ok(vec![if value.is_same() { Value::same(Some(cx.any(1))) } else { Value::counts(None) }]);
    };
    let rank = dims.len() as i64;
    let clamp = |at: i64| (if at < 0 { at + rank } else { at }).clamp(0, rank) as usize;
    let (start, end) = (clamp(cx.node.int("start", 0)), clamp(cx.node.int("end", rank)));
    Ok(vec![Value::list(dims.get(start..end).unwrap_or_default().iter().cloned().map(Some).collect())])
}

pub(crate) fn size(cx: &mut Context<'_>) -> RuleResult {
    let value = cx.need(0)?;
    Ok(vec![match value.dims.as_ref().and_then(Size::product) {
        Some(size) => Value::of_elements(vec![], vec![Some(size)]),
        None if value.is_same() => Value::same(Some(vec![])),
        None => Value::counts(Some(vec![])),
    }])
}

/// The elements of a shape in an input.
fn target(cx: &mut Context<'_>, at: usize) -> Result<Vec<Size>, Stop> {
    let value = cx.need(at)?;
    match &value.kind {
        Kind::Rows(_) => return unknown("takes a shape from the rows' values"),
        Kind::Same | Kind::Counts => {}
        Kind::Mixed(_) | Kind::Unknown(_) => return unknown("takes a shape that is not known"),
    }
    let elements: Option<Vec<Size>> = value.elements.as_ref().and_then(|own| own.iter().cloned().collect());
    elements.map_or_else(|| unknown("takes a shape that is not known"), Ok)
}

/// Where rows are after a reshape, which keeps the order of the elements.
fn reshaped(cx: &mut Context<'_>, dims: &[Size], to: Vec<Size>) -> Result<Value, Stop> {
    let Some(row) = cx.row_axis(0)? else {
        return match to.iter().any(Size::has_rows) {
            true => mixed("gives a tensor that is the same for all rows an axis of rows"),
            false => Ok(Value::same(Some(to))),
        };
    };
    let unclear = || Stop::Unknown("gives the rows a shape that cannot be followed".into());
    let product = |sizes: &[Size]| Size::product(sizes).ok_or_else(unclear);
    let outer = product(&dims[..row.axis])?.times(&row.outer).ok_or_else(unclear)?;
    let mut with_rows = (0..to.len()).filter(|&at| to[at].has_rows());
    let at = match (with_rows.next(), with_rows.next()) {
        (Some(at), None) => at,
        (None, _) => {
            let fixed = to.iter().all(|size| size.number().is_some());
            return if fixed {
                mixed("gives the rows a shape that fits a fixed number of them")
            } else {
                Err(unclear())
            };
        }
        _ => return mixed("spreads the rows over two axes"),
    };
    // The axes before the rows decide: reshaping keeps the number of elements, so the axes
    // after the rows then match too.
    let outer = outer.by(&product(&to[..at])?).ok_or_else(unclear)?;
    let inner = outer.times(&Size::rows()).and_then(|whole| to[at].by(&whole)).ok_or_else(unclear)?;
    Ok(Value::rows(RowAxis { axis: at, outer, inner }, to))
}

pub(crate) fn reshape(cx: &mut Context<'_>) -> RuleResult {
    let value = cx.need(0)?.clone();
    let asked = match cx.input(1) {
        Some(_) => target(cx, 1)?,
        None => match cx.node.attribute("shape") {
            Some(shape) if !shape.ints.is_empty() => shape.ints.iter().map(|&own| Size::of(own)).collect(),
            _ => return unknown("takes a shape that is not known"),
        },
    };
    let Some(dims) = value.dims.clone() else {
        return match value.is_same() {
            true => Ok(vec![Value::same(Some(cx.any(asked.len())))]),
            false => unknown("has an input whose axes are not known"),
        };
    };
    let zero_is_zero = cx.node.int("allowzero", 0) == 1;
    let mut to = Vec::new();
    let mut inferred = None;
    for (at, size) in asked.iter().enumerate() {
        to.push(match size.number() {
            Some(0) if !zero_is_zero => match dims.get(at) {
                Some(own) => own.clone(),
                None => return unknown("copies an axis that is not there"),
            },
            Some(-1) => {
                inferred = Some(at);
                Size::of(1)
            }
            _ => size.clone(),
        });
    }
    if let Some(at) = inferred {
        let (all, known) = (Size::product(&dims), Size::product(&to));
        to[at] = match all.zip(known).and_then(|(all, known)| all.by(&known)) {
            Some(size) => size,
            None if value.is_same() && to.iter().all(|size| !size.has_rows()) => cx.symbols.any_size(),
            // The rows are on another axis; this one has what is left.
            None if to.iter().any(Size::has_rows) => cx.symbols.any_size(),
            None if dims.iter().chain(&to).all(|size| size.number().is_some()) => {
                return mixed("gives the rows a shape that does not fit them");
            }
            None => return unknown("gives the rows a shape that cannot be followed"),
        };
    }
    if value.kind == Kind::Counts {
        return Ok(vec![match value.elements {
            Some(elements) if to.iter().all(|size| size.number().is_some()) => Value::of_elements(to, elements),
            _ => Value::counts(None),
        }]);
    }
    let elements = value.elements.clone();
    let reshaped = reshaped(cx, &dims, to)?;
    Ok(vec![Value { elements: elements.filter(|_| reshaped.is_same()), ..reshaped }])
}

pub(crate) fn flatten(cx: &mut Context<'_>) -> RuleResult {
    let dims = cx.dims(0)?;
    let number = cx.node.int("axis", 1);
    let at = match number {
        number if number == dims.len() as i64 => dims.len(),
        number => axis(number, dims.len().max(1))?,
    };
    let (Some(before), Some(after)) = (Size::product(&dims[..at]), Size::product(&dims[at..])) else {
        return unknown("gives the rows a shape that cannot be followed");
    };
    Ok(vec![reshaped(cx, &dims, vec![before, after])?])
}

pub(crate) fn squeeze(cx: &mut Context<'_>) -> RuleResult {
    let value = cx.need(0)?.clone();
    let dims = cx.dims(0)?;
    let gone: Vec<usize> = match cx.named_axes(1, "axes")? {
        Some(named) => axes(&named, dims.len())?,
        None if value.row_axis().is_some() => {
            return mixed("takes every axis of length 1 away, the rows' too when there is one");
        }
        None if dims.iter().any(|size| size.number().is_none()) => return unknown("may take any axis away"),
        None => (0..dims.len()).filter(|&at| dims[at].is(1)).collect(),
    };
    let left: Vec<Size> = (0..dims.len()).filter(|at| !gone.contains(at)).map(|at| dims[at].clone()).collect();
    let kind = match &value.kind {
        Kind::Rows(row) if gone.contains(&row.axis) => return mixed("takes the rows' axis away"),
        Kind::Rows(row) => Kind::Rows(row.on(row.axis - gone.iter().filter(|&&at| at < row.axis).count())),
        kind => kind.clone(),
    };
    Ok(vec![Value { kind, dims: Some(left), elements: value.elements }])
}

pub(crate) fn unsqueeze(cx: &mut Context<'_>) -> RuleResult {
    let value = cx.need(0)?.clone();
    let Some(named) = cx.named_axes(1, "axes")? else { return unknown("has no axes") };
    let dims = cx.dims(0)?;
    let rank = dims.len() + named.len();
    let added = axes(&named, rank)?;
    let (mut own, mut joined, mut moved) = (dims.into_iter(), Vec::new(), Vec::new());
    for at in 0..rank {
        match added.contains(&at) {
            true => joined.push(Size::of(1)),
            false => {
                let Some(size) = own.next() else { return unknown("names an axis twice") };
                moved.push(at);
                joined.push(size);
            }
        }
    }
    if own.next().is_some() {
        return unknown("names an axis twice");
    }
    let kind = match &value.kind {
        Kind::Rows(row) => Kind::Rows(row.on(moved[row.axis])),
        kind => kind.clone(),
    };
    Ok(vec![Value { kind, dims: Some(joined), elements: value.elements }])
}

pub(crate) fn transpose(cx: &mut Context<'_>) -> RuleResult {
    let value = cx.need(0)?.clone();
    let Some(dims) = value.dims.clone() else { return Ok(vec![Value { elements: None, ..value }]) };
    let order: Vec<usize> = match cx.node.attribute("perm") {
        Some(order) if !order.refers.is_empty() => return unknown("takes its order from the function's caller"),
        Some(order) => axes(&order.ints, dims.len())?,
        None => (0..dims.len()).rev().collect(),
    };
    if order.len() != dims.len() {
        return unknown("has an order of other axes");
    }
    let kind = match &value.kind {
        Kind::Rows(row) => match order.iter().position(|&from| from == row.axis) {
            Some(at) => Kind::Rows(row.on(at)),
            None => return unknown("has an order of other axes"),
        },
        kind => kind.clone(),
    };
    let elements = value.elements.filter(|_| dims.len() < 2);
    Ok(vec![Value { kind, dims: Some(order.iter().map(|&from| dims[from].clone()).collect()), elements }])
}

/// A tensor of one value, with an axis whose length has the number of rows in it: as all
/// places are equal, any part of it is as good as another for a row.
fn repeated(to: Vec<Size>) -> Result<Value, Stop> {
    let mut with_rows = (0..to.len()).filter(|&at| to[at].has_rows());
    let at = match (with_rows.next(), with_rows.next()) {
        (None, _) => return Ok(Value::same(Some(to))),
        (Some(at), None) => at,
        _ => return mixed("makes two axes as long as there are rows"),
    };
    match to[at].without_rows() {
        Some(inner) => Ok(Value::rows(RowAxis { axis: at, outer: Size::of(1), inner }, to)),
        None => mixed("makes an axis longer than there are rows"),
    }
}

pub(crate) fn expand(cx: &mut Context<'_>) -> RuleResult {
    let value = cx.need(0)?.clone();
    let asked = match target(cx, 1) {
        Ok(asked) => asked,
        // The same values under a shape that is the same in every run.
        Err(_) if value.is_same() && cx.need(1)?.is_same() => return Ok(vec![Value::same(None)]),
        Err(stop) => return Err(stop),
    };
    let Some(dims) = value.dims.clone() else {
        let same = value.is_same() && asked.iter().all(|size| !size.has_rows());
        return if same { Ok(vec![Value::same(None)]) } else { unknown("has an input whose axes are not known") };
    };
    if value.kind == Kind::Counts {
        return Ok(vec![Value::counts(None)]);
    }
    let rank = dims.len().max(asked.len());
    let row = value.row_axis().map(|row| row.on(row.axis + rank - dims.len()));
    let mut to = Vec::new();
    let one = Size::of(1);
    for at in 0..rank {
        let of = |sizes: &'_ [Size]| (at + sizes.len()).checked_sub(rank).and_then(|at| sizes.get(at).cloned());
        let (own, asked) = (of(&dims).unwrap_or_else(|| one.clone()), of(&asked).unwrap_or_else(|| one.clone()));
        to.push(match (own.has_rows(), asked.has_rows()) {
            (false, false) => cx.symbols.broadcast(&own, &asked),
            (true, _) if asked.is(1) || own == asked => own,
            (false, true) if own.is(1) => asked,
            (false, true) if own.number().is_some() => return mixed("sets a fixed number of values against the rows"),
            (true, false) if asked.number().is_some() => return mixed("fits a fixed number of rows"),
            _ => return unknown("has axes that cannot be followed"),
        });
    }
    match row {
        None => Ok(vec![repeated(to)?]),
        Some(_) if to.iter().filter(|size| size.has_rows()).count() > 1 => {
            mixed("makes two axes as long as there are rows")
        }
        Some(row) => Ok(vec![Value::rows(row, to)]),
    }
}

pub(crate) fn tile(cx: &mut Context<'_>) -> RuleResult {
    let value = cx.need(0)?.clone();
    if value.is_same() && cx.need(1)?.is_same() {
        return cx.same_rank(&value);
    }
    let (dims, times) = (cx.dims(0)?, target(cx, 1)?);
    if times.len() != dims.len() {
        return unknown("repeats axes that are not there");
    }
    if value.kind == Kind::Counts {
        return Ok(vec![Value::counts(None)]);
    }
    let to: Option<Vec<Size>> = dims.iter().zip(&times).map(|(own, times)| own.times(times)).collect();
    let Some(to) = to else { return unknown("has axes that cannot be followed") };
    let Some(row) = cx.row_axis(0)? else { return Ok(vec![repeated(to)?]) };
    if times.iter().any(Size::has_rows) {
        return mixed("repeats each row for every other");
    }
    // All rows are repeated once for each repetition.
    match row.outer.times(&times[row.axis]) {
        Some(outer) => Ok(vec![Value::rows(RowAxis { outer, ..row }, to)]),
        None => unknown("has axes that cannot be followed"),
    }
}

pub(crate) fn constant_of_shape(cx: &mut Context<'_>) -> RuleResult {
    if cx.need(0)?.is_same() && cx.need(0)?.elements.is_none() {
        let rank = cx.need(0)?.dims.as_ref().and_then(|dims| usize::try_from(dims.first()?.number()?).ok());
        let dims = rank.map(|rank| cx.any(rank));
        return Ok(vec![Value::same(dims)]);
    }
    let to = target(cx, 0)?;
    let with = match cx.node.attribute("value").and_then(|own| own.tensor.as_ref()).map(|own| own.values.as_deref()) {
        None => Some(Size::of(0)),
        Some(Some([Some(number)])) => Some(Size::of(*number)),
        Some(_) => None,
    };
    let count = Size::product(&to).and_then(|size| usize::try_from(size.number()?).ok());
    match (count.filter(|&count| count <= MOST_ELEMENTS), with) {
        (Some(count), Some(with)) => Ok(vec![Value::of_elements(to, vec![Some(with); count])]),
        _ => Ok(vec![repeated(to)?]),
    }
}

pub(crate) fn range(cx: &mut Context<'_>) -> RuleResult {
    let inputs = [cx.need(0)?.clone(), cx.need(1)?.clone(), cx.need(2)?.clone()];
    if inputs.iter().all(Value::is_same) {
        let numbers: Option<Vec<i64>> = inputs.iter().map(|own| own.scalar()?.number()).collect();
        return Ok(vec![match numbers.as_deref() {
            Some(&[from, to, step]) if step > 0 && to > from && (to - from) / step < MOST_ELEMENTS as i64 => {
                let elements = (from..to).step_by(step as usize).map(|own| Some(Size::of(own)));
                Value::list(elements.collect())
            }
            _ => match (inputs[0].scalar(), inputs[1].scalar(), inputs[2].scalar()) {
                (Some(from), Some(to), Some(step)) if from.is(0) && step.is(1) && cx.symbols.is_size(to) => {
                    Value::same(Some(vec![to.clone()]))
                }
                _ => Value::same(Some(cx.any(1))),
            },
        }]);
    }
    match inputs.iter().any(|own| own.row_axis().is_some()) {
        true => unknown("makes a range from the rows' values"),
        false => Ok(vec![Value::counts(None)]),
    }
}
