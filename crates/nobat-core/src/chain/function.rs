//! The functions that a step may run in the place of a model: their settings, and what each
//! takes and gives.
//!
//! Whoever declares a chain and whoever runs it read the settings here, so what a worker
//! would refuse is refused where it is written. What the functions do is `nobat-image`'s matter.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::definition::StepDefinition;
use crate::error::clip;
use crate::signature::TensorSpec;
use crate::tensor::Datatype;

/// Their names.
pub const FUNCTIONS: [&str; 4] = ["crop", "picture", "text_boxes", "turn"];

/// Most pixels of a picture that is decoded, where nothing else says: Pillow's limit.
pub const MOST_PIXELS: u64 = 89_478_485;

/// Longest side of a picture that [`Picture`] makes.
pub const LONGEST_SIDE: u32 = 16_384;

/// What a function takes and gives; -1 for any size.
pub type FunctionSpecs = (Vec<TensorSpec>, Vec<TensorSpec>);

/// A function with its settings.
#[derive(Clone, Debug, PartialEq)]
pub enum Function {
    /// What is in boxes of a picture, each as a picture of its own.
    Crop(Crop),
    /// A picture to its pixels, and to a detector's input.
    Picture(Picture),
    /// A detector's map to boxes around lines of text.
    TextBoxes(TextBoxes),
    /// Pictures that stand on their heads are turned.
    Turn(Turn),
}

/// Settings of `crop`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Crop {
    /// What is so many times as high as it is wide is turned to the left: a line that stands on end.
    pub turn_above: f64,
}

/// Settings of `picture`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Picture {
    /// Pictures whose shorter side has less are enlarged until it has as much.
    pub shortest: u32,
    /// Both sides are rounded to multiples of it.
    pub multiple: u32,
    /// Taken from each value of 0 to 1, by channel.
    pub mean: [f32; 3],
    /// Divides it then.
    pub std: [f32; 3],
    /// The order of the channels.
    pub channels: Channels,
    /// Most pixels of a picture that is decoded.
    pub max_pixels: u64,
}

/// The order of a tensor's channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Channels {
    /// Red, green, blue.
    Rgb,
    /// Blue, green, red, as OpenCV reads pictures.
    Bgr,
}

/// Settings of `text_boxes`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TextBoxes {
    /// Above it a place of the map is text.
    pub threshold: f32,
    /// Least mean of the map in a box.
    pub box_threshold: f64,
    /// By how much boxes grow: the map shows the middle of lines.
    pub unclip: f64,
    /// Whether text grows by a pixel of the map first.
    pub dilate: bool,
    /// Most regions that are looked at.
    pub max_candidates: usize,
}

/// Settings of `turn`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Turn {
    /// The label of what is to be turned.
    pub label: String,
    /// Only what is labelled with a score over this is turned.
    pub above: f32,
    /// Most pixels of a picture that is decoded.
    pub max_pixels: u64,
}

impl Default for Crop {
    fn default() -> Crop {
        Crop { turn_above: 1.5 }
    }
}

impl Default for Picture {
    fn default() -> Picture {
        let (mean, std) = ([0.5; 3], [0.5; 3]);
        Picture { shortest: 736, multiple: 32, mean, std, channels: Channels::Bgr, max_pixels: MOST_PIXELS }
    }
}

impl Default for TextBoxes {
    fn default() -> TextBoxes {
        TextBoxes { threshold: 0.3, box_threshold: 0.5, unclip: 1.6, dilate: true, max_candidates: 1_000 }
    }
}

impl Default for Turn {
    fn default() -> Turn {
        Turn { label: "180".to_owned(), above: 0.9, max_pixels: MOST_PIXELS }
    }
}

impl Function {
    /// The function that a step runs, with its settings.
    ///
    /// # Errors
    /// One line: there is none of this name, or the setting that it does not know or cannot take,
    /// its value, and what it can be.
    pub fn of(step: &StepDefinition) -> std::result::Result<Function, String> {
        let settings = &step.settings;
        match step.function.as_deref().unwrap_or_default() {
            "crop" => Ok(Function::Crop(read(settings, Crop::wrong)?)),
            "picture" => Ok(Function::Picture(read(settings, Picture::wrong)?)),
            "text_boxes" => Ok(Function::TextBoxes(read(settings, TextBoxes::wrong)?)),
            "turn" => Ok(Function::Turn(read(settings, Turn::wrong)?)),
            name => Err(format!("there is no function `{}`; functions: {}", clip(name), FUNCTIONS.join(", "))),
        }
    }

    /// What it takes and gives.
    pub fn specs(&self) -> FunctionSpecs {
        match self {
            Function::Crop(_) => (Crop::inputs(), Crop::outputs()),
            Function::Picture(_) => (Picture::inputs(), Picture::outputs()),
            Function::TextBoxes(_) => (TextBoxes::inputs(), TextBoxes::outputs()),
            Function::Turn(_) => (Turn::inputs(), Turn::outputs()),
        }
    }
}

/// The setting that is out of range, and what it can be.
type Wrong = Option<(&'static str, &'static str)>;

impl Crop {
    /// What it takes.
    pub fn inputs() -> Vec<TensorSpec> {
        vec![spec("pixels", Datatype::Uint8, &[-1, -1, 3]), spec("boxes", Datatype::Fp32, &[-1, 4, 2])]
    }

    /// What it gives.
    pub fn outputs() -> Vec<TensorSpec> {
        vec![spec("crops", Datatype::Bytes, &[-1])]
    }

    fn wrong(&self) -> Wrong {
        first([("turn_above", self.turn_above > 0.0, "more than 0")])
    }
}

impl Picture {
    /// What it takes.
    pub fn inputs() -> Vec<TensorSpec> {
        vec![spec("image", Datatype::Bytes, &[1])]
    }

    /// What it gives.
    pub fn outputs() -> Vec<TensorSpec> {
        vec![spec("pixels", Datatype::Uint8, &[-1, -1, 3]), spec("tensor", Datatype::Fp32, &[1, 3, -1, -1])]
    }

    fn wrong(&self) -> Wrong {
        let finite = |values: &[f32; 3]| values.iter().all(|value| value.is_finite());
        first([
            ("shortest", self.shortest <= LONGEST_SIDE, "0 to 16384"),
            ("multiple", (1..=LONGEST_SIDE).contains(&self.multiple), "1 to 16384"),
            ("mean", finite(&self.mean), "three numbers that FP32 holds"),
            // Everything is divided by it.
            ("std", finite(&self.std) && self.std.iter().all(|&own| own != 0.0), "three numbers other than 0"),
            ("max_pixels", self.max_pixels > 0, "1 or more"),
        ])
    }
}

impl TextBoxes {
    /// What it takes.
    pub fn inputs() -> Vec<TensorSpec> {
        vec![spec("map", Datatype::Fp32, &[1, 1, -1, -1]), spec("pixels", Datatype::Uint8, &[-1, -1, 3])]
    }

    /// What it gives.
    pub fn outputs() -> Vec<TensorSpec> {
        vec![spec("boxes", Datatype::Fp32, &[-1, 4, 2]), spec("box_scores", Datatype::Fp32, &[-1])]
    }

    fn wrong(&self) -> Wrong {
        first([
            ("threshold", (0.0..=1.0).contains(&self.threshold), "0 to 1"),
            ("box_threshold", (0.0..=1.0).contains(&self.box_threshold), "0 to 1"),
            ("unclip", self.unclip >= 0.0, "0 or more"),
            ("max_candidates", self.max_candidates > 0, "1 or more"),
        ])
    }
}

impl Turn {
    /// What it takes.
    pub fn inputs() -> Vec<TensorSpec> {
        vec![
            spec("crops", Datatype::Bytes, &[-1]),
            spec("label", Datatype::Bytes, &[-1]),
            spec("score", Datatype::Fp32, &[-1]),
        ]
    }

    /// What it gives.
    pub fn outputs() -> Vec<TensorSpec> {
        vec![spec("turned", Datatype::Bytes, &[-1])]
    }

    fn wrong(&self) -> Wrong {
        first([
            ("label", !self.label.is_empty(), "a label of the classifier"),
            ("above", (0.0..=1.0).contains(&self.above), "0 to 1"),
            ("max_pixels", self.max_pixels > 0, "1 or more"),
        ])
    }
}

fn spec(name: &str, datatype: Datatype, shape: &[i64]) -> TensorSpec {
    TensorSpec { name: name.into(), datatype, shape: shape.to_vec(), optional: false }
}

/// The first setting that does not hold.
fn first<const N: usize>(settings: [(&'static str, bool, &'static str); N]) -> Wrong {
    settings.into_iter().find(|(_, holds, _)| !holds).map(|(key, _, can_be)| (key, can_be))
}

fn read<T: DeserializeOwned>(settings: &Map<String, Value>, wrong: fn(&T) -> Wrong) -> Result<T, String> {
    // Each by itself, since a misfit of the whole would not say which it is.
    for (key, value) in settings {
        let alone = Map::from_iter([(key.clone(), value.clone())]);
        serde_json::from_value::<T>(Value::Object(alone)).map_err(|error| {
            let error = error.to_string();
            // What comes before repeats the value, however long it is.
            let expected = error.rsplit_once("expected ").map_or("", |(_, expected)| expected);
            match error.starts_with("unknown field") {
                true => format!("there is no setting `{}`; expected {expected}", clip(key)),
                false => format!("setting `{key}` is {}; expected {expected}, or leave it out", shown(value)),
            }
        })?;
    }
    let read: T =
        serde_json::from_value(Value::Object(settings.clone())).map_err(|error| format!("settings: {error}"))?;
    match wrong(&read) {
        None => Ok(read),
        Some((key, can_be)) => {
            let value = settings.get(key).map(shown).unwrap_or_default();
            Err(format!("setting `{key}` is {value}; it can be {can_be}"))
        }
    }
}

fn shown(value: &Value) -> String {
    format!("`{}`", clip(&value.to_string()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(step: Value) -> std::result::Result<Function, String> {
        Function::of(&serde_json::from_value(step).expect("a step"))
    }

    #[test]
    fn every_function_has_its_defaults_and_takes_what_it_says() {
        for name in FUNCTIONS {
            let function = of(json!({ "use": name })).expect(name);
            let (inputs, outputs) = function.specs();
            assert!(!inputs.is_empty() && !outputs.is_empty(), "{name}");
        }
        let settings = json!({ "shortest": 0, "std": [1, 0.5, -2], "channels": "RGB" });
        let Function::Picture(picture) = of(json!({ "use": "picture", "settings": settings })).expect("settings")
        else {
            panic!("another function")
        };
        let std = [1.0, 0.5, -2.0];
        assert_eq!(picture, Picture { shortest: 0, std, channels: Channels::Rgb, ..Picture::default() });
    }

    #[test]
    fn a_setting_that_does_not_fit_is_named_with_its_value_and_what_it_can_be() {
        let cases = [
            ("blur", json!({}), "there is no function `blur`; functions: crop, picture, text_boxes, turn"),
            (
                "text_boxes",
                json!({ "treshold": 0.3 }),
                "there is no setting `treshold`; expected one of `threshold`, `box_threshold`, `unclip`",
            ),
            (
                "crop",
                json!({ "turn_above": "tall" }),
                r#"setting `turn_above` is `"tall"`; expected f64, or leave it out"#,
            ),
            ("crop", json!({ "turn_above": 0 }), "setting `turn_above` is `0`; it can be more than 0"),
            ("picture", json!({ "multiple": 0 }), "setting `multiple` is `0`; it can be 1 to 16384"),
            ("picture", json!({ "shortest": 20_000 }), "setting `shortest` is `20000`; it can be 0 to 16384"),
            ("picture", json!({ "shortest": -1 }), "setting `shortest` is `-1`; expected u32"),
            (
                "picture",
                json!({ "std": [0.5, 0, 0.5] }),
                "setting `std` is `[0.5,0,0.5]`; it can be three numbers other",
            ),
            ("picture", json!({ "mean": [0.5] }), "setting `mean` is `[0.5]`; expected an array of length 3"),
            ("picture", json!({ "mean": [1e300, 0, 0] }), "it can be three numbers that FP32 holds"),
            ("picture", json!({ "channels": "GREY" }), "setting `channels` is `\"GREY\"`; expected `RGB` or `BGR`"),
            ("picture", json!({ "max_pixels": 0 }), "setting `max_pixels` is `0`; it can be 1 or more"),
            ("text_boxes", json!({ "threshold": 30 }), "setting `threshold` is `30`; it can be 0 to 1"),
            ("text_boxes", json!({ "unclip": null }), "setting `unclip` is `null`; expected f64"),
            ("text_boxes", json!({ "max_candidates": 0 }), "setting `max_candidates` is `0`; it can be 1 or more"),
            ("turn", json!({ "above": 1.5 }), "setting `above` is `1.5`; it can be 0 to 1"),
            ("turn", json!({ "label": "" }), r#"setting `label` is `""`; it can be a label of the classifier"#),
            ("turn", json!({ "label": 180 }), "setting `label` is `180`; expected a string"),
        ];
        for (name, settings, says) in cases {
            let error = of(json!({ "use": name, "settings": settings })).expect_err(says);
            assert!(error.contains(says), "{error}");
        }
        let long = of(json!({ "use": "turn", "settings": { "label": ["x".repeat(5_000)] } })).expect_err("too long");
        assert!(long.len() < 1_000, "{long}");
    }
}
