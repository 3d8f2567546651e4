//! Embeddings: one vector for each text, or one for each of its tokens.

use nobat_core::signature::TensorSpec;
use nobat_core::{Error, ErrorCode, Result};

use crate::folder::TextFolder;
use crate::folder::modules::Step;
use crate::folder::pooling::PoolingModule;
use crate::numbers::{Floats, normalize};
use crate::options::Options;
use crate::outputs::{self, Output};
use crate::pool::{Place, pool};
use crate::settings::TextSettings;

/// From the graph's output to a text's vector.
#[derive(Clone, Debug)]
pub(crate) struct Embedder {
    pub(crate) output: Output,
    /// How tokens' vectors become one; none where the graph gives one.
    pooling: Option<PoolingModule>,
    steps: Vec<Step>,
    /// Whether vectors have length 1 unless a request says otherwise.
    normalize: bool,
    /// Numbers of a vector, where that is known before a run.
    pub(crate) dimensions: Option<usize>,
}

/// Outputs that hold a text's vector.
const POOLED: [&str; 3] = ["sentence_embedding", "sentence_embeddings", "text_embeds"];
/// Outputs that hold a vector for each token.
const TOKENS: [&str; 2] = ["last_hidden_state", "token_embeddings"];

impl Embedder {
    /// Decides how the graph's output becomes a vector; says what was found.
    ///
    /// # Errors
    /// An output that is not known, a pooling that cannot be known, layers that do not fit.
    pub(crate) fn new(folder: &mut TextFolder, specs: &[TensorSpec], settings: &TextSettings) -> Result<Embedder> {
        // What is to be pooled otherwise than the graph does needs the tokens' vectors.
        let own_pooling =
            settings.pooling.is_some() || folder.pooling.as_ref().is_some_and(|pooling| !pooling.include_prompt);
        let names: Vec<&str> = match own_pooling {
            true => TOKENS.to_vec(),
            false => POOLED.iter().chain(&TOKENS).copied().collect(),
        };
        let axes: &[usize] = if own_pooling { &[3] } else { &[2, 3] };
        let output = outputs::find(specs, settings.output.as_deref(), &names, axes)?;
        let found = &mut folder.found;
        let normalizes = folder.modules.as_ref().is_some_and(|modules| modules.normalizes());
        let mut embedder = Embedder {
            output,
            pooling: None,
            steps: Vec::new(),
            normalize: settings.normalize.unwrap_or(normalizes),
            dimensions: None,
        };
        let hidden = embedder.output.width.or(folder.config.hidden_size.and_then(|size| usize::try_from(size).ok()));
        if embedder.output.axes == 2 {
            found.push(format!("pooled by the graph: output `{}`", embedder.output.name));
            embedder.dimensions = embedder.output.width;
        } else {
            if let Some(class) = folder.modules.as_ref().and_then(|modules| modules.unknown.as_ref()) {
                return Err(Error::invalid(format!(
                    "modules.json has `{class}`, which is not known here; known are Transformer, MLMTransformer, \
                     Pooling, SpladePooling, Dense, Normalize and Dropout; export the graph with its modules, \
                     so that it has the output `sentence_embedding`"
                )));
            }
            let pooling = match folder.pooling.clone() {
                Some(pooling) => pooling,
                None if folder.config.reads_left_to_right() => {
                    return Err(Error::invalid(
                        "nothing says how the tokens of this decoder become one vector: it has no modules.json and no \
                         1_Pooling/config.json; set `pooling` in `[text]` of model.toml, often \"lasttoken\"",
                    ));
                }
                None => {
                    found.push("pooling mean is a guess: there is no modules.json and no 1_Pooling/config.json".into());
                    PoolingModule::of(crate::folder::pooling::Pooling::Mean)
                }
            };
            let modes: Vec<&str> = pooling.modes.iter().map(|mode| mode.as_str()).collect();
            found.push(format!("pooling {} over output `{}`", modes.join(" + "), embedder.output.name));
            let mut steps = folder.modules.as_ref().map(|modules| modules.steps.clone()).unwrap_or_default();
            if normalizes {
                steps.pop();
            }
            let pooled = hidden.map(|hidden| hidden * pooling.modes.len());
            embedder.dimensions = check_steps(&steps, pooled)?;
            embedder.pooling = Some(pooling);
            embedder.steps = steps;
        }
        let why = match (settings.normalize, &folder.modules) {
            (Some(_), _) => "model.toml",
            (None, Some(_)) => "modules.json",
            (None, None) => "a guess, there is no modules.json",
        };
        found.push(format!("vectors {} length 1 ({why})", if embedder.normalize { "have" } else { "need not have" }));
        Ok(embedder)
    }

    /// Whether the graph itself makes one vector of a text's tokens.
    pub(crate) fn pooled_by_graph(&self) -> bool {
        self.pooling.is_none()
    }

    /// Whether a prompt's tokens count in pooling.
    pub(crate) fn includes_prompt(&self) -> bool {
        self.pooling.as_ref().is_none_or(|pooling| pooling.include_prompt)
    }

    /// Refuses options that this model cannot carry out, before anything runs.
    pub(crate) fn check(&self, options: &Options) -> Result<()> {
        if options.every_token && self.pooled_by_graph() {
            return Err(Error::invalid(format!(
                "parameter `pooling` is `none`, and the graph gives one vector for a text (output `{}`); \
                 leave the parameter out, or export the graph with `last_hidden_state`",
                self.output.name
            )));
        }
        match (options.dimensions, self.dimensions) {
            (Some(0), _) => Err(too_many(0, self.dimensions)),
            (Some(wanted), Some(own)) if wanted > own as u64 => Err(too_many(wanted, Some(own))),
            (Some(_), _) if options.every_token => {
                Err(Error::invalid("parameter `dimensions` does not go with `pooling` = `none`; leave one of them out"))
            }
            _ => Ok(()),
        }
    }

    /// A text's vector.
    ///
    /// # Errors
    /// More dimensions asked for than there are; `inference_failed` where the graph gives vectors
    /// of another length than the layers after it take, or than is published.
    pub(crate) fn vector(&self, output: &Floats<'_>, place: Place, options: &Options) -> Result<Vec<f32>> {
        let mut vector = match &self.pooling {
            None => output.vector(place.row, 0),
            Some(pooling) => pool(pooling, output, place),
        };
        for step in &self.steps {
            match step {
                Step::Dense(layer) if layer.inputs() != vector.len() => {
                    return Err(self.misfit(vector.len(), "a Dense module takes", layer.inputs()));
                }
                Step::Dense(layer) => vector = layer.apply(&vector),
                Step::Normalize => normalize(&mut vector),
            }
        }
        if let Some(own) = self.dimensions.filter(|&own| own != vector.len()) {
            return Err(self.misfit(vector.len(), "config.json and the modules say", own));
        }
        if let Some(wanted) = options.dimensions {
            let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
            if wanted > vector.len() {
                return Err(too_many(wanted as u64, Some(vector.len())));
            }
            vector.truncate(wanted);
        }
        // Of a vector that is cut, the rest is brought to length 1 again.
        if options.normalize.unwrap_or(self.normalize || options.dimensions.is_some()) {
            normalize(&mut vector);
        }
        Ok(vector)
    }

    fn misfit(&self, is: usize, who: &str, wanted: usize) -> Error {
        Error::new(
            ErrorCode::InferenceFailed,
            format!(
                "output `{}` of the graph comes to vectors of {is} numbers, and {who} {wanted}; export the model again",
                self.output.name
            ),
        )
    }

    /// The vectors of a text's tokens, as a JSON list of lists.
    pub(crate) fn every_token(&self, output: &Floats<'_>, place: Place) -> Result<Vec<u8>> {
        let tokens: Vec<Vec<f32>> =
            (0..place.tokens).map(|token| output.vector(place.row, place.start + token)).collect();
        serde_json::to_vec(&tokens).map_err(|error| Error::internal(error.to_string()))
    }
}

fn too_many(wanted: u64, own: Option<usize>) -> Error {
    let most = own.map_or("its size".to_owned(), |own| own.to_string());
    Error::invalid(format!("parameter `dimensions` is {wanted}; vectors of this model have 1 to {most}"))
}

/// Numbers of a vector after the steps; none where that is not known.
fn check_steps(steps: &[Step], mut width: Option<usize>) -> Result<Option<usize>> {
    for step in steps {
        if let Step::Dense(layer) = step {
            if let Some(width) = width.filter(|&width| width != layer.inputs()) {
                return Err(Error::invalid(format!(
                    "a Dense module takes {} numbers and gets {width}; save the model again",
                    layer.inputs()
                )));
            }
            width = Some(layer.outputs());
        }
    }
    Ok(width)
}
