//! Quantised operators. Fixed scales leave rows apart; a range that is found while it
//! runs is that of the whole tensor, so that each row's rounding is the others' too.

use super::context::{Context, Rule, Ruled, first_axis, kept, mixed, unknown};
use super::elementwise::broadcast;
use super::matrix::product;
use crate::models::rows::dim::Size;
use crate::models::rows::value::Value;

pub(super) fn rule(op: &str) -> Option<Rule> {
    Some(match op {
        "QuantizeLinear" | "DequantizeLinear" => linear,
        "DynamicQuantizeLinear" => dynamic,
        "QLinearConv" => conv,
        "QLinearMatMul" => matmul,
        "MatMulInteger" => integers,
        _ => return None,
    })
}

pub(super) fn of_microsoft(op: &str) -> Option<Rule> {
    Some(match op {
        "QuantizeLinear" | "DequantizeLinear" => linear,
        "DynamicQuantizeMatMul" | "DynamicQuantizeLSTM" | "DynamicQuantizeLinear" => dynamic,
        "QLinearSigmoid" | "QLinearLeakyRelu" => first_alone,
        "QLinearAdd" | "QLinearMul" => two,
        "QLinearGlobalAveragePool" | "QLinearAveragePool" => pool,
        "QGemm" => gemm,
        "MatMulIntegerToFloat" => integers,
        _ => return None,
    })
}

fn dynamic(cx: &mut Context<'_>) -> Ruled {
    match cx.inputs.iter().flatten().all(Value::is_same) {
        true => Ok(vec![Value::same(None); cx.node.outputs.len()]),
        false => mixed("quantises by the range of all rows together"),
    }
}

/// The scale is one number, or one for each place of an axis that is not the rows'.
fn linear(cx: &mut Context<'_>) -> Ruled {
    cx.others_same(1)?;
    let (lie, dims) = (cx.lie(0)?, cx.dims(0)?);
    let scale = cx.dims(1)?;
    let alone = scale.is_empty() || (scale.len() == 1 && scale[0].is(1));
    if !alone && let Some(lie) = &lie {
        let at = cx.axis("axis", 1, dims.len())?;
        if at == lie.axis {
            return mixed("has a scale for each of a fixed number of rows");
        }
        if scale.len() > 1 {
            return unknown("has scales for blocks");
        }
    }
    Ok(vec![kept(lie, dims)])
}

fn first_alone(cx: &mut Context<'_>) -> Ruled {
    cx.others_same(1)?;
    Ok(vec![kept(cx.lie(0)?, cx.dims(0)?)])
}

fn same(cx: &Context<'_>, inputs: &[usize]) -> bool {
    inputs.iter().all(|&at| cx.input(at).is_none_or(Value::is_same))
}

fn two(cx: &mut Context<'_>) -> Ruled {
    if !same(cx, &[1, 2, 4, 5, 6, 7]) {
        return unknown("has scales that are not the same for all rows");
    }
    let (one, other) = (cx.need(0)?.clone(), cx.need(3)?.clone());
    Ok(vec![broadcast(cx, &[&one, &other])?])
}

fn conv(cx: &mut Context<'_>) -> Ruled {
    let lie = first_axis(cx)?;
    let dims = cx.dims(0)?;
    let mut to = cx.any(dims.len());
    to[0] = dims[0].clone();
    if let Some(channels) = cx.input(3).and_then(|weights| weights.dims.as_ref()?.first().cloned()) {
        to[1] = channels;
    }
    Ok(vec![kept(lie, to)])
}

fn pool(cx: &mut Context<'_>) -> Ruled {
    let lie = first_axis(cx)?;
    let dims = cx.dims(0)?;
    if cx.node.int("channels_last", 0) != 0 {
        let mut to = cx.any(dims.len());
        to[0] = dims[0].clone();
        return Ok(vec![kept(lie, to)]);
    }
    let global = cx.node.op.contains("Global");
    let to = dims.iter().enumerate().map(|(at, size)| match at {
        0 | 1 => size.clone(),
        _ if global => Size::of(1),
        _ => cx.symbols.any_size(),
    });
    let to = to.collect();
    Ok(vec![kept(lie, to)])
}

fn matmul(cx: &mut Context<'_>) -> Ruled {
    if !same(cx, &[1, 2, 4, 5, 6, 7]) {
        return unknown("has scales that are not the same for all rows");
    }
    let scalar =
        |at: usize| cx.need(at).map(|value| value.dims.as_ref().is_some_and(|dims| dims.iter().all(|size| size.is(1))));
    if !scalar(1)? || !scalar(6)? {
        return unknown("has a scale for each of a number of rows");
    }
    let (one, other) = (cx.need(0)?.clone(), cx.need(3)?.clone());
    Ok(vec![product(cx, &one, &other)?])
}

fn gemm(cx: &mut Context<'_>) -> Ruled {
    cx.others_same(1)?;
    if cx.node.int("transA", 0) != 0 {
        return unknown("is turned");
    }
    let lie = first_axis(cx)?;
    let rows = cx.dims(0)?.first().cloned();
    let columns = cx.symbols.any_size();
    Ok(vec![kept(lie, rows.into_iter().chain([columns]).collect())])
}

fn integers(cx: &mut Context<'_>) -> Ruled {
    if !cx.inputs.iter().skip(2).flatten().all(Value::is_same) {
        return unknown("has zero points that are not the same for all rows");
    }
    let small = |value: &Value| value.dims.as_ref().is_some_and(|dims| dims.iter().all(|size| size.is(1)));
    // One for each row would be one for a fixed number of them; those of weights are columns'.
    let of_left = if cx.node.domain.is_empty() { vec![2] } else { vec![2, 4] };
    if of_left.iter().any(|&at| cx.input(at).is_some_and(|value| !small(value))) {
        return unknown("has a zero point for each of a number of rows");
    }
    let (one, other) = (cx.need(0)?.clone(), cx.need(1)?.clone());
    Ok(vec![product(cx, &one, &other)?])
}
