//! Steps of chains that run no model: a picture to pixels and to a detector's input, a
//! detector's map to boxes around lines of text, boxes to pictures of their own, which are turned upright.
//!
//! Each is a pure function over whole tensors, with settings of its own; unknown ones are
//! refused by name.

mod crop;
mod geometry;
mod picture;
mod pixels;
mod tensors;
mod text_boxes;
mod turn;

use std::sync::Arc;

use nobat_core::chain::FUNCTIONS;
use nobat_transform::StepFunction;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// The function of this name with these settings.
///
/// # Errors
/// One line: there is none of this name, or a setting that it does not know or cannot take.
pub fn function(name: &str, settings: &Map<String, Value>) -> std::result::Result<Arc<dyn StepFunction>, String> {
    match name {
        "crop" => Ok(Arc::new(read::<crop::Crop>(settings)?)),
        "picture" => Ok(Arc::new(read::<picture::Picture>(settings)?)),
        "text_boxes" => Ok(Arc::new(read::<text_boxes::TextBoxes>(settings)?)),
        "turn" => Ok(Arc::new(read::<turn::Turn>(settings)?)),
        _ => Err(format!("there is no function `{name}`; functions: {}", FUNCTIONS.join(", "))),
    }
}

fn read<T: DeserializeOwned>(settings: &Map<String, Value>) -> std::result::Result<T, String> {
    serde_json::from_value(Value::Object(settings.clone())).map_err(|error| format!("settings: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_found_by_name_and_misspelt_settings_are_refused() {
        let none = Map::new();
        for name in FUNCTIONS {
            assert!(function(name, &none).is_ok(), "{name}");
        }
        let error = function("blur", &none).expect_err("there is none");
        assert!(error.contains("`blur`") && error.contains("crop, picture, text_boxes"), "{error}");
        let misspelt = [("treshold".to_owned(), Value::from(0.3))].into_iter().collect();
        let error = function("text_boxes", &misspelt).expect_err("misspelt");
        assert!(error.contains("`treshold`") && error.contains("`threshold`"), "{error}");
    }
}
