//! What the tokenizer answers by itself: a text's tokens, and tokens as a text.

use nobat_core::{Error, Result};
use serde::Serialize;
use tokenizers::Encoding;

use crate::texts;
use crate::tokenizer::TextTokenizer;

/// A token and where it stands, in characters; special ones stand nowhere.
#[derive(Serialize)]
struct ShownToken<'a> {
    id: u32,
    text: &'a str,
    special: bool,
    start: Option<usize>,
    stop: Option<usize>,
}

/// A text's tokens as a JSON list.
///
/// # Errors
/// `internal` when they cannot be written.
pub(crate) fn tokens(text: &str, encoding: &Encoding) -> Result<Vec<u8>> {
    let bytes: Vec<usize> = text.char_indices().map(|(byte, _)| byte).chain([text.len()]).collect();
    let byte = |character: usize| bytes.get(character).copied().unwrap_or(text.len());
    let special = encoding.get_special_tokens_mask();
    let mut all = Vec::with_capacity(encoding.len());
    for (at, (&id, token)) in encoding.get_ids().iter().zip(encoding.get_tokens()).enumerate() {
        let special = special.get(at) == Some(&1);
        let (start, stop) = encoding.get_offsets().get(at).copied().unwrap_or((0, 0));
        // Other tokens are shown as they stand in the text.
        let shown = if special { token } else { text.get(byte(start)..byte(stop)).unwrap_or(token) };
        let place = |place: usize| (!special).then_some(place);
        all.push(ShownToken { id, text: shown, special, start: place(start), stop: place(stop) });
    }
    serde_json::to_vec(&all).map_err(|error| Error::internal(error.to_string()))
}

/// An element's ids as a text, in JSON.
///
/// # Errors
/// `invalid_tensor` where the element is no list of ids.
pub(crate) fn decoded(
    tokenizer: &TextTokenizer,
    name: &str,
    at: usize,
    element: &[u8],
    skip_special: bool,
) -> Result<Vec<u8>> {
    let ids = texts::ids(name, at, element)?;
    serde_json::to_vec(&tokenizer.decode_all(&ids, skip_special, at)?)
        .map_err(|error| Error::internal(error.to_string()))
}
