//! A job's texts as rows of tokens, each with the prompt, the pair or the labels that belong to it.

use std::collections::BTreeMap;

use nobat_core::task::TaskKind;
use nobat_core::tensor::Tensor;
use nobat_core::{Error, ErrorCode, Result, clip};

use crate::folder::names;
use crate::operations;
use crate::options::{Operation, Options};
use crate::row::{Detail, TokenRow};
use crate::settings::Side;
use crate::texts;
use crate::tokenizer::{Cut, Input, TextTokenizer};

/// Most labels that a caller may name for one text.
const MOST_LABELS: usize = 1000;
/// Most labels of a request: each is a text beside its own.
const MOST_LABELS_OF_REQUEST: usize = 4096;

/// What makes rows of texts.
#[derive(Clone, Debug)]
pub(crate) struct RowEncoder {
    pub(crate) kind: TaskKind,
    /// The token that stands for a missing word, where the task is to find it.
    pub(crate) mask_id: Option<u32>,
    pub(crate) tokenizer: TextTokenizer,
    /// Whether tokens carry which text of a pair they are of.
    pub(crate) takes_types: bool,
    /// Ids that the model knows, from 0.
    pub(crate) vocabulary: Option<u64>,
    pub(crate) most_tokens: usize,
    pub(crate) prompts: BTreeMap<String, Prompt>,
}

/// A text that is put before others.
#[derive(Clone, Debug, Default)]
pub(crate) struct Prompt {
    text: String,
    ids: Vec<u32>,
    /// Tokens that pooling leaves out.
    skipped: usize,
}

/// One text of a job.
#[derive(Debug)]
pub(crate) struct TextOfJob {
    /// Tokens of all its rows.
    pub(crate) tokens: usize,
    /// What its rows are scored for; one row for each, or a single row where there are none.
    pub(crate) labels: Vec<String>,
}

impl RowEncoder {
    /// With these prompts, by their names; `skipped` where pooling leaves them out.
    ///
    /// # Errors
    /// Where a prompt has no tokens.
    pub(crate) fn with_prompts(
        mut self,
        prompts: impl IntoIterator<Item = (String, String)>,
        side: Side,
        skipped: bool,
    ) -> Result<RowEncoder> {
        for (name, text) in prompts {
            let prompt = self.prompt(text, side, skipped)?;
            self.prompts.insert(name, prompt);
        }
        Ok(self)
    }

    fn prompt(&self, text: String, side: Side, skipped: bool) -> Result<Prompt> {
        let cut = Cut { most: self.most_tokens, truncate: true, side, only_first: false };
        let framed = self.tokenizer.encode(Input::Text(&text), cut, false, 0)?;
        let ids = self.tokenizer.inner(framed.get_ids()).to_vec();
        // A special token at the end is the text's, not the prompt's.
        let ends = framed.get_ids().last().is_some_and(|&id| self.tokenizer.is_special(id));
        let skipped = if skipped { framed.len() - usize::from(ends) } else { 0 };
        Ok(Prompt { text, ids, skipped })
    }

    fn prompt_of(&self, options: &Options) -> Result<Option<&Prompt>> {
        let Some(name) = options.prompt.as_ref().filter(|name| !name.is_empty()) else { return Ok(None) };
        self.prompts.get(name).map(Some).ok_or_else(|| {
            let there = names(self.prompts.keys());
            Error::invalid(format!("parameter `prompt_name` is `{}`; the model has the prompts: {there}", clip(name)))
        })
    }

    /// The tokens of one row.
    fn row(&self, input: Input<'_>, at: usize, skipped: usize, options: &Options) -> Result<TokenRow> {
        let cut = Cut {
            most: self.most_tokens,
            truncate: options.truncate,
            side: options.side,
            only_first: self.kind == TaskKind::ZeroShot,
        };
        let spans = self.kind == TaskKind::Tokens;
        let encoding = self.tokenizer.encode(input, cut, spans, at)?;
        let ids = encoding.get_ids();
        if ids.is_empty() {
            return Err(Error::invalid(format!("text {at} has no tokens; send a text that is not empty")));
        }
        if let Some(rows) = self.vocabulary
            && let Some(id) = ids.iter().find(|&&id| u64::from(id) >= rows)
        {
            let token = self.tokenizer.token(*id).unwrap_or_default();
            return Err(Error::invalid(format!(
                "text {at} has the token `{}` of id {id}, and the model's vocabulary ends before {rows}; leave it out",
                clip(&token)
            )));
        }
        let detail = match (self.mask_id, input) {
            (_, Input::Text(text) | Input::Pair(text, _)) if spans => {
                let special = encoding.get_special_tokens_mask();
                let spans =
                    encoding.get_offsets().iter().zip(special).map(|(span, &special)| (special == 0).then_some(*span));
                let spans: Vec<Option<(usize, usize)>> = spans.collect();
                // What was cut off is not asked for again.
                let end = spans.iter().flatten().map(|span| span.1).max().unwrap_or(0);
                Detail::Spans { text: text.chars().take(end).collect(), spans }
            }
            (Some(mask_id), _) => {
                let masks: Vec<usize> = (0..ids.len()).filter(|&at| ids[at] == mask_id).collect();
                if masks.is_empty() {
                    let mask = self.tokenizer.token(mask_id).unwrap_or_default();
                    return Err(Error::invalid(format!(
                        "text {at} has no mask within its {} tokens; put {mask} where the word is missing",
                        ids.len()
                    )));
                }
                Detail::Masks(masks)
            }
            _ => Detail::None,
        };
        let types = match self.takes_types && encoding.get_type_ids().iter().any(|&kind| kind != 0) {
            true => encoding.get_type_ids().to_vec(),
            false => Vec::new(),
        };
        Ok(TokenRow { ids: ids.to_vec(), types, skipped, detail })
    }

    /// What the tokenizer answers by itself.
    pub(crate) fn operate(&self, operation: Operation, texts: &[&[u8]], options: &Options) -> Result<Vec<Vec<u8>>> {
        let each = texts.iter().enumerate().map(|(at, element)| match operation {
            Operation::Decode => operations::decoded(&self.tokenizer, "text", at, element, options.special_tokens),
            Operation::Tokenize => {
                let text = texts::text("text", at, element)?;
                let text = match self.prompt_of(options)? {
                    Some(prompt) => format!("{}{text}", prompt.text),
                    None => text.to_owned(),
                };
                operations::tokens(&text, &self.tokenizer.whole(&text, options.special_tokens, at)?)
            }
        });
        each.collect()
    }

    /// A job's texts as rows, text by text.
    pub(crate) fn rows(
        &self,
        inputs: &[Option<Tensor>],
        texts: &[&[u8]],
        options: &Options,
    ) -> Result<Vec<(TextOfJob, Vec<TokenRow>)>> {
        let second = match inputs.get(1) {
            Some(Some(tensor)) => Some(texts::elements(tensor)?),
            _ => None,
        };
        if let Some(second) = second.as_ref().filter(|second| second.len() != texts.len()) {
            return Err(Error::new(
                ErrorCode::InvalidTensor,
                format!(
                    "input `text` has {} rows and the other input has {}; they must agree",
                    texts.len(),
                    second.len()
                ),
            ));
        }
        let prompt = self.prompt_of(options)?;
        let mut all = Vec::with_capacity(texts.len());
        let mut of_request = 0;
        for (at, element) in texts.iter().enumerate() {
            let skipped = prompt.map_or(0, |prompt| prompt.skipped);
            let other = second.as_ref().and_then(|second| second.get(at)).copied();
            let mut labels = Vec::new();
            let rows = if options.ids {
                if other.is_some() || self.kind == TaskKind::Tokens {
                    return Err(Error::invalid(format!(
                        "parameter `input` is `ids`, which task {} with these inputs does not take; send texts",
                        self.kind
                    )));
                }
                let ids = texts::ids("text", at, element)?;
                let ids = match prompt {
                    Some(prompt) => [prompt.ids.as_slice(), self.tokenizer.inner(&ids)].concat(),
                    None => ids,
                };
                vec![self.row(Input::Ids(&ids), at, skipped, options)?]
            } else {
                let text = texts::text("text", at, element)?;
                match other {
                    Some(other) if self.kind == TaskKind::ZeroShot => {
                        labels = texts::labels("labels", at, other)?;
                        if labels.is_empty() || labels.len() > MOST_LABELS {
                            return Err(Error::invalid(format!(
                                "element {at} of input `labels` has {} labels; it takes 1 to {MOST_LABELS}",
                                labels.len()
                            )));
                        }
                        of_request += labels.len();
                        if of_request > MOST_LABELS_OF_REQUEST {
                            return Err(Error::invalid(format!(
                                "the texts of a request may have {MOST_LABELS_OF_REQUEST} labels in all; send fewer texts or labels"
                            )));
                        }
                        let sentences = labels.iter().map(|label| options.hypothesis.replace("{}", label));
                        let rows = sentences.map(|sentence| self.row(Input::Pair(text, &sentence), at, 0, options));
                        rows.collect::<Result<_>>()?
                    }
                    Some(other) => {
                        let other = texts::text("text_pair", at, other)?;
                        vec![self.row(Input::Pair(text, other), at, 0, options)?]
                    }
                    None => match prompt {
                        Some(prompt) => {
                            let whole = format!("{}{text}", prompt.text);
                            vec![self.row(Input::Text(&whole), at, skipped, options)?]
                        }
                        None => vec![self.row(Input::Text(text), at, 0, options)?],
                    },
                }
            };
            let tokens = rows.iter().map(|row| row.ids.len()).sum();
            all.push((TextOfJob { tokens, labels }, rows));
        }
        Ok(all)
    }
}

/// A limit under which no token of a text is left would make all texts alike.
pub(crate) fn check_limit(most: usize, kind: TaskKind, tokenizer: &TextTokenizer) -> Result<()> {
    let pair = matches!(kind, TaskKind::Rerank | TaskKind::ZeroShot);
    let (special, own) = (tokenizer.added(pair), if pair { 2 } else { 1 });
    if most >= special + own {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "a text may have {most} tokens, of which {special} are special ones of the tokenizer; \
         set `max_length` in `[text]` of model.toml to {} or more, or export the graph for longer texts",
        special + own
    )))
}
