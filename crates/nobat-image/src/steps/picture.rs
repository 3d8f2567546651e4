//! The function `picture`: one encoded picture to its pixels, and to the input of a model
//! that takes pictures of many sizes.

use nobat_core::Result;
use nobat_core::signature::TensorSpec;
use nobat_core::tensor::{Datatype, Tensor, take_bytes_element};
use nobat_transform::StepFunction;
use serde::Deserialize;

use super::pixels::Pixels;
use super::tensors::{floats, input, invalid, spec, tensor};
use crate::decode::{Bounds, DEFAULT_MOST_PIXELS, decode};

/// Longest side of a model's input.
const LONGEST: usize = 16_384;

/// Settings of the function.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Picture {
    /// Pictures whose shorter side has less are enlarged until it has as much.
    shortest: u32,
    /// Both sides are rounded to multiples of it.
    multiple: u32,
    /// Taken from each value of 0 to 1, by channel.
    mean: [f32; 3],
    /// Divides it then.
    std: [f32; 3],
    /// The order of the channels: `RGB` or `BGR`.
    channels: Channels,
    max_pixels: u64,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "UPPERCASE")]
enum Channels {
    Rgb,
    Bgr,
}

impl Default for Picture {
    fn default() -> Picture {
        let (mean, std) = ([0.5; 3], [0.5; 3]);
        Picture { shortest: 736, multiple: 32, mean, std, channels: Channels::Bgr, max_pixels: DEFAULT_MOST_PIXELS }
    }
}

impl StepFunction for Picture {
    fn inputs(&self) -> Vec<TensorSpec> {
        vec![spec("image", Datatype::Bytes, &[1])]
    }

    fn outputs(&self) -> Vec<TensorSpec> {
        vec![spec("pixels", Datatype::Uint8, &[-1, -1, 3]), spec("tensor", Datatype::Fp32, &[1, 3, -1, -1])]
    }

    fn run(&self, inputs: &[Option<Tensor>]) -> Result<Vec<Tensor>> {
        let encoded = input(inputs, 0, &self.inputs()[0])?;
        let mut rest = &encoded.data[..];
        let encoded = take_bytes_element(&mut rest).ok_or_else(|| invalid("input `image` has no picture".into()))?;
        let bounds = Bounds { most_pixels: self.max_pixels, ..Bounds::default() };
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
        if width.max(height) > LONGEST {
            return Err(invalid(format!(
                "a picture of {} x {} pixels would be enlarged to {width} x {height}; send one that is less narrow",
                pixels.width, pixels.height
            )));
        }
        let resized = pixels.resized(width, height);
        let mut planes = vec![0f32; width * height * 3];
        for (channel, plane) in planes.chunks_mut(width * height).enumerate() {
            let own = if self.channels == Channels::Bgr { 2 - channel } else { channel };
            let (mean, std) = (self.mean[channel], self.std[channel]);
            for (value, pixel) in plane.iter_mut().zip(resized.as_chunks::<3>().0) {
                *value = (f32::from(pixel[own]) / 255.0 - mean) / std;
            }
        }
        Ok(floats("tensor", &[1, 3, height as i64, width as i64], &planes))
    }

    fn size(&self, width: usize, height: usize) -> (usize, usize) {
        let shorter = width.min(height).max(1) as f64;
        let scale = (f64::from(self.shortest) / shorter).max(1.0);
        let multiple = f64::from(self.multiple.max(1));
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
    use serde_json::json;

    use super::super::tensors::as_floats;
    use super::*;

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
        let small: Picture = serde_json::from_value(json!({ "shortest": 32, "multiple": 16 })).expect("settings");
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
        let of = |width, height| Picture::default().size(width, height);
        assert_eq!(of(1000, 800), (992, 800));
        assert_eq!(of(640, 480), (992, 736));
        assert_eq!(of(100, 2000), (736, 14_720));
    }

    #[test]
    fn what_is_no_picture_is_refused_with_the_remedy() {
        let whole = png(20, 8);
        let truncated = &whole[..whole.len() / 2];
        let few = Picture { max_pixels: 100, ..Picture::default() };
        for (function, picture, says) in [
            (Picture::default(), &b"a text"[..], "input `image` is text, `a text`, and no picture"),
            (Picture::default(), truncated, "send the whole file"),
            (Picture::default(), b"", "is empty; send the bytes of a JPEG"),
            (few, &whole, "20 x 8 pixels; at most 100"),
        ] {
            let error = function.run(&encoded(picture)).expect_err(says);
            assert!(error.message.contains(says), "{}", error.message);
        }
        let narrow = Picture::default().run(&encoded(&png(1, 200))).expect_err("it would be huge");
        assert!(narrow.message.contains("less narrow"), "{}", narrow.message);
        assert!(Picture::default().run(&[]).is_err());
    }
}
