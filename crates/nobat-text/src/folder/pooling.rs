//! How the vectors of a text's tokens become one, as `1_Pooling/config.json` says it.

use nobat_core::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// One way to make one vector of many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pooling {
    /// The first token's.
    Cls,
    /// The largest number of each dimension.
    Max,
    /// The mean.
    Mean,
    /// The sum over the root of the count.
    #[serde(rename = "mean_sqrt_len_tokens")]
    MeanSqrtLen,
    /// The mean, where later tokens count more.
    WeightedMean,
    /// The last token's.
    LastToken,
}

impl Pooling {
    const ALL: [(Pooling, &'static str, &'static str); 6] = [
        (Pooling::Cls, "cls", "pooling_mode_cls_token"),
        (Pooling::Max, "max", "pooling_mode_max_tokens"),
        (Pooling::Mean, "mean", "pooling_mode_mean_tokens"),
        (Pooling::MeanSqrtLen, "mean_sqrt_len_tokens", "pooling_mode_mean_sqrt_len_tokens"),
        (Pooling::WeightedMean, "weightedmean", "pooling_mode_weightedmean_tokens"),
        (Pooling::LastToken, "lasttoken", "pooling_mode_lasttoken"),
    ];

    /// As settings and folders spell it.
    pub(crate) fn as_str(self) -> &'static str {
        Pooling::ALL.iter().find(|(pooling, ..)| *pooling == self).map_or("", |(_, name, _)| name)
    }

    fn parse(word: &str) -> Option<Pooling> {
        Pooling::ALL.iter().find(|(_, name, _)| *name == word).map(|(pooling, ..)| *pooling)
    }
}

/// What a pooling module does.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PoolingModule {
    /// Their vectors follow each other in the result.
    pub(crate) modes: Vec<Pooling>,
    /// Whether a prompt's tokens count.
    pub(crate) include_prompt: bool,
}

impl PoolingModule {
    pub(crate) fn of(mode: Pooling) -> PoolingModule {
        PoolingModule { modes: vec![mode], include_prompt: true }
    }

    /// Reads its configuration: a word or a list, else one flag per mode.
    ///
    /// # Errors
    /// A mode that is not known.
    pub(crate) fn read(config: &Map<String, Value>, place: &str) -> Result<PoolingModule> {
        let include_prompt = config.get("include_prompt").and_then(Value::as_bool).unwrap_or(true);
        let words: Vec<&Value> = match config.get("pooling_mode") {
            Some(Value::Array(list)) => list.iter().collect(),
            Some(word @ Value::String(_)) => vec![word],
            _ => Vec::new(),
        };
        let mut modes = Vec::new();
        for word in &words {
            modes.push(word.as_str().and_then(Pooling::parse).ok_or_else(|| {
                let known: Vec<&str> = Pooling::ALL.iter().map(|(_, name, _)| *name).collect();
                Error::invalid(format!(
                    "`{place}` has pooling_mode {word}, which is not known; known: {}; \
                     set `pooling` in `[text]` of model.toml",
                    known.join(", ")
                ))
            })?);
        }
        if words.is_empty() {
            let set = |flag: &str| config.get(flag).and_then(Value::as_bool).unwrap_or(false);
            modes.extend(Pooling::ALL.iter().filter(|(_, _, flag)| set(flag)).map(|(mode, ..)| *mode));
            let unknown = config.iter().find(|(key, value)| {
                key.starts_with("pooling_mode_")
                    && **value == Value::Bool(true)
                    && !Pooling::ALL.iter().any(|(_, _, flag)| flag == key)
            });
            if let Some((key, _)) = unknown {
                return Err(Error::invalid(format!(
                    "`{place}` has {key}, which is not known; set `pooling` in `[text]` of model.toml"
                )));
            }
        }
        if modes.is_empty() {
            modes.push(Pooling::Mean);
        }
        Ok(PoolingModule { modes, include_prompt })
    }
}
