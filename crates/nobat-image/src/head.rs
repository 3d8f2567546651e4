//! What the session's outputs come to, row by row: one way for each task.

use nobat_core::signature::TensorSpec;
use nobat_core::task::ImageTask;
use nobat_core::tensor::{Datatype, Tensor};
use nobat_core::{Error, Result};
use nobat_transform::SessionOutput;

use crate::classify::{Classifier, Scored, Top};
use crate::detect::{Detection, Detector};
use crate::graph::Output;
use crate::numbers::Numbers;
use crate::options::Options;
use crate::read::Reader;
use crate::segment::{Segmented, Segmenter};
use crate::sizes::Placement;
use crate::tensors::{bytes, floats, json};

/// What a row came to.
#[derive(Clone, Debug)]
pub(crate) enum RowAnswer {
    Labels(Vec<Scored>),
    Detections(Vec<Detection>),
    Text(String, f32),
    Vector(Vec<f32>),
    Mask(Segmented),
}

/// A task's way from the session's outputs.
#[derive(Clone, Debug)]
pub(crate) enum Head {
    Classify(Classifier),
    Detect(Detector),
    Segment(Segmenter),
    Read(Reader),
    Embed(Output),
}

impl Head {
    pub(crate) fn task(&self) -> ImageTask {
        match self {
            Head::Classify(_) => ImageTask::Classify,
            Head::Detect(_) => ImageTask::Detect,
            Head::Segment(_) => ImageTask::Segment,
            Head::Read(_) => ImageTask::Read,
            Head::Embed(_) => ImageTask::Embed,
        }
    }

    /// The outputs that callers see.
    pub(crate) fn outputs(&self) -> Vec<TensorSpec> {
        let spec = |name: &str, datatype, shape: &[i64]| TensorSpec {
            name: name.into(),
            datatype,
            shape: shape.to_vec(),
            optional: false,
        };
        match self {
            Head::Classify(_) => vec![
                spec("label", Datatype::Bytes, &[-1]),
                spec("score", Datatype::Fp32, &[-1]),
                spec("top", Datatype::Bytes, &[-1]),
            ],
            Head::Detect(_) => vec![spec("detections", Datatype::Bytes, &[-1])],
            Head::Segment(_) => vec![spec("mask", Datatype::Bytes, &[-1]), spec("segments", Datatype::Bytes, &[-1])],
            Head::Read(_) => vec![spec("text", Datatype::Bytes, &[-1]), spec("score", Datatype::Fp32, &[-1])],
            Head::Embed(output) => {
                let width = dimensions(output).map_or(-1, |width| width as i64);
                vec![spec("embedding", Datatype::Fp32, &[-1, width])]
            }
        }
    }

    /// The outputs whose elements are JSON.
    pub(crate) fn json_outputs(&self) -> &'static [&'static str] {
        match self {
            Head::Classify(_) => &["top"],
            Head::Detect(_) => &["detections"],
            Head::Segment(_) => &["segments"],
            Head::Read(_) | Head::Embed(_) => &[],
        }
    }

    /// Numbers of a vector, where the graph says.
    pub(crate) fn dimensions(&self) -> Option<usize> {
        match self {
            Head::Embed(output) => dimensions(output),
            _ => None,
        }
    }

    /// What each row of a run came to.
    ///
    /// # Errors
    /// `inference_failed` where the outputs do not fit the rows.
    pub(crate) fn finish(
        &self,
        rows: &[(Placement, &Options)],
        outputs: &[SessionOutput<'_>],
        labels: &[String],
    ) -> Result<Vec<RowAnswer>> {
        Ok(match self {
            Head::Classify(classifier) => {
                let options: Vec<&Options> = rows.iter().map(|(_, options)| *options).collect();
                classifier.finish(outputs, &options)?.into_iter().map(RowAnswer::Labels).collect()
            }
            Head::Detect(detector) => {
                detector.finish(outputs, rows, labels)?.into_iter().map(RowAnswer::Detections).collect()
            }
            Head::Segment(segmenter) => {
                segmenter.finish(outputs, rows, labels)?.into_iter().map(RowAnswer::Mask).collect()
            }
            Head::Read(reader) => {
                let texts = reader.finish(outputs, rows.len())?.into_iter();
                texts.map(|(text, score)| RowAnswer::Text(text, score)).collect()
            }
            Head::Embed(output) => {
                let numbers = Numbers::new(outputs, output.at, &output.name, rows.len())?;
                let one = |(row, (_, options)): (usize, &(Placement, &Options))| {
                    let mut vector = numbers.row(row);
                    if options.normalize {
                        normalize(&mut vector);
                    }
                    RowAnswer::Vector(vector)
                };
                rows.iter().enumerate().map(one).collect()
            }
        })
    }

    /// A job's outputs, of what its rows came to.
    ///
    /// # Errors
    /// `internal`: a row of another task.
    pub(crate) fn answer(&self, rows: Vec<RowAnswer>, labels: &[String]) -> Result<Vec<Tensor>> {
        let name = |class: usize| labels.get(class).cloned().unwrap_or_else(|| class.to_string());
        match self {
            Head::Classify(_) => {
                let (mut best, mut scores, mut tops) = (Vec::new(), Vec::new(), Vec::new());
                for row in rows {
                    let RowAnswer::Labels(scored) = row else { return Err(another()) };
                    let named: Vec<(String, f32)> =
                        scored.into_iter().map(|(class, score)| (name(class), score)).collect();
                    let first = named.first().cloned().unwrap_or_default();
                    best.push(first.0);
                    scores.push(first.1);
                    tops.push(named.into_iter().map(|(label, score)| Top { label, score }).collect::<Vec<_>>());
                }
                Ok(vec![bytes("label", &best), floats("score", &scores, None), json("top", &tops)?])
            }
            Head::Detect(_) => {
                let each = rows.into_iter().map(|row| match row {
                    RowAnswer::Detections(found) => Ok(found),
                    _ => Err(another()),
                });
                Ok(vec![json("detections", &each.collect::<Result<Vec<_>>>()?)?])
            }
            Head::Segment(_) => {
                let (mut masks, mut segments) = (Vec::new(), Vec::new());
                for row in rows {
                    let RowAnswer::Mask(found) = row else { return Err(another()) };
                    masks.push(found.mask);
                    segments.push(found.segments);
                }
                Ok(vec![bytes("mask", &masks), json("segments", &segments)?])
            }
            Head::Read(_) => {
                let (mut texts, mut scores) = (Vec::new(), Vec::new());
                for row in rows {
                    let RowAnswer::Text(text, score) = row else { return Err(another()) };
                    texts.push(text);
                    scores.push(score);
                }
                Ok(vec![bytes("text", &texts), floats("score", &scores, None)])
            }
            Head::Embed(output) => {
                let (mut vectors, mut width) = (Vec::new(), dimensions(output));
                for row in rows {
                    let RowAnswer::Vector(vector) = row else { return Err(another()) };
                    width = Some(vector.len());
                    vectors.extend(vector);
                }
                Ok(vec![floats("embedding", &vectors, Some(width.unwrap_or(0)))])
            }
        }
    }
}

fn another() -> Error {
    Error::internal("a row is of another task")
}

/// Numbers of a row, where all its axes are known.
fn dimensions(output: &Output) -> Option<usize> {
    (1..output.shape.len()).map(|at| output.axis(at)).product()
}

/// A vector of length 1 in its direction.
fn normalize(vector: &mut [f32]) {
    let length = vector.iter().map(|number| f64::from(*number).powi(2)).sum::<f64>().sqrt().max(1e-12) as f32;
    vector.iter_mut().for_each(|number| *number /= length);
}
