//! The classic models of `ai.onnx.ml`: trees, linear models, encoders. Their rows are
//! the first axis of a matrix.

use super::context::{Context, Rule, Ruled, Stop, kept, mixed, unknown};
use crate::models::rows::dim::Size;
use crate::models::rows::value::{Lie, Value};

pub(super) fn rule(op: &str) -> Option<Rule> {
    Some(match op {
        "TreeEnsembleClassifier" | "LinearClassifier" | "SVMClassifier" => classifier,
        "TreeEnsembleRegressor" | "TreeEnsemble" | "LinearRegressor" | "SVMRegressor" | "OneHotEncoder" => wider,
        "Scaler" | "Normalizer" | "Imputer" => by_row,
        "Binarizer" | "LabelEncoder" | "CategoryMapper" => by_element,
        "ArrayFeatureExtractor" => columns,
        "FeatureVectorizer" => beside,
        "ZipMap" => maps,
        _ => return None,
    })
}

/// A matrix whose first axis is the rows'. A vector is one row to some of these.
fn matrix(cx: &Context<'_>) -> Result<(Option<Lie>, Vec<Size>), Stop> {
    cx.others_same(1)?;
    let (lie, dims) = (cx.lie(0)?, cx.dims(0)?);
    match &lie {
        Some(own) if own.axis != 0 || dims.len() != 2 => unknown("takes all rows for one"),
        _ => Ok((lie, dims)),
    }
}

fn classifier(cx: &mut Context<'_>) -> Ruled {
    let (lie, dims) = matrix(cx)?;
    let Some(first) = dims.first().cloned() else { return unknown("has an input without axes") };
    if lie.is_none() {
        return Ok(vec![Value::same(None), Value::same(None)]);
    }
    let scores = vec![first.clone(), cx.symbols.any_size()];
    Ok(vec![kept(lie.clone(), vec![first]), kept(lie, scores)])
}

fn wider(cx: &mut Context<'_>) -> Ruled {
    if cx.node.op == "OneHotEncoder" {
        let (lie, mut dims) = (cx.lie(0)?, cx.dims(0)?);
        dims.push(cx.symbols.any_size());
        return Ok(vec![kept(lie, dims)]);
    }
    let (lie, dims) = matrix(cx)?;
    let Some(first) = dims.first().cloned() else { return unknown("has an input without axes") };
    match lie {
        None => Ok(vec![Value::same(None)]),
        lie => Ok(vec![kept(lie, vec![first, cx.symbols.any_size()])]),
    }
}

fn by_row(cx: &mut Context<'_>) -> Ruled {
    let (lie, dims) = matrix(cx)?;
    Ok(vec![kept(lie, dims)])
}

fn by_element(cx: &mut Context<'_>) -> Ruled {
    Ok(vec![kept(cx.lie(0)?, cx.dims(0)?)])
}

/// Picks places of the last axis.
fn columns(cx: &mut Context<'_>) -> Ruled {
    cx.others_same(1)?;
    let (lie, mut dims) = (cx.lie(0)?, cx.dims(0)?);
    match &lie {
        None => return Ok(vec![Value::same(None)]),
        // A vector comes out as a matrix of one row.
        Some(own) if own.axis + 1 == dims.len() => return mixed("takes some of the rows"),
        Some(_) => {}
    }
    if let Some(last) = dims.last_mut() {
        *last = cx.symbols.any_size();
    }
    Ok(vec![kept(lie, dims)])
}

fn beside(cx: &mut Context<'_>) -> Ruled {
    let mut lie = None;
    for at in 0..cx.inputs.len() {
        match (cx.lie(at)?, &lie) {
            (Some(own), _) if own.axis != 0 || cx.dims(at)?.len() != 2 => return unknown("takes all rows for one"),
            (Some(own), None) if at == 0 => lie = Some(own),
            (Some(own), Some(first)) if own == *first => {}
            (None, None) => {}
            _ => return mixed("sets rows against a fixed number of them"),
        }
    }
    let Some(lie) = lie else { return Ok(vec![Value::same(None)]) };
    let to = vec![cx.dims(0)?[0].clone(), cx.symbols.any_size()];
    Ok(vec![Value::rows(lie, to)])
}

/// A sequence of a map for each row.
fn maps(cx: &mut Context<'_>) -> Ruled {
    let (lie, dims) = (cx.lie(0)?, cx.dims(0)?);
    match lie {
        Some(own) if own.axis != 0 || dims.len() != 2 => unknown("takes all rows for one"),
        lie => Ok(vec![kept(lie, dims.into_iter().take(1).collect())]),
    }
}
