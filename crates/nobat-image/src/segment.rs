//! A class for each pixel of the picture as it was sent: the logits brought to its size, and the best
//! class of each pixel, as a grey PNG or as run lengths.

use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder};
use nobat_core::{Error, ErrorCode, Result};
use nobat_transform::SessionOutput;
use serde::Serialize;

use crate::graph::Output;
use crate::masks::{Neighbours, Runs, neighbours};
use crate::numbers::Numbers;
use crate::options::Options;
use crate::sizes::Placement;

/// Most classes that a grey of eight bits tells apart.
pub(crate) const MOST_CLASSES: usize = 256;

/// The way from an output of planes to a mask.
#[derive(Clone, Debug)]
pub(crate) struct Segmenter {
    pub(crate) output: Output,
}

/// What a picture came to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Segmented {
    /// A PNG of the picture's size, each pixel its class.
    pub(crate) mask: Vec<u8>,
    /// The classes that occur, the largest first.
    pub(crate) segments: Vec<Segment>,
}

/// The pixels of one class.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Segment {
    pub(crate) label: String,
    pub(crate) class: usize,
    /// How many pixels.
    pub(crate) pixels: usize,
    /// Row by row, from the upper left: pixels of others, of this, of others, and so on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) counts: Vec<u32>,
}

impl Segmenter {
    /// The mask of each row's picture.
    ///
    /// # Errors
    /// `inference_failed` where the output does not fit the rows.
    pub(crate) fn finish(
        &self,
        outputs: &[SessionOutput<'_>],
        rows: &[(Placement, &Options)],
        labels: &[String],
    ) -> Result<Vec<Segmented>> {
        let numbers = Numbers::new(outputs, self.output.at, &self.output.name, rows.len())?;
        let (classes, height, width) = (numbers.axis(1), numbers.axis(2), numbers.axis(3));
        if numbers.shape.len() != 4 || !(1..=MOST_CLASSES).contains(&classes) || height * width == 0 {
            let what = format!("output `{}` of the graph is {:?}", self.output.name, numbers.shape);
            return Err(Error::new(
                ErrorCode::InferenceFailed,
                format!("{what}; [pictures, classes, height, width] of at most {MOST_CLASSES} classes is wanted"),
            ));
        }
        let one = |(row, (placement, options)): (usize, &(Placement, &Options))| {
            let planes = Planes { numbers: &numbers.row(row), width, height };
            let best = planes.classes(classes, placement);
            segmented(&best, placement.from, labels, options.run_lengths)
        };
        rows.iter().enumerate().map(one).collect()
    }
}

struct Planes<'a> {
    numbers: &'a [f32],
    width: usize,
    height: usize,
}

impl Planes<'_> {
    /// The best class of each pixel of the picture: logits between four neighbours, corners unaligned.
    fn classes(&self, classes: usize, placement: &Placement) -> Vec<u8> {
        let (width, height) = (placement.from.0 as usize, placement.from.1 as usize);
        let Placement { from, resized, offset, canvas } = *placement;
        let column = |x: u32| neighbours(x, from.0, resized.0, offset.0, canvas.0, self.width);
        let line = |y: u32| neighbours(y, from.1, resized.1, offset.1, canvas.1, self.height);
        let columns: Vec<Neighbours> = (0..from.0).map(column).collect();
        let lines: Vec<Neighbours> = (0..from.1).map(line).collect();
        let mut best = vec![0u8; width * height];
        let (mut scores, mut line_of) = (vec![f32::NEG_INFINITY; width], vec![0.0f32; self.width]);
        for (&(upper, lower, down), best) in lines.iter().zip(best.chunks_exact_mut(width.max(1))) {
            scores.fill(f32::NEG_INFINITY);
            for (class, plane) in self.numbers.chunks_exact(self.width * self.height).take(classes).enumerate() {
                let line = |at: usize| &plane[at * self.width..(at + 1) * self.width];
                for ((into, upper), lower) in line_of.iter_mut().zip(line(upper)).zip(line(lower)) {
                    *into = upper + (lower - upper) * down;
                }
                for ((&(left, right, along), score), best) in columns.iter().zip(&mut scores).zip(best.iter_mut()) {
                    let own = line_of[left] + (line_of[right] - line_of[left]) * along;
                    if own > *score {
                        (*score, *best) = (own, class as u8);
                    }
                }
            }
        }
        best
    }
}

fn segmented(best: &[u8], (width, height): (u32, u32), labels: &[String], run_lengths: bool) -> Result<Segmented> {
    let mut mask = Vec::new();
    PngEncoder::new(&mut mask)
        .write_image(best, width, height, ExtendedColorType::L8)
        .map_err(|error| Error::internal(format!("a mask cannot be written: {error}")))?;
    let mut pixels = [0usize; MOST_CLASSES];
    best.iter().for_each(|&class| pixels[usize::from(class)] += 1);
    let mut segments: Vec<Segment> = (0..MOST_CLASSES)
        .filter(|&class| pixels[class] > 0)
        .map(|class| Segment {
            label: labels.get(class).cloned().unwrap_or_else(|| class.to_string()),
            class,
            pixels: pixels[class],
            counts: if run_lengths { counts(best, class as u8) } else { Vec::new() },
        })
        .collect();
    segments.sort_by_key(|segment| std::cmp::Reverse(segment.pixels));
    Ok(Segmented { mask, segments })
}

/// Run lengths of a class, beginning with those that are of others.
fn counts(best: &[u8], class: u8) -> Vec<u32> {
    let mut runs = Runs::default();
    best.iter().for_each(|&pixel| runs.add(pixel == class, 1));
    runs.counts
}

#[cfg(test)]
mod tests {
    use nobat_core::tensor::Datatype;

    use super::*;
    use crate::sizes::{Canvas, Resize};

    #[test]
    fn every_pixel_has_its_best_class_and_runs_add_up() {
        // The left half is class 1, the right half class 0.
        let numbers = [0.0f32, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0];
        let data: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        let output = SessionOutput { datatype: Datatype::Fp32, shape: &[1, 2, 2, 2], data: &data };
        let segmenter = Segmenter { output: Output { at: 0, name: "logits".into(), shape: vec![1, 2, 2, 2] } };
        let placement = Placement::new((4, 3), Resize::Exact(8, 8), Canvas::Own, u64::MAX).expect("a placement");
        let options =
            Options { top_k: 1, threshold: 0.5, iou: 0.7, max_detections: 1, normalize: false, run_lengths: true };
        let labels = ["sky".to_owned(), "sea".to_owned()];
        let found = segmenter.finish(&[output], &[(placement, &options)], &labels).expect("a mask");
        let Segmented { mask, segments } = &found[0];
        let mask = image::load_from_memory(mask).expect("a PNG").to_luma8();
        assert_eq!(mask.into_raw(), [1, 1, 0, 0, 1, 1, 0, 0, 1, 1, 0, 0]);
        assert_eq!(segments.len(), 2);
        let sea = segments.iter().find(|segment| segment.label == "sea").expect("it is there");
        assert_eq!((sea.pixels, &sea.counts), (6, &vec![0, 2, 2, 2, 2, 2, 2]));
    }
}
