//! `preprocessor_config.json`: what the model's makers did to pictures, with their class's defaults where
//! the file says nothing.

use nobat_core::{Error, Result, clip};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::processor::{Recipe, Scale};
use crate::settings::{Channels, Resample};
use crate::sizes::{Canvas, Resize};

const OPENAI: [[f64; 3]; 2] = [[0.481_454_66, 0.457_827_5, 0.408_210_73], [0.268_629_54, 0.261_302_58, 0.275_777_11]];
const IMAGENET: [[f64; 3]; 2] = [[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]];
const HALF: [[f64; 3]; 2] = [[0.5; 3]; 2];

/// A class of processors and what it does where its file says nothing.
struct Class {
    name: &'static str,
    size: ConfigSize,
    resample: u64,
    crop: Option<u32>,
    /// Whether the crop is made where the file says nothing.
    crops: bool,
    mean_std: [[f64; 3]; 2],
    normalizes: bool,
    quirk: Quirk,
}

/// What a class does beside the common steps.
#[derive(Clone, Copy, PartialEq)]
enum Quirk {
    None,
    /// Crops a share of a small size, squashes to a large one.
    ConvNext,
    /// Divides by the deviation once more.
    EfficientNet,
    /// Blue comes first.
    Flips,
    /// Sides are multiples of 16.
    Yolos,
}

const fn class(name: &'static str, size: ConfigSize, resample: u64, mean_std: [[f64; 3]; 2]) -> Class {
    Class { name, size, resample, crop: None, crops: false, mean_std, normalizes: true, quirk: Quirk::None }
}

const fn cropping(crop: u32, class: Class) -> Class {
    Class { crop: Some(crop), crops: true, ..class }
}

const fn square(side: u32) -> ConfigSize {
    ConfigSize::Sides(side, side)
}

const DETR: ConfigSize = ConfigSize::Edges(800, Some(1333));

/// The classes that are known, by their names without `ImageProcessor` and `FeatureExtractor`.
const CLASSES: [Class; 18] = [
    class("ViT", square(224), 2, HALF),
    class("Siglip", square(224), 3, HALF),
    cropping(224, class("DeiT", square(256), 3, HALF)),
    Class { crop: Some(224), ..class("Beit", square(224), 3, HALF) },
    Class { quirk: Quirk::ConvNext, ..class("ConvNext", ConfigSize::Edges(384, None), 3, HALF) },
    cropping(224, class("CLIP", ConfigSize::Edges(224, None), 3, OPENAI)),
    cropping(224, class("ChineseCLIP", ConfigSize::Edges(224, None), 3, OPENAI)),
    cropping(224, class("Bit", ConfigSize::Edges(224, None), 3, OPENAI)),
    Class { crop: Some(289), quirk: Quirk::EfficientNet, ..class("EfficientNet", square(346), 3, HALF) },
    cropping(224, class("MobileNetV1", ConfigSize::Edges(256, None), 2, HALF)),
    cropping(224, class("MobileNetV2", ConfigSize::Edges(256, None), 2, HALF)),
    Class {
        normalizes: false,
        quirk: Quirk::Flips,
        ..cropping(256, class("MobileViT", ConfigSize::Edges(224, None), 3, HALF))
    },
    class("Segformer", square(512), 2, IMAGENET),
    class("Detr", DETR, 2, IMAGENET),
    class("ConditionalDetr", DETR, 2, IMAGENET),
    class("DeformableDetr", DETR, 2, IMAGENET),
    Class { quirk: Quirk::Yolos, ..class("Yolos", DETR, 2, IMAGENET) },
    Class { normalizes: false, ..class("RTDetr", square(640), 2, IMAGENET) },
];

/// The file, as far as it is read.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ProcessorConfig {
    image_processor_type: Option<String>,
    feature_extractor_type: Option<String>,
    do_resize: Option<bool>,
    size: Option<Value>,
    resample: Option<u64>,
    do_center_crop: Option<bool>,
    crop_size: Option<Value>,
    crop_pct: Option<f64>,
    do_rescale: Option<bool>,
    rescale_factor: Option<f64>,
    rescale_offset: Option<bool>,
    do_normalize: Option<bool>,
    image_mean: Option<Value>,
    image_std: Option<Value>,
    include_top: Option<bool>,
    do_flip_channel_order: Option<bool>,
    pad_size: Option<Value>,
    #[serde(flatten)]
    others: Map<String, Value>,
}

/// Steps that change nothing here, or only what is trained on.
const HARMLESS: [&str; 6] =
    ["do_convert_rgb", "do_pad", "do_reduce_labels", "do_convert_annotations", "do_resize_annotations", "do_grayscale"];

#[derive(Clone, Copy, Debug, PartialEq)]
enum ConfigSize {
    /// Width and height.
    Sides(u32, u32),
    /// The shorter side, and the most of the longer.
    Edges(u32, Option<u32>),
}

impl ProcessorConfig {
    /// Which class of processors it is of, without the words that all have.
    pub(crate) fn class(&self) -> Option<&str> {
        let name = self.image_processor_type.as_deref().or(self.feature_extractor_type.as_deref())?;
        let name = name.strip_suffix("Fast").or(name.strip_suffix("Pil")).unwrap_or(name);
        Some(name.strip_suffix("ImageProcessor").or(name.strip_suffix("FeatureExtractor")).unwrap_or(name))
    }

    /// The steps, and how they are known.
    ///
    /// # Errors
    /// A class or a step that is not known, or a value that is none, with the setting that replaces it.
    pub(crate) fn recipe(&self) -> Result<(Recipe, String)> {
        let bad = |what: String| {
            Error::invalid(format!(
                "preprocessor_config.json {what}; say what is done to pictures in `[image]` of model.toml"
            ))
        };
        let Some(name) = self.class() else {
            return Err(bad("names no `image_processor_type`".into()));
        };
        let known = CLASSES.iter().find(|class| class.name == name);
        let Some(class) = known else {
            return Err(bad(format!("is of the class `{}`, which is not known", clip(name))));
        };
        let is_set = |name: &str, value: &Value| {
            name.starts_with("do_") && value.as_bool() == Some(true) && !HARMLESS.contains(&name)
        };
        if let Some((step, _)) = self.others.iter().find(|(name, value)| is_set(name, value)) {
            return Err(bad(format!("has the step `{}`, which is not known", clip(step))));
        }
        if self.pad_size.as_ref().is_some_and(|size| !size.is_null()) {
            return Err(bad("has `pad_size`, which is not known".into()));
        }
        let shortest = matches!(class.size, ConfigSize::Edges(..));
        let size = match &self.size {
            Some(value) if !value.is_null() => {
                read_size(value, shortest).ok_or_else(|| bad(format!("has the `size` {}", clip(&value.to_string()))))?
            }
            _ => class.size,
        };
        let crops = self.do_center_crop.unwrap_or(class.crops);
        let crop = match &self.crop_size {
            Some(value) if crops && !value.is_null() => match read_size(value, false) {
                Some(ConfigSize::Sides(width, height)) => Some((width, height)),
                _ => return Err(bad(format!("has the `crop_size` {}", clip(&value.to_string())))),
            },
            _ => class.crop.filter(|_| crops).map(|side| (side, side)),
        };
        let mut resize = match size {
            ConfigSize::Sides(width, height) => Resize::Exact(width, height),
            ConfigSize::Edges(edge, longest) if class.quirk == Quirk::Yolos => Resize::ShortestEdge16(edge, longest),
            ConfigSize::Edges(edge, longest) => Resize::ShortestEdge(edge, longest),
        };
        let mut canvas = crop.map_or(Canvas::Own, |(width, height)| Canvas::Centered(width, height));
        if let (Quirk::ConvNext, ConfigSize::Edges(edge, _)) = (class.quirk, size) {
            if edge < 384 {
                let share = self.crop_pct.filter(|share| *share > 0.0).unwrap_or(224.0 / 256.0);
                resize = Resize::ShortestEdge((f64::from(edge) / share) as u32, None);
                canvas = Canvas::Centered(edge, edge);
            } else {
                resize = Resize::Exact(edge, edge);
            }
        }
        if self.do_resize == Some(false) {
            resize = Resize::None;
        }
        let number = self.resample.unwrap_or(class.resample);
        let resample = match number {
            0 => Resample::Nearest,
            1 => Resample::Lanczos,
            2 => Resample::Bilinear,
            3 => Resample::Bicubic,
            4 => Resample::Box,
            5 => Resample::Hamming,
            _ => return Err(bad(format!("has the `resample` {number}; 0 to 5 are known"))),
        };
        let factor = if self.do_rescale == Some(false) { 1.0 } else { self.rescale_factor.unwrap_or(1.0 / 255.0) };
        let mut scale = Scale::by(factor);
        let numbers = |name: &str, value: &Option<Value>, default: [f64; 3]| match value {
            Some(value) if !value.is_null() => {
                per_channel(value).ok_or_else(|| bad(format!("has the `{name}` {}", clip(&value.to_string()))))
            }
            _ => Ok(default.to_vec()),
        };
        let std = numbers("image_std", &self.image_std, class.mean_std[1])?;
        if self.do_normalize.unwrap_or(class.normalizes) {
            scale.mean = numbers("image_mean", &self.image_mean, class.mean_std[0])?;
            scale.std = std.clone();
        }
        if class.quirk == Quirk::EfficientNet {
            scale.offset = if self.rescale_offset == Some(true) { 1.0 } else { 0.0 };
            if self.include_top != Some(false) {
                // The division of a step that is left out is done once all the same.
                scale.std_twice = self.do_normalize.unwrap_or(true);
                scale.std = std;
            }
        }
        let flips = self.do_flip_channel_order.unwrap_or(class.quirk == Quirk::Flips);
        let channels = if flips { Channels::Bgr } else { Channels::Rgb };
        let recipe = Recipe { resize, canvas, resample, fill: 0, channels, scale };
        Ok((recipe, format!("pictures are prepared as preprocessor_config.json of class {name} says")))
    }
}

/// A size: one number, or a table of sides or edges.
fn read_size(value: &Value, shortest: bool) -> Option<ConfigSize> {
    let side = |value: &Value| u32::try_from(value.as_u64()?).ok().filter(|side| (1..=65_535).contains(side));
    if let Some(side) = side(value) {
        return Some(if shortest { ConfigSize::Edges(side, None) } else { square(side) });
    }
    let of = |name: &str| value.get(name).filter(|value| !value.is_null());
    if let (Some(height), Some(width)) = (of("height"), of("width")) {
        return Some(ConfigSize::Sides(side(width)?, side(height)?));
    }
    let longest = match of("longest_edge") {
        Some(value) => Some(side(value)?),
        None => None,
    };
    Some(ConfigSize::Edges(side(of("shortest_edge")?)?, longest))
}

fn per_channel(value: &Value) -> Option<Vec<f64>> {
    match value {
        Value::Array(list) if matches!(list.len(), 1 | 3) => list.iter().map(Value::as_f64).collect(),
        other => Some(vec![other.as_f64()?]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe(text: &str) -> Result<Recipe> {
        serde_json::from_str::<ProcessorConfig>(text).expect("JSON").recipe().map(|(recipe, _)| recipe)
    }

    #[test]
    fn what_the_file_does_not_say_is_its_classs() {
        let vit = recipe(r#"{"image_processor_type": "ViTImageProcessorFast"}"#).expect("known");
        assert_eq!((vit.resize, vit.canvas, vit.resample), (Resize::Exact(224, 224), Canvas::Own, Resample::Bilinear));
        assert_eq!((vit.scale.mean, vit.scale.factor), (vec![0.5; 3], 1.0 / 255.0));
        let clip = recipe(r#"{"feature_extractor_type": "CLIPFeatureExtractor", "size": 336}"#).expect("known");
        assert_eq!((clip.resize, clip.canvas), (Resize::ShortestEdge(336, None), Canvas::Centered(224, 224)));
        let detr = recipe(r#"{"image_processor_type": "DetrImageProcessor", "do_pad": true}"#).expect("known");
        assert_eq!((detr.resize, detr.canvas), (Resize::ShortestEdge(800, Some(1333)), Canvas::Own));
        let mobile = recipe(r#"{"image_processor_type": "MobileViTImageProcessor"}"#).expect("known");
        assert_eq!((mobile.channels, mobile.scale.std), (Channels::Bgr, vec![1.0]));
    }

    #[test]
    fn classes_with_ways_of_their_own_keep_them() {
        let small = recipe(r#"{"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 224}}"#);
        let small = small.expect("known");
        assert_eq!((small.resize, small.canvas), (Resize::ShortestEdge(256, None), Canvas::Centered(224, 224)));
        let large = recipe(r#"{"image_processor_type": "ConvNextImageProcessor"}"#).expect("known");
        assert_eq!((large.resize, large.canvas), (Resize::Exact(384, 384), Canvas::Own));
        let efficient = recipe(r#"{"image_processor_type": "EfficientNetImageProcessor", "rescale_offset": true}"#);
        let scale = efficient.expect("known").scale;
        assert!(scale.std_twice && scale.offset == 1.0);
    }

    #[test]
    fn what_is_not_known_is_refused_by_name_with_the_setting() {
        for (text, says) in [
            (r#"{}"#, "no `image_processor_type`"),
            (r#"{"image_processor_type": "PixtralImageProcessor"}"#, "`Pixtral`"),
            (r#"{"image_processor_type": "ViTImageProcessor", "do_thumbnail": true}"#, "`do_thumbnail`"),
            (r#"{"image_processor_type": "ViTImageProcessor", "size": {"height": -1, "width": 3}}"#, "the `size`"),
            (r#"{"image_processor_type": "ViTImageProcessor", "resample": 9}"#, "`resample` 9"),
            (r#"{"image_processor_type": "ViTImageProcessor", "image_std": ["x"]}"#, "`image_std`"),
        ] {
            let refused = recipe(text).expect_err(says).message;
            assert!(refused.contains(says) && refused.contains("`[image]` of model.toml"), "{refused}");
        }
    }
}
