//! Operators over images and signals: each element of the first axis by itself.

use super::context::{Context, RuleResult, Stop, axis, kept, mixed, unknown};
use crate::models::rows::dim::Size;
use crate::models::rows::value::{Kind, RowAxis, Value};

/// One number of a list in an attribute; `other` where there is no list.
fn at_of(cx: &Context<'_>, name: &str, at: usize, other: i64) -> Option<i64> {
    let list = cx.node.attribute(name).map(|own| &own.ints).filter(|own| !own.is_empty());
    list.map_or(Some(other), |own| own.get(at).copied())
}

/// Sizes of the spatial axes after windows of `kernel` went over them.
fn windows(cx: &mut Context<'_>, dims: &[Size], kernel: &[Option<i64>]) -> Vec<Size> {
    let auto = cx.node.attribute("auto_pad").map_or("", |own| own.text.as_str());
    let up = cx.node.int("ceil_mode", 0) != 0;
    let count = kernel.len();
    let sizes: Vec<Option<i64>> = (0..count)
        .map(|at| {
            let (own, kernel) = (dims.get(at + 2)?.number()?, kernel[at]?);
            let (stride, dilation) = (at_of(cx, "strides", at, 1)?.max(1), at_of(cx, "dilations", at, 1)?);
            let window = (kernel - 1).checked_mul(dilation)?.checked_add(1)?;
            let room = match auto {
                "" | "NOTSET" => own + at_of(cx, "pads", at, 0)? + at_of(cx, "pads", at + count, 0)? - window,
                "VALID" => own - window,
                _ => return Some((own + stride - 1) / stride),
            };
            // Rounding up has corner cases of its own.
            (room >= 0 && (!up || room % stride == 0)).then_some(room / stride + 1)
        })
        .collect();
    sizes.into_iter().map(|size| size.map_or_else(|| cx.symbols.any_size(), Size::of)).collect()
}

fn kernel_attribute(cx: &Context<'_>, spatial: usize) -> Vec<Option<i64>> {
    match cx.node.attribute("kernel_shape") {
        Some(own) if own.ints.len() == spatial => own.ints.iter().map(|&own| Some(own)).collect(),
        _ => vec![None; spatial],
    }
}

pub(crate) fn conv(cx: &mut Context<'_>) -> RuleResult {
    let (row, dims) = cx.first_axis()?;
    let Some(spatial) = dims.len().checked_sub(2) else { return unknown("has too few axes") };
    let weights = cx.need(1)?.dims.clone();
    let channels = weights.as_ref().and_then(|dims| dims.first().cloned());
    let kernel: Vec<Option<i64>> = match &weights {
        Some(weights) if weights.len() == dims.len() => weights[2..].iter().map(Size::number).collect(),
        _ => kernel_attribute(cx, spatial),
    };
    let mut to = vec![dims[0].clone(), channels.unwrap_or_else(|| cx.symbols.any_size())];
    to.extend(windows(cx, &dims, &kernel));
    Ok(vec![kept(row, to)])
}

pub(crate) fn transposed(cx: &mut Context<'_>) -> RuleResult {
    let (row, dims) = cx.first_axis()?;
    let weights = cx.need(1)?.dims.clone();
    let channels = weights.as_ref().and_then(|own| own.get(1)?.number()?.checked_mul(cx.node.int("group", 1)));
    let mut to = cx.any_after(&dims, dims.len());
    if let (Some(place), Some(channels)) = (to.get_mut(1), channels) {
        *place = Size::of(channels);
    }
    let plain = ["output_shape", "auto_pad"].iter().all(|name| cx.node.attribute(name).is_none());
    if let (true, Some(weights)) = (plain, weights) {
        let spatial = dims.len().saturating_sub(2);
        for at in 0..spatial {
            let size = (|| {
                let (own, kernel) = (dims.get(at + 2)?.number()?, weights.get(at + 2)?.number()?);
                let pads = at_of(cx, "pads", at, 0)? + at_of(cx, "pads", at + spatial, 0)?;
                let window = (kernel - 1) * at_of(cx, "dilations", at, 1)? + 1;
                Some(at_of(cx, "strides", at, 1)? * (own - 1) + at_of(cx, "output_padding", at, 0)? + window - pads)
            })();
            if let Some(size) = size.filter(|&size| size >= 0) {
                to[at + 2] = Size::of(size);
            }
        }
    }
    Ok(vec![kept(row, to)])
}

pub(crate) fn pool(cx: &mut Context<'_>) -> RuleResult {
    let (row, dims) = cx.first_axis()?;
    let Some(spatial) = dims.len().checked_sub(2) else { return unknown("has too few axes") };
    if cx.node.outputs.get(1).is_some_and(|name| !name.is_empty()) && row.is_some() {
        return mixed("gives places counted over all rows");
    }
    let kernel = kernel_attribute(cx, spatial);
    let mut to = dims[..2].to_vec();
    to.extend(windows(cx, &dims, &kernel));
    Ok(vec![kept(row, to)])
}

pub(crate) fn global(cx: &mut Context<'_>) -> RuleResult {
    let (row, dims) = cx.first_axis()?;
    let to = dims.iter().enumerate().map(|(at, size)| if at < 2 { size.clone() } else { Size::of(1) }).collect();
    Ok(vec![kept(row, to)])
}

/// The first axis must stay as long as it is.
pub(crate) fn resize(cx: &mut Context<'_>) -> RuleResult {
    let Some(row) = cx.row_axis(0)? else {
        cx.others_same(1)?;
        return cx.same_rank(&cx.need(0)?.clone());
    };
    let dims = cx.dims(0)?;
    let last = cx.inputs.len().saturating_sub(1);
    // Version 10 and Upsample have the scales second, later ones third and the sizes last.
    let sizes = if last == 3 { cx.input(3).cloned() } else { None };
    let scales = match cx.inputs.len() {
        2 => cx.input(1).cloned(),
        _ => cx.input(2).cloned(),
    };
    let cuts = cx.node.attribute("coordinate_transformation_mode").is_some_and(|own| own.text == "tf_crop_and_resize");
    if cuts
        || cx.node.attribute("axes").is_some()
        || cx.node.attribute("keep_aspect_ratio_policy").is_some_and(|own| own.text != "stretch")
    {
        return unknown("resizes in a way that is not followed");
    }
    let mut to = cx.any(dims.len());
    to[row.axis] = dims[row.axis].clone();
    let at = row.axis;
    let of = |value: &Value| value.elements.as_ref().and_then(|all| all.get(at).cloned()).flatten();
    let others_free = |value: &Value| {
        let all = value.elements.as_deref().unwrap_or_default();
        value.row_axis().is_none()
            && all.iter().enumerate().all(|(own, size)| own == at || size.as_ref().is_some_and(|size| !size.has_rows()))
    };
    let (elements, is_sizes) = match (sizes, scales) {
        (Some(sizes), _) if others_free(&sizes) && of(&sizes).as_ref() == Some(&dims[at]) => (sizes.elements, true),
        (None, Some(scales)) if others_free(&scales) && of(&scales).is_some_and(|scale| scale.is(1)) => {
            (scales.elements, false)
        }
        (None, None) => match cx.node.attribute("scales") {
            Some(scales) if scales.floats.get(at) == Some(&Some(1)) => return Ok(vec![Value::rows(row, to)]),
            _ => return unknown("resizes in a way that is not followed"),
        },
        _ => return unknown("may resize the rows' axis"),
    };
    for (own, element) in elements.iter().flatten().enumerate().filter(|(own, _)| *own != at) {
        let number = element.as_ref().and_then(Size::number);
        let size = number.and_then(|number| match is_sizes {
            true => Some(number),
            false => dims.get(own)?.number()?.checked_mul(number),
        });
        if let (Some(place), Some(size)) = (to.get_mut(own), size) {
            *place = Size::of(size);
        }
    }
    Ok(vec![Value::rows(row, to)])
}

/// Rows on the first axis of two inputs that go together.
fn pairwise(cx: &Context<'_>) -> Result<Option<RowAxis>, Stop> {
    match (cx.row_axis(0)?, cx.row_axis(1)?) {
        (None, None) => Ok(None),
        (Some(own), Some(other)) if own == other && own.axis == 0 => Ok(Some(own)),
        _ => mixed("sets rows against a fixed number of them"),
    }
}

pub(crate) fn grid_sample(cx: &mut Context<'_>) -> RuleResult {
    let row = pairwise(cx)?;
    let (dims, grid) = (cx.dims(0)?, cx.dims(1)?);
    let mut to = dims.get(..2).unwrap_or_default().to_vec();
    to.extend(grid.iter().skip(1).take(dims.len().saturating_sub(2)).cloned());
    Ok(vec![kept(row, to)])
}

pub(crate) fn affine_grid(cx: &mut Context<'_>) -> RuleResult {
    let (Some(row), dims) = (cx.row_axis(0)?, cx.dims(0)?) else {
        return if cx.need(1)?.is_same() { Ok(vec![Value::same(None)]) } else { Ok(vec![Value::counts(None)]) };
    };
    let size = cx.need(1)?.clone();
    let Some(elements) = size.elements.filter(|_| size.kind == Kind::Counts) else {
        return mixed("has a fixed number of rows");
    };
    let (rank, first) = (elements.len(), elements.first().cloned().flatten());
    if row.axis != 0
        || first.as_ref() != dims.first()
        || elements.iter().skip(1).any(|own| own.as_ref().is_none_or(Size::has_rows))
    {
        return unknown("takes a shape that cannot be followed");
    }
    let to = cx.any_after(&dims, rank);
    Ok(vec![Value::rows(row, to)])
}

pub(crate) fn crop(cx: &mut Context<'_>) -> RuleResult {
    let Some(row) = cx.row_axis(0)? else { return Ok(vec![Value::same(None)]) };
    let dims = cx.dims(0)?;
    cx.others_same(1)?;
    let Some(axes) = cx.node.attribute("axes") else { return unknown("may crop the rows") };
    let mut to = dims.clone();
    for &own in &axes.ints {
        let at = axis(own, dims.len())?;
        if at == row.axis {
            return mixed("crops the rows");
        }
        to[at] = cx.symbols.any_size();
    }
    if axes.ints.is_empty() { unknown("may crop the rows") } else { Ok(vec![Value::rows(row, to)]) }
}

pub(crate) fn columns(cx: &mut Context<'_>) -> RuleResult {
    let (row, dims) = cx.first_axis()?;
    let spatial = cx.need(1)?.dims.as_ref().and_then(|dims| usize::try_from(dims.first()?.number()?).ok());
    let Some(spatial) = spatial else { return unknown("has axes that are not known") };
    let to = cx.any_after(&dims, spatial + 2);
    Ok(vec![kept(row, to)])
}

pub(crate) fn deformed(cx: &mut Context<'_>) -> RuleResult {
    let own = cx.row_axis(0)?;
    let goes_along = |at: usize| Ok(cx.input(at).is_none() || cx.row_axis(at)? == own);
    if !(goes_along(2)? && goes_along(4)? && cx.are_same(&[1, 3])) || own.as_ref().is_some_and(|row| row.axis != 0) {
        return mixed("sets rows against a fixed number of them");
    }
    let dims = cx.dims(0)?;
    let to = cx.any_after(&dims, dims.len());
    Ok(vec![kept(own, to)])
}
