//! Operators that work along axes: reductions, softmax, running sums, normalisations.
//! Rows stay apart as long as none of those is theirs.

use super::context::{Context, Rule, Ruled, axis, first_axis, kept, mixed, named_axes, unknown};
use super::elementwise::broadcast;
use crate::models::rows::dim::Size;
use crate::models::rows::value::{Kind, Lie, Value};

pub(super) fn rule(op: &str) -> Option<Rule> {
    const REDUCTIONS: [&str; 10] = [
        "ReduceL1",
        "ReduceL2",
        "ReduceLogSum",
        "ReduceLogSumExp",
        "ReduceMax",
        "ReduceMean",
        "ReduceMin",
        "ReduceProd",
        "ReduceSum",
        "ReduceSumSquare",
    ];
    Some(match op {
        _ if REDUCTIONS.contains(&op) => reduce,
        "ArgMax" | "ArgMin" => arg,
        "Softmax" | "LogSoftmax" | "Hardmax" => softmax,
        "CumSum" | "CumProd" => running,
        "LpNormalization" => along_one,
        "MeanVarianceNormalization" => mean_variance,
        "LayerNormalization" | "RMSNormalization" | "SimplifiedLayerNormalization" => from_axis,
        "BatchNormalization" => batch_normalization,
        "InstanceNormalization" | "GroupNormalization" => per_first,
        "LRN" => across_channels,
        _ => return None,
    })
}

/// Where the rows are once `axes` are gone, or of length 1.
fn reduced(cx: &mut Context<'_>, axes: &[usize], keep: bool) -> Ruled {
    let (lie, dims) = (cx.lie(0)?, cx.dims(0)?);
    if lie.as_ref().is_some_and(|lie| axes.contains(&lie.axis)) {
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
    let moved = |lie: Lie| {
        let before = if keep { 0 } else { axes.iter().filter(|&&at| at < lie.axis).count() };
        lie.on(lie.axis - before)
    };
    Ok(vec![kept(lie.map(moved), to)])
}

fn reduce(cx: &mut Context<'_>) -> Ruled {
    let value = cx.need(0)?.clone();
    if value.kind == Kind::Counts {
        // How many elements a shape has.
        let all = value.elements.as_ref().filter(|_| value.rank() == Some(1));
        let product = all.and_then(|all| all.iter().try_fold(Size::of(1), |product, own| product.times(own.as_ref()?)));
        let to = if cx.node.int("keepdims", 1) == 1 { vec![Size::of(1)] } else { vec![] };
        return Ok(vec![match product {
            Some(product) if cx.node.op == "ReduceProd" => Value::of_elements(to, vec![Some(product)]),
            _ => Value::counts(None),
        }]);
    }
    let Some(rank) = value.rank() else {
        return if value.is_same() { Ok(vec![Value::same(None)]) } else { unknown("has axes that are not known") };
    };
    let axes = named_axes(cx, 1, "axes")?.filter(|axes| !axes.is_empty());
    let axes = match axes {
        None if cx.node.int("noop_with_empty_axes", 0) == 1 => return Ok(vec![Value { elements: None, ..value }]),
        None => (0..rank).collect(),
        Some(axes) => axes.iter().map(|&own| axis(own, rank)).collect::<Result<Vec<_>, _>>()?,
    };
    if cx.node.op == "ReduceProd"
        && let (1, Some(all)) = (rank, value.numbers())
        && let Some(product) = all.iter().try_fold(1i64, |product, &own| product.checked_mul(own))
    {
        let to = if cx.node.int("keepdims", 1) == 1 { vec![Size::of(1)] } else { vec![] };
        return Ok(vec![Value::of_elements(to, vec![Some(Size::of(product))])]);
    }
    reduced(cx, &axes, cx.node.int("keepdims", 1) == 1)
}

fn arg(cx: &mut Context<'_>) -> Ruled {
    let rank = cx.dims(0)?.len();
    let at = cx.axis("axis", 0, rank)?;
    reduced(cx, &[at], cx.node.int("keepdims", 1) == 1)
}

/// What comes out has the dimensions of the first input; along `axes` its elements
/// depend on each other.
fn along(cx: &mut Context<'_>, axes: std::ops::Range<usize>, what: &str) -> Ruled {
    let (lie, dims) = (cx.lie(0)?, cx.dims(0)?);
    match lie {
        Some(lie) if axes.contains(&lie.axis) => mixed(what),
        lie => Ok(vec![kept(lie, dims)]),
    }
}

fn softmax(cx: &mut Context<'_>) -> Ruled {
    let rank = cx.dims(0)?.len();
    match cx.opset {
        // One axis since version 13, before all from that one on.
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

fn running(cx: &mut Context<'_>) -> Ruled {
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

fn along_one(cx: &mut Context<'_>) -> Ruled {
    let rank = cx.dims(0)?.len();
    let at = cx.axis("axis", -1, rank)?;
    along(cx, at..at + 1, "normalises over the rows")
}

fn mean_variance(cx: &mut Context<'_>) -> Ruled {
    let rank = cx.dims(0)?.len();
    let axes = named_axes(cx, usize::MAX, "axes")?.unwrap_or_else(|| vec![0, 2, 3]);
    let axes: Vec<usize> = axes.iter().map(|&own| axis(own, rank)).collect::<Result<_, _>>()?;
    match cx.lie(0)? {
        Some(lie) if axes.contains(&lie.axis) => mixed("normalises over the rows"),
        lie => Ok(vec![kept(lie, cx.dims(0)?)]),
    }
}

fn from_axis(cx: &mut Context<'_>) -> Ruled {
    let dims = cx.dims(0)?;
    let at = cx.axis("axis", -1, dims.len())?;
    cx.others_same(1)?;
    let whole = along(cx, at..dims.len(), "normalises over the rows")?;
    // The scale may be one value for each row of a fixed number.
    let inputs: Vec<Value> = cx.inputs.iter().flatten().cloned().collect();
    let value = broadcast(cx, &inputs.iter().collect::<Vec<_>>())?;
    if whole[0].lie() != value.lie() {
        return unknown("has a scale of more axes than the rows");
    }
    let statistics: Vec<Size> =
        dims.iter().enumerate().map(|(own, size)| if own < at { size.clone() } else { Size::of(1) }).collect();
    let statistics = kept(cx.lie(0)?, statistics);
    Ok(vec![kept(cx.lie(0)?, dims), statistics.clone(), statistics])
}

fn batch_normalization(cx: &mut Context<'_>) -> Ruled {
    let wanted = cx.node.outputs.iter().filter(|name| !name.is_empty()).count();
    if cx.node.int("training_mode", 0) == 1 || wanted > 1 || cx.opset < 7 {
        return mixed("normalises over the rows, as in training");
    }
    let lie = first_axis(cx)?;
    Ok(vec![kept(lie, cx.dims(0)?)])
}

fn per_first(cx: &mut Context<'_>) -> Ruled {
    let lie = first_axis(cx)?;
    Ok(vec![kept(lie, cx.dims(0)?)])
}

fn across_channels(cx: &mut Context<'_>) -> Ruled {
    along(cx, 1..2, "normalises over the rows")
}
