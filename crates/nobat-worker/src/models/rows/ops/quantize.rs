//! Quantised operators. Fixed scales leave rows apart; a range that is found while it
//! runs is that of the whole tensor, so that each row's rounding depends on the others.

use super::context::{Context, RuleResult, Stop, kept, mixed, unknown};
use super::elementwise::broadcast;
use super::matrix::product;
use crate::models::rows::dim::Size;
use crate::models::rows::value::Value;

pub(crate) fn dynamic(_: &mut Context<'_>) -> RuleResult {
    mixed("quantises by the range of all rows together")
}

/// The scale is one number, or one for each place of an axis that is not the rows'.
pub(crate) fn linear(cx: &mut Context<'_>) -> RuleResult {
    cx.others_same(1)?;
    let (row, dims) = (cx.row_axis(0)?, cx.dims(0)?);
    let scale = cx.dims(1)?;
    let alone = scale.is_empty() || (scale.len() == 1 && scale[0].is(1));
    if !alone && let Some(row) = &row {
        if cx.axis("axis", 1, dims.len())? == row.axis {
            return mixed("has a scale for each of a fixed number of rows");
        }
        if scale.len() > 1 {
            return unknown("has scales for blocks");
        }
    }
    Ok(vec![kept(row, dims)])
}

pub(crate) fn first_alone(cx: &mut Context<'_>) -> RuleResult {
    cx.others_same(1)?;
    Ok(vec![kept(cx.row_axis(0)?, cx.dims(0)?)])
}

/// The two inputs between their scales, which are the same for all rows.
fn scaled(cx: &Context<'_>) -> Result<(Value, Value), Stop> {
    match cx.are_same(&[1, 2, 4, 5, 6, 7]) {
        true => Ok((cx.need(0)?.clone(), cx.need(3)?.clone())),
        false => unknown("has scales that are not the same for all rows"),
    }
}

pub(crate) fn two(cx: &mut Context<'_>) -> RuleResult {
    let (one, other) = scaled(cx)?;
    Ok(vec![broadcast(cx, &[&one, &other])?])
}

pub(crate) fn conv(cx: &mut Context<'_>) -> RuleResult {
    let (row, dims) = cx.first_axis()?;
    let mut to = cx.any_after(&dims, dims.len());
    let channels = cx.input(3).and_then(|weights| weights.dims.as_ref()?.first().cloned());
    if let (Some(place), Some(channels)) = (to.get_mut(1), channels) {
        *place = channels;
    }
    Ok(vec![kept(row, to)])
}

pub(crate) fn pool(cx: &mut Context<'_>) -> RuleResult {
    let (row, dims) = cx.first_axis()?;
    if cx.node.int("channels_last", 0) != 0 {
        let to = cx.any_after(&dims, dims.len());
        return Ok(vec![kept(row, to)]);
    }
    let global = cx.node.op.contains("Global");
    let to = dims.iter().enumerate().map(|(at, size)| match at {
        0 | 1 => size.clone(),
        _ if global => Size::of(1),
        _ => cx.symbols.any_size(),
    });
    let to = to.collect();
    Ok(vec![kept(row, to)])
}

/// Whether all axes are of length 1.
fn is_single(value: &Value) -> bool {
    value.dims.as_ref().is_some_and(|dims| dims.iter().all(|size| size.is(1)))
}

pub(crate) fn matmul(cx: &mut Context<'_>) -> RuleResult {
    let (one, other) = scaled(cx)?;
    if !is_single(cx.need(1)?) || !is_single(cx.need(6)?) {
        return unknown("has a scale for each of a number of rows");
    }
    Ok(vec![product(cx, &one, &other)?])
}

pub(crate) fn gemm(cx: &mut Context<'_>) -> RuleResult {
    if cx.node.int("transA", 0) != 0 {
        return unknown("is turned");
    }
    let (row, dims) = cx.first_axis()?;
    let columns = cx.symbols.any_size();
    Ok(vec![kept(row, dims.into_iter().take(1).chain([columns]).collect())])
}

pub(crate) fn integers(cx: &mut Context<'_>) -> RuleResult {
    if !cx.inputs.iter().skip(2).flatten().all(Value::is_same) {
        return unknown("has zero points that are not the same for all rows");
    }
    // One for each row would be one for a fixed number of them; those of weights are columns'.
    let of_left: &[usize] = if cx.node.domain.is_empty() { &[2] } else { &[2, 4] };
    if of_left.iter().any(|&at| cx.input(at).is_some_and(|value| !is_single(value))) {
        return unknown("has a zero point for each of a number of rows");
    }
    let (one, other) = (cx.need(0)?.clone(), cx.need(1)?.clone());
    Ok(vec![product(cx, &one, &other)?])
}
