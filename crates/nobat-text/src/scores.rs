//! Scores of labels: classification, reranking and zero-shot classification.

use nobat_core::task::TaskKind;
use nobat_core::{Error, Result};
use serde::Serialize;

use crate::folder::config::ModelConfig;
use crate::numbers::{sigmoid, softmax};

/// What makes scores of logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activation {
    None,
    Sigmoid,
    Softmax,
}

impl Activation {
    /// As transformers has it for classification, and sentence-transformers for reranking.
    ///
    /// # Errors
    /// A cross-encoder's activation that is not known.
    pub(crate) fn of(kind: TaskKind, config: &ModelConfig, labels: usize) -> Result<Activation> {
        if kind == TaskKind::Rerank {
            return match config.activation() {
                Some("Identity") => Ok(Activation::None),
                Some("Sigmoid") | None => Ok(Activation::Sigmoid),
                Some(other) => Err(Error::invalid(format!(
                    "config.json has the activation `{other}`; known are Identity and Sigmoid"
                ))),
            };
        }
        Ok(match config.problem_type.as_deref() {
            Some("regression") => Activation::None,
            Some("multi_label_classification") => Activation::Sigmoid,
            _ if labels == 1 => Activation::Sigmoid,
            _ => Activation::Softmax,
        })
    }

    pub(crate) fn apply(self, logits: &mut [f32]) {
        match self {
            Activation::None => {}
            Activation::Sigmoid => logits.iter_mut().for_each(|logit| *logit = sigmoid(*logit)),
            Activation::Softmax => softmax(logits),
        }
    }
}

/// A label that the caller gave, and its score.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Scored<'a> {
    label: &'a str,
    score: f32,
}

/// Scores of the labels that a caller gave for one text, the highest first; `logits` are one row
/// for each, `entailment` the class that says that the label holds.
pub(crate) fn zero_shot<'a>(
    labels: &'a [String],
    logits: &[Vec<f32>],
    entailment: usize,
    multi_label: bool,
) -> Vec<Scored<'a>> {
    let class = |row: &Vec<f32>, at: usize| row.get(at).copied().unwrap_or(f32::NEG_INFINITY);
    let scores: Vec<f32> = if multi_label || labels.len() == 1 {
        // Each by itself, against the class that says the contrary.
        let each = logits.iter().map(|row| {
            let contradiction = if entailment == 0 { row.len().saturating_sub(1) } else { 0 };
            let mut two = [class(row, contradiction), class(row, entailment)];
            softmax(&mut two);
            two[1]
        });
        each.collect()
    } else {
        let mut entailed: Vec<f32> = logits.iter().map(|row| class(row, entailment)).collect();
        softmax(&mut entailed);
        entailed
    };
    let mut scored: Vec<Scored<'a>> = labels.iter().zip(scores).map(|(label, score)| Scored { label, score }).collect();
    scored.sort_by(|a, b| b.score.total_cmp(&a.score));
    scored
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_scored_against_each_other_or_each_by_itself() {
        let labels = ["a".to_owned(), "b".to_owned()];
        let logits = [vec![1.0, 0.0, 2.0], vec![2.0, 0.0, 3.0]];
        let together = zero_shot(&labels, &logits, 2, false);
        assert_eq!(together[0].label, "b");
        assert!((together[0].score - 0.731_058_6).abs() < 1e-6 && (together[1].score - 0.268_941_4).abs() < 1e-6);
        let apart = zero_shot(&labels, &logits, 2, true);
        assert!(apart.iter().all(|scored| (scored.score - 0.731_058_6).abs() < 1e-6));
        // Where entailment is the first class, the contrary is the last.
        let first = zero_shot(&labels[..1], &[vec![2.0, 0.0, 1.0]], 0, false);
        assert!((first[0].score - 0.731_058_6).abs() < 1e-6);
    }
}
