//! From a picture to the numbers that the model takes.
//!
//! A pixel has one of 256 values, so what rescaling, mean and deviation make of each is computed once, in
//! the order and precision of the reference processors, and looked up.

use half::f16;
use nobat_core::tensor::Datatype;

use crate::decode::{Bounds, decode};
use crate::picture::Picture;
use crate::settings::{Channels, Layout, Resample};
use crate::sizes::{Canvas, Placement, Resize};

/// What is done to pixels, before it is known in which tensor.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Recipe {
    pub(crate) resize: Resize,
    pub(crate) canvas: Canvas,
    pub(crate) resample: Resample,
    /// The value of free space on the canvas.
    pub(crate) fill: u8,
    pub(crate) channels: Channels,
    pub(crate) scale: Scale,
}

/// `(pixel * factor - offset - mean) / std`, the division twice where the model's makers did so.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Scale {
    pub(crate) factor: f64,
    pub(crate) offset: f64,
    /// By channel, or one for all.
    pub(crate) mean: Vec<f64>,
    pub(crate) std: Vec<f64>,
    pub(crate) std_twice: bool,
}

impl Scale {
    /// Pixels as they are, times this.
    pub(crate) fn by(factor: f64) -> Scale {
        Scale { factor, offset: 0.0, mean: vec![0.0], std: vec![1.0], std_twice: false }
    }

    /// What each value of a pixel becomes, by channel.
    fn tables(&self, channels: usize) -> Vec<[f32; 256]> {
        let of = |list: &[f64], channel: usize| list.get(channel).or(list.first()).copied().unwrap_or(0.0) as f32;
        let table = |channel: usize| {
            let (mean, std) = (of(&self.mean, channel), of(&self.std, channel));
            std::array::from_fn(|pixel| {
                let scaled = ((pixel as f64) * self.factor) as f32 - self.offset as f32;
                let normal = (scaled - mean) / std;
                if self.std_twice { normal / std } else { normal }
            })
        };
        (0..channels).map(table).collect()
    }
}

/// A recipe and the tensor that it fills.
#[derive(Clone, Debug)]
pub(crate) struct Processor {
    pub(crate) recipe: Recipe,
    pub(crate) bounds: Bounds,
    pub(crate) layout: Layout,
    pub(crate) datatype: Datatype,
    /// Least columns of a run's tensor; what no picture fills is zero.
    pub(crate) least_width: u32,
    /// Whether colours become grey behind the resizing.
    pub(crate) grey_last: bool,
    tables: Vec<[f32; 256]>,
}

/// A picture on the model's canvas.
#[derive(Clone, Debug)]
pub(crate) struct Drawn {
    pub(crate) canvas: Picture,
    pub(crate) placement: Placement,
}

impl Processor {
    pub(crate) fn new(
        recipe: Recipe,
        bounds: Bounds,
        layout: Layout,
        datatype: Datatype,
        least_width: u32,
    ) -> Processor {
        let tables = recipe.scale.tables(recipe.channels.count());
        Processor { recipe, bounds, layout, datatype, least_width, grey_last: false, tables }
    }

    /// Decodes a picture and draws it on the model's canvas.
    ///
    /// # Errors
    /// What is wrong with the picture and what to send.
    pub(crate) fn draw(&self, bytes: &[u8]) -> Result<Drawn, String> {
        let picture = decode(bytes, &self.bounds)?;
        let is_grey = self.recipe.channels == Channels::Grey;
        let picture = if is_grey && !self.grey_last { picture.grey() } else { picture };
        let from = (picture.width, picture.height);
        let Recipe { resize, canvas, resample, fill, .. } = self.recipe;
        let placement = Placement::new(from, resize, canvas, self.bounds.most_pixels)?;
        let canvas = placement.draw(picture, resample, fill)?;
        let canvas = if is_grey && self.grey_last { canvas.grey() } else { canvas };
        Ok(Drawn { canvas, placement })
    }

    /// The canvas of all pictures; none where each has its own.
    pub(crate) fn fixed(&self) -> Option<(u32, u32)> {
        match (self.recipe.canvas, self.recipe.resize) {
            (
                Canvas::Centered(width, height) | Canvas::Letterboxed(width, height) | Canvas::Corner(width, height),
                _,
            )
            | (Canvas::Own, Resize::Exact(width, height)) => Some((width, height)),
            // Lines that are filled up to the width that none is over.
            (Canvas::Own, Resize::Height { height, most, .. }) if self.least_width >= most => {
                Some((self.least_width, height))
            }
            _ => None,
        }
    }

    /// The tensor of pictures, row by row, in a canvas of `width` x `height` with zeros where a picture
    /// is smaller; and its shape.
    pub(crate) fn tensor(&self, pictures: &[&Picture], width: u32, height: u32) -> (Vec<u8>, [i64; 4]) {
        let (rows, channels) = (pictures.len() as i64, self.tables.len());
        let (wide, high) = (width as usize, height as usize);
        let size = self.datatype.size().unwrap_or(1);
        let mut bytes = vec![0; pictures.len() * wide * high * channels * size];
        for (picture, into) in pictures.iter().zip(bytes.chunks_mut((wide * high * channels * size).max(1))) {
            match self.datatype {
                Datatype::Uint8 => self.fill(picture, wide, into, |value| [value.round() as u8]),
                Datatype::Fp16 => self.fill(picture, wide, into, |value| f16::from_f32(value).to_le_bytes()),
                _ => self.fill(picture, wide, into, f32::to_le_bytes),
            }
        }
        let (width, height, channels) = (i64::from(width), i64::from(height), channels as i64);
        match self.layout {
            Layout::Nchw => (bytes, [rows, channels, height, width]),
            Layout::Nhwc => (bytes, [rows, height, width, channels]),
        }
    }

    /// Writes one picture into its row, whose lines are `wide` columns.
    fn fill<const SIZE: usize>(
        &self,
        picture: &Picture,
        wide: usize,
        into: &mut [u8],
        write: impl Fn(f32) -> [u8; SIZE],
    ) {
        let count = picture.channels;
        // The picture's channel that each of the model's is.
        let source = |channel: usize| if self.recipe.channels == Channels::Bgr { count - 1 - channel } else { channel };
        let tables: Vec<(usize, [[u8; SIZE]; 256])> =
            self.tables.iter().enumerate().map(|(at, table)| (source(at), table.map(&write))).collect();
        let (into, _) = into.as_chunks_mut::<SIZE>();
        let lines = picture.pixels.chunks_exact(picture.stride().max(1));
        match self.layout {
            Layout::Nhwc => {
                for (line, into) in lines.zip(into.chunks_exact_mut((wide * count).max(1))) {
                    for (pixel, into) in line.chunks_exact(count).zip(into.chunks_exact_mut(count)) {
                        for ((from, table), into) in tables.iter().zip(into) {
                            *into = table[usize::from(pixel[*from])];
                        }
                    }
                }
            }
            Layout::Nchw => {
                let plane = into.len() / count.max(1);
                for ((from, table), plane) in tables.iter().zip(into.chunks_exact_mut(plane.max(1))) {
                    for (line, into) in lines.clone().zip(plane.chunks_exact_mut(wide.max(1))) {
                        for (pixel, into) in line.chunks_exact(count).zip(into) {
                            *into = table[usize::from(pixel[*from])];
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{encoded, gradient};

    fn processor(channels: Channels, layout: Layout, datatype: Datatype, scale: Scale) -> Processor {
        let recipe = Recipe {
            resize: Resize::None,
            canvas: Canvas::Own,
            resample: Resample::Bilinear,
            fill: 0,
            channels,
            scale,
        };
        Processor::new(recipe, Bounds::default(), layout, datatype, 0)
    }

    fn floats(bytes: &[u8]) -> Vec<f32> {
        bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
    }

    #[test]
    fn pixels_land_in_their_channels_and_free_space_is_zero() {
        let picture = Picture { width: 2, height: 1, channels: 3, pixels: vec![10, 20, 30, 40, 50, 60] };
        let scale = Scale { mean: vec![1.0], ..Scale::by(1.0) };
        let planes = processor(Channels::Bgr, Layout::Nchw, Datatype::Fp32, scale.clone());
        let (bytes, shape) = planes.tensor(&[&picture], 3, 2);
        assert_eq!(shape, [1, 3, 2, 3]);
        let wanted = [29, 59, 0, 0, 0, 0, 19, 49, 0, 0, 0, 0, 9, 39, 0, 0, 0, 0].map(|value| value as f32);
        assert_eq!(floats(&bytes), wanted);
        let (bytes, shape) =
            processor(Channels::Rgb, Layout::Nhwc, Datatype::Uint8, scale).tensor(&[&picture; 2], 2, 1);
        assert_eq!((bytes, shape), ([9, 19, 29, 39, 49, 59].repeat(2), [2, 1, 2, 3]));
    }

    #[test]
    fn numbers_are_those_of_the_reference_processors() {
        let scale = Scale { mean: vec![0.485, 0.456, 0.406], std: vec![0.229, 0.224, 0.225], ..Scale::by(1.0 / 255.0) };
        let tables = scale.tables(3);
        let wanted = ((128.0f64 * (1.0 / 255.0)) as f32 - 0.456f32) / 0.224f32;
        assert_eq!(tables[1][128], wanted);
        let twice = Scale { offset: 1.0, std: vec![0.5], std_twice: true, ..Scale::by(1.0 / 127.5) }.tables(1);
        assert_eq!((twice[0][0], twice[0][255]), (-4.0, 4.0));
    }

    #[test]
    fn grey_is_made_before_the_resizing_or_behind_it() {
        let mut own = processor(Channels::Grey, Layout::Nchw, Datatype::Fp32, Scale::by(1.0));
        (own.recipe.resize, own.recipe.resample) = (Resize::Exact(13, 9), Resample::Lanczos);
        let png = encoded(&gradient(40, 30), image::ImageFormat::Png);
        let before = own.draw(&png).expect("drawn").canvas;
        own.grey_last = true;
        let behind = own.draw(&png).expect("drawn").canvas;
        let sizes = |picture: &Picture| (picture.width, picture.height, picture.channels, picture.pixels.len());
        assert_eq!((sizes(&before), sizes(&behind)), ((13, 9, 1, 117), (13, 9, 1, 117)));
        let differ = before.pixels.iter().zip(&behind.pixels).map(|(a, b)| a.abs_diff(*b));
        assert!(differ.clone().max() > Some(0) && differ.max() < Some(40), "overshoots are cut at other values");
    }

    #[test]
    fn half_floats_are_rounded_from_floats() {
        let grey = Picture { width: 1, height: 1, channels: 1, pixels: vec![51] };
        let (bytes, _) =
            processor(Channels::Grey, Layout::Nchw, Datatype::Fp16, Scale::by(1.0 / 255.0)).tensor(&[&grey], 1, 1);
        assert_eq!(f16::from_le_bytes([bytes[0], bytes[1]]), f16::from_f32(0.2));
    }
}
