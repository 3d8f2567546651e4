//! Operators that pick by index, and those whose answer hangs on the data.

use super::context::{Context, Rule, Ruled, axis, kept, mixed, unknown};
use crate::models::rows::dim::Size;
use crate::models::rows::value::{Kind, Value};

pub(super) fn rule(op: &str) -> Option<Rule> {
    Some(match op {
        "Gather" => gather,
        "GatherElements" => gather_elements,
        "GatherND" => gather_nd,
        "ScatterElements" | "Scatter" => scatter_elements,
        "ScatterND" => scatter_nd,
        "OneHot" => one_hot,
        "Compress" => compress,
        "TopK" => top_k,
        "Trilu" => trilu,
        "ReverseSequence" => reverse_sequence,
        "NonZero" => finds,
        "Unique" => unique,
        "NonMaxSuppression" => boxes,
        "EyeLike" => diagonal,
        "StringSplit" => pads_texts,
        "StringNormalizer" => drops_texts,
        "TfIdfVectorizer" => counts_words,
        _ => return None,
    })
}

fn gather(cx: &mut Context<'_>) -> Ruled {
    let (data, indices) = (cx.need(0)?.clone(), cx.need(1)?.clone());
    if data.kind == Kind::Counts || indices.kind == Kind::Counts {
        return counted(&data, &indices);
    }
    let (Some(own), Some(picks)) = (&data.dims, &indices.dims) else {
        let same = data.is_same() && indices.is_same();
        return if same { Ok(vec![Value::same(None)]) } else { unknown("has an input whose axes are not known") };
    };
    let at = cx.axis("axis", 0, own.len())?;
    let to: Vec<Size> = own[..at].iter().chain(picks).chain(&own[at + 1..]).cloned().collect();
    let lie = match (data.lie(), indices.lie()) {
        (None, None) => {
            let picked = picked(&data, &indices).filter(|_| own.len() == 1);
            return Ok(vec![picked.unwrap_or_else(|| Value::same(Some(to)))]);
        }
        (None, Some(lie)) => lie.on(at + lie.axis),
        (Some(lie), None) if lie.axis == at => return mixed("takes some of the rows"),
        (Some(lie), None) if lie.axis < at => lie.clone(),
        (Some(lie), None) => lie.on(lie.axis - 1 + picks.len()),
        (Some(lie), Some(_)) if lie.axis == at => return mixed("takes rows by their places in the whole"),
        (Some(_), Some(_)) => return mixed("takes from each row for every other"),
    };
    Ok(vec![Value::rows(lie, to)])
}

/// Of a list of sizes one or some, such as the number of rows of a shape.
fn counted(data: &Value, indices: &Value) -> Ruled {
    if data.lie().is_some() || indices.lie().is_some() {
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

fn gather_elements(cx: &mut Context<'_>) -> Ruled {
    let (own, picks) = (cx.lie(0)?, cx.lie(1)?);
    let to = cx.dims(1)?;
    let at = cx.axis("axis", 0, to.len())?;
    let lie = match (own, picks) {
        (None, None) => return Ok(vec![Value::same(Some(to))]),
        (Some(own), Some(picks)) if own == picks && own.axis != at => own,
        (Some(own), _) if own.axis == at => return mixed("takes rows by their places in the whole"),
        _ => return mixed("sets rows against a fixed number of them"),
    };
    Ok(vec![Value::rows(lie, to)])
}

fn gather_nd(cx: &mut Context<'_>) -> Ruled {
    let (data, indices) = (cx.lie(0)?, cx.lie(1)?);
    if data.is_none() && indices.is_none() {
        return Ok(vec![Value::same(None)]);
    }
    let (own, picks) = (cx.dims(0)?, cx.dims(1)?);
    let shared = usize::try_from(cx.node.int("batch_dims", 0)).unwrap_or(usize::MAX);
    let depth = picks.last().and_then(Size::number).and_then(|depth| usize::try_from(depth).ok());
    let Some(depth) = depth.filter(|depth| shared < picks.len() && shared + depth <= own.len()) else {
        return unknown("takes by places of which not enough is known");
    };
    let last = picks.len() - 1;
    let to: Vec<Size> = picks[..last].iter().chain(&own[shared + depth..]).cloned().collect();
    let lie = match (data, indices) {
        (Some(data), Some(indices)) if data == indices && data.axis < shared => data,
        (None, Some(indices)) if indices.axis >= shared && indices.axis < last => indices,
        (Some(data), None) if data.axis >= shared + depth => data.on(last + data.axis - shared - depth),
        _ => return mixed("takes rows by their places in the whole"),
    };
    Ok(vec![Value::rows(lie, to)])
}

fn scatter_elements(cx: &mut Context<'_>) -> Ruled {
    let lies = [cx.lie(0)?, cx.lie(1)?, cx.lie(2)?];
    let to = cx.dims(0)?;
    let at = cx.axis("axis", 0, to.len())?;
    match lies {
        [None, None, None] => Ok(vec![Value::same(Some(to))]),
        [Some(own), Some(picks), Some(new)] if own == picks && picks == new && own.axis != at => {
            Ok(vec![Value::rows(own, to)])
        }
        _ => mixed("writes to rows by their places in the whole"),
    }
}

fn scatter_nd(cx: &mut Context<'_>) -> Ruled {
    let lies = [cx.lie(0)?, cx.lie(1)?, cx.lie(2)?];
    let to = cx.dims(0)?;
    let (places, last) = (cx.dims(1)?, cx.dims(1)?.len().saturating_sub(1));
    let depth = places.last().and_then(Size::number).and_then(|depth| usize::try_from(depth).ok());
    match (lies, depth) {
        ([None, None, None], _) => Ok(vec![Value::same(Some(to))]),
        // Within each row, to places that are the same for all.
        ([Some(own), None, Some(new)], Some(depth)) if own.axis >= depth && new == own.on(last + own.axis - depth) => {
            Ok(vec![Value::rows(own, to)])
        }
        _ => mixed("writes to rows by their places in the whole"),
    }
}

fn one_hot(cx: &mut Context<'_>) -> Ruled {
    let (lie, own) = (cx.lie(0)?, cx.dims(0)?);
    cx.others_same(1)?;
    let at = cx.axis("axis", -1, own.len() + 1)?;
    let depth = cx.need(1)?.scalar().cloned();
    let mut to = own;
    to.insert(at, depth.unwrap_or_else(|| cx.symbols.any_size()));
    Ok(vec![kept(lie.map(|lie| lie.on(lie.axis + usize::from(at <= lie.axis))), to)])
}

fn compress(cx: &mut Context<'_>) -> Ruled {
    let (lie, own) = (cx.lie(0)?, cx.dims(0)?);
    match (&lie, cx.node.attribute("axis"), cx.need(1)?.is_same()) {
        (None, _, true) => return Ok(vec![Value::same(None)]),
        (Some(lie), Some(at), true) if axis(at.int, own.len())? != lie.axis => {}
        _ => return mixed("drops what the data say"),
    }
    let at = cx.axis("axis", 0, own.len())?;
    let mut to = own;
    to[at] = cx.symbols.any_size();
    Ok(vec![kept(lie, to)])
}

fn top_k(cx: &mut Context<'_>) -> Ruled {
    let (lie, mut to) = (cx.lie(0)?, cx.dims(0)?);
    let at = cx.axis("axis", -1, to.len())?;
    if lie.as_ref().is_some_and(|lie| lie.axis == at) {
        return mixed("ranks the rows");
    }
    cx.others_same(1)?;
    let count = cx.input(1).and_then(|count| count.scalar().cloned());
    to[at] = count.unwrap_or_else(|| cx.symbols.any_size());
    let value = kept(lie, to);
    Ok(vec![value.clone(), value])
}

fn trilu(cx: &mut Context<'_>) -> Ruled {
    let (lie, to) = (cx.lie(0)?, cx.dims(0)?);
    cx.others_same(1)?;
    match lie {
        Some(lie) if lie.axis + 2 >= to.len() => mixed("keeps of each row what its place says"),
        lie => Ok(vec![kept(lie, to)]),
    }
}

fn reverse_sequence(cx: &mut Context<'_>) -> Ruled {
    let (lie, lens, to) = (cx.lie(0)?, cx.lie(1)?, cx.dims(0)?);
    let (of, time) = (cx.axis("batch_axis", 1, to.len())?, cx.axis("time_axis", 0, to.len())?);
    let lens = lens.map(|lens| lens.on(of));
    match lie {
        None if lens.is_none() => Ok(vec![Value::same(Some(to))]),
        Some(lie) if lie.axis == time => mixed("turns the order of the rows"),
        Some(lie) if lie.axis == of && lens.as_ref() == Some(&lie) => Ok(vec![Value::rows(lie, to)]),
        Some(lie) if lie.axis != of && lens.is_none() => Ok(vec![Value::rows(lie, to)]),
        _ => mixed("sets rows against a fixed number of them"),
    }
}

/// Inputs that are the same give what is the same; rows do not.
fn only_same(cx: &Context<'_>, what: &str) -> Ruled {
    match cx.inputs.iter().flatten().all(Value::is_same) {
        true => Ok(vec![Value::same(None); cx.node.outputs.len()]),
        false => mixed(what),
    }
}

fn finds(cx: &mut Context<'_>) -> Ruled {
    only_same(cx, "lists places in the whole, as many as the data say")
}

fn unique(cx: &mut Context<'_>) -> Ruled {
    only_same(cx, "drops what other rows have too")
}

fn boxes(cx: &mut Context<'_>) -> Ruled {
    only_same(cx, "lists boxes of all rows, as many as the data say")
}

fn diagonal(cx: &mut Context<'_>) -> Ruled {
    let (same, dims) = (cx.need(0)?.is_same(), cx.need(0)?.dims.clone());
    if same { Ok(vec![Value::same(dims)]) } else { mixed("gives each row what its place says") }
}

fn pads_texts(cx: &mut Context<'_>) -> Ruled {
    only_same(cx, "gives each row as many parts as the longest has")
}

fn drops_texts(cx: &mut Context<'_>) -> Ruled {
    only_same(cx, "drops texts of some rows")
}

fn counts_words(cx: &mut Context<'_>) -> Ruled {
    let (lie, dims) = (cx.lie(0)?, cx.dims(0)?);
    match (lie, &dims[..]) {
        (None, _) => Ok(vec![Value::same(None)]),
        (Some(lie), [first, _]) if lie.is_plain() => {
            let first = first.clone();
            let to = vec![first, cx.symbols.any_size()];
            Ok(vec![Value::rows(lie, to)])
        }
        _ => mixed("counts over all rows"),
    }
}
