//! Entities of a text, out of a class for each of its tokens.
//!
//! The groups are transformers' `simple` ones: a token joins the group before it when its tag is
//! the group's last and it does not begin one (`B-`); a class without `B-` or `I-` counts as
//! inside; groups of `O` are dropped. Offsets count characters.

use nobat_core::{Error, Result};
use serde::Serialize;

use crate::numbers::{Floats, largest, softmax};
use crate::row::{Detail, TokenRow};
use crate::settings::Aggregation;
use crate::tokenizer::TextTokenizer;

/// What entities are made with.
#[derive(Clone, Debug)]
pub(crate) struct Tagger {
    pub(crate) labels: Vec<String>,
    /// The token that stands for what the vocabulary does not know.
    pub(crate) unknown: Option<u32>,
}

/// One token's class.
#[derive(Clone, Debug, PartialEq)]
struct Tagged<'a> {
    label: &'a str,
    score: f32,
    index: usize,
    word: String,
    span: (usize, usize),
}

#[derive(Serialize)]
struct Token<'a> {
    entity: &'a str,
    score: f32,
    index: usize,
    word: &'a str,
    start: usize,
    end: usize,
}

#[derive(Serialize)]
struct Entity<'a> {
    entity_group: &'a str,
    score: f32,
    word: String,
    start: usize,
    end: usize,
}

impl Tagger {
    /// A text's entities as a JSON list. `start` is where its tokens begin in row `at` of the run.
    ///
    /// # Errors
    /// `internal` when a token cannot be written as text.
    pub(crate) fn entities(
        &self,
        tokenizer: &TextTokenizer,
        row: &TokenRow,
        logits: &Floats<'_>,
        (at, start): (usize, usize),
        aggregation: Aggregation,
    ) -> Result<Vec<u8>> {
        let Detail::Spans { text, spans } = &row.detail else { return Err(Error::internal("a row without its text")) };
        let characters: Vec<usize> = text.char_indices().map(|(byte, _)| byte).chain([text.len()]).collect();
        let mut tagged = Vec::new();
        for (index, (id, span)) in row.ids.iter().zip(spans).enumerate() {
            let Some(span) = *span else { continue };
            let mut scores = logits.vector(at, start + index);
            softmax(&mut scores);
            let class = largest(&scores);
            let word = match self.unknown == Some(*id) {
                // An unknown token is shown as it stands in the text.
                true => {
                    let byte = |character: usize| characters.get(character).copied().unwrap_or(text.len());
                    text.get(byte(span.0)..byte(span.1)).unwrap_or_default().to_owned()
                }
                false => tokenizer.token(*id).unwrap_or_default(),
            };
            let label = self.labels.get(class).map_or("", String::as_str);
            tagged.push(Tagged { label, score: scores.get(class).copied().unwrap_or(0.0), index, word, span });
        }
        let written = match aggregation {
            Aggregation::None => serde_json::to_vec(&each(&tagged)),
            Aggregation::Simple => serde_json::to_vec(&groups(tokenizer, &tagged)?),
        };
        written.map_err(|error| Error::internal(error.to_string()))
    }
}

fn each<'a>(tagged: &'a [Tagged<'_>]) -> Vec<Token<'a>> {
    let kept = tagged.iter().filter(|token| token.label != "O");
    kept.map(|token| Token {
        entity: token.label,
        score: token.score,
        index: token.index,
        word: &token.word,
        start: token.span.0,
        end: token.span.1,
    })
    .collect()
}

fn groups<'a>(tokenizer: &TextTokenizer, tagged: &[Tagged<'a>]) -> Result<Vec<Entity<'a>>> {
    let mut entities = Vec::new();
    for group in tagged.chunk_by(|last, token| {
        let ((_, last), (begins, tag)) = (tag(last.label), tag(token.label));
        tag == last && !begins
    }) {
        let (first, last) = (&group[0], &group[group.len() - 1]);
        // What follows the first dash of the class, also where it is no `B-` or `I-`.
        let entity_group = first.label.split_once('-').map_or(first.label, |(_, name)| name);
        if entity_group == "O" {
            continue;
        }
        let score = group.iter().map(|token| token.score).sum::<f32>() / group.len() as f32;
        let word = tokenizer.join(group.iter().map(|token| token.word.clone()).collect())?;
        entities.push(Entity { entity_group, score, word, start: first.span.0, end: last.span.1 });
    }
    Ok(entities)
}

/// Whether a class begins an entity, and of which kind.
fn tag(label: &str) -> (bool, &str) {
    match (label.strip_prefix("B-"), label.strip_prefix("I-")) {
        (Some(kind), _) => (true, kind),
        (None, Some(kind)) => (false, kind),
        (None, None) => (false, label),
    }
}
