//! Operators that work along axes: reductions, softmax, running sums, normalisations.
//! Rows stay apart as long as none of those is theirs.

use super::context::{Context, RuleResult, axes, axis, first_axis_kept, kept, mixed, unknown};
use super::elementwise::broadcast;
use crate::models::rows::dim::Size;
use crate::models::rows::value::{Kind, RowAxis, Value};

/// Where the rows are once `axes` are gone, or of length 1.
fn reduced(cx: &mut Context<'_>, axes: &[usize], keep: bool) -> RuleResult {
    let (row, dims) = (cx.row_axis(0)?, cx.dims(0)?);
    if row.as_ref().is_some_and(|row| axes.contains(&row.axis)) {
        return mixed("reduces over the rows");
    }
    let mut to = Vec::new();
    for (at, size) in dims.iter().enumerate() {
        match axes.contains(&at) {
            true if keep => to.push(Size::of(1)),
            true => {}
            false => to.push(size.clone()),
        }
    }
    let moved = |row: RowAxis| {
        let before = if keep { 0 } else { axes.iter().filter(|&&at| at < row.axis).count() };
        row.on(row.axis - before)
    };
    Ok(vec![kept(row.map(moved), to)])
}

pub(crate) fn reduce(cx: &mut Context<'_>) -> RuleResult {
    let value = cx.need(0)?.clone();
    let keep = cx.node.int("keepdims", 1) == 1;
    // How many elements a shape has.
    let elements = value.elements.as_ref().filter(|_| value.rank() == Some(1) && cx.node.op == "ReduceProd");
    let product = elements.and_then(|all| all.iter().try_fold(Size::of(1), |all, own| all.times(own.as_ref()?)));
    let known =
        product.map(|product| Value::of_elements(if keep { vec![Size::of(1)] } else { vec![] }, vec![Some(product)]));
    if value.kind == Kind::Counts {
        return Ok(vec![known.unwrap_or_else(|| Value::counts(None))]);
    }
    let rank = cx.dims(0)?.len();
    let axes = match cx.named_axes(1, "axes")?.filter(|axes| !axes.is_empty()) {
        None if cx.node.int("noop_with_empty_axes", 0) == 1 => return Ok(vec![Value { elements: None, ..value }]),
        None => (0..rank).collect(),
        Some(named) => axes(&named, rank)?,
    };
    match known.filter(|_| value.numbers().is_some()) {
        Some(product) => Ok(vec![product]),
        None => reduced(cx, &axes, keep),
    }
}

pub(crate) fn arg(cx: &mut Context<'_>) -> RuleResult {
    let rank = cx.dims(0)?.len();
    let at = cx.axis("axis", 0, rank)?;
    reduced(cx, &[at], cx.node.int("keepdims", 1) == 1)
}

/// What comes out has the dimensions of the first input; along `axes` its elements
/// depend on each other.
fn along(cx: &mut Context<'_>, axes: std::ops::Range<usize>, what: &str) -> RuleResult {
    let (row, dims) = (cx.row_axis(0)?, cx.dims(0)?);
    match row {
        Some(row) if axes.contains(&row.axis) => mixed(what),
        row => Ok(vec![kept(row, dims)]),
    }
}

pub(crate) fn softmax(cx: &mut Context<'_>) -> RuleResult {
    let rank = cx.dims(0)?.len();
    match cx.opset {
        // One axis since version 13; before, all axes from that one on.
        13.. => {
            let at = cx.axis("axis", -1, rank)?;
            along(cx, at..at + 1, "normalises over the rows")
        }
        _ if rank < 2 => unknown("normalises over all there is"),
        _ => {
            let at = cx.axis("axis", 1, rank)?;
            along(cx, at..rank, "normalises over the rows")
        }
    }
}

pub(crate) fn running(cx: &mut Context<'_>) -> RuleResult {
    let rank = cx.dims(0)?.len();
    let at = cx.need(1)?;
    match (at.is_same(), at.scalar().and_then(Size::number)) {
        (true, Some(at)) => {
            let at = axis(at, rank)?;
            along(cx, at..at + 1, "accumulates over the rows")
        }
        _ => unknown("has an axis that is not known"),
    }
}

pub(crate) fn along_one(cx: &mut Context<'_>) -> RuleResult {
    let rank = cx.dims(0)?.len();
    let at = cx.axis("axis", -1, rank)?;
    along(cx, at..at + 1, "normalises over the rows")
}

pub(crate) fn mean_variance(cx: &mut Context<'_>) -> RuleResult {
    let rank = cx.dims(0)?.len();
    let axes = axes(&cx.named_axes(usize::MAX, "axes")?.unwrap_or_else(|| vec![0, 2, 3]), rank)?;
    match cx.row_axis(0)? {
        Some(row) if axes.contains(&row.axis) => mixed("normalises over the rows"),
        row => Ok(vec![kept(row, cx.dims(0)?)]),
    }
}

pub(crate) fn from_axis(cx: &mut Context<'_>) -> RuleResult {
    let dims = cx.dims(0)?;
    let at = cx.axis("axis", -1, dims.len())?;
    cx.others_same(1)?;
    let whole = along(cx, at..dims.len(), "normalises over the rows")?;
    // The scale may be one value for each row of a fixed number.
    let inputs: Vec<Value> = cx.inputs.iter().flatten().cloned().collect();
    let value = broadcast(cx, &inputs.iter().collect::<Vec<_>>())?;
    if whole[0].row_axis() != value.row_axis() {
        return unknown("has a scale of more axes than the rows");
    }
    let statistics: Vec<Size> =
        dims.iter().enumerate().map(|(own, size)| if own < at { size.clone() } else { Size::of(1) }).collect();
    let statistics = kept(cx.row_axis(0)?, statistics);
    Ok(vec![kept(cx.row_axis(0)?, dims), statistics.clone(), statistics])
}

pub(crate) fn batch_normalization(cx: &mut Context<'_>) -> RuleResult {
    let wanted = cx.node.outputs.iter().filter(|name| !name.is_empty()).count();
    if cx.node.int("training_mode", 0) == 1 || wanted > 1 || cx.opset < 7 {
        return mixed("normalises over the rows, as in training");
    }
    first_axis_kept(cx)
}

pub(crate) fn across_channels(cx: &mut Context<'_>) -> RuleResult {
    along(cx, 1..2, "normalises over the rows")
}
