//! How a model's pictures are prepared: as its processor file says, else as its maker's exports are, else
//! as the graph's input shows, and over all as its owner says. What is guessed is said.

use nobat_core::task::ImageTask;
use nobat_core::tensor::Datatype;
use nobat_core::{Error, Result};

use crate::decode::{Bounds, DEFAULT_MOST_PIXELS};
use crate::folder::ImageFolder;
use crate::graph::GraphInputs;
use crate::metadata::Metadata;
use crate::processor::{Processor, Recipe, Scale};
use crate::settings::{Boxes, Channels, ImageSettings, PerChannel, Resample, RoundWidth, Size};
use crate::sizes::{Canvas, Resize};

/// The widest line of text where nothing else is said.
const WIDEST_LINE: u32 = 3200;
/// Ultralytics' grey around pictures.
const LETTERBOX_GREY: u8 = 114;

/// Makes the processor of a model.
///
/// # Errors
/// Settings that contradict each other or the graph, with the one that mends it.
pub(crate) fn processor(
    folder: &ImageFolder,
    metadata: &Metadata,
    inputs: &GraphInputs,
    task: ImageTask,
    settings: &ImageSettings,
    found: &mut Vec<String>,
) -> Result<Processor> {
    let mut recipe = match &folder.processor {
        Some(config) => {
            let (recipe, how) = config.recipe()?;
            found.push(how);
            recipe
        }
        None if metadata.ultralytics => ultralytics(metadata, inputs, task, found)?,
        None => shown(inputs, task, settings, found),
    };
    set(&mut recipe, inputs, task, settings)?;
    if let Some(channels) = settings.channels {
        recipe.channels = channels;
    } else if inputs.channels == Some(1) {
        recipe.channels = Channels::Grey;
    }
    if let Some(count) = inputs.channels.filter(|&count| count != recipe.channels.count()) {
        return Err(Error::invalid(format!(
            "input `{}` takes {count} channels and pictures are made of {}; set `channels` in `[image]` of model.toml",
            inputs.name,
            recipe.channels.count()
        )));
    }
    let bounds = Bounds {
        most_pixels: settings.max_pixels.unwrap_or(DEFAULT_MOST_PIXELS),
        sixteen_bit: settings.sixteen_bit.unwrap_or_default(),
    };
    let mut processor =
        Processor::new(recipe, bounds, inputs.layout, inputs.datatype, settings.least_width.unwrap_or(0));
    processor.grey_last = settings.grey_after_resize.unwrap_or(false);
    check(&processor, inputs)?;
    Ok(processor)
}

/// Ultralytics' exports.
fn ultralytics(metadata: &Metadata, inputs: &GraphInputs, task: ImageTask, found: &mut Vec<String>) -> Result<Recipe> {
    let of_graph = inputs.height.zip(inputs.width);
    let Some((height, width)) = of_graph.or(metadata.size) else {
        return Err(Error::invalid(
            "neither the graph nor the file's metadata shows the size of pictures; set `size` in `[image]` of model.toml",
        ));
    };
    let (resize, canvas, resample) = match task {
        ImageTask::Classify => {
            (Resize::ShortestEdge(height.min(width), None), Canvas::Centered(width, height), Resample::Bilinear)
        }
        _ => (Resize::Fit { width, height, round: true }, Canvas::Letterboxed(width, height), Resample::Linear),
    };
    found.push(format!("pictures are prepared as Ultralytics prepares them for {width} x {height}"));
    let scale = if inputs.datatype == Datatype::Uint8 { 1.0 } else { 1.0 / 255.0 };
    Ok(Recipe { resize, canvas, resample, fill: LETTERBOX_GREY, channels: Channels::Rgb, scale: Scale::by(scale) })
}

/// What the graph's input shows, and guesses for the rest.
fn shown(inputs: &GraphInputs, task: ImageTask, settings: &ImageSettings, found: &mut Vec<String>) -> Recipe {
    let resize = match (inputs.width, inputs.height) {
        (_, Some(height)) if task == ImageTask::Read => line(height, inputs, settings),
        (Some(width), Some(height)) => {
            if settings.size.is_none() && settings.crop.is_none() && settings.shortest_edge.is_none() {
                found.push(format!(
                    "pictures are resized to {width} x {height}: a guess, the graph takes no other size"
                ));
            }
            Resize::Exact(width, height)
        }
        _ => Resize::None,
    };
    let resample = if task == ImageTask::Read { Resample::Linear } else { Resample::Bilinear };
    let factor = if inputs.datatype == Datatype::Uint8 { 1.0 } else { 1.0 / 255.0 };
    if settings.rescale.is_none() && settings.mean.is_none() && settings.std.is_none() {
        found.push(match factor == 1.0 {
            true => "pixels are given as they are: the graph takes UINT8".to_owned(),
            false => "pixels are divided by 255, without mean and std: a guess".to_owned(),
        });
    }
    if settings.channels.is_none() && inputs.channels != Some(1) {
        found.push("channels rgb: a guess".to_owned());
    }
    Recipe { resize, canvas: Canvas::Own, resample, fill: 0, channels: Channels::Rgb, scale: Scale::by(factor) }
}

/// A line of text of this height.
fn line(height: u32, inputs: &GraphInputs, settings: &ImageSettings) -> Resize {
    let most = settings.most_width.or(inputs.width).unwrap_or(WIDEST_LINE);
    Resize::Height { height, least: 1, most, round_up: settings.round_width.unwrap_or_default() == RoundWidth::Up }
}

/// What the owner says, over the recipe.
fn set(recipe: &mut Recipe, inputs: &GraphInputs, task: ImageTask, settings: &ImageSettings) -> Result<()> {
    let size = settings.size.map(Size::sides);
    let both = |one: &str, other: &str| {
        Err(Error::invalid(format!("`[image]` of model.toml has both `{one}` and `{other}`; leave one out")))
    };
    if size.is_some() && settings.shortest_edge.is_some() {
        return both("size", "shortest_edge");
    }
    if settings.letterbox == Some(true) && settings.crop.is_some() {
        return both("letterbox", "crop");
    }
    if size.is_some() || settings.shortest_edge.is_some() {
        recipe.canvas = Canvas::Own;
    }
    if let Some((width, height)) = size {
        recipe.resize = Resize::Exact(width, height);
    }
    if let Some(edge) = settings.shortest_edge {
        recipe.resize = Resize::ShortestEdge(edge, settings.longest_edge);
    }
    if let Some(height) = settings.height.or(inputs.height.filter(|_| task == ImageTask::Read && size.is_none())) {
        recipe.resize = line(height, inputs, settings);
    }
    if let Some((width, height)) = settings.crop.map(Size::sides) {
        recipe.canvas = Canvas::Centered(width, height);
    }
    match (settings.letterbox, recipe.resize) {
        (Some(true), Resize::Exact(width, height)) => {
            // YOLOX puts pictures into the corner.
            let corner = settings.boxes == Some(Boxes::Yolox);
            recipe.resize = Resize::Fit { width, height, round: !corner };
            recipe.canvas = if corner { Canvas::Corner(width, height) } else { Canvas::Letterboxed(width, height) };
            recipe.fill = LETTERBOX_GREY;
        }
        (Some(true), Resize::Fit { .. }) | (None | Some(false), _) => {}
        (Some(true), _) => {
            return Err(Error::invalid("`letterbox` in `[image]` of model.toml needs a `size` to fit pictures into"));
        }
    }
    if let (Some(false), Resize::Fit { width, height, .. }) = (settings.letterbox, recipe.resize) {
        (recipe.resize, recipe.canvas) = (Resize::Exact(width, height), Canvas::Own);
    }
    recipe.fill = settings.fill.unwrap_or(recipe.fill);
    recipe.resample = settings.resample.unwrap_or(recipe.resample);
    let scale = &mut recipe.scale;
    if let Some(factor) = settings.rescale {
        scale.factor = factor;
    }
    if let Some(mean) = &settings.mean {
        scale.mean = per_channel("mean", mean)?;
    }
    if let Some(std) = &settings.std {
        scale.std = per_channel("std", std)?;
        scale.std_twice = false;
    }
    if !scale.factor.is_finite() || scale.std.contains(&0.0) {
        return Err(Error::invalid("`rescale` and `std` in `[image]` of model.toml must be finite, and `std` not 0"));
    }
    Ok(())
}

fn per_channel(name: &str, numbers: &PerChannel) -> Result<Vec<f64>> {
    let list = match numbers {
        PerChannel::All(number) => vec![*number],
        PerChannel::Each(list) => list.clone(),
    };
    if !matches!(list.len(), 1 | 3) || !list.iter().all(|number| number.is_finite()) {
        return Err(Error::invalid(format!(
            "`{name}` in `[image]` of model.toml has {} numbers; it takes 1 for all channels or 3",
            list.len()
        )));
    }
    Ok(list)
}

/// # Errors
/// Where the graph takes another size than pictures get.
fn check(processor: &Processor, inputs: &GraphInputs) -> Result<()> {
    let of_graph = |side: Option<u32>| side.map_or("any".to_owned(), |side| side.to_string());
    let differs = |own: u32, side: Option<u32>| side.is_some_and(|side| side != own);
    let takes = format!("input `{}` takes {} x {}", inputs.name, of_graph(inputs.width), of_graph(inputs.height));
    if let Some((width, height)) = processor.fixed() {
        if width == 0 || height == 0 {
            return Err(Error::invalid("a size in `[image]` of model.toml is 0; pictures have pixels"));
        }
        if differs(width, inputs.width) || differs(height, inputs.height) {
            return Err(Error::invalid(format!(
                "pictures become {width} x {height} and {takes}; set `size`, or `crop`, in `[image]` of model.toml"
            )));
        }
        return Ok(());
    }
    if let Resize::Height { height, most, .. } = processor.recipe.resize {
        if height == 0 || most == 0 || differs(height, inputs.height) || inputs.width.is_some_and(|width| width < most)
        {
            return Err(Error::invalid(format!(
                "lines become {height} high and up to {most} wide, and {takes}; set `height` and `most_width` in \
                 `[image]` of model.toml"
            )));
        }
        return Ok(());
    }
    match inputs.width.or(inputs.height) {
        Some(_) => Err(Error::invalid(format!(
            "pictures keep sizes of their own and {takes}; set `size` or `crop` in `[image]` of model.toml"
        ))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Layout;

    fn inputs(width: Option<u32>, height: Option<u32>, datatype: Datatype) -> GraphInputs {
        let (at, name, layout) = (0, "x".to_owned(), Layout::Nchw);
        GraphInputs { at, name, datatype, layout, channels: Some(3), width, height, mask: None, count: 1 }
    }

    fn of(text: &str, inputs: &GraphInputs, task: ImageTask) -> (Result<Processor>, Vec<String>) {
        let settings: ImageSettings = serde_json::from_str(text).expect("settings");
        let mut found = Vec::new();
        let (folder, metadata) = (ImageFolder::default(), Metadata::default());
        (processor(&folder, &metadata, inputs, task, &settings, &mut found), found)
    }

    #[test]
    fn what_the_graph_does_not_show_is_guessed_and_said() {
        let (made, found) = of("{}", &inputs(Some(32), Some(16), Datatype::Fp32), ImageTask::Classify);
        let made = made.expect("a processor");
        assert_eq!(made.fixed(), Some((32, 16)));
        assert!(found.iter().filter(|line| line.contains("a guess")).count() == 3, "{found:?}");
        let full = r#"{"size": [16, 32], "rescale": 1, "channels": "bgr"}"#;
        let (made, found) = of(full, &inputs(Some(32), Some(16), Datatype::Fp32), ImageTask::Classify);
        assert!(made.is_ok() && found.is_empty(), "{found:?}");
    }

    #[test]
    fn lines_and_letterboxes_are_set() {
        let (made, _) = of("{}", &inputs(None, Some(48), Datatype::Fp32), ImageTask::Read);
        let made = made.expect("a processor").recipe;
        assert_eq!(made.resize, Resize::Height { height: 48, least: 1, most: WIDEST_LINE, round_up: true });
        let down = r#"{"round_width": "down", "grey_after_resize": true}"#;
        let (made, _) = of(down, &inputs(None, Some(64), Datatype::Fp32), ImageTask::Read);
        let made = made.expect("a processor");
        assert_eq!(made.recipe.resize, Resize::Height { height: 64, least: 1, most: WIDEST_LINE, round_up: false });
        assert!(made.grey_last);
        let filled = r#"{"height": 48, "least_width": 192, "most_width": 192}"#;
        let (made, _) = of(filled, &inputs(None, None, Datatype::Fp32), ImageTask::Classify);
        assert_eq!(made.expect("a processor").fixed(), Some((192, 48)), "all are as wide, so they share runs");
        let (made, _) =
            of(r#"{"size": 64, "letterbox": true}"#, &inputs(None, None, Datatype::Uint8), ImageTask::Detect);
        let made = made.expect("a processor").recipe;
        assert_eq!((made.canvas, made.fill, made.scale.factor), (Canvas::Letterboxed(64, 64), 114, 1.0));
    }

    #[test]
    fn what_contradicts_itself_or_the_graph_is_refused_with_the_setting() {
        let fixed = inputs(Some(224), Some(224), Datatype::Fp32);
        for (text, says) in [
            (r#"{"size": 256}"#, "become 256 x 256 and input `x` takes 224 x 224"),
            (r#"{"size": 224, "shortest_edge": 224}"#, "both `size` and `shortest_edge`"),
            (r#"{"shortest_edge": 224}"#, "sizes of their own"),
            (r#"{"std": 0}"#, "`std` not 0"),
            (r#"{"mean": [1, 2]}"#, "`mean`"),
            (r#"{"channels": "grey"}"#, "takes 3 channels"),
            (r#"{"shortest_edge": 224, "letterbox": true}"#, "needs a `size`"),
        ] {
            let refused = of(text, &fixed, ImageTask::Classify).0.expect_err(text).message;
            assert!(refused.contains(says), "{text}: {refused}");
        }
    }
}
