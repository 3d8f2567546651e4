//! A chain as it is written: its steps, and which tensors go from where to where.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

use crate::tensor::Datatype;

/// Requests of a chain that a worker carries out at once, where nothing else says.
pub const MAX_IN_FLIGHT: u32 = 64;

/// A chain as it is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChainDefinition {
    /// Its steps, in any order: one runs as soon as its inputs are there.
    pub steps: Vec<StepDefinition>,
    /// Tensors that callers give, where the chain declares them.
    #[serde(skip)]
    pub inputs: Vec<Declared>,
    /// Tensors that callers get; where none is named, those that no step takes.
    #[serde(default)]
    pub outputs: Vec<Declared>,
    /// Requests that one worker carries out at once.
    #[serde(default = "max_in_flight")]
    pub max_in_flight: u32,
    /// Most rows of one request, where the chain declares them.
    #[serde(skip)]
    pub max_rows: Option<u32>,
}

fn max_in_flight() -> u32 {
    MAX_IN_FLIGHT
}

/// One step as it is written. Where a map is left out, the step's tensors and the chain's
/// have the same names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepDefinition {
    /// What errors, timings and metrics call it; the model's or the function's name unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<SmolStr>,
    /// The model that it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<SmolStr>,
    /// The version or label of it; its default unless said.
    #[serde(default, skip_serializing_if = "SmolStr::is_empty")]
    pub version: SmolStr,
    /// The function that it runs in the place of a model.
    #[serde(default, rename = "use", skip_serializing_if = "Option::is_none")]
    pub function: Option<SmolStr>,
    /// The function's settings.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub settings: serde_json::Map<String, serde_json::Value>,
    /// The step's inputs, each with the chain's tensor that goes into it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inputs: Option<BTreeMap<SmolStr, SmolStr>>,
    /// The step's outputs, each with the chain's tensor that it becomes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outputs: Option<BTreeMap<SmolStr, SmolStr>>,
    /// Runs the model once for each row of its inputs' first axis and joins what comes out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub each: bool,
}

/// A tensor of the chain as it declares it: at least its name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "SmolStr", into = "SmolStr")]
pub struct Declared {
    /// Its name.
    pub name: SmolStr,
    /// Its datatype and shape, -1 for any size, where they are declared.
    pub holds: Option<(Datatype, Vec<i64>)>,
}

impl From<SmolStr> for Declared {
    fn from(name: SmolStr) -> Declared {
        Declared { name, holds: None }
    }
}

impl From<Declared> for SmolStr {
    fn from(declared: Declared) -> SmolStr {
        declared.name
    }
}

impl StepDefinition {
    /// What people call it.
    pub fn name(&self) -> &str {
        let names = [&self.name, &self.model, &self.function];
        names.into_iter().flatten().next().map_or("", SmolStr::as_str)
    }

    /// The step with its model or function, as errors name it.
    pub fn title(&self) -> String {
        match (&self.model, &self.function) {
            (Some(model), _) => format!("step `{}` (model `{model}`)", self.name()),
            (None, Some(function)) => format!("step `{}` (function `{function}`)", self.name()),
            (None, None) => format!("step `{}`", self.name()),
        }
    }
}
