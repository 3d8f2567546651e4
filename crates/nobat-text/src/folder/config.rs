//! `config.json` and `tokenizer_config.json`, as far as a text model's answers depend on them.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::files::Files;
use nobat_core::Result;

/// `config.json`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ModelConfig {
    pub(crate) architectures: Option<Vec<String>>,
    pub(crate) model_type: Option<String>,
    id2label: Option<BTreeMap<String, Value>>,
    num_labels: Option<usize>,
    pub(crate) problem_type: Option<String>,
    pad_token_id: Option<Value>,
    eos_token_id: Option<Value>,
    pub(crate) vocab_size: Option<u64>,
    pub(crate) is_decoder: Option<bool>,
    pub(crate) num_attention_heads: Option<i64>,
    pub(crate) num_key_value_heads: Option<i64>,
    pub(crate) head_dim: Option<i64>,
    pub(crate) hidden_size: Option<i64>,
    sbert_ce_default_activation_function: Option<String>,
    sentence_transformers: Option<CrossEncoderConfig>,
    /// A model of several parts keeps the text's own settings here.
    text_config: Option<Box<ModelConfig>>,
    #[serde(flatten)]
    others: BTreeMap<String, Value>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct CrossEncoderConfig {
    activation_fn: Option<String>,
}

/// Names under which configurations keep the most positions.
const POSITIONS: [&str; 6] =
    ["max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "seq_length", "n_ctx"];

/// Families whose first position is the padding's id + 1, so that they have that many fewer.
const OFFSET_POSITIONS: [&str; 10] = [
    "roberta",
    "xlm-roberta",
    "xlm-roberta-xl",
    "camembert",
    "mpnet",
    "longformer",
    "data2vec-text",
    "roberta-prelayernorm",
    "xmod",
    "ibert",
];

impl ModelConfig {
    pub(crate) fn read(files: &Files) -> Result<Option<ModelConfig>> {
        let Some(mut config) = files.json::<ModelConfig>("config.json")? else { return Ok(None) };
        if let Some(text) = config.text_config.take() {
            config.vocab_size = config.vocab_size.or(text.vocab_size);
            config.pad_token_id = config.pad_token_id.or(text.pad_token_id);
            config.eos_token_id = config.eos_token_id.or(text.eos_token_id);
            config.num_attention_heads = config.num_attention_heads.or(text.num_attention_heads);
            config.num_key_value_heads = config.num_key_value_heads.or(text.num_key_value_heads);
            config.head_dim = config.head_dim.or(text.head_dim);
            config.hidden_size = config.hidden_size.or(text.hidden_size);
            for (key, value) in text.others {
                config.others.entry(key).or_insert(value);
            }
        }
        Ok(Some(config))
    }

    pub(crate) fn architecture(&self) -> Option<&str> {
        self.architectures.as_ref()?.first().map(String::as_str)
    }

    /// The labels by their number; two without names where none are given, as transformers has it.
    pub(crate) fn labels(&self) -> Vec<String> {
        let unnamed = |count: usize| (0..count).map(|at| format!("LABEL_{at}")).collect();
        let Some(named) = &self.id2label else { return unnamed(self.num_labels.unwrap_or(2).min(1 << 20)) };
        let mut labels: Vec<String> = unnamed(named.len());
        for (at, label) in named {
            if let Some(place) = at.parse::<usize>().ok().and_then(|at| labels.get_mut(at)) {
                *place = label.as_str().map_or_else(|| label.to_string(), str::to_owned);
            }
        }
        labels
    }

    /// Most positions that the model has for tokens.
    pub(crate) fn positions(&self) -> Option<usize> {
        let found = POSITIONS.iter().find_map(|name| self.others.get(*name)?.as_f64())?;
        if found < 1.0 {
            return None;
        }
        Some((found as usize).saturating_sub(self.first_position()).max(1))
    }

    /// The position of a text's first token.
    pub(crate) fn first_position(&self) -> usize {
        match &self.model_type {
            Some(family) if OFFSET_POSITIONS.contains(&family.as_str()) => {
                self.padding().map_or(2, |id| id as usize + 1)
            }
            _ => 0,
        }
    }

    /// The id that padding has: its own, else the end of a text, else 0.
    pub(crate) fn padding_id(&self) -> u32 {
        self.padding().or_else(|| id_of(self.eos_token_id.as_ref()?)).unwrap_or(0)
    }

    fn padding(&self) -> Option<u32> {
        id_of(self.pad_token_id.as_ref()?)
    }

    /// A cross-encoder's activation, by the last part of its path: `Identity`, `Sigmoid`.
    pub(crate) fn activation(&self) -> Option<&str> {
        let new = self.sentence_transformers.as_ref().and_then(|table| table.activation_fn.as_deref());
        let path = new.or(self.sbert_ce_default_activation_function.as_deref())?;
        path.rsplit('.').next()
    }

    /// Whether the model reads from left to right, so that only its last token has seen the whole text.
    pub(crate) fn reads_left_to_right(&self) -> bool {
        const DECODERS: [&str; 14] = [
            "gpt2", "gpt_neox", "llama", "mistral", "mixtral", "qwen2", "qwen3", "gemma", "gemma2", "phi", "phi3",
            "opt", "bloom", "falcon",
        ];
        self.is_decoder == Some(true)
            || self.model_type.as_deref().is_some_and(|family| DECODERS.contains(&family))
            || self.architecture().is_some_and(|name| name.ends_with("ForCausalLM"))
    }
}

/// An id that may be a list, such as several ends.
fn id_of(value: &Value) -> Option<u32> {
    let number = value.as_array().and_then(|list| list.first()).unwrap_or(value);
    number.as_i64().and_then(|id| u32::try_from(id).ok())
}

/// `tokenizer_config.json`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct TokenizerConfig {
    model_max_length: Option<f64>,
    pub(crate) padding_side: Option<String>,
    pub(crate) truncation_side: Option<String>,
    tokenizer_class: Option<String>,
    model_input_names: Option<Vec<String>>,
    mask_token: Option<Value>,
    pad_token: Option<Value>,
    unk_token: Option<Value>,
    pub(crate) clean_up_tokenization_spaces: Option<bool>,
}

impl TokenizerConfig {
    pub(crate) fn read(files: &Files) -> Result<TokenizerConfig> {
        Ok(files.json("tokenizer_config.json")?.unwrap_or_default())
    }

    /// Most tokens; what stands for "no limit" is none.
    pub(crate) fn max_length(&self) -> Option<usize> {
        self.model_max_length.filter(|&most| (1.0..1e9).contains(&most)).map(|most| most as usize)
    }

    /// Whether the tokenizer tells the model which text of a pair a token is of, as transformers has it:
    /// by the names it lists, else all classes do but the plain one.
    pub(crate) fn gives_types(&self) -> bool {
        match (&self.model_input_names, self.tokenizer_class.as_deref()) {
            (Some(names), _) => names.iter().any(|name| name == "token_type_ids"),
            (None, Some("PreTrainedTokenizerFast" | "TokenizersBackend")) => false,
            (None, _) => true,
        }
    }

    pub(crate) fn mask_token(&self) -> Option<&str> {
        content(self.mask_token.as_ref()?)
    }

    pub(crate) fn pad_token(&self) -> Option<&str> {
        content(self.pad_token.as_ref()?)
    }

    pub(crate) fn unknown_token(&self) -> Option<&str> {
        content(self.unk_token.as_ref()?)
    }
}

/// A token is a string, or an object that has its text in `content`.
fn content(token: &Value) -> Option<&str> {
    token.as_str().or_else(|| token.get("content")?.as_str())
}
