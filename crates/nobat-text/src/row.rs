//! One row of a run: a text's tokens, and what its answer needs of the text.

/// A row of tokens, unpadded.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct TokenRow {
    pub(crate) ids: Vec<u32>,
    /// Which of a pair each token belongs to; empty where the graph does not ask, or all are 0.
    pub(crate) types: Vec<u32>,
    /// Tokens at the beginning that pooling leaves out: a prompt's.
    pub(crate) skipped: usize,
    /// What the answer needs beside the logits.
    pub(crate) detail: Detail,
}

/// What an answer needs beside the session's output.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) enum Detail {
    #[default]
    None,
    /// Where tokens stand in the text, in characters; none for special ones.
    Spans { text: String, spans: Vec<Option<(usize, usize)>> },
    /// Which tokens are masks.
    Masks(Vec<usize>),
}
