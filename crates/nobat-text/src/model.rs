//! A text model: from callers' texts to rows of tokens, and from the session's outputs to answers.

use std::collections::BTreeMap;
use std::sync::Arc;

use nobat_core::parameters::Parameters;
use nobat_core::signature::TensorSpec;
use nobat_core::task::TaskKind;
use nobat_core::tensor::Tensor;
use nobat_core::{Error, ErrorCode, Result, clip};
use nobat_transform::{CallerSignature, Finished, JobState, Prepared, Row, SessionOutput, Transform};

use crate::folder::{TextFolder, names};
use crate::graph::GraphInputs;
use crate::head::{Head, RowAnswer};
use crate::operations;
use crate::options::{Operation, Options, check_hypothesis};
use crate::row::{Detail, TokenRow};
use crate::scores;
use crate::settings::TextSettings;
use crate::signature;
use crate::texts;
use crate::tokenizer::{Cut, Input, TextTokenizer};

/// Most tokens of a text where neither the folder nor the graph limits them.
const DEFAULT_MOST_TOKENS: usize = 8192;
/// Most labels that a caller may name for one text.
const MOST_LABELS: usize = 1000;
/// Most labels of a request: each is a text beside its own.
const MOST_LABELS_OF_REQUEST: usize = 4096;

/// A folder and its graph, ready to serve texts.
#[derive(Clone, Debug)]
pub struct TextModel {
    kind: TaskKind,
    head: Head,
    tokenizer: TextTokenizer,
    inputs: GraphInputs,
    /// Whether tokens carry which text of a pair they are of.
    takes_types: bool,
    /// Ids that the model knows, from 0.
    vocabulary: Option<u64>,
    most_tokens: usize,
    /// Bytes of a run's inputs and outputs for each token.
    token_bytes: u64,
    /// A request's options where it sets none.
    defaults: Options,
    prompts: BTreeMap<String, Prompt>,
    signature: CallerSignature,
    labels: Vec<String>,
    /// An ordinary token, for made-up rows.
    filler: u32,
    family: Option<String>,
    found: Vec<String>,
}

/// A text that is put before others.
#[derive(Clone, Debug, Default)]
struct Prompt {
    text: String,
    ids: Vec<u32>,
    /// Tokens that pooling leaves out.
    skipped: usize,
}

/// A row of a run.
#[derive(Debug)]
struct RunRow {
    tokens: TokenRow,
    options: Arc<Options>,
}

/// A job between its texts and its answer.
#[derive(Debug)]
enum Job {
    /// What the tokenizer answered by itself.
    Answered(Vec<Vec<u8>>),
    Rows {
        options: Arc<Options>,
        texts: Vec<TextOfJob>,
    },
}

/// One text of a job.
#[derive(Debug)]
struct TextOfJob {
    /// Tokens of all its rows.
    tokens: usize,
    /// What its rows are scored for; one row for each, or a single row where there are none.
    labels: Vec<String>,
}

impl TextModel {
    /// Joins a folder to its graph, whose inputs and outputs are given in the graph's order.
    ///
    /// # Errors
    /// `invalid_parameter`, naming what does not fit and the setting or export that mends it.
    pub fn new(
        mut folder: TextFolder,
        graph_inputs: &[TensorSpec],
        graph_outputs: &[TensorSpec],
        settings: &TextSettings,
    ) -> Result<TextModel> {
        let padding_id = folder.tokenizer_config.pad_token().and_then(|token| folder.tokenizer.id(token));
        let padding_id = padding_id.unwrap_or_else(|| folder.config.padding_id());
        let mut inputs = GraphInputs::new(graph_inputs, &folder.config, padding_id)?;
        let head = Head::new(&mut folder, graph_outputs, settings, padding_id)?;
        let left = folder.tokenizer_config.padding_side.as_deref() == Some("left");
        if let Head::Embed(embedder) = &head
            && embedder.pooled_by_graph()
            && left
        {
            inputs.pad_left();
            folder.found.push("padded at the left: the graph pools by itself, and the tokenizer says so".into());
        }
        // SigLIP was trained on texts of this length, and sees padding.
        let family = folder.config.model_type.clone();
        if let Some(most) = folder.max_length.filter(|_| family.as_deref().is_some_and(|own| own.starts_with("siglip")))
        {
            inputs.pad_to(most);
            folder.found.push(format!("every text is padded to {most} tokens, as SigLIP's processor does"));
        }
        if !inputs.takes_mask() && inputs.length().is_none() {
            folder
                .found
                .push("the graph takes no attention_mask: padding would count, so each text runs by itself".into());
        }
        let most_tokens = [folder.max_length, inputs.length()].into_iter().flatten().min();
        let most_tokens = most_tokens.unwrap_or(DEFAULT_MOST_TOKENS);
        check_limit(most_tokens, folder.kind, &folder.tokenizer)?;
        let hypothesis = settings.hypothesis_template.clone().unwrap_or_else(|| "This example is {}.".to_owned());
        check_hypothesis(&hypothesis)?;
        let side = match folder.tokenizer_config.truncation_side.as_deref() {
            Some("left") => crate::settings::Side::Left,
            _ => crate::settings::Side::Right,
        };
        let defaults = Options {
            truncate: settings.truncate.unwrap_or(true),
            side: settings.truncation_direction.unwrap_or(side),
            prompt: folder.default_prompt.clone(),
            normalize: None,
            dimensions: None,
            every_token: false,
            raw_scores: false,
            multi_label: false,
            hypothesis,
            aggregation: settings.aggregation.unwrap_or_default(),
            top_k: 5,
            operation: None,
            ids: false,
            special_tokens: true,
        };
        let takes_types = inputs.takes_types() && folder.tokenizer_config.gives_types();
        let labels = folder.config.labels();
        let signature = signature::of(&folder, &head, most_tokens, &labels);
        let token_bytes = token_bytes(&folder, graph_inputs, graph_outputs, labels.len());
        let tokenizer = folder.tokenizer;
        let half = tokenizer.largest_own_id() / 2;
        let filler = (half..=half.saturating_add(1000)).find(|&id| id != padding_id && !tokenizer.is_special(id));
        let mut model = TextModel {
            kind: folder.kind,
            head,
            tokenizer,
            inputs,
            takes_types,
            vocabulary: folder.config.vocab_size,
            most_tokens,
            token_bytes,
            defaults,
            prompts: BTreeMap::new(),
            signature,
            labels,
            filler: filler.unwrap_or(half),
            family,
            found: folder.found,
        };
        for (name, text) in folder.prompts {
            let prompt = model.prompt(text)?;
            model.prompts.insert(name, prompt);
        }
        Ok(model)
    }

    /// What was found in the folder and what was guessed, a line each, for the log.
    pub fn found(&self) -> &[String] {
        &self.found
    }

    /// What the model's makers call its family: `model_type` of `config.json`.
    pub fn family(&self) -> Option<&str> {
        self.family.as_deref()
    }

    /// Whether a text's answer stays the same beside longer ones in a run: the graph is told what
    /// is padding, or all rows have one length.
    pub fn rows_may_differ_in_length(&self) -> bool {
        self.inputs.takes_mask() || self.inputs.length().is_some()
    }

    fn prompt(&self, text: String) -> Result<Prompt> {
        let cut = Cut { most: self.most_tokens, truncate: true, side: self.defaults.side, only_first: false };
        let framed = self.tokenizer.encode(Input::Text(&text), cut, false, 0)?;
        let ids = self.tokenizer.inner(framed.get_ids()).to_vec();
        let excluded = matches!(&self.head, Head::Embed(embedder) if !embedder.includes_prompt());
        // A special token at the end is the text's, not the prompt's.
        let ends = framed.get_ids().last().is_some_and(|&id| self.tokenizer.is_special(id));
        let skipped = if excluded { framed.len() - usize::from(ends) } else { 0 };
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
        let detail = match (&self.head, input) {
            (Head::Tokens { .. }, Input::Text(text) | Input::Pair(text, _)) => {
                let special = encoding.get_special_tokens_mask();
                let spans =
                    encoding.get_offsets().iter().zip(special).map(|(span, &special)| (special == 0).then_some(*span));
                let spans: Vec<Option<(usize, usize)>> = spans.collect();
                // What was cut off is not asked for again.
                let end = spans.iter().flatten().map(|span| span.1).max().unwrap_or(0);
                Detail::Spans { text: text.chars().take(end).collect(), spans }
            }
            (Head::FillMask { mask_id, .. }, _) => {
                let masks: Vec<usize> = (0..ids.len()).filter(|&at| ids[at] == *mask_id).collect();
                if masks.is_empty() {
                    let mask = self.tokenizer.token(*mask_id).unwrap_or_default();
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
    fn operate(&self, operation: Operation, texts: &[&[u8]], options: &Options) -> Result<Vec<Vec<u8>>> {
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
    fn rows(
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

    fn zero_shot(
        &self,
        texts: &[TextOfJob],
        mut rows: std::vec::IntoIter<RowAnswer>,
        options: &Options,
    ) -> Result<Tensor> {
        let Head::ZeroShot { entailment, .. } = self.head else { return Err(Error::internal("another task's rows")) };
        let mut scores = Vec::with_capacity(texts.len());
        for text in texts {
            let logits: Vec<Vec<f32>> = rows.by_ref().take(text.labels.len()).map(numbers).collect::<Result<_>>()?;
            let scored = scores::zero_shot(&text.labels, &logits, entailment, options.multi_label);
            scores.push(serde_json::to_vec(&scored).map_err(|error| Error::internal(error.to_string()))?);
        }
        Ok(texts::bytes_output("scores", &scores))
    }
}

impl Transform for TextModel {
    fn signature(&self) -> &CallerSignature {
        &self.signature
    }

    fn max_cost(&self) -> u32 {
        u32::try_from(self.most_tokens).unwrap_or(u32::MAX)
    }

    fn bytes_per_cost(&self) -> u64 {
        self.token_bytes
    }

    fn prepare(&self, inputs: &[Option<Tensor>], parameters: &Parameters) -> Result<Prepared> {
        let options = self.defaults.read(parameters)?;
        let Some(Some(text)) = inputs.first() else {
            return Err(Error::new(ErrorCode::InvalidTensor, "input `text` is missing"));
        };
        let texts = texts::elements(text)?;
        if let Some(operation) = options.operation {
            let job = JobState::new(Job::Answered(self.operate(operation, &texts, &options)?));
            return Ok(Prepared { rows: Vec::new(), job });
        }
        if let Head::Embed(embedder) = &self.head {
            embedder.check(&options)?;
        }
        let prepared = self.rows(inputs, &texts, &options)?;
        let options = Arc::new(options);
        let mut rows = Vec::with_capacity(prepared.len());
        let mut of_job = Vec::with_capacity(prepared.len());
        for (text, tokens) in prepared {
            of_job.push(text);
            for tokens in tokens {
                let cost = u32::try_from(tokens.ids.len()).unwrap_or(u32::MAX);
                rows.push(Row::new(cost, RunRow { tokens, options: options.clone() }));
            }
        }
        Ok(Prepared { rows, job: JobState::new(Job::Rows { options, texts: of_job }) })
    }

    fn example(&self, cost: u32) -> Row {
        let count = (cost as usize).clamp(1, self.most_tokens);
        let detail = match self.kind {
            TaskKind::Tokens => Detail::Spans { text: String::new(), spans: vec![None; count] },
            TaskKind::FillMask => Detail::Masks(vec![0]),
            _ => Detail::None,
        };
        let tokens = TokenRow { ids: vec![self.filler; count], detail, ..TokenRow::default() };
        Row::new(count as u32, RunRow { tokens, options: Arc::new(self.defaults.clone()) })
    }

    fn collate(&self, rows: &[&Row]) -> Result<Vec<Tensor>> {
        let rows: Vec<&TokenRow> = rows.iter().map(|row| Ok(&row.state::<RunRow>()?.tokens)).collect::<Result<_>>()?;
        self.inputs.collate(&rows)
    }

    fn finish(&self, rows: &[&Row], outputs: &[SessionOutput<'_>]) -> Result<Vec<Finished>> {
        let rows: Vec<&RunRow> = rows.iter().map(|row| row.state::<RunRow>()).collect::<Result<_>>()?;
        let tokens: Vec<&TokenRow> = rows.iter().map(|row| &row.tokens).collect();
        let width = self.inputs.width(&tokens);
        let placed: Vec<(&TokenRow, usize, &Options)> =
            rows.iter().map(|row| (&row.tokens, self.inputs.start(&row.tokens, width), &*row.options)).collect();
        let answers = self.head.finish(&self.tokenizer, &placed, outputs)?;
        let sized = |answer: RowAnswer| {
            let bytes = answer.bytes();
            Finished::new(answer).of_bytes(bytes)
        };
        Ok(answers.into_iter().map(sized).collect())
    }

    fn answer(&self, job: &JobState, rows: Vec<Finished>) -> Result<Vec<Tensor>> {
        let (options, texts) = match job.state::<Job>()? {
            Job::Answered(results) => return Ok(vec![texts::bytes_output("result", results)]),
            Job::Rows { options, texts } => (options, texts),
        };
        let wanted: usize = texts.iter().map(|text| text.labels.len().max(1)).sum();
        if rows.len() != wanted {
            return Err(Error::internal(format!("{} of a job's {wanted} rows came back", rows.len())));
        }
        let rows: Vec<RowAnswer> = rows.into_iter().map(Finished::take).collect::<Result<_>>()?;
        let tokens: Vec<usize> = texts.iter().map(|text| text.tokens).collect();
        let tokens = texts::count_output("tokens", &tokens);
        let json = |name: &str, rows: Vec<RowAnswer>| {
            let written: Vec<Vec<u8>> = rows.into_iter().map(bytes).collect::<Result<_>>()?;
            Ok(texts::bytes_output(name, &written))
        };
        Ok(match self.kind {
            TaskKind::Embed if options.every_token => vec![tokens, json("token_embeddings", rows)?],
            TaskKind::Classify => {
                let scores: Vec<Vec<f32>> = rows.into_iter().map(numbers).collect::<Result<_>>()?;
                let best =
                    |scores: &Vec<f32>| self.labels.get(crate::numbers::largest(scores)).cloned().unwrap_or_default();
                let labels: Vec<Vec<u8>> = scores.iter().map(|scores| best(scores).into_bytes()).collect();
                let scores = texts::float_output("scores", &scores.concat(), Some(self.labels.len()));
                vec![scores, texts::bytes_output("label", &labels), tokens]
            }
            TaskKind::Rerank => {
                let scores: Vec<Vec<f32>> = rows.into_iter().map(numbers).collect::<Result<_>>()?;
                vec![texts::float_output("score", &scores.concat(), None), tokens]
            }
            TaskKind::ZeroShot => vec![self.zero_shot(texts, rows.into_iter(), options)?, tokens],
            TaskKind::Tokens => vec![json("entities", rows)?, tokens],
            TaskKind::FillMask => vec![json("fills", rows)?, tokens],
            TaskKind::Sparse => vec![json("sparse", rows)?, tokens],
            _ => {
                let vectors: Vec<Vec<f32>> = rows.into_iter().map(numbers).collect::<Result<_>>()?;
                let width = vectors.first().map(Vec::len);
                vec![texts::float_output("embedding", &vectors.concat(), width), tokens]
            }
        })
    }
}

/// Bytes of a run's inputs and outputs for each token that its rows are padded to: logits over a
/// vocabulary are a hundred kilobytes.
fn token_bytes(folder: &TextFolder, inputs: &[TensorSpec], outputs: &[TensorSpec], labels: usize) -> u64 {
    let size = |spec: &TensorSpec| spec.datatype.size().unwrap_or(0) as u64;
    let in_each = inputs.iter().filter(|spec| spec.shape.len() == 2).map(size).sum::<u64>();
    let guess = match folder.kind {
        TaskKind::FillMask | TaskKind::Sparse => folder.config.vocab_size,
        TaskKind::Tokens => Some(labels as u64),
        _ => folder.config.hidden_size.and_then(|size| u64::try_from(size).ok()),
    };
    let of_output = |spec: &TensorSpec| match *spec.shape.as_slice() {
        [_, _, width] => size(spec).saturating_mul(u64::try_from(width).ok().or(guess).unwrap_or(0)),
        _ => 0,
    };
    outputs.iter().map(of_output).fold(in_each, u64::saturating_add)
}

/// A limit under which no token of a text is left would make all texts alike.
fn check_limit(most: usize, kind: TaskKind, tokenizer: &TextTokenizer) -> Result<()> {
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

fn numbers(answer: RowAnswer) -> Result<Vec<f32>> {
    match answer {
        RowAnswer::Numbers(numbers) => Ok(numbers),
        RowAnswer::Json(_) => Err(Error::internal("a row came to JSON where numbers are wanted")),
    }
}

fn bytes(answer: RowAnswer) -> Result<Vec<u8>> {
    match answer {
        RowAnswer::Json(bytes) => Ok(bytes),
        RowAnswer::Numbers(_) => Err(Error::internal("a row came to numbers where JSON is wanted")),
    }
}
