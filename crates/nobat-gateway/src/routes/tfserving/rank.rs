//! `:classify` and `:regress`, where a model's outputs allow them.
//!
//! Examples are rows with names, as in `:predict`'s row form. Classification
//! takes the first float output of shape `[batch, classes]` as scores; class
//! names are the model's setting `class_labels`, else the class numbers.
//! Regression takes the first float output with one value per row.

use actix_web::web::Payload;
use actix_web::{HttpRequest, HttpResponse};
use nobat_core::signature::ModelSignature;
use nobat_core::tensor::{Datatype, Tensor};
use nobat_core::{Error, ErrorCode, Result};
use nobat_serving::Predictor;
use nobat_serving::registry::Want;
use nobat_serving::timing::server_timing;

use super::{Asked, answered};
use crate::json::{request, write};
use crate::v2::outputs::labels;

/// Answers `{"result": [[[label, score], …], …]}`.
pub(super) async fn classify(
    request: &HttpRequest,
    payload: Payload,
    predictor: &Predictor,
    model: Option<&str>,
    want: Want<'_>,
) -> Result<HttpResponse> {
    let asked = Asked::read(request, payload, predictor, model, want).await?;
    let signature = asked.target.signature.clone();
    let scores = output(&signature, "classify", "a float output of shape [batch, classes]", |shape| {
        shape.len() == 2 && shape[1] != 1
    })?;
    let names = labels(&signature, &scores);
    let (scores, timing) = run(request, predictor, asked, &scores).await?;
    let classes = scores.shape.get(1).map_or(0, |&classes| classes as usize);
    let values = floats(&scores);
    let mut json = Vec::with_capacity(32 + 24 * values.len());
    json.extend_from_slice(b"{\"result\":[");
    for (row, scores) in values.chunks(classes.max(1)).enumerate() {
        json.extend_from_slice(if row > 0 { b",[" } else { b"[" });
        for (class, &score) in scores.iter().enumerate() {
            json.extend_from_slice(if class > 0 { b",[" } else { b"[" });
            match names.get(class) {
                Some(name) => write::string(&mut json, name),
                None => write::string(&mut json, &class.to_string()),
            }
            json.push(b',');
            write::float(&mut json, score);
            json.push(b']');
        }
        json.push(b']');
    }
    json.extend_from_slice(b"]}");
    Ok(answered(timing, json))
}

/// Answers `{"result": [value, …]}`.
pub(super) async fn regress(
    request: &HttpRequest,
    payload: Payload,
    predictor: &Predictor,
    model: Option<&str>,
    want: Want<'_>,
) -> Result<HttpResponse> {
    let asked = Asked::read(request, payload, predictor, model, want).await?;
    let value = output(&asked.target.signature, "regress", "a float output with one value per row", |shape| {
        matches!(shape, [_] | [_, 1])
    })?;
    let (value, timing) = run(request, predictor, asked, &value).await?;
    let values = floats(&value);
    let mut json = b"{\"result\":[".to_vec();
    for (row, &value) in values.iter().enumerate() {
        if row > 0 {
            json.push(b',');
        }
        write::float(&mut json, value);
    }
    json.extend_from_slice(b"]}");
    Ok(answered(timing, json))
}

/// The name of the first float output of a fitting shape.
fn output(
    signature: &ModelSignature,
    verb: &str,
    needs: &str,
    fits: impl Fn(&[i64]) -> bool,
) -> Result<smol_str::SmolStr> {
    let float = |datatype| matches!(datatype, Datatype::Fp32 | Datatype::Fp64);
    let found = signature.outputs.iter().find(|spec| signature.batched && float(spec.datatype) && fits(&spec.shape));
    found.map(|spec| spec.name.clone()).ok_or_else(|| {
        let message = format!("model `{}` cannot {verb}: it has not {needs}; use :predict", signature.name);
        Error::new(ErrorCode::InvalidParameter, message)
    })
}

/// One output of a run, and its `Server-Timing`.
async fn run(request: &HttpRequest, predictor: &Predictor, asked: Asked, output: &str) -> Result<(Tensor, String)> {
    let (tensors, _) = request::read(&asked.body, &asked.target.signature, "examples")?;
    let prediction = asked.predict(request, predictor, tensors).await?;
    let timing = server_timing(&prediction);
    let found = prediction.response.outputs.into_iter().find(|tensor| tensor.name == output);
    found.map(|tensor| (tensor, timing)).ok_or_else(|| {
        Error::new(ErrorCode::InvalidWorkerResult, format!("the worker's answer lacks output `{output}`"))
    })
}

fn floats(tensor: &Tensor) -> Vec<f64> {
    match tensor.datatype {
        Datatype::Fp64 => tensor.data.as_chunks().0.iter().map(|&bytes| f64::from_le_bytes(bytes)).collect(),
        _ => tensor.data.as_chunks().0.iter().map(|&bytes| f64::from(f32::from_le_bytes(bytes))).collect(),
    }
}
