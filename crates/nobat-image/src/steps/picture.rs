//! The function `picture`: one encoded picture to its pixels, and to the input of a model
//! that takes pictures of many sizes.

use nobat_core::Result;
use nobat_core::chain::function::{self, Channels, LONGEST_SIDE};
use nobat_core::tensor::{Datatype, Tensor, take_bytes_element};
use nobat_transform::StepFunction;

use super::pixels::Pixels;
use super::tensors::{floats, input, invalid, tensor};
use crate::decode::{Bounds, decode};

/// The function.
#[derive(Debug)]
pub(super) struct Picture(pub(super) function::Picture);

impl StepFunction for Picture {
    fn run(&self, inputs: &[Option<Tensor>]) -> Result<Vec<Tensor>> {
        let encoded = input(inputs, 0, &function::Picture::inputs()[0])?;
        let mut rest = &encoded.data[..];
        let encoded = take_bytes_element(&mut rest).ok_or_else(|| invalid("input `image` has no picture".into()))?;
        let bounds = Bounds { most_pixels: self.0.max_pixels, ..Bounds::default() };
        let picture = decode(encoded, &bounds).map_err(|wrong| invalid(format!("input `image` {wrong}")))?;
        let (width, height, data) = (picture.width as usize, picture.height as usize, picture.pixels);
        let made = self.tensor(&Pixels { width, height, data: &data })?;
        Ok(vec![tensor("pixels", Datatype::Uint8, &[height as i64, width as i64, 3], data), made])
    }
}

impl Picture {
    /// What a model takes: resized, each channel by itself.
    fn tensor(&self, pixels: &Pixels<'_>) -> Result<Tensor> {
        let (width, height) = self.size(pixels.width, pixels.height);
        if width.max(height) > LONGEST_SIDE as usize {
            return Err(invalid(format!(
                "a picture of {} x {} pixels would be enlarged to {width} x {height}; send one that is less narrow",
                pixels.width, pixels.height
            )));
        }
        let resized = pixels.resized(width, height);
        let mut planes = vec![0f32; width * height * 3];
        for (channel, plane) in planes.chunks_mut(width * height).enumerate() {
            let own = if self.0.channels == Channels::Bgr { 2 - channel } else { channel };
            let (mean, std) = (self.0.mean[channel], self.0.std[channel]);
            for (value, pixel) in plane.iter_mut().zip(resized.as_chunks::<3>().0) {
                *value = (f32::from(pixel[own]) / 255.0 - mean) / std;
            }
        }
        Ok(floats("tensor", &[1, 3, height as i64, width as i64], &planes))
    }

    fn size(&self, width: usize, height: usize) -> (usize, usize) {
        let shorter = width.min(height).max(1) as f64;
        let scale = (f64::from(self.0.shortest) / shorter).max(1.0);
        let multiple = f64::from(self.0.multiple);
        let side = |own: usize| {
            let scaled = (own as f64 * scale).trunc();
            ((scaled / multiple).round_ties_even() * multiple).max(multiple) as usize
        };
        (side(width), side(height))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use image::{ImageFormat, RgbImage};
    use nobat_core::tensor::put_bytes_element;

    use super::super::tensors::as_floats;
    use super::*;

    fn usual() -> Picture {
        Picture(function::Picture::default())
    }

    fn encoded(picture: &[u8]) -> Vec<Option<Tensor>> {
        let mut data = Vec::new();
        put_bytes_element(&mut data, picture);
        vec![Some(tensor("image", Datatype::Bytes, &[1], data))]
    }

    fn png(width: u32, height: u32) -> Vec<u8> {
        let picture = RgbImage::from_fn(width, height, |x, y| image::Rgb([x as u8, y as u8, 255]));
        let mut out = Cursor::new(Vec::new());
        picture.write_to(&mut out, ImageFormat::Png).expect("a picture");
        out.into_inner()
    }

    #[test]
    fn a_picture_becomes_pixels_and_a_models_input() {
        let small = Picture(function::Picture { shortest: 32, multiple: 16, ..function::Picture::default() });
        let outputs = small.run(&encoded(&png(20, 8))).expect("a picture");
        assert_eq!(outputs[0].shape.as_slice(), [8, 20, 3]);
        assert_eq!(&outputs[0].data[3..6], [1, 0, 255]);
        assert_eq!(outputs[1].shape.as_slice(), [1, 3, 32, 80]);
        outputs.iter().for_each(|output| output.check().expect("whole"));
        let values = as_floats(&outputs[1]);
        assert_eq!(values[0], 1.0, "blue comes first");
        assert_eq!(values[2 * 32 * 80], -1.0, "and red last");
    }

    #[test]
    fn sizes_are_as_the_reference_makes_them() {
        let of = |width, height| usual().size(width, height);
        assert_eq!(of(1000, 800), (992, 800));
        assert_eq!(of(640, 480), (992, 736));
        assert_eq!(of(100, 2000), (736, 14_720));
    }

    #[test]
    fn what_is_no_picture_is_refused_with_the_remedy() {
        let whole = png(20, 8);
        let truncated = &whole[..whole.len() / 2];
        let few = Picture(function::Picture { max_pixels: 100, ..function::Picture::default() });
        for (function, picture, says) in [
            (usual(), &b"a text"[..], "input `image` is text, `a text`, and no picture"),
            (usual(), truncated, "send the whole file"),
            (usual(), b"", "is empty; send the bytes of a JPEG"),
            (few, &whole, "20 x 8 pixels; at most 100"),
        ] {
            let error = function.run(&encoded(picture)).expect_err(says);
            assert!(error.message.contains(says), "{}", error.message);
        }
        let narrow = usual().run(&encoded(&png(1, 200))).expect_err("it would be huge");
        assert!(narrow.message.contains("less narrow"), "{}", narrow.message);
        assert!(usual().run(&[]).is_err());
    }
}
