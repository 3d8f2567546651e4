//! Labels for pictures without a class of their own: each label in a sentence, and how alike the graph
//! finds sentence and picture.

use std::collections::BTreeMap;

use nobat_core::parameters::Parameters;
use nobat_core::signature::TensorSpec;
use nobat_core::tensor::{Datatype, Shape, Tensor, put_bytes_element, take_bytes_element};
use nobat_core::{Error, ErrorCode, Result, clip};
use serde::Serialize;

use crate::contract::{Finished, JobState, SessionOutput, Transform};

/// The input of texts, which labels' sentences become.
pub(super) const TEXT: &str = "text";
/// The sentence that transformers puts labels into.
const TEMPLATE: &str = "This is a photo of {}.";
/// Most labels of a picture, and of a request.
const MOST_LABELS: usize = 1000;
const MOST_LABELS_OF_REQUEST: usize = 4096;
/// Rows of either kind whose likeness is looked at for the scale.
const LOOKED_AT: usize = 8;

/// Pictures and the labels that they are compared with.
#[derive(Debug)]
pub(super) struct Compared {
    pub(super) pictures: JobState,
    pub(super) texts: JobState,
    /// How many rows are pictures'; they come first.
    pub(super) count: usize,
    /// By picture: its labels, and the places of their sentences.
    pub(super) labels: Vec<Vec<(String, usize)>>,
}

#[derive(Serialize)]
struct Scored<'a> {
    label: &'a str,
    score: f32,
}

/// The sentences of all labels, each once, as an input of texts; and by picture its labels with their
/// sentences' places.
///
/// # Errors
/// `invalid_tensor` for what are no labels, `invalid_parameter` for a template without a place for them.
pub(super) fn sentences(labels: &Tensor, parameters: &Parameters) -> Result<(Tensor, Vec<Vec<(String, usize)>>)> {
    let template = parameters.text("hypothesis_template")?.unwrap_or(TEMPLATE);
    if !template.contains("{}") {
        return Err(Error::invalid(format!(
            "parameter `hypothesis_template` is `{}`; it takes a sentence with {{}} where the label goes",
            clip(template)
        )));
    }
    labels.check()?;
    let invalid = |message: String| Error::new(ErrorCode::InvalidTensor, message);
    let (mut places, mut data, mut of_picture) = (BTreeMap::new(), Vec::new(), Vec::new());
    let (mut rest, mut all) = (&labels.data[..], 0);
    while let Some(element) = take_bytes_element(&mut rest) {
        let at = of_picture.len();
        let own: Vec<String> = serde_json::from_slice(element).map_err(|error| {
            let shown = String::from_utf8_lossy(&element[..element.len().min(80)]).into_owned();
            invalid(format!(
                "element {at} of input `labels` is `{}`; it takes a JSON list of labels, such as [\"a cat\", \"a dog\"] \
                 ({error})",
                clip(&shown)
            ))
        })?;
        if own.is_empty() || own.len() > MOST_LABELS {
            let count = own.len();
            return Err(invalid(format!(
                "element {at} of input `labels` has {count} labels; it takes 1 to {MOST_LABELS}"
            )));
        }
        all += own.len();
        if all > MOST_LABELS_OF_REQUEST {
            return Err(invalid(format!(
                "the request has over {MOST_LABELS_OF_REQUEST} labels; send fewer pictures at once"
            )));
        }
        let placed = own.into_iter().map(|label| {
            let new = places.len();
            let place = *places.entry(label.clone()).or_insert_with(|| {
                put_bytes_element(&mut data, template.replace("{}", &label).as_bytes());
                new
            });
            (label, place)
        });
        let placed = placed.collect();
        of_picture.push(placed);
    }
    let shape = Shape::from_slice(&[places.len() as i64]);
    let sentences = Tensor { name: TEXT.into(), datatype: Datatype::Bytes, shape, data: data.into() };
    Ok((sentences, of_picture))
}

impl Compared {
    /// By picture its labels with their scores, which sum to 1, the best first.
    pub(super) fn answer(
        &self,
        texts: &dyn Transform,
        pictures: &dyn Transform,
        mut rows: Vec<Finished>,
        scale: Option<f32>,
    ) -> Result<Vec<Tensor>> {
        let of_texts = rows.split_off(self.count.min(rows.len()));
        let pictures = vectors(pictures.answer(&self.pictures, rows)?)?;
        let sentences = vectors(texts.answer(&self.texts, of_texts)?)?;
        let Some(scale) = scale else {
            let message = "the graph's `logits_per_image` are all zero or no numbers, so labels cannot be told apart";
            return Err(Error::new(ErrorCode::InferenceFailed, message));
        };
        let mut data = Vec::new();
        for (picture, labels) in pictures.iter().zip(&self.labels) {
            let mut scored = Vec::with_capacity(labels.len());
            for (label, place) in labels {
                let sentence = sentences.get(*place).ok_or_else(|| Error::internal("a label has lost its sentence"))?;
                scored.push(Scored { label, score: scale * likeness(picture, sentence) });
            }
            softmax(&mut scored);
            scored.sort_by(|a, b| b.score.total_cmp(&a.score));
            let written = serde_json::to_vec(&scored).map_err(|error| Error::internal(error.to_string()))?;
            put_bytes_element(&mut data, &written);
        }
        let shape = Shape::from_slice(&[self.labels.len() as i64]);
        Ok(vec![Tensor { name: "scores".into(), datatype: Datatype::Bytes, shape, data: data.into() }])
    }
}

fn softmax(scored: &mut [Scored<'_>]) {
    let most = scored.iter().map(|own| own.score).fold(f32::NEG_INFINITY, f32::max);
    scored.iter_mut().for_each(|own| own.score = (own.score - most).exp());
    let sum: f32 = scored.iter().map(|own| own.score).sum();
    scored.iter_mut().for_each(|own| own.score /= sum);
}

/// The rows of the output `embedding`.
fn vectors(outputs: Vec<Tensor>) -> Result<Vec<Vec<f32>>> {
    let found = outputs.into_iter().find(|tensor| tensor.name == "embedding");
    let tensor = found.ok_or_else(|| Error::internal("a tower gave no vectors"))?;
    let width = tensor.shape.get(1).and_then(|&width| usize::try_from(width).ok()).unwrap_or(1).max(1);
    Ok(floats(&tensor.data).chunks(width).map(<[f32]>::to_vec).collect())
}

fn floats(data: &[u8]) -> Vec<f32> {
    data.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
}

/// The cosine of the angle between two vectors.
fn likeness(one: &[f32], other: &[f32]) -> f32 {
    let product = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let lengths = (product(one, one) * product(other, other)).sqrt();
    (product(one, other) / lengths.max(1e-12)) as f32
}

/// Where the graph says how alike pictures and texts are, beside the vectors of which it says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Similarity {
    logits: usize,
    pictures: usize,
    texts: usize,
}

impl Similarity {
    /// CLIP's outputs, where the graph has them all as FP32.
    pub(super) fn find(outputs: &[TensorSpec]) -> Option<Similarity> {
        let at = |name: &str| {
            let fits =
                |spec: &TensorSpec| spec.name == name && spec.datatype == Datatype::Fp32 && spec.shape.len() == 2;
            outputs.iter().position(fits)
        };
        Some(Similarity { logits: at("logits_per_image")?, pictures: at("image_embeds")?, texts: at("text_embeds")? })
    }

    /// What the cosine of picture and text is multiplied by, which the graph has learned; by those of a run's
    /// pairs that show it best. None of a run whose pairs are all at right angles.
    pub(super) fn scale(self, outputs: &[SessionOutput<'_>]) -> Option<f32> {
        let rows = |at: usize| {
            let output = outputs.get(at)?;
            let width = usize::try_from(*output.shape.get(1)?).ok().filter(|&width| width > 0)?;
            let numbers = output.data.get(..output.data.len().min(LOOKED_AT * width * size_of::<f32>()))?;
            Some(floats(numbers).chunks(width).map(<[f32]>::to_vec).collect::<Vec<_>>())
        };
        let (logits, pictures, texts) = (rows(self.logits)?, rows(self.pictures)?, rows(self.texts)?);
        let pairs = pictures.iter().zip(&logits).flat_map(|(picture, logits)| {
            texts.iter().zip(logits).map(move |(text, &logit)| (likeness(picture, text), logit))
        });
        let (cosine, logit) = pairs.max_by(|one, other| one.0.abs().total_cmp(&other.0.abs()))?;
        let scale = logit / cosine;
        (cosine.abs() > 1e-3 && scale.is_finite()).then_some(scale)
    }
}

#[cfg(test)]
mod tests {
    use nobat_core::parameters::Parameter;

    use super::*;

    fn labels(elements: &[&str]) -> Tensor {
        let mut data = Vec::new();
        elements.iter().for_each(|element| put_bytes_element(&mut data, element.as_bytes()));
        let shape = Shape::from_slice(&[elements.len() as i64]);
        Tensor { name: "labels".into(), datatype: Datatype::Bytes, shape, data: data.into() }
    }

    #[test]
    fn each_label_is_a_sentence_once_however_many_pictures_it_is_for() {
        let given = labels(&[r#"["cat", "dog"]"#, r#"["dog"]"#]);
        let (texts, places) = sentences(&given, &Parameters::default()).expect("labels");
        assert_eq!(texts.shape[..], [2]);
        assert!(texts.data.ends_with(b"This is a photo of dog."));
        assert_eq!((places[0][1].1, places[1][0].1), (1, 1));
        let template =
            |text: &str| Parameters::from_iter([("hypothesis_template".into(), Parameter::Text(text.into()))]);
        let (texts, _) = sentences(&given, &template("a {}")).expect("labels");
        assert!(texts.data.ends_with(b"a dog"));
        assert!(sentences(&given, &template("a cat")).expect_err("no place").message.contains("where the label goes"));
        for wrong in ["cat", "[]", "[1]", "{}"] {
            let refused = sentences(&labels(&[wrong]), &Parameters::default()).expect_err(wrong).message;
            assert!(refused.contains("element 0 of input `labels`"), "{refused}");
        }
    }

    #[test]
    fn the_graph_shows_how_it_scales_likeness() {
        let spec = |name: &str, width| TensorSpec {
            name: name.into(),
            datatype: Datatype::Fp32,
            shape: vec![-1, width],
            optional: false,
        };
        let own = Similarity::find(&[spec("text_embeds", 2), spec("logits_per_image", -1), spec("image_embeds", 2)]);
        let own = own.expect("all are there");
        let bytes = |numbers: &[f32]| numbers.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<u8>>();
        let scale = |texts: &[f32], logits: &[f32], pictures: &[f32]| {
            let (texts, logits, pictures) = (bytes(texts), bytes(logits), bytes(pictures));
            let output = |shape, data| SessionOutput { datatype: Datatype::Fp32, shape, data };
            own.scale(&[output(&[2, 2], &texts), output(&[1, 2], &logits), output(&[1, 2], &pictures)])
        };
        // At right angles to the first text, along the second.
        let found = scale(&[1.0, 0.0, 0.0, 4.0], &[0.0, 50.0], &[0.0, 3.0]);
        assert!(found.is_some_and(|scale| (scale - 50.0).abs() < 1e-4), "{found:?}");
        assert_eq!(scale(&[1.0, 0.0, 1.0, 0.0], &[0.0, 0.0], &[0.0, 3.0]), None);
        assert_eq!(Similarity::find(&[spec("text_embeds", 2), spec("image_embeds", 2)]), None);
    }
}
