//! Weights over the vocabulary, as SPLADE makes them of masked-language logits.

use nobat_core::{Error, Result};
use serde::Serialize;

use crate::folder::modules::Splade;
use crate::numbers::Floats;
use crate::pool::Place;

#[derive(Serialize)]
struct Weight {
    index: usize,
    value: f32,
}

/// A text's weights that are not 0, by the number of the token, as a JSON list.
///
/// # Errors
/// `internal` when they cannot be written.
pub(crate) fn weights(splade: Splade, logits: &Floats<'_>, place: Place) -> Result<Vec<u8>> {
    let mut total = vec![0f32; logits.width];
    for token in 0..place.tokens {
        logits.fold(place.row, place.start + token, &mut total, |total, logit| {
            // ln(1 + relu(x)) is 0 for most of the vocabulary.
            if logit <= 0.0 {
                return total;
            }
            let weight = if splade.twice { logit.ln_1p().ln_1p() } else { logit.ln_1p() };
            if splade.sum { total + weight } else { total.max(weight) }
        });
    }
    let kept: Vec<Weight> = total
        .iter()
        .enumerate()
        .filter(|(_, value)| **value != 0.0)
        .map(|(index, &value)| Weight { index, value })
        .collect();
    serde_json::to_vec(&kept).map_err(|error| Error::internal(error.to_string()))
}
