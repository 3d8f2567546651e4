//! A text model: from callers' texts to rows of tokens, and from the session's outputs to answers.

use std::collections::BTreeMap;
use std::sync::Arc;

use nobat_core::parameters::Parameters;
use nobat_core::signature::TensorSpec;
use nobat_core::task::TaskKind;
use nobat_core::tensor::Tensor;
use nobat_core::{Error, ErrorCode, Result};
use nobat_transform::{CallerSignature, Finished, JobState, Prepared, Row, SessionOutput, Transform};

use crate::folder::TextFolder;
use crate::graph::GraphInputs;
use crate::head::{Head, RowAnswer};
use crate::options::{Options, check_hypothesis};
use crate::row::{Detail, TokenRow};
use crate::row_encoder::{self, RowEncoder, TextOfJob};
use crate::scores;
use crate::settings::TextSettings;
use crate::signature;
use crate::texts;

/// Most tokens of a text where neither the folder nor the graph limits them.
const DEFAULT_MOST_TOKENS: usize = 8192;
/// A folder and its graph, ready to serve texts.
#[derive(Clone, Debug)]
pub struct TextModel {
    kind: TaskKind,
    head: Head,
    encoder: RowEncoder,
    inputs: GraphInputs,
    /// Bytes of a run's inputs and outputs for each token.
    token_bytes: u64,
    /// A request's options where it sets none.
    defaults: Options,
    signature: CallerSignature,
    labels: Vec<String>,
    /// An ordinary token, for made-up rows.
    filler: u32,
    family: Option<String>,
    found: Vec<String>,
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
        row_encoder::check_limit(most_tokens, folder.kind, &folder.tokenizer)?;
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
        let encoder = RowEncoder {
            kind: folder.kind,
            mask_id: match &head {
                Head::FillMask { mask_id, .. } => Some(*mask_id),
                _ => None,
            },
            tokenizer,
            takes_types,
            vocabulary: folder.config.vocab_size,
            most_tokens,
            prompts: BTreeMap::new(),
        };
        let skips_prompts = matches!(&head, Head::Embed(embedder) if !embedder.includes_prompt());
        let encoder = encoder.with_prompts(folder.prompts, defaults.side, skips_prompts)?;
        Ok(TextModel {
            kind: folder.kind,
            head,
            encoder,
            inputs,
            token_bytes,
            defaults,
            signature,
            labels,
            filler: filler.unwrap_or(half),
            family,
            found: folder.found,
        })
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
        u32::try_from(self.encoder.most_tokens).unwrap_or(u32::MAX)
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
            let job = JobState::new(Job::Answered(self.encoder.operate(operation, &texts, &options)?));
            return Ok(Prepared { rows: Vec::new(), job });
        }
        if let Head::Embed(embedder) = &self.head {
            embedder.check(&options)?;
        }
        let prepared = self.encoder.rows(inputs, &texts, &options)?;
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
        let count = (cost as usize).clamp(1, self.encoder.most_tokens);
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
        let answers = self.head.finish(&self.encoder.tokenizer, &placed, outputs)?;
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
