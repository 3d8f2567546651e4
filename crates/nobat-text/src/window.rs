//! The part of a very long text that its tokens are made of: tokenizing costs hundreds of bytes of
//! memory a byte of text, and of a text over the limit only one end counts.

use crate::settings::Side;

/// A text up to so many bytes is tokenized whole.
pub(crate) const WHOLE_BYTES: usize = 32 << 10;
/// Most bytes that are looked at where they hold next to no tokens: a second and a hundred megabytes,
/// whatever is sent.
pub(crate) const MOST_BYTES: usize = 1 << 20;
/// Tokens at the cut that are given up: the last word may be cut, and a tokenizer may look ahead.
pub(crate) const MARGIN: usize = 16;

/// A part of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window<'a> {
    pub(crate) text: &'a str,
    /// Bytes of the whole text before it.
    pub(crate) skipped: usize,
}

/// About so many bytes of the end that is kept when a text is cut at `cut`; between words, where
/// there are any near.
pub(crate) fn window(text: &str, cut: Side, bytes: usize) -> Window<'_> {
    if bytes >= text.len() {
        return Window { text, skipped: 0 };
    }
    match cut {
        Side::Right => {
            let part = &text[..text.floor_char_boundary(bytes)];
            let near = part.len().saturating_sub(256);
            let end = part.rfind(char::is_whitespace).filter(|&at| at >= near).unwrap_or(part.len());
            Window { text: &part[..end], skipped: 0 }
        }
        Side::Left => {
            let start = text.ceil_char_boundary(text.len() - bytes);
            let near = |at: &usize| *at <= 256;
            let start = start + text[start..].find(char::is_whitespace).filter(near).unwrap_or(0);
            Window { text: &text[start..], skipped: start }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_window_ends_between_words_where_there_are_any() {
        assert_eq!(window("good river city", Side::Right, 12).text, "good river");
        assert_eq!(window("good river city", Side::Left, 12), Window { text: " river city", skipped: 4 });
        let long = "ä".repeat(2000);
        assert_eq!(window(&long, Side::Right, 1001).text.len(), 1000);
        assert_eq!(window(&long, Side::Left, 1001).skipped, 3000);
    }

    proptest! {
        #[test]
        fn a_window_is_the_end_of_its_text_that_is_kept(text in "\\PC{0,40}", bytes in 0usize..60, left: bool) {
            let side = if left { Side::Left } else { Side::Right };
            let window = window(&text, side, bytes);
            prop_assert!(window.text.len() <= bytes.max(text.len().min(bytes)) || window.text == text);
            match side {
                Side::Right => prop_assert!(window.skipped == 0 && text.starts_with(window.text)),
                Side::Left => prop_assert_eq!(&text[window.skipped..], window.text),
            }
        }
    }
}
