//! Operators that pick by index, and those whose answer depends on the data.

use super::context::{Context, RuleResult, axis, kept, mixed, unknown};
use crate::models::rows::dim::Size;
use crate::models::rows::value::{Kind, Value};

pub(crate) fn gather(cx: &mut Context<'_>) -> RuleResult {
    let (data, indices) = (cx.need(0)?.clone(), cx.need(1)?.clone());
    if data.kind == Kind::Counts || indices.kind == Kind::Counts {
        return counted(&data, &indices);
    }
    let (own, picks) = (&cx.dims(0)?, &cx.dims(1)?);
    let at = cx.axis("axis", 0, own.len())?;
    let to: Vec<Size> = own[..at].iter().chain(picks).chain(&own[at + 1..]).cloned().collect();
    let row = match (data.row_axis(), indices.row_axis()) {
        (None, None) => {
            let picked = picked(&data, &indices).filter(|_| own.len() == 1);
            return Ok(vec![picked.unwrap_or_else(|| Value::same(Some(to)))]);
        }
        (None, Some(row)) => row.on(at + row.axis),
        (Some(row), None) if row.axis == at => return mixed("takes some of the rows"),
        (Some(row), None) if row.axis < at => row.clone(),
        (Some(row), None) => row.on(row.axis - 1 + picks.len()),
        (Some(row), Some(_)) if row.axis == at => return mixed("takes rows by their places in the whole"),
        (Some(_), Some(_)) => return mixed("takes from each row for every other"),
    };
    Ok(vec![Value::rows(row, to)])
}

/// Picks elements of a list of sizes, such as the number of rows of a shape.
fn counted(data: &Value, indices: &Value) -> RuleResult {
    if data.row_axis().is_some() || indices.row_axis().is_some() {
        return unknown("takes by places that depend on how many rows there are");
    }
    let picked = picked(data, indices).filter(|_| data.rank() == Some(1));
    Ok(vec![picked.unwrap_or_else(|| Value::counts(None))])
}

fn picked(data: &Value, indices: &Value) -> Option<Value> {
    let (elements, places) = (data.elements.as_ref()?, indices.numbers()?);
    let len = elements.len() as i64;
    let at = |place: i64| usize::try_from(if place < 0 { place + len } else { place }).ok();
    let picked: Option<Vec<_>> = places.iter().map(|&place| elements.get(at(place)?).cloned()).collect();
    Some(Value::of_elements(indices.dims.clone()?, picked?))
}

pub(crate) fn gather_elements(cx: &mut Context<'_>) -> RuleResult {
    let (own, picks) = (cx.row_axis(0)?, cx.row_axis(1)?);
    let to = cx.dims(1)?;
    let at = cx.axis("axis", 0, to.len())?;
    let row = match (own, picks) {
        (None, None) => return Ok(vec![Value::same(Some(to))]),
        (Some(own), Some(picks)) if own == picks && own.axis != at => own,
        (Some(own), _) if own.axis == at => return mixed("takes rows by their places in the whole"),
        _ => return mixed("sets rows against a fixed number of them"),
    };
    Ok(vec![Value::rows(row, to)])
}

pub(crate) fn gather_nd(cx: &mut Context<'_>) -> RuleResult {
    let (data, indices) = (cx.row_axis(0)?, cx.row_axis(1)?);
    let (own, picks) = (cx.dims(0)?, cx.dims(1)?);
    let shared = usize::try_from(cx.node.int("batch_dims", 0)).unwrap_or(usize::MAX);
    let depth = picks.last().and_then(Size::number).and_then(|depth| usize::try_from(depth).ok());
    let Some(depth) = depth.filter(|depth| shared < picks.len() && shared + depth <= own.len()) else {
        return unknown("takes by places of which not enough is known");
    };
    let last = picks.len() - 1;
    let to: Vec<Size> = picks[..last].iter().chain(&own[shared + depth..]).cloned().collect();
    let row = match (data, indices) {
        (Some(data), Some(indices)) if data == indices && data.axis < shared => data,
        (None, Some(indices)) if indices.axis >= shared && indices.axis < last => indices,
        (Some(data), None) if data.axis >= shared + depth => data.on(last + data.axis - shared - depth),
        _ => return mixed("takes rows by their places in the whole"),
    };
    Ok(vec![Value::rows(row, to)])
}

pub(crate) fn scatter_elements(cx: &mut Context<'_>) -> RuleResult {
    let rows = [cx.row_axis(0)?, cx.row_axis(1)?, cx.row_axis(2)?];
    let to = cx.dims(0)?;
    let at = cx.axis("axis", 0, to.len())?;
    match rows {
        [None, None, None] => Ok(vec![Value::same(Some(to))]),
        [Some(own), Some(picks), Some(new)] if own == picks && picks == new && own.axis != at => {
            Ok(vec![Value::rows(own, to)])
        }
        _ => mixed("writes to rows by their places in the whole"),
    }
}

pub(crate) fn scatter_nd(cx: &mut Context<'_>) -> RuleResult {
    let rows = [cx.row_axis(0)?, cx.row_axis(1)?, cx.row_axis(2)?];
    let to = cx.dims(0)?;
    let (places, last) = (cx.dims(1)?, cx.dims(1)?.len().saturating_sub(1));
    let depth = places.last().and_then(Size::number).and_then(|depth| usize::try_from(depth).ok());
    match (rows, depth) {
        ([None, None, None], _) => Ok(vec![Value::same(Some(to))]),
        // Within each row, to places that are the same for all.
        ([Some(own), None, Some(new)], Some(depth)) if own.axis >= depth && new == own.on(last + own.axis - depth) => {
            Ok(vec![Value::rows(own, to)])
        }
        _ => mixed("writes to rows by their places in the whole"),
    }
}

pub(crate) fn one_hot(cx: &mut Context<'_>) -> RuleResult {
    let (row, own) = (cx.row_axis(0)?, cx.dims(0)?);
    cx.others_same(1)?;
    let at = cx.axis("axis", -1, own.len() + 1)?;
    let depth = cx.need(1)?.scalar().cloned();
    let mut to = own;
    to.insert(at, depth.unwrap_or_else(|| cx.symbols.any_size()));
    Ok(vec![kept(row.map(|row| row.on(row.axis + usize::from(at <= row.axis))), to)])
}

pub(crate) fn compress(cx: &mut Context<'_>) -> RuleResult {
    let (row, own) = (cx.row_axis(0)?, cx.dims(0)?);
    match (&row, cx.node.attribute("axis"), cx.need(1)?.is_same()) {
        (None, _, true) => return Ok(vec![Value::same(None)]),
        (Some(row), Some(at), true) if axis(at.int, own.len())? != row.axis => {}
        _ => return mixed("drops what the data say"),
    }
    let at = cx.axis("axis", 0, own.len())?;
    let mut to = own;
    to[at] = cx.symbols.any_size();
    Ok(vec![kept(row, to)])
}

pub(crate) fn top_k(cx: &mut Context<'_>) -> RuleResult {
    let (row, mut to) = (cx.row_axis(0)?, cx.dims(0)?);
    let at = cx.axis("axis", -1, to.len())?;
    if row.as_ref().is_some_and(|row| row.axis == at) {
        return mixed("ranks the rows");
    }
    cx.others_same(1)?;
    let count = cx.input(1).and_then(|count| count.scalar().cloned());
    to[at] = count.unwrap_or_else(|| cx.symbols.any_size());
    let value = kept(row, to);
    Ok(vec![value.clone(), value])
}

pub(crate) fn trilu(cx: &mut Context<'_>) -> RuleResult {
    let (row, to) = (cx.row_axis(0)?, cx.dims(0)?);
    cx.others_same(1)?;
    match row {
        Some(row) if row.axis + 2 >= to.len() => mixed("keeps of each row what its place says"),
        row => Ok(vec![kept(row, to)]),
    }
}

pub(crate) fn reverse_sequence(cx: &mut Context<'_>) -> RuleResult {
    let (row, lens, to) = (cx.row_axis(0)?, cx.row_axis(1)?, cx.dims(0)?);
    let (of, time) = (cx.axis("batch_axis", 1, to.len())?, cx.axis("time_axis", 0, to.len())?);
    let lens = lens.map(|lens| lens.on(of));
    match row {
        None if lens.is_none() => Ok(vec![Value::same(Some(to))]),
        Some(row) if row.axis == time => mixed("turns the order of the rows"),
        Some(row) if row.axis == of && lens.as_ref() == Some(&row) => Ok(vec![Value::rows(row, to)]),
        Some(row) if row.axis != of && lens.is_none() => Ok(vec![Value::rows(row, to)]),
        _ => mixed("sets rows against a fixed number of them"),
    }
}

pub(crate) fn diagonal(cx: &mut Context<'_>) -> RuleResult {
    let (same, dims) = (cx.need(0)?.is_same(), cx.need(0)?.dims.clone());
    if same { Ok(vec![Value::same(dims)]) } else { mixed("gives each row what its place says") }
}

pub(crate) fn counts_words(cx: &mut Context<'_>) -> RuleResult {
    let (row, dims) = (cx.row_axis(0)?, cx.dims(0)?);
    match (row, &dims[..]) {
        (None, _) => Ok(vec![Value::same(None)]),
        (Some(row), [first, _]) if row.is_plain() => {
            let first = first.clone();
            let to = vec![first, cx.symbols.any_size()];
            Ok(vec![Value::rows(row, to)])
        }
        _ => mixed("counts over all rows"),
    }
}
