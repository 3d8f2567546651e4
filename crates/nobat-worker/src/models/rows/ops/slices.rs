//! Operators that cut tensors apart and put them together.

use super::context::{Context, RuleResult, Stop, axes, axis, kept, mixed, unknown};
use crate::models::rows::dim::{Element, Size};
use crate::models::rows::value::{Kind, Value};

/// An end as far away as this is that of the axis: exporters write a large number, and
/// no run has so many rows.
const FAR: i64 = 1_000_000_000;

/// Numbers of an input, or of an attribute as the older versions have them.
fn numbers(cx: &Context<'_>, input: usize, attribute: &str) -> Result<Option<Vec<Element>>, Stop> {
    match cx.input(input) {
        Some(value) if value.row_axis().is_some() => mixed("takes where to cut from the rows' values"),
        Some(value) => match &value.elements {
            Some(elements) => Ok(Some(elements.clone())),
            None => unknown("takes where to cut from what is not known"),
        },
        None => Ok(cx.node.attribute(attribute).map(|own| own.ints.iter().map(|&own| Some(Size::of(own))).collect())),
    }
}

pub(crate) fn slice(cx: &mut Context<'_>) -> RuleResult {
    let value = cx.need(0)?.clone();
    // The same values cut at the same places are the same; only the sizes are not known.
    let all_same = cx.inputs.iter().flatten().all(Value::is_same);
    match sliced(cx, &value) {
        Err(_) if all_same => cx.same_rank(&value),
        other => other,
    }
}

fn sliced(cx: &mut Context<'_>, value: &Value) -> RuleResult {
    let dims = cx.dims(0)?;
    let (Some(starts), Some(ends)) = (numbers(cx, 1, "starts")?, numbers(cx, 2, "ends")?) else {
        return unknown("takes where to cut from what is not known");
    };
    let axes = match numbers(cx, 3, "axes")? {
        None => (0..starts.len()).collect(),
        Some(axes) => axes
            .iter()
            .map(|own| match own.as_ref().and_then(Size::number) {
                Some(number) => axis(number, dims.len()),
                None => unknown("cuts an axis that is not known"),
            })
            .collect::<Result<Vec<_>, _>>()?,
    };
    let steps = numbers(cx, 4, "steps")?.unwrap_or_else(|| vec![Some(Size::of(1)); starts.len()]);
    if starts.len() != ends.len() || starts.len() != axes.len() || starts.len() != steps.len() {
        return unknown("cuts in a way that is not known");
    }
    let mut to = dims.clone();
    let mut elements = value.elements.clone();
    for (((start, end), at), step) in starts.iter().zip(&ends).zip(axes).zip(&steps) {
        let Some(own) = dims.get(at) else { return unknown("cuts an axis that is not there") };
        let number = |element: &Element| element.as_ref().and_then(Size::number);
        let to_end = end.as_ref().is_some_and(|end| end == own || end.number().is_some_and(|end| end >= FAR));
        let whole = number(start) == Some(0) && to_end && number(step) == Some(1);
        if whole {
            continue;
        }
        let cuts = [start, end, step].map(Option::as_ref);
        let [Some(start), Some(end), Some(step)] = cuts else { return mixed("cuts where the number of rows says") };
        if value.row_axis().is_some_and(|row| row.axis == at) {
            return mixed("takes some of the rows");
        }
        if [start, end, step].iter().any(|size| size.has_rows()) {
            return mixed("cuts where the number of rows says");
        }
        if own.has_rows() {
            return Ok(vec![Value::counts(None)]);
        }
        let range = own.number().zip(start.number()).zip(end.number()).zip(step.number());
        match range.map(|(((own, start), end), step)| picked(own, start, end, step)) {
            Some(places) => {
                to[at] = Size::of(places.len() as i64);
                elements = elements.filter(|_| dims.len() == 1);
                elements = elements.map(|all| places.iter().filter_map(|&place| all.get(place).cloned()).collect());
            }
            None => {
                // From the start to the axis's own length.
                let all = start.is(0) && step.is(1) && end == own;
                to[at] = if all { own.clone() } else { cx.symbols.any_size() };
                elements = None;
            }
        }
    }
    Ok(vec![value.part(to, elements)])
}

/// The places that a slice of an axis of `own` picks.
fn picked(own: i64, start: i64, end: i64, step: i64) -> Vec<usize> {
    let from_end = |at: i64| if at < 0 { at.saturating_add(own) } else { at };
    match step {
        1.. => {
            let (start, end) = (from_end(start).clamp(0, own), from_end(end).clamp(0, own));
            (start..end.max(start)).step_by(step as usize).map(|at| at as usize).collect()
        }
        _ => {
            let (start, end) = (from_end(start).clamp(0, own - 1), from_end(end).clamp(-1, own - 1));
            let step = step.unsigned_abs().max(1) as usize;
            (end + 1..start + 1).rev().step_by(step).filter_map(|at| usize::try_from(at).ok()).collect()
        }
    }
}

pub(crate) fn split(cx: &mut Context<'_>) -> RuleResult {
    let value = cx.need(0)?.clone();
    let count = cx.node.outputs.len();
    let dims = cx.dims(0)?;
    let at = cx.axis("axis", 0, dims.len())?;
    let sizes = numbers(cx, 1, "split")?;
    if let Kind::Rows(row) = &value.kind
        && row.axis == at
    {
        return if count == 1 { Ok(vec![value]) } else { mixed("deals the rows out") };
    }
    let parts: Vec<Size> = match &sizes {
        Some(sizes) if sizes.len() == count => {
            let sizes: Option<Vec<Size>> = sizes.iter().cloned().collect();
            match sizes {
                Some(sizes) if sizes.iter().all(|size| !size.has_rows()) => sizes,
                _ => return mixed("cuts where the number of rows says"),
            }
        }
        Some(_) => return unknown("cuts in a way that is not known"),
        None => match dims[at].number() {
            Some(all) => {
                let each = (all + count as i64 - 1) / count as i64;
                (0..count as i64).map(|part| Size::of((all - part * each).clamp(0, each))).collect()
            }
            None if dims[at].has_rows() => return Ok(vec![Value::counts(None); count]),
            None => match dims[at].by(&Size::of(count as i64)) {
                Some(each) => vec![each; count],
                None => cx.any(count),
            },
        },
    };
    let mut from = 0;
    let mut cut = Vec::new();
    for part in parts {
        let mut to = dims.clone();
        let elements = value.elements.as_ref().filter(|_| dims.len() == 1).zip(part.number()).and_then(|(all, len)| {
            let own = all.get(from..from + usize::try_from(len).ok()?)?;
            from += own.len();
            Some(own.to_vec())
        });
        to[at] = part;
        cut.push(value.part(to, elements));
    }
    Ok(cut)
}

pub(crate) fn concat(cx: &mut Context<'_>) -> RuleResult {
    let parts: Vec<Value> = cx.inputs.iter().flatten().cloned().collect();
    let all_same = parts.iter().all(Value::is_same);
    let has_rows = parts.iter().any(|part| part.row_axis().is_some());
    let all: Option<Vec<Vec<Size>>> = parts.iter().map(|part| part.dims.clone()).collect();
    let Some(all) = all else { return unknown("has an input whose axes are not known") };
    let Some(rank) = all.first().map(Vec::len) else { return unknown("has no inputs") };
    if all.iter().any(|dims| dims.len() != rank) {
        return unknown("has inputs of different axes");
    }
    let at = cx.axis("axis", 1, rank)?;
    let mut to = all[0].clone();
    let mut sum = Some(Size::of(0));
    for own in &all {
        sum = cx.symbols.binary("Add", &sum, &Some(own[at].clone()));
    }
    if !has_rows {
        let (Some(sum), true) = (sum, parts.iter().all(|part| part.elements.is_some()) && rank == 1) else {
            return Ok(vec![if all_same { Value::same(Some(cx.any(rank))) } else { Value::counts(None) }]);
        };
        let elements = parts.iter().flat_map(|part| part.elements.iter().flatten().cloned()).collect();
        to[at] = sum;
        return Ok(vec![Value::of_elements(to, elements)]);
    }
    if let [only] = &parts[..] {
        return Ok(vec![only.clone()]);
    }
    let mut joint = None;
    for part in &parts {
        match (&part.kind, &joint) {
            (Kind::Rows(row), _) if row.axis == at => return mixed("sets rows one after the other"),
            (Kind::Rows(row), None) => joint = Some(row.clone()),
            (Kind::Rows(row), Some(first)) if row == first => {}
            (Kind::Rows(_), Some(_)) => return mixed("sets each row beside others"),
            (Kind::Same, _) => return mixed("sets a fixed number of values beside the rows"),
            _ => return mixed("depends on how many rows there are"),
        }
    }
    let Some(row) = joint else { return unknown("has no rows") };
    let Some(sum) = sum else { return unknown("has axes that cannot be followed") };
    to[at] = sum;
    Ok(vec![Value::rows(row, to)])
}

pub(crate) fn pad(cx: &mut Context<'_>) -> RuleResult {
    let value = cx.need(0)?.clone();
    let Some(row) = cx.row_axis(0)? else {
        cx.others_same(1)?;
        return cx.same_rank(&value);
    };
    let dims = cx.dims(0)?;
    if cx.input(2).is_some_and(|fill| !fill.is_same()) {
        return unknown("fills with what goes with the rows");
    }
    let Some(pads) = numbers(cx, 1, "pads")? else { return unknown("pads in a way that is not known") };
    let axes: Vec<usize> = match cx.input(3) {
        Some(named) => match named.numbers() {
            Some(named) => axes(&named, dims.len())?,
            None => return unknown("pads axes that are not known"),
        },
        None => (0..dims.len()).collect(),
    };
    if pads.len() != 2 * axes.len() {
        return unknown("pads in a way that is not known");
    }
    let mut to = dims.clone();
    for (at, &own) in axes.iter().enumerate() {
        let (Some(before), Some(after)) = (&pads[at], &pads[at + axes.len()]) else {
            return mixed("pads by the number of rows");
        };
        if before.is(0) && after.is(0) {
            continue;
        }
        if own == row.axis {
            return match before.number().is_some() && after.number().is_some() {
                true => mixed("pads the rows"),
                false => unknown("may pad the rows"),
            };
        }
        if before.has_rows() || after.has_rows() {
            return mixed("pads by the number of rows");
        }
        let grown = [before, after].iter().try_fold(dims[own].number(), |sum, by| Some(Some(sum? + by.number()?)));
        to[own] = grown.flatten().map_or_else(|| cx.symbols.any_size(), Size::of);
    }
    Ok(vec![Value::rows(row, to)])
}

/// Blocks of channels and of space change places, within each of the first axis.
pub(crate) fn rearranged(cx: &mut Context<'_>) -> RuleResult {
    let (row, dims) = (cx.row_axis(0)?, cx.dims(0)?);
    if row.as_ref().is_some_and(|row| row.axis != 0) {
        return unknown("rearranges the rows' axis");
    }
    let to = cx.any_after(&dims, dims.len());
    Ok(vec![kept(row, to)])
}
