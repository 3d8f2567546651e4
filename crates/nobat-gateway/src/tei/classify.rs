//! `/predict` of this API: labels and scores of texts or of pairs of texts.

use actix_web::{HttpRequest, HttpResponse};
use nobat_core::infer::InferRequest;
use nobat_core::json::{Reader, encode};
use nobat_core::parameters::Parameters;
use nobat_core::task::TaskKind;
use nobat_core::{Error, ErrorCode, Result};
use nobat_serving::registry::ModelEntry;
use nobat_serving::{Prediction, Predictor};

use super::members::{Members, missing};
use crate::context;
use crate::error::ApiResult;
use crate::text::answers::{PrintRows, answered};
use crate::text::model::find;
use crate::text::outputs::{float_rows, floats};
use crate::text::texts::{TEXT, TEXT_PAIR, Texts, empty};

const MEMBERS: &[&str] = &["raw_scores", "truncate", "truncation_direction"];
/// Tasks that have labels.
const KINDS: &[TaskKind] = &[TaskKind::Classify];

/// Whether a body of `/predict` is a call of this API: it has `inputs`, and the model that
/// it means has labels for texts. Any other is TensorFlow Serving's.
pub(crate) async fn is_call(request: &HttpRequest, predictor: &Predictor, body: &[u8]) -> bool {
    let (mut has_inputs, mut is_other, mut model) = (false, false, None);
    let read = Reader::new(body).object("the body", |reader, member| {
        match &*member {
            "inputs" => has_inputs = true,
            "instances" | "outputs" | "signature_name" | "parameters" => is_other = true,
            "model" if reader.peek() == Some(b'"') => {
                model = Some(reader.string("model")?.into_owned());
                return Ok(());
            }
            _ => {}
        }
        reader.skip_value(&member)
    });
    let context = context::of(request);
    // The default model is meant where none is named, whatever it does.
    let is_meant = model.is_some() || {
        let state = predictor.state();
        let preferred = state.settings.default_model.as_str();
        let takes_tensors = |served: &ModelEntry| {
            served.name == preferred
                && !served.default_version().signature.task.as_ref().is_some_and(|task| KINDS.contains(&task.kind))
        };
        preferred.is_empty() || !state.registry.load().models().any(takes_tensors)
    };
    read.is_ok()
        && has_inputs
        && !is_other
        && is_meant
        && find(predictor, &context, model.as_deref(), KINDS, ErrorCode::Unsupported).await.is_ok()
}

/// Answers such a call.
pub(crate) async fn predict(request: &HttpRequest, predictor: &Predictor, body: &[u8]) -> ApiResult {
    let context = context::of(request);
    let mut inputs = None;
    let Members { model, parameters } = Members::read(body, MEMBERS, |reader, member| {
        if member == "inputs" {
            inputs = Some(Inputs::read(reader)?);
        }
        Ok(member == "inputs")
    })?;
    let inputs = inputs.ok_or_else(|| missing("inputs"))?;
    let model = find(predictor, &context, model.as_deref(), KINDS, ErrorCode::Unsupported).await?;
    let labels = model.task.labels.iter().map(ToString::to_string).collect();
    let (rows, is_alone) = (inputs.texts.rows, inputs.is_alone);
    let request = inputs.request(parameters);
    let print = Labels { labels, is_alone };
    let answer: HttpResponse = answered(predictor, &context, model, request, rows, print).await?;
    Ok(answer)
}

/// Texts or pairs of them: `"a"`, `["a", "b"]` (one pair), `[["a"], ["a", "b"]]`.
#[derive(Default)]
struct Inputs {
    texts: Texts,
    pairs: Texts,
    has_pairs: bool,
    has_singles: bool,
    is_alone: bool,
}

impl Inputs {
    fn read(reader: &mut Reader<'_>) -> Result<Inputs> {
        let mut inputs = Inputs::default();
        match reader.peek() {
            Some(b'"') => {
                inputs.is_alone = true;
                inputs.push(&[&reader.string("inputs")?])?;
            }
            Some(b'[') => {
                let mut ahead = *reader;
                ahead.take(b'[');
                if ahead.peek() == Some(b'"') {
                    inputs.is_alone = true;
                    let texts: Vec<String> = reader.parse_long("inputs")?;
                    inputs.push(&texts.iter().map(String::as_str).collect::<Vec<_>>())?;
                } else {
                    reader.list("inputs", |reader, at| {
                        let texts: Vec<String> = reader.parse_long(&format!("inputs[{at}]"))?;
                        inputs.push(&texts.iter().map(String::as_str).collect::<Vec<_>>())
                    })?;
                }
            }
            _ => return Err(reader.unexpected("a text, a pair of texts, or a list of either", "inputs")),
        }
        match inputs.texts.rows {
            0 => Err(empty("inputs")),
            _ if inputs.has_pairs && inputs.has_singles => {
                Err(Error::new(ErrorCode::InvalidJson, "inputs has both texts and pairs of texts; send them apart"))
            }
            _ => Ok(inputs),
        }
    }

    fn push(&mut self, texts: &[&str]) -> Result<()> {
        match texts {
            [text] => {
                self.texts.push(text);
                self.has_singles = true;
            }
            [text, pair] => {
                self.texts.push(text);
                self.pairs.push(pair);
                self.has_pairs = true;
            }
            other => {
                let message = format!("inputs has an entry of {} texts; it takes one, or a pair", other.len());
                return Err(Error::new(ErrorCode::InvalidJson, message));
            }
        }
        Ok(())
    }

    fn request(self, parameters: Parameters) -> InferRequest {
        let mut inputs = vec![self.texts.tensor(TEXT)];
        if self.has_pairs {
            inputs.push(self.pairs.tensor(TEXT_PAIR));
        }
        InferRequest { inputs, parameters, ..InferRequest::default() }
    }
}

/// Prints `[{"score", "label"}]`, the highest first; for several texts a list of them.
struct Labels {
    labels: Vec<String>,
    is_alone: bool,
}

impl PrintRows for Labels {
    fn begin(&mut self, out: &mut Vec<u8>) {
        if !self.is_alone {
            out.push(b'[');
        }
    }

    fn rows(&mut self, out: &mut Vec<u8>, first: usize, prediction: &Prediction) -> Result<()> {
        for (at, row) in float_rows(prediction, "scores")?.enumerate() {
            let mut scores: Vec<(usize, f32)> = floats(row).enumerate().collect();
            scores.sort_by(|(a, x), (b, y)| y.total_cmp(x).then(a.cmp(b)));
            out.extend_from_slice(if first + at > 0 { b",[" } else { b"[" });
            for (place, (class, score)) in scores.into_iter().enumerate() {
                out.extend_from_slice(if place > 0 { b",{\"score\":" } else { b"{\"score\":" });
                encode::float(out, score);
                out.extend_from_slice(b",\"label\":");
                match self.labels.get(class) {
                    Some(label) => encode::string(out, label),
                    None => encode::string(out, &class.to_string()),
                }
                out.push(b'}');
            }
            out.push(b']');
        }
        Ok(())
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        if !self.is_alone {
            out.push(b']');
        }
    }
}
