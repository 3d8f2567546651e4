//! A Hugging Face folder: what its files say of the model, and how sure that is.
//!
//! Reads the small files beside the graph, never the graph itself: whoever opens it gives its
//! inputs and outputs to [`crate::TextModel::new`]. What is missing is found where there is one
//! answer that the folder's makers would give, and said; else it is refused with the setting that
//! decides it.

pub(crate) mod config;
pub(crate) mod dense;
pub(crate) mod files;
pub(crate) mod modules;
pub(crate) mod pooling;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use nobat_core::task::TaskKind;
use nobat_core::{Error, Result, clip};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::settings::TextSettings;
use crate::task;
use crate::tokenizer::TextTokenizer;
use config::{ModelConfig, TokenizerConfig};
use files::{Files, MOST_DATA};
use modules::Modules;
use pooling::PoolingModule;

/// Files whose change changes a text model's answers, beside its graph and its modules' folders.
pub const SIDE_FILES: [&str; 12] = [
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "modules.json",
    "config_sentence_transformers.json",
    TRANSFORMER_CONFIGS[0],
    TRANSFORMER_CONFIGS[1],
    TRANSFORMER_CONFIGS[2],
    TRANSFORMER_CONFIGS[3],
    TRANSFORMER_CONFIGS[4],
    TRANSFORMER_CONFIGS[5],
    TRANSFORMER_CONFIGS[6],
];

/// The transformer module's settings: one file, which earlier releases named after the family.
const TRANSFORMER_CONFIGS: [&str; 7] = [
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
];

/// Where folders keep the graph, in the order of trying.
const GRAPH_FOLDERS: [&str; 2] = ["", "onnx/"];

/// The folder's ONNX file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GraphFile {
    /// The file that is served.
    pub path: PathBuf,
    /// Others of the folder, by their names; `variant` chooses one.
    pub others: Vec<String>,
}

/// Whether a folder is laid out as a Hugging Face model, by names alone. Several graphs of which
/// none is called a model are a folder of models, unless another of its files says otherwise.
pub fn is_model_folder(folder: &Path) -> bool {
    let has = |names: &[&str]| names.iter().any(|name| folder.join(name).is_file());
    if !has(&["config.json", "modules.json"]) {
        return false;
    }
    let own = graphs(folder);
    if own.len() < 2 || own.iter().any(|name| name.starts_with("model")) {
        return !own.is_empty() || !graphs(&folder.join(GRAPH_FOLDERS[1])).is_empty();
    }
    has(&["modules.json", "tokenizer.json", "tokenizer_config.json", "preprocessor_config.json", "model.toml"])
        || !graphs(&folder.join(GRAPH_FOLDERS[1])).is_empty()
}

/// Finds the graph that `variant` names, or the plain one.
///
/// # Errors
/// `invalid_parameter` when there is none, or none of that name; those there are, are named.
pub fn graph_file(folder: &Path, variant: Option<&str>) -> Result<GraphFile> {
    let files = Files::open(folder)?;
    let mut found: Vec<String> = Vec::new();
    for place in GRAPH_FOLDERS {
        found.extend(graphs(&files.folder().join(place)).into_iter().map(|name| format!("{place}{name}")));
    }
    let wanted: Vec<String> = match variant {
        None => vec!["model.onnx".into()],
        Some(path) if path.ends_with(".onnx") => vec![path.into()],
        Some(variant) => vec![format!("model_{variant}.onnx"), format!("{variant}.onnx")],
    };
    let places = wanted.iter().flat_map(|name| GRAPH_FOLDERS.iter().map(move |place| format!("{place}{name}")));
    let mut chosen = places.into_iter().find(|name| found.contains(name));
    if chosen.is_none() && variant.is_none() && found.len() == 1 {
        chosen = found.first().cloned();
    }
    let Some(chosen) = chosen else {
        let what = match variant {
            Some(variant) => format!("no `{}`", clip(variant)),
            None => "no model.onnx".to_owned(),
        };
        let there = match found.is_empty() {
            true => "no .onnx file; export the model: optimum-cli export onnx".to_owned(),
            false => format!("{}; name one: `variant` in `[text]` of model.toml", found.join(", ")),
        };
        return Err(Error::invalid(format!("`{}` has {what}; it has {there}", folder.display())));
    };
    let path = files.place(&chosen)?.unwrap_or_else(|| files.folder().join(&chosen));
    found.retain(|name| *name != chosen);
    Ok(GraphFile { path, others: found })
}

/// The names of the ONNX files in a folder.
fn graphs(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.ends_with(".onnx") && folder.join(name).is_file())
        .collect();
    names.sort();
    names
}

/// What `config_sentence_transformers.json` says of prompts.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Prompts {
    prompts: BTreeMap<String, Option<String>>,
    default_prompt_name: Option<String>,
}

/// A folder that was read.
#[derive(Clone, Debug)]
pub struct TextFolder {
    pub(crate) kind: TaskKind,
    pub(crate) config: ModelConfig,
    pub(crate) tokenizer_config: TokenizerConfig,
    pub(crate) tokenizer: TextTokenizer,
    pub(crate) modules: Option<Modules>,
    /// As its file or the settings say; none where it is to be guessed or refused.
    pub(crate) pooling: Option<PoolingModule>,
    /// Texts put before texts, by name.
    pub(crate) prompts: BTreeMap<String, String>,
    pub(crate) default_prompt: Option<String>,
    /// Most tokens of a text, where the folder limits them.
    pub(crate) max_length: Option<usize>,
    /// What was found and what was guessed.
    pub(crate) found: Vec<String>,
}

/// What a folder turned out to be.
#[derive(Clone, Debug)]
pub enum Reading {
    /// A model of texts.
    Text(Box<TextFolder>),
    /// No task that is known: callers send the graph's own tensors. Says why.
    Tensors(String),
}

impl TextFolder {
    /// What its makers call a folder's family: `model_type` of `config.json`.
    pub fn family(folder: &Path) -> Option<String> {
        ModelConfig::read(&Files::open(folder).ok()?).ok()??.model_type
    }

    /// Reads a folder's files, all but the graph.
    ///
    /// # Errors
    /// `invalid_parameter`, naming the file or the setting, and the remedy: no tokenizer, files
    /// that cannot be read or lead out of the folder, a tokenizer that does not fit the model's
    /// vocabulary, settings that are not known.
    pub fn read(folder: &Path, settings: &TextSettings) -> Result<Reading> {
        let files = Files::open(folder)?;
        let modules = Modules::read(&files)?;
        // Some folders keep the transformer's files in a folder of their own.
        let inner = match &modules {
            Some(modules) if !modules.transformer.is_empty() && !files.has("config.json") => {
                files.inside(&modules.transformer)?.unwrap_or_else(|| files.clone())
            }
            _ => files.clone(),
        };
        let Some(config) = ModelConfig::read(&inner)? else {
            return Err(Error::invalid(format!(
                "`{}` has no config.json; save the model again, or serve its .onnx file",
                folder.display()
            )));
        };
        let task = task::find(settings.task.as_deref(), &config, modules.as_ref())?;
        let Some(kind) = task.kind else { return Ok(Reading::Tensors(task.how)) };
        let mut found = vec![task.how];
        let Some(bytes) = inner.bytes("tokenizer.json", MOST_DATA)? else {
            // Pictures and sounds have a preprocessor instead.
            if settings.task.is_none() && inner.has("preprocessor_config.json") {
                return Ok(Reading::Tensors(
                    "served as tensors: the folder has a preprocessor_config.json and no tokenizer.json".into(),
                ));
            }
            return Err(Error::invalid(format!(
                "`{}` has no tokenizer.json; save it: AutoTokenizer.from_pretrained(MODEL).save_pretrained(FOLDER), \
                 or serve the graph as it is: `task = \"tensors\"` in `[text]` of model.toml",
                folder.display()
            )));
        };
        let mut tokenizer = TextTokenizer::read(&bytes)?;
        let tokenizer_config = TokenizerConfig::read(&inner)?;
        tokenizer.clean_up(tokenizer_config.clean_up_tokenization_spaces.unwrap_or(false));
        check_vocabulary(&tokenizer, &config, &mut found)?;
        let transformer = transformer_config(&inner)?;
        if transformer.get("do_lower_case").and_then(Value::as_bool).unwrap_or(false) {
            tokenizer.lower()?;
        }
        let told = transformer.get("max_seq_length").and_then(Value::as_u64).map(|most| most as usize);
        let max_length = max_length(settings, told, &tokenizer_config, &config, &mut found);
        let pooling = match settings.pooling {
            Some(mode) => Some(PoolingModule::of(mode)),
            None => pooling(&files, modules.as_ref())?,
        };
        let prompts: Prompts = files.json("config_sentence_transformers.json")?.unwrap_or_default();
        let default_prompt = settings.prompt_name.clone().or(prompts.default_prompt_name);
        let prompts: BTreeMap<String, String> =
            prompts.prompts.into_iter().filter_map(|(name, prompt)| Some((name, prompt?))).collect();
        if let Some(name) = &default_prompt
            && !prompts.contains_key(name)
        {
            return Err(Error::invalid(format!(
                "prompt `{}` is not among the folder's prompts: {}",
                clip(name),
                names(prompts.keys())
            )));
        }
        if let Some(name) = &default_prompt {
            found.push(format!("prompt `{name}` before every text that names none"));
        }
        Ok(Reading::Text(Box::new(TextFolder {
            kind,
            config,
            tokenizer_config,
            tokenizer,
            modules,
            pooling,
            prompts,
            default_prompt,
            max_length,
            found,
        })))
    }
}

/// A list for a message.
pub(crate) fn names<'a>(all: impl Iterator<Item = &'a String>) -> String {
    let all: Vec<&str> = all.map(String::as_str).collect();
    if all.is_empty() { "none".to_owned() } else { all.join(", ") }
}

/// A tokenizer whose ids the model has no rows for would read past its table.
fn check_vocabulary(tokenizer: &TextTokenizer, config: &ModelConfig, found: &mut Vec<String>) -> Result<()> {
    let Some(rows) = config.vocab_size else { return Ok(()) };
    let largest = tokenizer.largest_own_id();
    if u64::from(largest) >= rows {
        return Err(Error::invalid(format!(
            "tokenizer.json gives ids up to {largest}, and config.json has a vocabulary of {rows}; \
             put the model's own tokenizer into the folder"
        )));
    }
    if u64::from(tokenizer.largest_id()) >= rows {
        found.push(format!(
            "tokens added to the tokenizer have ids up to {}, over the vocabulary of {rows}; texts with them are refused",
            tokenizer.largest_id()
        ));
    }
    Ok(())
}

/// What the first of them says that is there.
fn transformer_config(files: &Files) -> Result<Map<String, Value>> {
    for name in TRANSFORMER_CONFIGS {
        if let Some(config) = files.json(name)? {
            return Ok(config);
        }
    }
    Ok(Map::new())
}

fn max_length(
    settings: &TextSettings,
    told: Option<usize>,
    tokenizer: &TokenizerConfig,
    config: &ModelConfig,
    found: &mut Vec<String>,
) -> Option<usize> {
    let positions = config.positions();
    let (length, whence) = match (settings.max_length, told) {
        (Some(length), _) => (Some(length), "model.toml"),
        (None, Some(length)) => (Some(length), "max_seq_length"),
        (None, None) => {
            ([tokenizer.max_length(), positions].into_iter().flatten().min(), "tokenizer_config.json and config.json")
        }
    };
    match (length, positions) {
        (Some(length), Some(positions)) if length > positions => {
            found.push(format!(
                "at most {positions} tokens: {whence} says {length}, the model has {positions} positions"
            ));
            Some(positions)
        }
        (Some(length), _) => {
            found.push(format!("at most {length} tokens, by {whence}"));
            Some(length)
        }
        (None, _) => {
            found.push("no limit on tokens in the folder; `max_length` in `[text]` of model.toml sets one".into());
            None
        }
    }
}

fn pooling(files: &Files, modules: Option<&Modules>) -> Result<Option<PoolingModule>> {
    if let Some(modules) = modules {
        return Ok(modules.pooling.clone());
    }
    const PLACE: &str = "1_Pooling/config.json";
    let config: Option<Map<String, Value>> = files.json(PLACE)?;
    config.map(|config| PoolingModule::read(&config, PLACE)).transpose()
}
