//! Recurrent layers. Their batch axis is the second, unless `layout` says the first.

use super::context::{Context, Rule, Ruled, Stop, mixed, unknown};
use crate::models::rows::dim::Size;
use crate::models::rows::value::{Lie, Value};

pub(super) fn rule(op: &str) -> Option<Rule> {
    match op {
        "LSTM" | "GRU" | "RNN" => Some(recurrent),
        _ => None,
    }
}

fn recurrent(cx: &mut Context<'_>) -> Ruled {
    let batch_first = cx.node.int("layout", 0) == 1;
    let (of_x, of_state) = if batch_first { (0, 0) } else { (1, 1) };
    let lie = cx.lie(0)?;
    let states: &[usize] = if cx.node.op == "LSTM" { &[5, 6] } else { &[5] };
    let rows = match lie {
        Some(lie) if lie.axis != of_x => return mixed("goes through the rows one after the other"),
        lie => lie,
    };
    for (at, axis) in std::iter::once((4, 0)).chain(states.iter().map(|&at| (at, of_state))) {
        if cx.input(at).is_some() {
            goes_along(cx, at, axis, rows.as_ref())?;
        }
    }
    // Weights, biases and peepholes.
    for at in [1, 2, 3, 7] {
        if cx.input(at).is_some_and(|value| !value.is_same()) {
            return unknown("has weights that are not the same for all rows");
        }
    }
    let dims = cx.dims(0)?;
    if dims.len() != 3 {
        return unknown("has an input of other than three axes");
    }
    let directions = match cx.node.attribute("direction").map(|own| own.text.as_str()) {
        Some("bidirectional") => 2,
        _ => 1,
    };
    let hidden = match cx.node.attribute("hidden_size") {
        Some(size) => Size::of(size.int),
        None => cx.symbols.any_size(),
    };
    let directions = Size::of(directions);
    let (all, last, lies) = match batch_first {
        true => (
            vec![dims[0].clone(), dims[1].clone(), directions.clone(), hidden.clone()],
            vec![dims[0].clone(), directions, hidden],
            (0, 0),
        ),
        false => (
            vec![dims[0].clone(), directions.clone(), dims[1].clone(), hidden.clone()],
            vec![directions, dims[1].clone(), hidden],
            (2, 1),
        ),
    };
    let value = |dims: Vec<Size>, axis: usize| match &rows {
        Some(lie) => Value::rows(lie.on(axis), dims),
        None => Value::same(Some(dims)),
    };
    Ok(vec![value(all, lies.0), value(last.clone(), lies.1), value(last, lies.1)])
}

/// A state or a list of lengths has the same rows as the input.
fn goes_along(cx: &Context<'_>, at: usize, axis: usize, rows: Option<&Lie>) -> Result<(), Stop> {
    match (cx.lie(at)?, rows) {
        (None, None) => Ok(()),
        (Some(own), Some(rows)) if own == rows.on(axis) => Ok(()),
        (None, Some(_)) => mixed("begins with the states of a fixed number of rows"),
        _ => mixed("sets each row against the others"),
    }
}
