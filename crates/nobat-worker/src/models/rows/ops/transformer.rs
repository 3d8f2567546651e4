//! Attention and what transformers are fused to, of the standard and of ONNX Runtime's
//! own domain. Their batch axis is the first of every input that has one.

use super::context::{Context, Rule, Ruled, Stop, kept, mixed, unknown};
use super::conv::conv;
use super::elementwise::{broadcast, elementwise};
use super::matrix::{gemm, product};
use crate::models::rows::dim::Size;
use crate::models::rows::value::{Lie, Value};

/// Of the standard.
pub(super) fn standard(op: &str) -> Option<Rule> {
    Some(match op {
        "Attention" => attention_of_standard,
        "RotaryEmbedding" => rotary,
        _ => return None,
    })
}

/// Of ONNX Runtime.
pub(super) fn rule(op: &str) -> Option<Rule> {
    Some(match op {
        "Gelu" | "FastGelu" | "BiasGelu" | "QuickGelu" => elementwise,
        "FusedMatMul" | "TransposeMatMul" => fused_matmul,
        "MatMulNBits" | "MatMulBnb4" => weights_of_bits,
        "FusedGemm" => gemm,
        "FusedConv" => conv,
        "SkipLayerNormalization" | "SkipSimplifiedLayerNormalization" => skip,
        "EmbedLayerNormalization" => embed,
        "Attention" => attention,
        "MultiHeadAttention" => multi_head,
        "RotaryEmbedding" => rotary,
        _ => return None,
    })
}

/// Each of these inputs is the same for all rows, or has them on the first axis; then
/// the whole does.
fn first_axes(cx: &Context<'_>, inputs: &[usize], always: &[usize]) -> Result<Option<Lie>, Stop> {
    let rows = Lie::along(0);
    let mut found = false;
    for &at in inputs {
        let Some(value) = cx.input(at) else { continue };
        match cx.lie(at)? {
            Some(lie) if lie == rows => found = true,
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
    match inputs.iter().all(|&at| cx.input(at).is_none_or(Value::is_same)) {
        true => Ok(()),
        false => unknown("has weights that are not the same for all rows"),
    }
}

/// The first axis is the rows', the others are anything.
fn rows_of(cx: &mut Context<'_>, lie: Option<Lie>, rank: usize) -> Result<Value, Stop> {
    let first = cx.dims(0)?.first().cloned();
    let mut dims = cx.any(rank);
    if let (Some(place), Some(first)) = (dims.first_mut(), first) {
        *place = first;
    }
    Ok(kept(lie, dims))
}

fn fused_matmul(cx: &mut Context<'_>) -> Ruled {
    let turned = |name: &str| cx.node.int(name, 0) != 0;
    if turned("transBatchA") || turned("transBatchB") {
        return unknown("turns its batch axes");
    }
    let last_two = |value: &Value, turn: bool| {
        let Some(dims) = value.dims.clone().filter(|dims| turn && dims.len() > 1) else { return value.clone() };
        let (mut dims, last) = (dims.clone(), dims.len() - 1);
        dims.swap(last - 1, last);
        match value.lie() {
            Some(lie) if lie.axis == last => Value::rows(lie.on(last - 1), dims),
            Some(lie) if lie.axis + 1 == last => Value::rows(lie.on(last), dims),
            Some(lie) => Value::rows(lie.clone(), dims),
            None => Value { kind: value.kind.clone(), dims: Some(dims), elements: None },
        }
    };
    let (one, other) = (last_two(cx.need(0)?, turned("transA")), last_two(cx.need(1)?, turned("transB")));
    Ok(vec![product(cx, &one, &other)?])
}

fn weights_of_bits(cx: &mut Context<'_>) -> Ruled {
    cx.others_same(1)?;
    let (lie, mut dims) = (cx.lie(0)?, cx.dims(0)?);
    if lie.as_ref().is_some_and(|lie| lie.axis + 1 == dims.len()) {
        return mixed("sums over the rows");
    }
    if let Some(last) = dims.last_mut() {
        *last = Size::of(cx.node.int("N", 0));
    }
    Ok(vec![kept(lie, dims)])
}

/// Two tensors added, and normalised over the last axis.
fn skip(cx: &mut Context<'_>) -> Ruled {
    only_same(cx, &[2, 3, 4])?;
    let (one, other) = (cx.need(0)?.clone(), cx.need(1)?.clone());
    let sum = broadcast(cx, &[&one, &other])?;
    if sum.lie().is_some_and(|lie| Some(lie.axis + 1) == sum.rank()) || sum.lie() != one.lie() {
        return mixed("normalises over the rows");
    }
    let mut statistics = sum.clone();
    if let Some(last) = statistics.dims.as_mut().and_then(|dims| dims.last_mut()) {
        *last = Size::of(1);
    }
    Ok(vec![sum.clone(), statistics.clone(), statistics, sum])
}

fn embed(cx: &mut Context<'_>) -> Ruled {
    only_same(cx, &[2, 3, 4, 5, 6])?;
    let lie = first_axes(cx, &[0, 1, 7], &[0, 1, 7])?;
    if cx.input(8).is_some_and(|positions| !positions.is_same()) {
        return unknown("has positions that are not the same for all rows");
    }
    if cx
        .input(8)
        .is_some_and(|positions| positions.dims.as_ref().and_then(|dims| dims.first()).is_none_or(|first| !first.is(1)))
    {
        return unknown("has positions for a number of rows");
    }
    let out = rows_of(cx, lie.clone(), 3)?;
    let lens = rows_of(cx, lie, 1)?;
    Ok(vec![out.clone(), lens, out])
}

/// A mask of as many axes as `rank` has one for each row in the first, or one for all.
fn mask(cx: &Context<'_>, at: usize, rows: Option<&Lie>) -> Result<(), Stop> {
    let Some(value) = cx.input(at) else { return Ok(()) };
    let Some(rows) = rows else { return Ok(()) };
    match value.lie() {
        Some(lie) if lie == rows => Ok(()),
        Some(_) => unknown("has a mask whose rows lie elsewhere"),
        None => match value.dims.as_deref() {
            Some([first, ..]) if value.is_same() && first.is(1) => Ok(()),
            _ => unknown("has a mask for a number of rows"),
        },
    }
}

fn attention(cx: &mut Context<'_>) -> Ruled {
    only_same(cx, &[1, 2, 6])?;
    let lie = first_axes(cx, &[0], &[])?;
    mask(cx, 3, lie.as_ref())?;
    mask(cx, 5, lie.as_ref())?;
    if cx.input(4).is_some() {
        return unknown("has past states of axes of their own");
    }
    // A mask of one axis may also hold where rows end and begin.
    if cx.input(3).is_some_and(|mask| mask.rank() == Some(1) && mask.lie() != lie.as_ref()) {
        return unknown("has a mask whose rows lie elsewhere");
    }
    Ok(vec![rows_of(cx, lie, 3)?])
}

fn multi_head(cx: &mut Context<'_>) -> Ruled {
    only_same(cx, &[3])?;
    let lie = first_axes(cx, &[0, 1, 2, 6, 7], &[0, 1, 2, 6, 7])?;
    mask(cx, 4, lie.as_ref())?;
    mask(cx, 5, lie.as_ref())?;
    if cx.inputs.len() > 8 {
        return unknown("has inputs that are not followed");
    }
    let out = rows_of(cx, lie.clone(), 3)?;
    let state = rows_of(cx, lie, 4)?;
    Ok(vec![out, state.clone(), state])
}

fn attention_of_standard(cx: &mut Context<'_>) -> Ruled {
    let lie = first_axes(cx, &[0, 1, 2, 4, 5, 6], &[0, 1, 2, 4, 5, 6])?;
    let rank = cx.dims(0)?.len();
    match cx.input(3).map(|mask| (mask.rank(), mask.lie())) {
        None => {}
        Some((Some(4), _)) => mask(cx, 3, lie.as_ref())?,
        Some((Some(2 | 3), None)) if cx.need(3)?.is_same() => {}
        _ => return unknown("has a mask whose rows lie elsewhere"),
    }
    let out = rows_of(cx, lie.clone(), rank)?;
    let state = rows_of(cx, lie, 4)?;
    Ok(vec![out, state.clone(), state.clone(), state])
}

fn rotary(cx: &mut Context<'_>) -> Ruled {
    let lie = first_axes(cx, &[0], &[])?;
    // The standard has the positions last, ONNX Runtime's own second.
    let positions = if cx.node.domain.is_empty() { 3 } else { 1 };
    let caches: &[usize] = if cx.node.domain.is_empty() { &[1, 2] } else { &[2, 3] };
    match (cx.input(positions), &lie) {
        (None, Some(rows)) if !caches.iter().all(|&at| cx.input(at).and_then(Value::lie) == Some(rows)) => {
            return mixed("has angles for a fixed number of rows");
        }
        (Some(value), Some(rows)) => {
            only_same(cx, caches)?;
            let shared = value.is_same() && value.rank() == Some(1) && !cx.node.domain.is_empty();
            if value.lie() != Some(rows) && !shared {
                return mixed("has positions for a fixed number of rows");
            }
        }
        _ => {}
    }
    Ok(vec![kept(lie, cx.dims(0)?)])
}
