//! What a request sets: its parameters, over the model's own settings.

use nobat_core::parameters::Parameters;
use nobat_core::task::ImageTask;
use nobat_core::{Error, Result, clip};

/// A request's options.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Options {
    /// Labels of a picture, the best first.
    pub(crate) top_k: usize,
    /// Least score of what is detected.
    pub(crate) threshold: f32,
    /// Most overlap of two boxes of a class.
    pub(crate) iou: f32,
    pub(crate) max_detections: usize,
    pub(crate) normalize: bool,
    /// Masks as run lengths, beside the picture.
    pub(crate) run_lengths: bool,
}

/// Most boxes of a picture that a request or a model may ask for.
const MOST_DETECTIONS: u64 = 10_000;

/// The parameters that a task's requests take.
pub(crate) fn taken(task: ImageTask) -> &'static [&'static str] {
    match task {
        ImageTask::Classify => &["top_k"],
        ImageTask::Detect => &["iou", "max_detections", "threshold"],
        ImageTask::Segment => &["mask"],
        ImageTask::Read => &[],
        ImageTask::Embed => &["normalize"],
    }
}

impl Options {
    /// Reads a request's parameters over the model's own options.
    ///
    /// # Errors
    /// `invalid_parameter`, naming the parameter, its value and what it takes.
    pub(crate) fn read(&self, given: &Parameters) -> Result<Options> {
        let mut options = self.clone();
        if given.is_empty() {
            return Ok(options);
        }
        if let Some(top_k) = counted(given, "top_k", 1000)? {
            options.top_k = top_k;
        }
        if let Some(most) = counted(given, "max_detections", MOST_DETECTIONS)? {
            options.max_detections = most;
        }
        options.threshold = share("threshold", given.number("threshold")?)?.unwrap_or(options.threshold);
        options.iou = share("iou", given.number("iou")?)?.unwrap_or(options.iou);
        options.normalize = given.truth("normalize")?.unwrap_or(options.normalize);
        if let Some(word) = given.text("mask")? {
            options.run_lengths = match word {
                "png" | "none" => false,
                "rle" => true,
                _ => {
                    return Err(Error::invalid(format!(
                        "parameter `mask` is `{}`; it takes none, png or rle",
                        clip(word)
                    )));
                }
            };
        }
        Ok(options)
    }
}

fn counted(given: &Parameters, name: &str, most: u64) -> Result<Option<usize>> {
    match given.count(name)? {
        Some(count) if !(1..=most).contains(&count) => {
            Err(Error::invalid(format!("parameter `{name}` is {count}; it takes 1 to {most}")))
        }
        count => Ok(count.map(|count| count as usize)),
    }
}

/// # Errors
/// A number that is no share of one.
pub(crate) fn share(name: &str, number: Option<f64>) -> Result<Option<f32>> {
    match number {
        Some(number) if !(0.0..=1.0).contains(&number) => {
            Err(Error::invalid(format!("`{name}` is {number}; it takes 0 to 1")))
        }
        number => Ok(number.map(|number| number as f32)),
    }
}
