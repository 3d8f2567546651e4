//! Labels of pictures.

use nobat_core::Result;
use nobat_transform::SessionOutput;
use serde::Serialize;

use crate::graph::Output;
use crate::numbers::{Numbers, sigmoid, softmax};
use crate::options::Options;
use crate::settings::Activation;

/// The way from an output of classes to labels.
#[derive(Clone, Debug)]
pub(crate) struct Classifier {
    pub(crate) output: Output,
    pub(crate) activation: Activation,
}

/// A label and its score, as `top` lists them.
#[derive(Debug, Serialize)]
pub(crate) struct Top {
    pub(crate) label: String,
    pub(crate) score: f32,
}

/// A class and its score.
pub(crate) type Scored = (usize, f32);

impl Classifier {
    /// The best classes of each row.
    ///
    /// # Errors
    /// `inference_failed` where the output does not fit the rows.
    pub(crate) fn finish(&self, outputs: &[SessionOutput<'_>], options: &[&Options]) -> Result<Vec<Vec<Scored>>> {
        let numbers = Numbers::new(outputs, self.output.at, &self.output.name, options.len())?;
        let each = options.iter().enumerate().map(|(row, options)| {
            let mut scores = numbers.row(row);
            match self.activation {
                Activation::None => {}
                Activation::Sigmoid => scores.iter_mut().for_each(|score| *score = sigmoid(*score)),
                Activation::Softmax => softmax(&mut scores),
            }
            best(&scores, options.top_k)
        });
        Ok(each.collect())
    }
}

/// The classes of the highest scores, the first of equal ones first; what cannot be compared is last.
fn best(scores: &[f32], most: usize) -> Vec<Scored> {
    let key = |&at: &usize| if scores[at].is_nan() { f32::NEG_INFINITY } else { scores[at] };
    let order = |a: &usize, b: &usize| key(b).total_cmp(&key(a)).then(a.cmp(b));
    let mut places: Vec<usize> = (0..scores.len()).collect();
    if most < places.len() {
        places.select_nth_unstable_by(most, order);
        places.truncate(most);
    }
    places.sort_unstable_by(order);
    places.into_iter().map(|at| (at, scores[at])).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_best_come_first_and_ties_by_number() {
        assert_eq!(best(&[0.1, 0.5, 0.5, f32::NAN, 0.2], 3), [(1, 0.5), (2, 0.5), (4, 0.2)]);
        assert_eq!(best(&[], 5), []);
    }

    proptest! {
        #[test]
        fn a_few_of_the_best_are_the_first_of_all(scores in prop::collection::vec(-5f32..5.0, 0..50), most in 1usize..60) {
            let all = best(&scores, scores.len());
            prop_assert_eq!(&all[..most.min(all.len())], &best(&scores, most)[..]);
        }
    }
}
