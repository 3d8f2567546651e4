//! Words for the masks of a text.

use nobat_core::{Error, Result};
use serde::Serialize;

use crate::numbers::{Floats, softmax};
use crate::row::{Detail, TokenRow};
use crate::tokenizer::TextTokenizer;

/// Most fills of one text, each of which is the whole text again.
const MOST_FILLS: usize = 2_000;

/// A token for a mask, and the text with it.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Fill {
    score: f32,
    token: u32,
    token_str: String,
    sequence: String,
}

/// The `top_k` likeliest tokens for a text's mask as a JSON list; a list of such lists where it
/// has several masks.
///
/// # Errors
/// `internal` when a token cannot be written as text.
pub(crate) fn fills(
    tokenizer: &TextTokenizer,
    padding_id: u32,
    row: &TokenRow,
    logits: &Floats<'_>,
    (at, start): (usize, usize),
    top_k: usize,
) -> Result<Vec<u8>> {
    let Detail::Masks(masks) = &row.detail else { return Err(Error::internal("a row without its masks")) };
    if masks.len().saturating_mul(top_k) > MOST_FILLS {
        return Err(Error::invalid(format!(
            "a text has {} masks and top_k is {top_k}: lower top_k or send fewer masks, for at most {MOST_FILLS} fills",
            masks.len()
        )));
    }
    let single = masks.len() == 1;
    let mut all: Vec<Vec<Fill>> = Vec::with_capacity(masks.len());
    for &mask in masks {
        let mut scores = logits.vector(at, start + mask);
        softmax(&mut scores);
        let mut of_mask = Vec::new();
        for token in likeliest(&scores, top_k) {
            let mut ids = row.ids.clone();
            ids[mask] = token as u32;
            ids.retain(|&id| id != padding_id);
            of_mask.push(Fill {
                score: scores[token],
                token: token as u32,
                token_str: tokenizer.decode(&[token as u32], false)?,
                // Other masks stay visible; they are special tokens.
                sequence: tokenizer.decode(&ids, single)?,
            });
        }
        all.push(of_mask);
    }
    let written = match all.as_slice() {
        [only] if single => serde_json::to_vec(only),
        all => serde_json::to_vec(all),
    };
    written.map_err(|error| Error::internal(error.to_string()))
}

/// The places of the `count` largest, the largest first, earlier ones before their equals.
fn likeliest(scores: &[f32], count: usize) -> Vec<usize> {
    let order = |a: &usize, b: &usize| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b));
    let mut places: Vec<usize> = (0..scores.len()).collect();
    if count < places.len() {
        places.select_nth_unstable_by(count, order);
        places.truncate(count);
    }
    places.sort_unstable_by(order);
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_likeliest_come_first_and_equals_in_their_order() {
        assert_eq!(likeliest(&[0.1, 0.5, 0.5, 0.2], 3), [1, 2, 3]);
        assert_eq!(likeliest(&[0.1, 0.2], 9), [1, 0]);
        assert!(likeliest(&[], 3).is_empty());
    }
}
