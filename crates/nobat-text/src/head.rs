//! What the session's output comes to, row by row: one way for each task.

use nobat_core::signature::TensorSpec;
use nobat_core::task::TaskKind;
use nobat_core::{Error, ErrorCode, Result};
use nobat_transform::SessionOutput;

use crate::embed::Embedder;
use crate::entities::Tagger;
use crate::fills::fills;
use crate::folder::TextFolder;
use crate::folder::modules::Splade;
use crate::numbers::Floats;
use crate::options::Options;
use crate::outputs::{self, Output};
use crate::pool::Place;
use crate::row::TokenRow;
use crate::scores::Activation;
use crate::settings::TextSettings;
use crate::sparse::weights;
use crate::task::entailment;
use crate::tokenizer::TextTokenizer;

/// What a row came to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum RowAnswer {
    Numbers(Vec<f32>),
    Json(Vec<u8>),
}

impl RowAnswer {
    /// Its size.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            RowAnswer::Numbers(numbers) => numbers.len() * size_of::<f32>(),
            RowAnswer::Json(text) => text.len(),
        }
    }
}

/// A task's way from the session's output.
#[derive(Clone, Debug)]
pub(crate) enum Head {
    Embed(Embedder),
    /// Classification and reranking.
    Scores {
        output: Output,
        activation: Activation,
    },
    ZeroShot {
        output: Output,
        entailment: usize,
    },
    Tokens {
        output: Output,
        tagger: Tagger,
    },
    FillMask {
        output: Output,
        mask_id: u32,
        padding_id: u32,
    },
    Sparse {
        output: Output,
        splade: Splade,
    },
}

impl Head {
    /// # Errors
    /// An output, labels or a mask that the task needs and the folder or the graph has not.
    pub(crate) fn new(
        folder: &mut TextFolder,
        specs: &[TensorSpec],
        settings: &TextSettings,
        padding_id: u32,
    ) -> Result<Head> {
        let logits = |axes: usize| outputs::find(specs, settings.output.as_deref(), &["logits"], &[axes]);
        let labels = folder.config.labels();
        let with_labels = |axes: usize| {
            let output = logits(axes)?;
            match output.width {
                Some(width) if width != labels.len() => Err(Error::invalid(format!(
                    "output `{}` has {width} classes and config.json has {} labels; export the model again",
                    output.name,
                    labels.len()
                ))),
                // A graph that does not say is held to it run by run.
                _ => Ok(Output { width: Some(labels.len()), ..output }),
            }
        };
        Ok(match folder.kind {
            TaskKind::Classify | TaskKind::Rerank => {
                if folder.kind == TaskKind::Rerank && labels.len() != 1 {
                    return Err(Error::invalid(format!(
                        "task rerank needs one label and config.json has {}; \
                         set `task = \"classify\"` in `[text]` of model.toml",
                        labels.len()
                    )));
                }
                let activation = Activation::of(folder.kind, &folder.config, labels.len())?;
                Head::Scores { output: with_labels(2)?, activation }
            }
            TaskKind::ZeroShot => {
                let last = labels.len().saturating_sub(1);
                if last == 0 {
                    return Err(Error::invalid(
                        "task zero_shot needs at least two labels and config.json has one; \
                         set `task = \"rerank\"` in `[text]` of model.toml",
                    ));
                }
                let entailment = entailment(&labels).unwrap_or_else(|| {
                    folder.found.push(format!(
                        "label `{}`, the last, is taken for entailment: none is called so",
                        labels[last]
                    ));
                    last
                });
                Head::ZeroShot { output: with_labels(2)?, entailment }
            }
            TaskKind::Tokens => {
                let output = with_labels(3)?;
                let names = [folder.tokenizer_config.unknown_token().unwrap_or("[UNK]"), "<unk>"];
                let unknown = names.iter().find_map(|name| folder.tokenizer.id(name));
                Head::Tokens { output, tagger: Tagger { labels, unknown } }
            }
            TaskKind::FillMask => {
                let names = [folder.tokenizer_config.mask_token().unwrap_or("[MASK]"), "<mask>"];
                let mask_id = names.iter().find_map(|name| folder.tokenizer.id(name)).ok_or_else(|| {
                    Error::invalid(
                        "task fill_mask needs a mask token, and neither tokenizer_config.json nor tokenizer.json has one; \
                         set another `task` in `[text]` of model.toml",
                    )
                })?;
                Head::FillMask { output: logits(3)?, mask_id, padding_id }
            }
            TaskKind::Sparse => {
                let splade = folder.modules.as_ref().and_then(|modules| modules.splade);
                let splade = splade.unwrap_or_else(|| {
                    folder
                        .found
                        .push("weights are ln(1 + relu) and their largest: a guess, there is no SpladePooling".into());
                    Splade { sum: false, twice: false }
                });
                Head::Sparse { output: logits(3)?, splade }
            }
            _ => Head::Embed(Embedder::new(folder, specs, settings)?),
        })
    }

    fn output(&self) -> &Output {
        match self {
            Head::Embed(embedder) => &embedder.output,
            Head::Scores { output, .. }
            | Head::ZeroShot { output, .. }
            | Head::Tokens { output, .. }
            | Head::FillMask { output, .. }
            | Head::Sparse { output, .. } => output,
        }
    }

    /// What each row of a run came to; `start` says where its tokens begin.
    ///
    /// # Errors
    /// `inference_failed` where the output does not fit the rows.
    pub(crate) fn finish(
        &self,
        tokenizer: &TextTokenizer,
        rows: &[(&TokenRow, usize, &Options)],
        outputs: &[SessionOutput<'_>],
    ) -> Result<Vec<RowAnswer>> {
        let Output { name, at, axes, width } = self.output();
        let failed =
            |what: String| Error::new(ErrorCode::InferenceFailed, format!("output `{name}` of the graph {what}"));
        let output = outputs.get(*at).ok_or_else(|| failed("is missing".into()))?;
        let floats = Floats::new(output, name)?;
        let longest = rows.iter().map(|(row, start, _)| start + row.ids.len()).max().unwrap_or(0);
        if output.shape.len() != *axes || floats.rows < rows.len() || (*axes == 3 && floats.tokens < longest) {
            return Err(failed(format!("is {:?} for {} texts of {longest} tokens", output.shape, rows.len())));
        }
        if let Some(width) = width.filter(|&width| width != floats.width) {
            return Err(failed(format!(
                "is {:?}, and {width} numbers are wanted of each row; export the model again",
                output.shape
            )));
        }
        let answers = rows.iter().enumerate().map(|(at, &(row, start, options))| {
            let place = Place { row: at, start, tokens: row.ids.len(), skipped: row.skipped };
            Ok(match self {
                Head::Embed(embedder) if options.every_token => RowAnswer::Json(embedder.every_token(&floats, place)?),
                Head::Embed(embedder) => RowAnswer::Numbers(embedder.vector(&floats, place, options)?),
                Head::Scores { activation, .. } => {
                    let mut scores = floats.vector(at, 0);
                    if !options.raw_scores {
                        activation.apply(&mut scores);
                    }
                    RowAnswer::Numbers(scores)
                }
                Head::ZeroShot { .. } => RowAnswer::Numbers(floats.vector(at, 0)),
                Head::Tokens { tagger, .. } => {
                    RowAnswer::Json(tagger.entities(tokenizer, row, &floats, (at, start), options.aggregation)?)
                }
                Head::FillMask { padding_id, .. } => {
                    RowAnswer::Json(fills(tokenizer, *padding_id, row, &floats, (at, start), options.top_k)?)
                }
                Head::Sparse { splade, .. } => RowAnswer::Json(weights(*splade, &floats, place)?),
            })
        });
        answers.collect()
    }
}
