//! The function `turn`: pictures that a classifier says stand on their heads are turned by 180 degrees, as text
//! readers want them; the others stay as they are.

use std::io::Cursor;

use image::ImageFormat;
use nobat_core::chain::function;
use nobat_core::tensor::{Datatype, Tensor, put_bytes_element, take_bytes_element};
use nobat_core::{Error, Result};
use nobat_transform::StepFunction;

use super::tensors::{as_floats, input, invalid, tensor};
use crate::decode::{Bounds, decode};

/// The function.
#[derive(Debug)]
pub(super) struct Turn(pub(super) function::Turn);

impl StepFunction for Turn {
    fn run(&self, inputs: &[Option<Tensor>]) -> Result<Vec<Tensor>> {
        let specs = function::Turn::inputs();
        let [crops, labels] = [0, 1].map(|at| input(inputs, at, &specs[at]).map(elements));
        let (crops, labels, scores) = (crops?, labels?, as_floats(input(inputs, 2, &specs[2])?));
        if crops.len() != labels.len() || crops.len() != scores.len() {
            return Err(invalid(format!(
                "there are {} pictures, {} labels and {} scores; they belong together, one of each a row",
                crops.len(),
                labels.len(),
                scores.len()
            )));
        }
        let mut turned = Vec::with_capacity(crops.iter().map(|crop| crop.len() + 4).sum());
        for (at, crop) in crops.iter().enumerate() {
            match labels[at] == self.0.label.as_bytes() && scores[at] > self.0.above {
                true => put_bytes_element(&mut turned, &self.turned(at, crop)?),
                false => put_bytes_element(&mut turned, crop),
            }
        }
        Ok(vec![tensor("turned", Datatype::Bytes, &[crops.len() as i64], turned)])
    }
}

impl Turn {
    fn turned(&self, at: usize, encoded: &[u8]) -> Result<Vec<u8>> {
        let bounds = Bounds { most_pixels: self.0.max_pixels, ..Bounds::default() };
        let mut picture =
            decode(encoded, &bounds).map_err(|wrong| invalid(format!("element {at} of input `crops` {wrong}")))?;
        picture.pixels.as_chunks_mut::<3>().0.reverse();
        let mut out = Cursor::new(Vec::new());
        let written = image::write_buffer_with_format(
            &mut out,
            &picture.pixels,
            picture.width,
            picture.height,
            image::ExtendedColorType::Rgb8,
            ImageFormat::Bmp,
        );
        written.map_err(|error| Error::internal(format!("a picture cannot be written: {error}")))?;
        Ok(out.into_inner())
    }
}

fn elements(tensor: &Tensor) -> Vec<&[u8]> {
    let mut rest = &tensor.data[..];
    std::iter::from_fn(|| take_bytes_element(&mut rest)).collect()
}

#[cfg(test)]
mod tests {
    use image::RgbImage;

    use super::super::tensors::floats;
    use super::*;

    fn bytes<T: AsRef<[u8]>>(name: &str, elements: &[T]) -> Option<Tensor> {
        let mut data = Vec::new();
        elements.iter().for_each(|element| put_bytes_element(&mut data, element.as_ref()));
        Some(tensor(name, Datatype::Bytes, &[elements.len() as i64], data))
    }

    #[test]
    fn only_what_surely_stands_on_its_head_is_turned() {
        let mut file = Cursor::new(Vec::new());
        let picture = RgbImage::from_fn(3, 2, |x, y| image::Rgb([x as u8, y as u8, 7]));
        picture.write_to(&mut file, ImageFormat::Png).expect("a picture");
        let file = file.into_inner();
        let (labels, scores) = ([&b"180"[..], b"180", b"0"], [0.95, 0.9, 0.99]);
        let inputs = [bytes("crops", &[&file; 3]), bytes("label", &labels), Some(floats("score", &[3], &scores))];
        let outputs = Turn(function::Turn::default()).run(&inputs).expect("pictures");
        let found = elements(&outputs[0]);
        assert_eq!(found[1..], [&file[..]; 2], "the score is not over 0.9; the label is another");
        let turned = image::load_from_memory(found[0]).expect("a picture").into_rgb8();
        assert_eq!((turned.get_pixel(0, 0).0, turned.get_pixel(2, 1).0), ([2, 1, 7], [0, 0, 7]));
        let few = [bytes("crops", &[&file]), bytes("label", &labels), Some(floats("score", &[3], &scores))];
        assert!(
            Turn(function::Turn::default())
                .run(&few)
                .expect_err("three labels")
                .message
                .contains("1 pictures, 3 labels")
        );
        let none = [bytes::<&[u8]>("crops", &[]), bytes::<&[u8]>("label", &[]), Some(floats("score", &[0], &[]))];
        assert_eq!(Turn(function::Turn::default()).run(&none).expect("no rows")[0].shape[..], [0]);
        let rubbish = [bytes("crops", &[b"text"; 3]), bytes("label", &labels), Some(floats("score", &[3], &scores))];
        assert!(
            Turn(function::Turn::default())
                .run(&rubbish)
                .expect_err("no picture")
                .message
                .contains("element 0 of input `crops`")
        );
    }
}
