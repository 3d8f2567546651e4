//! Steps of chains that run no model.

use std::sync::Arc;

use nobat_transform::StepFunction;
use serde_json::{Map, Value};

/// The functions that there are, by name.
const FUNCTIONS: &[&str] = &[];

/// The function of this name with these settings.
///
/// # Errors
/// One line: there is none of this name, or a setting that it does not know or cannot take.
pub fn function(name: &str, _settings: &Map<String, Value>) -> Result<Arc<dyn StepFunction>, String> {
    Err(format!("there is no function `{name}`; functions: {}", FUNCTIONS.join(", ")))
}
