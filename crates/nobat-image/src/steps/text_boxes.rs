//! The function `text_boxes`: a detector's map of where text is to boxes around its lines
//! (differentiable binarization, Liao et al. 2020), in pixels of the picture, from top to
//! bottom and from left to right.

use nobat_core::Result;
use nobat_core::chain::function;
use nobat_core::tensor::Tensor;
use nobat_transform::StepFunction;

use super::geometry::{Point, Rectangle, holds, upright};
use super::pixels::Pixels;
use super::tensors::{as_floats, floats, input, invalid};

/// Least shorter side of what is text, in pixels of the map.
const LEAST_SIDE: f64 = 3.0;
/// A box begins a new line where it is so much lower, in pixels of the picture.
const LINE: f64 = 10.0;

/// The function.
#[derive(Debug)]
pub(super) struct TextBoxes(pub(super) function::TextBoxes);

impl StepFunction for TextBoxes {
    fn run(&self, inputs: &[Option<Tensor>]) -> Result<Vec<Tensor>> {
        let specs = function::TextBoxes::inputs();
        let (map, pixels) = (input(inputs, 0, &specs[0])?, Pixels::of(input(inputs, 1, &specs[1])?)?);
        let [1, 1, height, width] = map.shape[..] else {
            return Err(invalid(format!(
                "input `map` is of one picture and one channel, not {:?}",
                map.shape.as_slice()
            )));
        };
        let values = as_floats(map);
        let map = Map { width: width as usize, height: height as usize, values: &values };
        let mut boxes = self.boxes(&map, &pixels);
        in_reading_order(&mut boxes);
        let rows = boxes.len() as i64;
        let corners: Vec<f32> = boxes.iter().flat_map(|own| own.0).flat_map(|(x, y)| [x as f32, y as f32]).collect();
        let scores: Vec<f32> = boxes.iter().map(|own| own.1).collect();
        Ok(vec![floats("boxes", &[rows, 4, 2], &corners), floats("box_scores", &[rows], &scores)])
    }
}

type TextBox = ([Point; 4], f32);

struct Map<'a> {
    width: usize,
    height: usize,
    values: &'a [f32],
}

impl TextBoxes {
    fn boxes(&self, map: &Map<'_>, pixels: &Pixels<'_>) -> Vec<TextBox> {
        let regions = map.regions(self.0.threshold, self.0.dilate);
        regions.iter().take(self.0.max_candidates).filter_map(|region| self.of_region(region, map, pixels)).collect()
    }

    fn of_region(&self, region: &[(i64, i64)], map: &Map<'_>, pixels: &Pixels<'_>) -> Option<TextBox> {
        let rectangle = Rectangle::around(region).filter(|own| own.shorter_side() >= LEAST_SIDE)?;
        let score = map.mean(&rectangle.corners());
        if score < self.0.box_threshold {
            return None;
        }
        let (width, height) = rectangle.sides;
        let grown = rectangle.grown(width * height * self.0.unclip / (2.0 * (width + height)));
        if grown.shorter_side() < LEAST_SIDE + 2.0 {
            return None;
        }
        let (across, down) = (pixels.width as f64 / map.width as f64, pixels.height as f64 / map.height as f64);
        let (right, bottom) = (pixels.width as f64 - 1.0, pixels.height as f64 - 1.0);
        let of_picture = |(x, y): Point| {
            ((x * across).round_ties_even().clamp(0.0, right), (y * down).round_ties_even().clamp(0.0, bottom))
        };
        let corners = upright(grown.corners().map(of_picture));
        let length = |a: Point, b: Point| (a.0 - b.0).hypot(a.1 - b.1).trunc();
        let is_text = length(corners[0], corners[1]) > 3.0 && length(corners[0], corners[3]) > 3.0;
        is_text.then_some((corners, score as f32))
    }
}

impl Map<'_> {
    /// The places of each region of text, the first found first.
    fn regions(&self, threshold: f32, dilate: bool) -> Vec<Vec<(i64, i64)>> {
        let (width, height) = (self.width, self.height);
        let above = |x: usize, y: usize| self.values[y * width + x] > threshold;
        // A window of two by two whose anchor is its lower right place.
        let reach = usize::from(dilate);
        let is_text = |x: usize, y: usize| {
            (y.saturating_sub(reach)..=y).any(|y| (x.saturating_sub(reach)..=x).any(|x| above(x, y)))
        };
        let mut left: Vec<bool> = (0..width * height).map(|at| is_text(at % width, at / width)).collect();
        let mut regions = Vec::new();
        for start in 0..left.len() {
            if !left[start] {
                continue;
            }
            left[start] = false;
            let (mut region, mut open) = (Vec::new(), vec![start]);
            while let Some(at) = open.pop() {
                let (x, y) = (at % width, at / width);
                region.push((x as i64, y as i64));
                for y in y.saturating_sub(1)..=(y + 1).min(height - 1) {
                    for x in x.saturating_sub(1)..=(x + 1).min(width - 1) {
                        if std::mem::take(&mut left[y * width + x]) {
                            open.push(y * width + x);
                        }
                    }
                }
            }
            regions.push(region);
        }
        regions
    }

    /// The mean of the map in a box.
    fn mean(&self, corners: &[Point; 4]) -> f64 {
        let range = |of: fn(&Point) -> f64, most: usize| {
            let low = corners.iter().map(of).fold(f64::MAX, f64::min).floor().max(0.0) as usize;
            let high = corners.iter().map(of).fold(f64::MIN, f64::max).ceil().max(0.0) as usize;
            low..=high.min(most.saturating_sub(1))
        };
        let (mut sum, mut count) = (0.0, 0u32);
        for y in range(|point| point.1, self.height) {
            for x in range(|point| point.0, self.width) {
                if holds(corners, (x as f64, y as f64)) {
                    sum += f64::from(self.values[y * self.width + x]);
                    count += 1;
                }
            }
        }
        if count == 0 { 0.0 } else { sum / f64::from(count) }
    }
}

/// From top to bottom; boxes of about one height are a line, from left to right.
fn in_reading_order(boxes: &mut Vec<TextBox>) {
    boxes.sort_by(|one, other| {
        (one.0[0].1, one.0[0].0).partial_cmp(&(other.0[0].1, other.0[0].0)).unwrap_or(std::cmp::Ordering::Equal)
    });
    let mut lines: Vec<Vec<TextBox>> = Vec::new();
    for own in boxes.drain(..) {
        match lines.last_mut() {
            Some(line) if line.last().is_some_and(|last| own.0[0].1 - last.0[0].1 < LINE) => line.push(own),
            _ => lines.push(vec![own]),
        }
    }
    for line in &mut lines {
        line.sort_by(|one, other| one.0[0].0.total_cmp(&other.0[0].0));
    }
    boxes.extend(lines.into_iter().flatten());
}

#[cfg(test)]
mod tests {
    use nobat_core::tensor::Datatype;
    use proptest::prelude::*;

    use super::super::tensors::tensor;
    use super::*;

    /// A map with text in these rectangles (left, top, right, bottom).
    fn find(size: (usize, usize), texts: &[(usize, usize, usize, usize)], picture: (i64, i64)) -> (Vec<f32>, Tensor) {
        let (width, height) = size;
        let mut values = vec![0.05f32; width * height];
        for &(left, top, right, bottom) in texts {
            for y in top..=bottom {
                values[y * width + left..=y * width + right].fill(0.9);
            }
        }
        let pixels = vec![0; (picture.0 * picture.1 * 3) as usize];
        let inputs = vec![
            Some(floats("map", &[1, 1, height as i64, width as i64], &values)),
            Some(tensor("pixels", Datatype::Uint8, &[picture.1, picture.0, 3], pixels)),
        ];
        let mut outputs = TextBoxes(function::TextBoxes::default()).run(&inputs).expect("a map");
        let scores = outputs.pop().expect("scores");
        assert_eq!(scores.shape[0], outputs[0].shape[0]);
        (as_floats(&outputs[0]), scores)
    }

    #[test]
    fn lines_are_found_in_reading_order_and_grown() {
        let (corners, scores) = find((200, 100), &[(120, 12, 160, 20), (10, 10, 60, 20), (10, 50, 90, 60)], (200, 100));
        let boxes: Vec<&[f32]> = corners.chunks(8).collect();
        assert_eq!(boxes.len(), 3);
        assert!(boxes[0][0] < boxes[1][0] && (boxes[0][1] - boxes[1][1]).abs() < 10.0, "left before right: {boxes:?}");
        assert!(boxes[2][1] > boxes[1][5], "the lower line last");
        // 51 wide and 11 high with the dilation: d = 51 * 11 * 1.6 / 124 = 7.2 at each side.
        let grown = [3.0, 3.0, 68.0, 3.0, 68.0, 28.0, 3.0, 28.0];
        assert!(boxes[0].iter().zip(grown).all(|(found, wanted)| (found - wanted).abs() <= 1.0), "{:?}", boxes[0]);
        assert!(as_floats(&scores).iter().all(|&score| score > 0.7));
    }

    #[test]
    fn boxes_are_in_pixels_of_the_picture_and_within_it() {
        let (corners, _) = find((100, 50), &[(0, 0, 99, 12)], (400, 100));
        assert_eq!(corners, [0.0, 0.0, 399.0, 0.0, 399.0, 44.0, 0.0, 44.0]);
    }

    #[test]
    fn nothing_is_found_where_nothing_is() {
        let (corners, scores) = find((64, 64), &[(5, 5, 6, 6)], (64, 64));
        assert!(corners.is_empty() && scores.shape[0] == 0, "a speck is no text");
    }

    proptest! {
        #[test]
        fn no_map_panics(values in prop::collection::vec(prop_oneof![Just(0.0f32), Just(1.0), Just(f32::NAN)], 1..120), width in 1usize..12) {
            let height = values.len() / width;
            prop_assume!(height > 0);
            let inputs = vec![
                Some(floats("map", &[1, 1, height as i64, width as i64], &values[..width * height])),
                Some(tensor("pixels", Datatype::Uint8, &[3, 5, 3], vec![7; 45])),
            ];
            TextBoxes(function::TextBoxes::default()).run(&inputs).expect("a map");
        }
    }
}
