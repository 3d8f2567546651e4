//! Attention and what transformers are fused to, of the standard and of ONNX Runtime's
//! own domain. Their batch axis is the first of every input that has one.

use super::context::{Context, RuleResult, Stop, kept, mixed, unknown};
use super::elementwise::broadcast;
use super::matrix::{product, swapped};
use crate::models::rows::dim::Size;
use crate::models::rows::value::{RowAxis, Value};

/// Each of these inputs is the same for all rows, or has them on the first axis; then
/// the whole does.
fn first_axes(cx: &Context<'_>, inputs: &[usize], always: &[usize]) -> Result<Option<RowAxis>, Stop> {
    let rows = RowAxis::along(0);
    let mut found = false;
    for &at in inputs {
        let Some(value) = cx.input(at) else { continue };
        match cx.row_axis(at)? {
            Some(row) if row == rows => found = true,
            Some(_) => return unknown("has rows on another axis than the first"),
            None if value.is_same() => {}
            None => return mixed("depends on how many rows there are"),
        }
    }
    if found {
        for &at in always {
            if cx.input(at).is_some_and(Value::is_same) {
                return mixed("sets rows against a fixed number of them");
            }
        }
    }
    Ok(found.then_some(rows))
}

fn only_same(cx: &Context<'_>, inputs: &[usize]) -> Result<(), Stop> {
    if cx.are_same(inputs) { Ok(()) } else { unknown("has weights that are not the same for all rows") }
}

/// The first axis is the rows', the others are anything.
fn rows_of(cx: &mut Context<'_>, row: Option<RowAxis>, rank: usize) -> Result<Value, Stop> {
    let dims = cx.dims(0)?;
    Ok(kept(row, cx.any_after(&dims, rank)))
}

pub(crate) fn fused_matmul(cx: &mut Context<'_>) -> RuleResult {
    let turned = |name: &str| cx.node.int(name, 0) != 0;
    if turned("transBatchA") || turned("transBatchB") {
        return unknown("turns its batch axes");
    }
    let (one, other) = (swapped(cx.need(0)?, turned("transA")), swapped(cx.need(1)?, turned("transB")));
    Ok(vec![product(cx, &one, &other)?])
}

pub(crate) fn weights_of_bits(cx: &mut Context<'_>) -> RuleResult {
    cx.others_same(1)?;
    let (row, mut dims) = (cx.row_axis(0)?, cx.dims(0)?);
    if row.as_ref().is_some_and(|row| row.axis + 1 == dims.len()) {
        return mixed("sums over the rows");
    }
    if let Some(last) = dims.last_mut() {
        *last = Size::of(cx.node.int("N", 0));
    }
    Ok(vec![kept(row, dims)])
}

/// Two tensors added, and normalised over the last axis.
pub(crate) fn skip(cx: &mut Context<'_>) -> RuleResult {
    only_same(cx, &[2, 3, 4])?;
    let (one, other) = (cx.need(0)?.clone(), cx.need(1)?.clone());
    let sum = broadcast(cx, &[&one, &other])?;
    if sum.row_axis().is_some_and(|row| Some(row.axis + 1) == sum.rank()) || sum.row_axis() != one.row_axis() {
        return mixed("normalises over the rows");
    }
    let mut statistics = sum.clone();
    if let Some(last) = statistics.dims.as_mut().and_then(|dims| dims.last_mut()) {
        *last = Size::of(1);
    }
    Ok(vec![sum.clone(), statistics.clone(), statistics, sum])
}

pub(crate) fn embed(cx: &mut Context<'_>) -> RuleResult {
    only_same(cx, &[2, 3, 4, 5, 6])?;
    let row = first_axes(cx, &[0, 1, 7], &[0, 1, 7])?;
    if let Some(positions) = cx.input(8) {
        if !positions.is_same() {
            return unknown("has positions that are not the same for all rows");
        }
        if positions.dims.as_ref().and_then(|dims| dims.first()).is_none_or(|first| !first.is(1)) {
            return unknown("has positions for a number of rows");
        }
    }
    let out = rows_of(cx, row.clone(), 3)?;
    let lens = rows_of(cx, row, 1)?;
    Ok(vec![out.clone(), lens, out])
}

/// A mask of as many axes as `rank` has one for each row in the first, or one for all.
fn mask(cx: &Context<'_>, at: usize, rows: Option<&RowAxis>) -> Result<(), Stop> {
    let Some(value) = cx.input(at) else { return Ok(()) };
    let Some(rows) = rows else { return Ok(()) };
    match value.row_axis() {
        Some(row) if row == rows => Ok(()),
        Some(_) => unknown("has a mask whose rows lie elsewhere"),
        None => match value.dims.as_deref() {
            Some([first, ..]) if value.is_same() && first.is(1) => Ok(()),
            _ => unknown("has a mask for a number of rows"),
        },
    }
}

pub(crate) fn attention(cx: &mut Context<'_>) -> RuleResult {
    only_same(cx, &[1, 2, 6])?;
    let row = first_axes(cx, &[0], &[])?;
    mask(cx, 3, row.as_ref())?;
    mask(cx, 5, row.as_ref())?;
    if cx.input(4).is_some() {
        return unknown("has past states of axes of their own");
    }
    // A mask of one axis may also hold where rows end and begin.
    if cx.input(3).is_some_and(|mask| mask.rank() == Some(1) && mask.row_axis() != row.as_ref()) {
        return unknown("has a mask whose rows lie elsewhere");
    }
    Ok(vec![rows_of(cx, row, 3)?])
}

pub(crate) fn multi_head(cx: &mut Context<'_>) -> RuleResult {
    only_same(cx, &[3])?;
    let row = first_axes(cx, &[0, 1, 2, 6, 7], &[0, 1, 2, 6, 7])?;
    mask(cx, 4, row.as_ref())?;
    mask(cx, 5, row.as_ref())?;
    if cx.inputs.len() > 8 {
        return unknown("has inputs that are not followed");
    }
    let out = rows_of(cx, row.clone(), 3)?;
    let state = rows_of(cx, row, 4)?;
    Ok(vec![out, state.clone(), state])
}

pub(crate) fn attention_of_standard(cx: &mut Context<'_>) -> RuleResult {
    let row = first_axes(cx, &[0, 1, 2, 4, 5, 6], &[0, 1, 2, 4, 5, 6])?;
    let rank = cx.dims(0)?.len();
    match cx.input(3).map(|mask| (mask.rank(), mask.row_axis())) {
        None => {}
        Some((Some(4), _)) => mask(cx, 3, row.as_ref())?,
        Some((Some(2 | 3), None)) if cx.need(3)?.is_same() => {}
        _ => return unknown("has a mask whose rows lie elsewhere"),
    }
    let out = rows_of(cx, row.clone(), rank)?;
    let state = rows_of(cx, row, 4)?;
    Ok(vec![out, state.clone(), state.clone(), state])
}

pub(crate) fn rotary(cx: &mut Context<'_>) -> RuleResult {
    let row = first_axes(cx, &[0], &[])?;
    // The standard has the positions last, ONNX Runtime's own second.
    let positions = if cx.node.domain.is_empty() { 3 } else { 1 };
    let caches: &[usize] = if cx.node.domain.is_empty() { &[1, 2] } else { &[2, 3] };
    match (cx.input(positions), &row) {
        (None, Some(rows)) if !caches.iter().all(|&at| cx.input(at).and_then(Value::row_axis) == Some(rows)) => {
            return mixed("has angles for a fixed number of rows");
        }
        (Some(value), Some(rows)) => {
            only_same(cx, caches)?;
            let shared = value.is_same() && value.rank() == Some(1) && !cx.node.domain.is_empty();
            if value.row_axis() != Some(rows) && !shared {
                return mixed("has positions for a fixed number of rows");
            }
        }
        _ => {}
    }
    Ok(vec![kept(row, cx.dims(0)?)])
}
