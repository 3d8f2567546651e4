//! Recurrent layers. Their batch axis is the second, unless `layout` says the first.

use super::context::{Context, RuleResult, Stop, kept, mixed, unknown};
use crate::models::rows::dim::Size;
use crate::models::rows::value::RowAxis;

pub(crate) fn recurrent(cx: &mut Context<'_>) -> RuleResult {
    // The batch axis of the input and of the states.
    let batch = if cx.node.int("layout", 0) == 1 { 0 } else { 1 };
    let row = cx.row_axis(0)?;
    if row.as_ref().is_some_and(|row| row.axis != batch) {
        return mixed("goes through the rows one after the other");
    }
    let states: &[usize] = if cx.node.op == "LSTM" { &[5, 6] } else { &[5] };
    for (at, axis) in std::iter::once((4, 0)).chain(states.iter().map(|&at| (at, batch))) {
        if cx.input(at).is_some() {
            goes_along(cx, at, axis, row.as_ref())?;
        }
    }
    // Weights, biases and peepholes.
    if !cx.are_same(&[1, 2, 3, 7]) {
        return unknown("has weights that are not the same for all rows");
    }
    let Ok([first, second, _]) = <[Size; 3]>::try_from(cx.dims(0)?) else {
        return unknown("has an input of other than three axes");
    };
    let bidirectional = cx.node.attribute("direction").is_some_and(|own| own.text == "bidirectional");
    let directions = Size::of(if bidirectional { 2 } else { 1 });
    let hidden = match cx.node.attribute("hidden_size") {
        Some(size) => Size::of(size.int),
        None => cx.symbols.any_size(),
    };
    let (all, last, all_axis) = match batch {
        0 => (vec![first.clone(), second, directions.clone(), hidden.clone()], vec![first, directions, hidden], 0),
        _ => (vec![first, directions.clone(), second.clone(), hidden.clone()], vec![directions, second, hidden], 2),
    };
    let on = |axis: usize| row.as_ref().map(|row| row.on(axis));
    let last = kept(on(batch), last);
    Ok(vec![kept(on(all_axis), all), last.clone(), last])
}

/// A state or a list of lengths has the same rows as the input.
fn goes_along(cx: &Context<'_>, at: usize, axis: usize, rows: Option<&RowAxis>) -> Result<(), Stop> {
    match (cx.row_axis(at)?, rows) {
        (None, None) => Ok(()),
        (Some(own), Some(rows)) if own == rows.on(axis) => Ok(()),
        (None, Some(_)) => mixed("begins with the states of a fixed number of rows"),
        _ => mixed("sets each row against the others"),
    }
}
