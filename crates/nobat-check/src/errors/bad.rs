//! Bad requests made of a good one: pure.

use bytes::Bytes;
use nobat_core::oip::infer_parameter::ParameterChoice;
use nobat_core::oip::{InferParameter, ModelInferRequest};
use nobat_core::tensor::{Datatype, Shape, Tensor};
use serde_json::{Value, json};

use super::case::BadCase;
use crate::client::{CallProtocol, ModelDescription, Prepared, ServerKind, Target};
use crate::data::{slice, stack};

/// What no server has.
const NOBODY: &str = "nobat-test-nobody";
/// Largest request that is made of too many rows.
const MOST_BYTES: usize = 16 << 20;
/// A gRPC message over every usual limit, in bytes.
const HUGE: usize = 80 << 20;

/// A bad request, and by whom it is sent; or why there is none.
pub(super) type Bad = Result<(Target, Prepared), &'static str>;

/// Makes `case` of one good row over the target's protocol.
pub(super) fn bad(
    case: BadCase,
    kind: &ServerKind,
    target: &Target,
    model: &ModelDescription,
    row: &[Tensor],
) -> Result<Bad, nobat_core::Error> {
    let protocol = target.protocol();
    let is_nobat = *kind == ServerKind::Nobat;
    let by_tensors = matches!(protocol, CallProtocol::V2 | CallProtocol::V2Binary | CallProtocol::Grpc);
    let one_row = target.settings().template.as_ref().is_some_and(|template| template.is_one_row());
    let send = |inputs: &[Tensor]| target.prepare(inputs).map(|prepared| Ok((target.clone(), prepared)));
    let others = row.get(1..).unwrap_or_default();
    let with_first = |tensor: Tensor| send(&[&[tensor][..], others].concat());
    let good = target.prepare(row)?;
    let text = |change: &dyn Fn(&mut Value)| -> Bad {
        let call = good.http().ok_or("gRPC has no JSON")?;
        let mut body: Value = serde_json::from_slice(&call.body).map_err(|_| "its body is no JSON")?;
        change(&mut body);
        Ok((target.clone(), call.clone().body(body.to_string()).into()))
    };
    Ok(match (case, row.first()) {
        (
            BadCase::WrongDatatype
            | BadCase::WrongRank
            | BadCase::WrongLength
            | BadCase::Ragged
            | BadCase::MissingInput
            | BadCase::EmptyBatch
            | BadCase::OverTheBatch,
            None,
        ) => Err("the model takes no input"),
        (BadCase::WrongDatatype, Some(first)) if by_tensors => {
            let datatype = if first.datatype == Datatype::Int32 { Datatype::Int16 } else { Datatype::Int32 };
            with_first(Tensor { datatype, data: zeros(datatype, &first.shape), ..first.clone() })?
        }
        (BadCase::WrongDatatype, Some(first)) if first.datatype == Datatype::Bytes => {
            text(&|body| change_first(body, &json!(7.5)))
        }
        (BadCase::WrongDatatype, _) => text(&|body| change_first(body, &json!("seven"))),
        (BadCase::WrongRank, Some(first)) => {
            let mut shape = first.shape.clone();
            shape.insert(shape.len().min(1), 1);
            with_first(Tensor { shape, ..first.clone() })?
        }
        (BadCase::WrongLength, Some(first)) => {
            let spec = model.inputs.iter().find(|spec| spec.name == first.name);
            let fixed =
                spec.and_then(|spec| spec.shape.iter().skip(usize::from(model.batched)).rposition(|&dim| dim > 0));
            match fixed {
                None => Err("the model fixes no length"),
                Some(at) => {
                    let mut shape = first.shape.clone();
                    shape[at + usize::from(model.batched)] += 1;
                    with_first(Tensor { data: zeros(first.datatype, &shape), shape, ..first.clone() })?
                }
            }
        }
        (BadCase::Ragged, Some(first)) => ragged(target, model, row, first, one_row)?,
        (BadCase::MissingInput, _) if protocol == CallProtocol::Json => text(&|body| *body = json!({})),
        (BadCase::MissingInput, _) => send(others)?,
        (BadCase::ExtraInput, _) if protocol == CallProtocol::Json => Err("a server's own JSON may have more members"),
        (BadCase::ExtraInput, _) => {
            let shape = Shape::from_slice(if model.batched { &[1, 1] } else { &[1] });
            let data = zeros(Datatype::Int64, &shape);
            let extra = Tensor { name: NOBODY.into(), datatype: Datatype::Int64, shape, data };
            send(&[row, &[extra]].concat())?
        }
        (BadCase::NotANumber, _) => no_number(target, row, "NaN")?,
        (BadCase::Infinite, _) => no_number(target, row, "1e999")?,
        (BadCase::EmptyBatch, _) if !model.batched || one_row => Err("a request has no batch axis"),
        (BadCase::EmptyBatch, _) => send(&row.iter().map(|tensor| slice(tensor, 0, 0)).collect::<Vec<_>>())?,
        (BadCase::OverTheBatch, _) => match model.max_rows {
            _ if !model.batched || one_row => Err("a request has no batch axis"),
            None => Err("the server does not say how many rows a request may have"),
            Some(most) => {
                let rows = most as usize + 1;
                let size: usize = row.iter().map(|tensor| tensor.data.len()).sum();
                match rows.saturating_mul(size) <= MOST_BYTES {
                    true => send(&stack(&vec![row.to_vec(); rows]))?,
                    false => Err("so many rows are over the limit of a body first"),
                }
            }
        },
        (BadCase::Oversize, _) => match good.grpc() {
            Some(message) => {
                let raw = vec![Bytes::from(vec![0u8; HUGE])];
                Ok((target.clone(), ModelInferRequest { raw_input_contents: raw, ..message.clone() }.into()))
            }
            None => Err("sent by itself"),
        },
        (BadCase::NotJson, _) => match good.http() {
            Some(_) if protocol == CallProtocol::V2Binary => Err("asked over v2"),
            Some(call) => Ok((target.clone(), call.clone().body("{\"inputs\": [").into())),
            None => Err("gRPC has no JSON"),
        },
        (BadCase::WrongContentType, _) if !is_nobat => Err("its protocol leaves that to the server"),
        (BadCase::WrongContentType, _) => match good.http() {
            Some(_) if protocol == CallProtocol::V2Binary => Err("asked over v2"),
            Some(call) => {
                let form = call.clone().header("content-type", "application/x-www-form-urlencoded").body("row=1&row=2");
                Ok((target.clone(), form.into()))
            }
            None => Err("gRPC has one content type"),
        },
        (BadCase::UnknownModel | BadCase::UnknownVersion, _) if protocol == CallProtocol::Json => {
            Err("it names no model")
        }
        (BadCase::UnknownModel, _) => {
            let other = target.asking(NOBODY, None);
            let prepared = other.prepare(row)?;
            Ok((other, prepared))
        }
        (BadCase::UnknownVersion, _) => {
            // TensorFlow Serving's versions are numbers.
            let other = target.asking(&target.settings().model, Some("987654321"));
            let prepared = other.prepare(row)?;
            Ok((other, prepared))
        }
        (BadCase::WrongKey, _) if target.settings().api_key.is_none() => Err("no --api-key was given"),
        (BadCase::WrongKey, _) => Ok((target.with_key(NOBODY)?, good)),
        (BadCase::ExpiredDeadline, _) if !is_nobat => Err("its protocol has no deadline"),
        (BadCase::ExpiredDeadline, _) => match protocol {
            CallProtocol::V2 => text(&|body| body["parameters"] = json!({"timeout": 1})),
            CallProtocol::V2Binary => Err("asked over v2"),
            CallProtocol::Grpc => {
                let mut message = good.grpc().cloned().unwrap_or_default();
                let timeout = InferParameter { parameter_choice: Some(ParameterChoice::Int64Param(1)) };
                message.parameters.insert("timeout".into(), timeout);
                Ok((target.clone(), message.into()))
            }
            _ => match good.http() {
                // A job that may not begin before its deadline is over.
                Some(call) => Ok((target.clone(), call.clone().query("delay", "1s").query("deadline", "1ms").into())),
                None => Err("asked over HTTP"),
            },
        },
        (BadCase::OtherBodySameKey, _) => Err("sent by itself"),
    })
}

fn zeros(datatype: Datatype, shape: &[i64]) -> Bytes {
    let elements = nobat_core::tensor::elements("", shape).unwrap_or(0);
    vec![0u8; elements * datatype.size().unwrap_or(4)].into()
}

/// Two rows, the first an element short.
fn ragged(
    target: &Target,
    model: &ModelDescription,
    row: &[Tensor],
    first: &Tensor,
    one_row: bool,
) -> Result<Bad, nobat_core::Error> {
    let width = first.elements()? / first.shape.first().map_or(1, |&rows| rows.max(1) as usize);
    if !model.batched || one_row || width < 2 {
        return Ok(Err("one row of one element cannot be ragged"));
    }
    let rows = stack(&[row.to_vec(), row.to_vec()]);
    let prepared = target.prepare(&rows)?;
    if let Some(message) = prepared.grpc() {
        let mut message = message.clone();
        if let Some(raw) = message.raw_input_contents.first_mut() {
            raw.truncate(raw.len() - first.datatype.size().unwrap_or(1));
        }
        return Ok(Ok((target.clone(), message.into())));
    }
    let Some(call) = prepared.http() else { return Ok(Err("it has no body")) };
    if target.protocol() == CallProtocol::V2Binary {
        return Ok(Err("asked over v2"));
    }
    let Ok(mut body) = serde_json::from_slice::<Value>(&call.body) else { return Ok(Err("its body is no JSON")) };
    shorten(&mut body);
    Ok(Ok((target.clone(), call.clone().body(body.to_string()).into())))
}

/// A float input's first number in the body's text replaced by what JSON does not have.
fn no_number(target: &Target, row: &[Tensor], token: &str) -> Result<Bad, nobat_core::Error> {
    let is_float =
        |tensor: &&Tensor| matches!(tensor.datatype, Datatype::Fp32 | Datatype::Fp64) && !tensor.data.is_empty();
    if !matches!(
        target.protocol(),
        CallProtocol::Native | CallProtocol::TfServing | CallProtocol::V2 | CallProtocol::Json
    ) {
        return Ok(Err("bytes carry every number"));
    }
    let Some(float) = row.iter().find(is_float) else { return Ok(Err("the model takes no floats")) };
    let mut data = float.data.to_vec();
    match float.datatype {
        Datatype::Fp32 => data[..4].copy_from_slice(&f32::NAN.to_le_bytes()),
        _ => data[..8].copy_from_slice(&f64::NAN.to_le_bytes()),
    }
    let marked: Vec<Tensor> = row
        .iter()
        .map(|tensor| {
            if tensor.name == float.name {
                Tensor { data: data.clone().into(), ..tensor.clone() }
            } else {
                tensor.clone()
            }
        })
        .collect();
    let prepared = target.prepare(&marked)?;
    let Some(call) = prepared.http() else { return Ok(Err("it has no body")) };
    // What is no number is written as null.
    let body = String::from_utf8_lossy(&call.body).replacen("null", token, 1);
    Ok(Ok((target.clone(), call.clone().body(body).into())))
}

/// Replaces the first scalar inside the first list.
fn change_first(body: &mut Value, with: &Value) {
    match body {
        Value::Object(members) => {
            if let Some(inner) = members.values_mut().find(|value| value.is_array() || value.is_object()) {
                change_first(inner, with);
            }
        }
        Value::Array(values) => match values.first_mut() {
            Some(inner @ (Value::Array(_) | Value::Object(_))) => change_first(inner, with),
            Some(first) => *first = with.clone(),
            None => {}
        },
        _ => {}
    }
}

/// Takes an element from the first list of scalars.
fn shorten(body: &mut Value) -> bool {
    match body {
        Value::Object(members) => {
            let lists = members.iter_mut().filter(|(name, _)| *name != "shape");
            lists.map(|(_, value)| value).any(shorten)
        }
        Value::Array(values) => match values.first_mut() {
            Some(inner @ (Value::Array(_) | Value::Object(_))) => shorten(inner),
            Some(_) => values.pop().is_some(),
            None => false,
        },
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_without_inputs_is_asked_what_needs_none() {
        use crate::client::TargetSettings;
        use std::time::Duration;
        let settings = TargetSettings {
            url: "http://127.0.0.1:9".into(),
            grpc: Some("127.0.0.1:9".into()),
            api_key: None,
            model: "m".into(),
            version: None,
            template: None,
            patience: Duration::from_secs(1),
        };
        let model = ModelDescription { name: "m".into(), batched: true, max_rows: Some(2), ..Default::default() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let _inside = runtime.enter();
        for protocol in [CallProtocol::V2, CallProtocol::Native, CallProtocol::TfServing, CallProtocol::Grpc] {
            let target = Target::new(settings.clone(), protocol).expect("a target");
            for kind in [ServerKind::Nobat, ServerKind::Other("else".into())] {
                for case in BadCase::ALL {
                    let made = bad(case, &kind, &target, &model, &[]);
                    let needs_an_input =
                        matches!(case, BadCase::WrongRank | BadCase::MissingInput | BadCase::EmptyBatch);
                    if needs_an_input {
                        let why = made.expect("made").err();
                        assert_eq!(why, Some("the model takes no input"), "{case:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn one_element_is_changed_or_taken() {
        let mut body = json!({"parameters": {"n": 1}, "inputs": {"x": [[1, 2], [3, 4]]}});
        body.as_object_mut().expect("object").remove("parameters");
        change_first(&mut body, &json!("seven"));
        assert_eq!(body, json!({"inputs": {"x": [["seven", 2], [3, 4]]}}));
        assert!(shorten(&mut body));
        assert_eq!(body, json!({"inputs": {"x": [["seven"], [3, 4]]}}));
        let mut v2 = json!({"inputs": [{"name": "x", "shape": [2, 2], "data": [1, 2, 3, 4]}]});
        assert!(shorten(&mut v2));
        assert_eq!(v2["inputs"][0]["data"], json!([1, 2, 3]));
        assert_eq!(v2["inputs"][0]["shape"], json!([2, 2]));
    }
}
