//! The function `crop`: what is in boxes of a picture, each as a picture of its own, upright.
//! They leave as BYTES, one a row, which models of pictures take; as bitmaps, since nothing
//! is lost and little time is.

use image::{ImageFormat, RgbImage};
use nobat_core::chain::function;
use nobat_core::tensor::{Datatype, Tensor, put_bytes_element};
use nobat_core::{Error, Result};
use nobat_transform::StepFunction;

use super::geometry::{Point, Projection};
use super::pixels::Pixels;
use super::tensors::{as_floats, input, invalid, tensor};

/// Most boxes of a picture.
const MOST_BOXES: usize = 4_096;

/// The function.
#[derive(Debug)]
pub(super) struct Crop(pub(super) function::Crop);

impl StepFunction for Crop {
    fn run(&self, inputs: &[Option<Tensor>]) -> Result<Vec<Tensor>> {
        let specs = function::Crop::inputs();
        let pixels = Pixels::of(input(inputs, 0, &specs[0])?)?;
        let boxes = input(inputs, 1, &specs[1])?;
        let [_, 4, 2] = boxes.shape[..] else {
            return Err(invalid(format!("a box has 4 corners of 2 numbers, not {:?}", &boxes.shape[1..])));
        };
        let values = as_floats(boxes);
        let boxes = values.as_chunks::<8>().0;
        if boxes.len() > MOST_BOXES {
            return Err(invalid(format!(
                "{} boxes are more than {MOST_BOXES}; raise the detector's threshold",
                boxes.len()
            )));
        }
        let mut crops = Vec::new();
        for corners in boxes {
            let crop = self.crop(
                &pixels,
                std::array::from_fn(|at| (f64::from(corners[2 * at]), f64::from(corners[2 * at + 1]))),
            )?;
            let mut encoded = std::io::Cursor::new(Vec::new());
            crop.write_to(&mut encoded, ImageFormat::Bmp)
                .map_err(|error| Error::internal(format!("a crop cannot be written: {error}")))?;
            put_bytes_element(&mut crops, encoded.get_ref());
        }
        Ok(vec![tensor("crops", Datatype::Bytes, &[boxes.len() as i64], crops)])
    }
}

impl Crop {
    /// What is within four corners, from the top left one on clockwise.
    fn crop(&self, pixels: &Pixels<'_>, corners: [Point; 4]) -> Result<RgbImage> {
        let inside =
            |(x, y): &Point| (0.0..=pixels.width as f64).contains(x) && (0.0..=pixels.height as f64).contains(y);
        if !corners.iter().all(inside) {
            return Err(invalid(format!(
                "the box {corners:?} is not within the picture of {} x {} pixels",
                pixels.width, pixels.height
            )));
        }
        let length = |a: usize, b: usize| (corners[a].0 - corners[b].0).hypot(corners[a].1 - corners[b].1);
        let width = length(0, 1).max(length(2, 3)).trunc().max(1.0);
        let height = length(0, 3).max(length(1, 2)).trunc().max(1.0);
        let flat = [(0.0, 0.0), (width, 0.0), (width, height), (0.0, height)];
        let Some(projection) = Projection::between(&flat, &corners) else {
            return Err(invalid(format!("the corners of the box {corners:?} lie on a line")));
        };
        let crop = RgbImage::from_fn(width as u32, height as u32, |x, y| {
            let (x, y) = projection.of((f64::from(x), f64::from(y)));
            image::Rgb(pixels.between(x, y))
        });
        let tall = height / width >= self.0.turn_above;
        Ok(if tall { image::imageops::rotate270(&crop) } else { crop })
    }
}

#[cfg(test)]
mod tests {
    use nobat_core::tensor::take_bytes_element;

    use super::super::tensors::floats;
    use super::*;

    /// Crops of a picture of 20 by 10 pixels, of which each says where it is.
    fn crops(boxes: &[[f32; 8]]) -> Result<Vec<RgbImage>> {
        let data = (0..200u8).flat_map(|at| [at % 20 * 10, at / 20 * 10, 0]).collect();
        let inputs = vec![
            Some(tensor("pixels", Datatype::Uint8, &[10, 20, 3], data)),
            Some(floats("boxes", &[boxes.len() as i64, 4, 2], boxes.as_flattened())),
        ];
        let outputs = Crop(function::Crop::default()).run(&inputs)?;
        outputs[0].check().expect("whole");
        let mut rest = &outputs[0].data[..];
        let elements = std::iter::from_fn(|| take_bytes_element(&mut rest));
        Ok(elements.map(|own| image::load_from_memory(own).expect("a picture").into_rgb8()).collect())
    }

    #[test]
    fn a_flat_box_is_cut_out_as_it_is() {
        let found = crops(&[[5.0, 2.0, 9.0, 2.0, 9.0, 4.0, 5.0, 4.0], [0.0, 0.0, 19.0, 0.0, 19.0, 9.0, 0.0, 9.0]])
            .expect("boxes");
        assert_eq!((found[0].width(), found[0].height()), (4, 2));
        assert_eq!(found[0].get_pixel(0, 0).0, [50, 20, 0]);
        assert_eq!(found[0].get_pixel(3, 1).0, [80, 30, 0]);
        assert_eq!((found[1].width(), found[1].height()), (19, 9));
    }

    #[test]
    fn what_stands_on_end_is_turned_to_the_left() {
        let found = crops(&[[5.0, 1.0, 8.0, 1.0, 8.0, 9.0, 5.0, 9.0]]).expect("a box");
        assert_eq!((found[0].width(), found[0].height()), (8, 3));
        // What was at the top right is at the top left now.
        assert_eq!(found[0].get_pixel(0, 0).0, [70, 10, 0]);
    }

    #[test]
    fn no_boxes_are_no_crops_and_boxes_outside_are_refused() {
        assert!(crops(&[]).expect("none").is_empty());
        for wrong in [f32::NAN, -1.0, 21.0, f32::INFINITY] {
            let error = crops(&[[wrong, 1.0, 8.0, 1.0, 8.0, 9.0, 5.0, 9.0]]).expect_err("outside");
            assert!(error.message.contains("not within the picture"), "{}", error.message);
        }
        let flat = crops(&[[1.0, 1.0, 8.0, 1.0, 9.0, 1.0, 5.0, 1.0]]).expect_err("a line");
        assert!(flat.message.contains("lie on a line"), "{}", flat.message);
    }
}
