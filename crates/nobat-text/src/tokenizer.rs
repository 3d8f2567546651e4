//! The folder's tokenizer: from text to token ids and back.
//!
//! Truncation and special tokens are applied here, not by the library's own settings: a request
//! may ask for another truncation, and the length before it is wanted for the refusal.

use std::borrow::Cow;

use nobat_core::{Error, Result};
use tokenizers::normalizers::{Lowercase, NormalizerWrapper, Sequence};
use tokenizers::utils::truncation::{TruncationParams, truncate_encodings};
use tokenizers::{
    Decoder, Encoding, ModelWrapper, PostProcessor, PostProcessorWrapper, Tokenizer, TruncationDirection,
    TruncationStrategy,
};

use crate::settings::Side;
use crate::window::{self, Window};

/// Most bytes of a text whose tokens are shown.
const MOST_WHOLE_BYTES: usize = 1 << 20;
/// Most ids that are shown as a text.
const MOST_WHOLE_IDS: usize = 1 << 18;

/// A tokenizer without truncation, padding and special tokens, which are applied apart.
#[derive(Clone, Debug)]
pub(crate) struct TextTokenizer {
    tokenizer: Tokenizer,
    special: Option<PostProcessorWrapper>,
    /// Special ids before and after a single text.
    frame: (Vec<u32>, Vec<u32>),
    largest_id: u32,
    clean_up: bool,
}

/// What becomes of a text over the limit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cut {
    /// Most tokens, special ones counted.
    pub(crate) most: usize,
    /// Whether it is cut; else it is refused.
    pub(crate) truncate: bool,
    pub(crate) side: Side,
    /// Of a pair, whether only the first is cut; else the longer one.
    pub(crate) only_first: bool,
}

/// What is tokenized.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Input<'a> {
    Text(&'a str),
    Pair(&'a str, &'a str),
    Ids(&'a [u32]),
}

impl TextTokenizer {
    /// Reads `tokenizer.json`.
    ///
    /// # Errors
    /// When it is no tokenizer that is known.
    pub(crate) fn read(bytes: &[u8]) -> Result<TextTokenizer> {
        let mut tokenizer = Tokenizer::from_bytes(bytes).map_err(|error| {
            Error::invalid(format!("tokenizer.json cannot be read: {error}; save it with tokenizers 0.13 or later"))
        })?;
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(failed)?;
        let special = tokenizer.get_post_processor().cloned();
        tokenizer.with_post_processor(None::<PostProcessorWrapper>);
        let largest_id = tokenizer.get_vocab(true).into_values().max().unwrap_or(0);
        let mut own =
            TextTokenizer { tokenizer, special, frame: (Vec::new(), Vec::new()), largest_id, clean_up: false };
        own.frame = own.find_frame()?;
        Ok(own)
    }

    /// Lowers every text before its other normalizers.
    pub(crate) fn lower(&mut self) -> Result<()> {
        let mut steps: Vec<NormalizerWrapper> = vec![Lowercase.into()];
        steps.extend(self.tokenizer.get_normalizer().cloned());
        self.tokenizer.with_normalizer(Some(Sequence::new(steps))).map_err(failed)?;
        Ok(())
    }

    /// Joins what the tokenizer's training set apart when ids become text again.
    pub(crate) fn clean_up(&mut self, wanted: bool) {
        // It would take from a byte-level text spaces that are its own.
        self.clean_up = wanted && !matches!(self.tokenizer.get_model(), ModelWrapper::BPE(_));
    }

    /// The largest id that it gives.
    pub(crate) fn largest_id(&self) -> u32 {
        self.largest_id
    }

    /// The largest id of its vocabulary without the tokens that were added to it.
    pub(crate) fn largest_own_id(&self) -> u32 {
        self.tokenizer.get_vocab(false).into_values().max().unwrap_or(0)
    }

    pub(crate) fn id(&self, token: &str) -> Option<u32> {
        self.tokenizer.token_to_id(token)
    }

    pub(crate) fn token(&self, id: u32) -> Option<String> {
        self.tokenizer.id_to_token(id)
    }

    /// Special tokens that are put around a text, or around a pair.
    pub(crate) fn added(&self, pair: bool) -> usize {
        self.special.as_ref().map_or(0, |special| special.added_tokens(pair))
    }

    /// Whether the id is a special token's.
    pub(crate) fn is_special(&self, id: u32) -> bool {
        self.token(id).is_some_and(|token| self.tokenizer.get_added_vocabulary().is_special_token(&token))
    }

    /// Tokenizes one text or pair, `at` which place of the request. Offsets count characters, and
    /// are there only where they are asked for: counting them takes time.
    ///
    /// # Errors
    /// `invalid_parameter` for a text over the limit that may not be cut, or cannot be.
    pub(crate) fn encode(&self, input: Input<'_>, cut: Cut, offsets: bool, at: usize) -> Result<Encoding> {
        let plain = |text: &str| self.plain(text, cut, offsets, at);
        let ((mut first, mut longer), mut second) = match input {
            Input::Text(text) => (plain(text)?, None),
            Input::Pair(first, second) => (plain(first)?, Some(plain(second)?)),
            Input::Ids(ids) => ((self.of_ids(ids, cut, at)?, false), None),
        };
        if let Some((_, second_longer)) = &second {
            longer |= *second_longer;
        }
        let mut second = second.take().map(|(encoding, _)| encoding);
        let added = self.added(second.is_some());
        let total = first.len() + second.as_ref().map_or(0, Encoding::len) + added;
        // What is left of a longer text may be as many as the limit.
        if !cut.truncate && (total > cut.most || longer) {
            return Err(over_limit(at, total, longer, cut));
        }
        if total > cut.most {
            let params = TruncationParams {
                direction: direction(cut.side),
                max_length: cut.most.saturating_sub(added),
                strategy: match cut.only_first {
                    true => TruncationStrategy::OnlyFirst,
                    false => TruncationStrategy::LongestFirst,
                },
                stride: 0,
            };
            (first, second) = truncate_encodings(first, second, &params).map_err(|_| {
                Error::invalid(format!(
                    "text {at} has {total} tokens with its label, and the limit is {}; the label alone fills it: \
                     shorten the label",
                    cut.most
                ))
            })?;
            first.take_overflowing();
            if let Some(second) = &mut second {
                second.take_overflowing();
            }
        }
        match &self.special {
            Some(special) => special.process(first, second, true).map_err(failed),
            None => {
                let parts = [Some(first), second].into_iter().flatten().collect();
                let mut whole = <dyn PostProcessor>::default_process(parts, true).map_err(failed)?;
                whole.pop().ok_or_else(|| Error::internal("the tokenizer gave nothing for a text"))
            }
        }
    }

    /// A text's own tokens; of a very long one as many as count, and whether there are more.
    fn plain(&self, text: &str, cut: Cut, offsets: bool, at: usize) -> Result<(Encoding, bool)> {
        let mut bytes = window::WHOLE_BYTES.max(cut.most.saturating_mul(16));
        loop {
            let Window { text: part, skipped } = window::window(text, cut.side, bytes);
            let mut encoded = self.raw(part, offsets, at)?;
            if part.len() == text.len() {
                return Ok((encoded, false));
            }
            let enough = cut.most.saturating_add(window::MARGIN);
            if encoded.len() >= enough {
                encoded.truncate(encoded.len() - window::MARGIN, 0, direction(cut.side));
                encoded.take_overflowing();
                if offsets && skipped > 0 {
                    let before = text[..skipped].chars().count();
                    encoded.get_offsets_mut().iter_mut().for_each(|(start, stop)| {
                        *start += before;
                        *stop += before;
                    });
                }
                return Ok((encoded, true));
            }
            // Few tokens in many bytes: spaces, or long words that are unknown.
            if bytes >= window::MOST_BYTES {
                return Err(Error::invalid(format!(
                    "text {at} has {} bytes, and the {} at its {} are {} tokens; leave out long runs of spaces, and of \
                     letters without a space",
                    text.len(),
                    part.len(),
                    if skipped > 0 { "end" } else { "beginning" },
                    encoded.len()
                )));
            }
            bytes = bytes.saturating_mul(4).min(window::MOST_BYTES);
        }
    }

    fn raw(&self, text: &str, offsets: bool, at: usize) -> Result<Encoding> {
        let encoded = match offsets {
            true => self.tokenizer.encode_char_offsets(text, false),
            false => self.tokenizer.encode_fast(text, false),
        };
        encoded.map_err(|error| Error::invalid(format!("text {at} cannot be tokenized: {error}")))
    }

    /// Tokenizes a whole text with offsets in characters.
    ///
    /// # Errors
    /// `invalid_parameter` when the text is over [`MOST_WHOLE_BYTES`], or the tokenizer refuses it.
    pub(crate) fn whole(&self, text: &str, special: bool, at: usize) -> Result<Encoding> {
        if text.len() > MOST_WHOLE_BYTES {
            return Err(Error::invalid(format!(
                "text {at} has {} bytes; operation tokenize takes up to {MOST_WHOLE_BYTES}: send it in parts",
                text.len()
            )));
        }
        let encoded = self.raw(text, true, at)?;
        match &self.special {
            Some(processor) => processor.process(encoded, None, special).map_err(failed),
            None => Ok(encoded),
        }
    }

    /// Ids without the special ones before and after a text, where both are there.
    pub(crate) fn inner<'a>(&self, ids: &'a [u32]) -> &'a [u32] {
        let (before, after) = &self.frame;
        ids.strip_prefix(before.as_slice()).and_then(|rest| rest.strip_suffix(after.as_slice())).unwrap_or(ids)
    }

    /// Ids as a text's tokens; the special ones around them, where they are there, are taken off:
    /// they come again with the post-processor. Of more than the limit only the end that is kept is
    /// looked up.
    fn of_ids(&self, ids: &[u32], cut: Cut, at: usize) -> Result<Encoding> {
        let inner = self.inner(ids);
        let over = inner.len().saturating_sub(cut.most);
        if over > 0 && !cut.truncate {
            return Err(over_limit(at, inner.len() + self.added(false), false, cut));
        }
        let kept = match cut.side {
            Side::Left => &inner[over..],
            Side::Right => &inner[..inner.len() - over],
        };
        let tokens =
            kept.iter().map(|&id| tokenizers::Token::new(id, self.token(id).unwrap_or_default(), (0, 0))).collect();
        Ok(Encoding::from_tokens(tokens, 0))
    }

    fn find_frame(&self) -> Result<(Vec<u32>, Vec<u32>)> {
        let Some(special) = &self.special else { return Ok(Default::default()) };
        // One stand-in token shows what is put before and after a text.
        let stand_in = Encoding::from_tokens(vec![tokenizers::Token::new(u32::MAX, String::new(), (0, 0))], 0);
        let framed = special.process(stand_in, None, true).map_err(failed)?;
        let mut halves = framed.get_ids().splitn(2, |&id| id == u32::MAX).map(<[u32]>::to_vec);
        Ok((halves.next().unwrap_or_default(), halves.next().unwrap_or_default()))
    }

    /// Ids of a request, `at` which place, as a text.
    ///
    /// # Errors
    /// `invalid_parameter` for more than [`MOST_WHOLE_IDS`]; when the tokenizer's decoder fails.
    pub(crate) fn decode_all(&self, ids: &[u32], skip_special: bool, at: usize) -> Result<String> {
        if ids.len() > MOST_WHOLE_IDS {
            return Err(Error::invalid(format!(
                "text {at} has {} ids; operation decode takes up to {MOST_WHOLE_IDS}: send it in parts",
                ids.len()
            )));
        }
        self.decode(ids, skip_special)
    }

    /// Ids as a text.
    ///
    /// # Errors
    /// When the tokenizer's decoder fails.
    pub(crate) fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        let text = self.tokenizer.decode(ids, skip_special).map_err(failed)?;
        Ok(if self.clean_up { clean_up(&text).into_owned() } else { text })
    }

    /// Tokens as they stand in a text.
    pub(crate) fn join(&self, tokens: Vec<String>) -> Result<String> {
        match self.tokenizer.get_decoder() {
            Some(decoder) => decoder.decode(tokens).map_err(failed),
            None => Ok(tokens.join(" ")),
        }
    }
}

fn over_limit(at: usize, total: usize, longer: bool, cut: Cut) -> Error {
    let over = if longer { "over " } else { "" };
    Error::invalid(format!(
        "text {at} has {over}{total} tokens, and the limit is {}; shorten it, or set the parameter `truncate` to true",
        cut.most
    ))
}

fn direction(side: Side) -> TruncationDirection {
    match side {
        Side::Left => TruncationDirection::Left,
        Side::Right => TruncationDirection::Right,
    }
}

fn failed(error: tokenizers::Error) -> Error {
    Error::internal(format!("the tokenizer failed: {error}"))
}

/// The spaces that transformers takes out of a decoded text, in its order.
fn clean_up(text: &str) -> Cow<'_, str> {
    const SPACED: [(&str, &str); 10] = [
        (" .", "."),
        (" ?", "?"),
        (" !", "!"),
        (" ,", ","),
        (" ' ", "'"),
        (" n't", "n't"),
        (" 'm", "'m"),
        (" 's", "'s"),
        (" 've", "'ve"),
        (" 're", "'re"),
    ];
    SPACED.iter().fold(Cow::Borrowed(text), |text, (spaced, joined)| match text.contains(spaced) {
        true => Cow::Owned(text.replace(spaced, joined)),
        false => text,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tokenizer() -> TextTokenizer {
        let file = include_bytes!("../../../tests/text_models/tokens/tokenizer.json");
        TextTokenizer::read(file).expect("the project's own tokenizer reads")
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4))]

        #[test]
        fn of_a_very_long_text_the_same_tokens_are_kept_as_of_all_of_it(
            words in prop::collection::vec("[a-z]{1,9}|نوبت|北京|[.,!]|\\s{1,30}", 50..100), left: bool,
        ) {
            let tokenizer = tokenizer();
            let text = words.join(" ").repeat(250);
            prop_assume!(text.len() > 2 * window::WHOLE_BYTES);
            let side = if left { Side::Left } else { Side::Right };
            let cut = Cut { most: 40, truncate: true, side, only_first: false };
            let kept = tokenizer.encode(Input::Text(&text), cut, true, 0).expect("cut");
            let mut whole = tokenizer.raw(&text, true, 0).expect("tokens");
            whole.truncate(38, 0, direction(side));
            prop_assert_eq!(&kept.get_ids()[1..39], whole.get_ids());
            prop_assert_eq!(&kept.get_offsets()[1..39], whole.get_offsets());
            let refused = tokenizer.encode(Input::Text(&text), Cut { truncate: false, ..cut }, false, 3);
            prop_assert!(refused.expect_err("too long").message.starts_with("text 3 has over "));
        }
    }

    #[test]
    fn what_is_left_of_a_longer_text_is_refused_also_where_it_is_as_many_as_the_limit() {
        let file = include_bytes!("../../../tests/text_models/tokens/tokenizer.json");
        let mut json: serde_json::Value = serde_json::from_slice(file).expect("JSON");
        json["post_processor"] = serde_json::Value::Null;
        let bare = TextTokenizer::read(json.to_string().as_bytes()).expect("reads");
        assert_eq!(bare.added(true), 0);
        // A word a KiB, so that few tokens fill the part that is looked at.
        let text = format!("good{}", " ".repeat(1020)).repeat(64);
        let part = window::window(&text, Side::Right, window::WHOLE_BYTES).text;
        let most = bare.raw(part, false, 0).expect("tokens").len() - window::MARGIN;
        let cut = Cut { most, truncate: true, side: Side::Right, only_first: false };
        assert_eq!(bare.encode(Input::Text(&text), cut, false, 0).expect("cut").len(), most);
        let refused = bare.encode(Input::Text(&text), Cut { truncate: false, ..cut }, false, 0);
        assert!(refused.expect_err("longer").message.starts_with(&format!("text 0 has over {most} tokens")));
    }

    #[test]
    fn of_many_ids_those_that_are_kept_are_looked_up() {
        let tokenizer = tokenizer();
        let ids: Vec<u32> = (0..100_000).map(|at| 5 + at % 50).collect();
        for side in [Side::Left, Side::Right] {
            let cut = Cut { most: 40, truncate: true, side, only_first: false };
            assert_eq!(tokenizer.of_ids(&ids, cut, 0).expect("kept").len(), 40);
            let kept = tokenizer.encode(Input::Ids(&ids), cut, false, 0).expect("cut");
            let own = if side == Side::Left { &ids[ids.len() - 38..] } else { &ids[..38] };
            assert_eq!(&kept.get_ids()[1..39], own);
            let refused = tokenizer.encode(Input::Ids(&ids), Cut { truncate: false, ..cut }, false, 2);
            assert!(
                refused.expect_err("too many").message.starts_with("text 2 has 100002 tokens, and the limit is 40")
            );
        }
        let many = vec![5; MOST_WHOLE_IDS + 1];
        assert!(tokenizer.decode_all(&many, true, 1).expect_err("too many").message.contains("takes up to 262144"));
    }

    #[test]
    fn a_long_text_of_few_tokens_is_read_to_its_end() {
        let tokenizer = tokenizer();
        let text = format!("good{}river", " ".repeat(3 * window::WHOLE_BYTES));
        let cut = Cut { most: 40, truncate: true, side: Side::Right, only_first: false };
        let encoded = tokenizer.encode(Input::Text(&text), cut, false, 0).expect("tokens");
        assert_eq!(encoded.len(), 4);
        for filler in [" ", "a", "ж"] {
            let endless = filler.repeat(2 * window::MOST_BYTES);
            for side in [Side::Left, Side::Right] {
                let refused = tokenizer.encode(Input::Text(&endless), Cut { side, ..cut }, false, 5);
                let why = refused.expect_err("next to nothing in it").message;
                assert!(why.starts_with("text 5 has ") && why.contains("leave out long runs of spaces"), "{why}");
            }
        }
        let long = "a ".repeat(MOST_WHOLE_BYTES);
        assert!(tokenizer.whole(&long, true, 1).expect_err("too long").message.contains("takes up to 1048576"));
    }
}
