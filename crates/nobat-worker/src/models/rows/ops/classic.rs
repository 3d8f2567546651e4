//! The classic models of `ai.onnx.ml`: trees, linear models, encoders. Their rows are
//! the first axis of a matrix.

use super::context::{Context, RuleResult, Stop, kept, mixed, unknown};
use crate::models::rows::dim::Size;
use crate::models::rows::value::{RowAxis, Value};

const ONE_ROW: &str = "takes all rows for one";

/// Where the rows of the first input are, a matrix whose first axis they are, and its
/// dimensions. A vector is one row to some of these.
fn matrix(cx: &Context<'_>) -> Result<(RowAxis, Vec<Size>), Stop> {
    cx.others_same(1)?;
    let dims = cx.dims(0)?;
    match cx.row_axis(0)? {
        Some(row) if row.axis == 0 && dims.len() == 2 => Ok((row, dims)),
        _ => unknown(ONE_ROW),
    }
}

pub(crate) fn classifier(cx: &mut Context<'_>) -> RuleResult {
    let (row, dims) = matrix(cx)?;
    let scores = vec![dims[0].clone(), cx.symbols.any_size()];
    Ok(vec![Value::rows(row.clone(), vec![dims[0].clone()]), Value::rows(row, scores)])
}

/// A row of another width for each.
pub(crate) fn wider(cx: &mut Context<'_>) -> RuleResult {
    let (row, dims) = matrix(cx)?;
    Ok(vec![Value::rows(row, vec![dims[0].clone(), cx.symbols.any_size()])])
}

pub(crate) fn one_hot(cx: &mut Context<'_>) -> RuleResult {
    let (row, mut dims) = (cx.row_axis(0)?, cx.dims(0)?);
    dims.push(cx.symbols.any_size());
    Ok(vec![kept(row, dims)])
}

pub(crate) fn by_row(cx: &mut Context<'_>) -> RuleResult {
    let (row, dims) = matrix(cx)?;
    Ok(vec![Value::rows(row, dims)])
}

pub(crate) fn by_element(cx: &mut Context<'_>) -> RuleResult {
    Ok(vec![kept(cx.row_axis(0)?, cx.dims(0)?)])
}

/// Picks places of the last axis.
pub(crate) fn columns(cx: &mut Context<'_>) -> RuleResult {
    cx.others_same(1)?;
    let (row, mut dims) = (cx.row_axis(0)?, cx.dims(0)?);
    match &row {
        None => return Ok(vec![Value::same(None)]),
        // A vector comes out as a matrix of one row.
        Some(own) if own.axis + 1 == dims.len() => return mixed("takes some of the rows"),
        Some(_) => {}
    }
    if let Some(last) = dims.last_mut() {
        *last = cx.symbols.any_size();
    }
    Ok(vec![kept(row, dims)])
}

pub(crate) fn beside(cx: &mut Context<'_>) -> RuleResult {
    let mut joint = None;
    for at in 0..cx.inputs.len() {
        match (cx.row_axis(at)?, &joint) {
            (Some(own), _) if own.axis != 0 || cx.dims(at)?.len() != 2 => return unknown(ONE_ROW),
            (Some(own), None) if at == 0 => joint = Some(own),
            (Some(own), Some(first)) if own == *first => {}
            (None, None) => {}
            _ => return mixed("sets rows against a fixed number of them"),
        }
    }
    let Some(row) = joint else { return Ok(vec![Value::same(None)]) };
    let to = vec![cx.dims(0)?[0].clone(), cx.symbols.any_size()];
    Ok(vec![Value::rows(row, to)])
}

/// A sequence of a map for each row.
pub(crate) fn maps(cx: &mut Context<'_>) -> RuleResult {
    let (row, dims) = (cx.row_axis(0)?, cx.dims(0)?);
    match row {
        Some(own) if own.axis != 0 || dims.len() != 2 => unknown(ONE_ROW),
        row => Ok(vec![kept(row, dims.into_iter().take(1).collect())]),
    }
}
