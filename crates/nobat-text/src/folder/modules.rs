//! `modules.json`: what follows the graph, module by module.

use nobat_core::{Error, Result};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::dense::Dense;
use super::files::Files;
use super::pooling::PoolingModule;

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    path: String,
    r#type: String,
}

/// How a SPLADE model pools its logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Splade {
    /// Sums over the tokens; else their largest.
    pub(crate) sum: bool,
    /// Takes the logarithm twice.
    pub(crate) twice: bool,
}

/// What follows the graph.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Modules {
    /// Where the transformer's own settings are, `""` for the folder itself.
    pub(crate) transformer: String,
    pub(crate) pooling: Option<PoolingModule>,
    /// After pooling, in this order.
    pub(crate) steps: Vec<Step>,
    pub(crate) splade: Option<Splade>,
    /// A module that is not known here: such a model needs a graph that holds its modules.
    pub(crate) unknown: Option<String>,
}

/// What follows pooling.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Step {
    Dense(Dense),
    Normalize,
}

impl Modules {
    /// Reads `modules.json` and the modules' own files; `None` where there is none.
    ///
    /// # Errors
    /// A module's file that is missing or cannot be read.
    pub(crate) fn read(files: &Files) -> Result<Option<Modules>> {
        let Some(entries) = files.json::<Vec<Entry>>("modules.json")? else { return Ok(None) };
        let mut modules = Modules::default();
        for entry in entries {
            // Releases put the class under different paths; its own name stays.
            let class = entry.r#type.rsplit('.').next().unwrap_or_default();
            let config = |required: bool| -> Result<Map<String, Value>> {
                let place = format!("{}/config.json", entry.path);
                match files.json(&place)? {
                    Some(config) => Ok(config),
                    None if !required => Ok(Map::new()),
                    None => Err(Error::invalid(format!(
                        "modules.json names `{}`, and `{place}` is missing; save the model again",
                        entry.path
                    ))),
                }
            };
            match class {
                "Transformer" | "MLMTransformer" => modules.transformer = entry.path.clone(),
                "Pooling" if modules.pooling.is_none() && modules.steps.is_empty() => {
                    let place = format!("{}/config.json", entry.path);
                    modules.pooling = Some(PoolingModule::read(&config(true)?, &place)?);
                }
                "SpladePooling" => {
                    let config = config(true)?;
                    let word = |key: &str, default: &'static str| {
                        config.get(key).and_then(Value::as_str).unwrap_or(default).to_owned()
                    };
                    let (strategy, activation) = (word("pooling_strategy", "max"), word("activation_function", "relu"));
                    if !matches!(strategy.as_str(), "max" | "sum")
                        || !matches!(activation.as_str(), "relu" | "log1p_relu")
                    {
                        return Err(Error::invalid(format!(
                            "`{}/config.json` has pooling_strategy `{strategy}` and activation_function `{activation}`; \
                             known are max and sum, relu and log1p_relu",
                            entry.path
                        )));
                    }
                    modules.splade = Some(Splade { sum: strategy == "sum", twice: activation == "log1p_relu" });
                }
                "Dense" => modules.steps.push(Step::Dense(Dense::read(files, &entry.path)?)),
                "Normalize" => modules.steps.push(Step::Normalize),
                // Does nothing but in training.
                "Dropout" => {}
                _ => modules.unknown = Some(entry.r#type),
            }
        }
        Ok(Some(modules))
    }

    /// Whether its embeddings have length 1.
    pub(crate) fn normalizes(&self) -> bool {
        self.steps.last() == Some(&Step::Normalize)
    }
}
