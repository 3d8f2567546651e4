//! Resampling as Pillow does it, and as OpenCV's `INTER_LINEAR` does.
//!
//! Pillow resamples rows first, rounds to bytes, and then columns: the same kernels in two calls give its
//! numbers within one or two steps, while one call goes the other way round and is up to 26 off. Small
//! pictures are made with Pillow's own numbers ([`pillow`]).

use std::cell::RefCell;

use fast_image_resize::images::{TypedImage, TypedImageRef};
use fast_image_resize::pixels::{InnerPixel, U8, U8x3};
use fast_image_resize::{FilterType, PixelTrait, ResizeAlg, ResizeOptions, Resizer};

use crate::picture::Picture;
use crate::pillow;
use crate::settings::Resample;

/// Pixels of a picture that is resampled with Pillow's own numbers: beyond, a step of 255 is worth less than the
/// time.
const SMALL: u64 = 1 << 16;

thread_local! {
    /// Keeps its buffers from one picture to the next.
    static RESIZER: RefCell<Resizer> = RefCell::new(Resizer::new());
}

/// The picture at another size.
///
/// # Errors
/// The resizer's refusal, which no picture with pixels gets.
pub(crate) fn resize(picture: Picture, width: u32, height: u32, how: Resample) -> Result<Picture, String> {
    if (picture.width, picture.height) == (width, height) {
        return Ok(picture);
    }
    let pixels = |width: u32, height: u32| u64::from(width) * u64::from(height);
    let largest = pixels(picture.width.max(width), picture.height).max(pixels(width, height));
    if largest <= SMALL
        && let Some(exact) = pillow::resample(&picture, width, height, how)
    {
        return Ok(exact);
    }
    let filter = match how {
        Resample::Nearest => return Ok(nearest(&picture, width, height)),
        Resample::Linear => return Ok(linear(&picture, width, height)),
        Resample::Box => FilterType::Box,
        Resample::Bilinear => FilterType::Bilinear,
        Resample::Hamming => FilterType::Hamming,
        Resample::Bicubic => FilterType::CatmullRom,
        Resample::Lanczos => FilterType::Lanczos3,
    };
    let rows = convolve(picture, width, None, filter)?;
    convolve(rows, width, Some(height), filter)
}

/// One direction: to another width, or to another height.
fn convolve(picture: Picture, width: u32, height: Option<u32>, filter: FilterType) -> Result<Picture, String> {
    let height = height.unwrap_or(picture.height);
    if (picture.width, picture.height) == (width, height) {
        return Ok(picture);
    }
    let mut into = Picture::filled(width, height, picture.channels, 0);
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(filter));
    let done = RESIZER.with_borrow_mut(|resizer| match picture.channels {
        1 => typed::<U8>(resizer, &picture, &mut into, &options),
        _ => typed::<U8x3>(resizer, &picture, &mut into, &options),
    });
    done.map(|()| into)
}

fn typed<P: PixelTrait + InnerPixel>(
    resizer: &mut Resizer,
    from: &Picture,
    into: &mut Picture,
    options: &ResizeOptions,
) -> Result<(), String> {
    let source = TypedImageRef::<P>::from_buffer(from.width, from.height, &from.pixels);
    let source = source.map_err(|error| error.to_string())?;
    let (width, height) = (into.width, into.height);
    let target = TypedImage::<P>::from_buffer(width, height, &mut into.pixels);
    let mut target = target.map_err(|error| error.to_string())?;
    resizer.resize_typed(&source, &mut target, options).map_err(|error| error.to_string())
}

/// The pixel that each centre falls on.
fn nearest(picture: &Picture, width: u32, height: u32) -> Picture {
    let places = |own: u32, other: u32| -> Vec<usize> {
        let scale = f64::from(own) / f64::from(other);
        (0..other).map(|at| (((f64::from(at) + 0.5) * scale) as usize).min(own as usize - 1)).collect()
    };
    let (columns, rows) = (places(picture.width, width), places(picture.height, height));
    let (size, stride) = (picture.channels, picture.stride());
    let mut pixels = Vec::with_capacity(width as usize * height as usize * size);
    for row in rows {
        let row = &picture.pixels[row * stride..(row + 1) * stride];
        columns.iter().for_each(|column| pixels.extend_from_slice(&row[column * size..(column + 1) * size]));
    }
    Picture { width, height, channels: size, pixels }
}

/// Bits of OpenCV's weights.
const WEIGHT_BITS: u32 = 11;

/// The two neighbours of each centre and the second's weight.
fn neighbours(own: u32, other: u32) -> Vec<(usize, usize, i32)> {
    let (scale, last) = (f64::from(own) / f64::from(other), own as usize - 1);
    let one = |at: u32| {
        let centre = ((f64::from(at) + 0.5) * scale - 0.5) as f32;
        let first = centre.floor();
        let weight = ((centre - first) * (1 << WEIGHT_BITS) as f32).round_ties_even() as i32;
        match first as i64 {
            ..0 => (0, 0, 0),
            first if first as usize >= last => (last, last, 0),
            first => (first as usize, first as usize + 1, weight),
        }
    };
    (0..other).map(one).collect()
}

/// OpenCV's `INTER_LINEAR`: two neighbours each way, whatever the scale, in its fixed-point numbers.
fn linear(picture: &Picture, width: u32, height: u32) -> Picture {
    let (columns, rows) = (neighbours(picture.width, width), neighbours(picture.height, height));
    let (size, stride) = (picture.channels, picture.stride());
    let across = |row: usize, into: &mut Vec<i32>| {
        into.clear();
        let row = &picture.pixels[row * stride..(row + 1) * stride];
        for &(left, right, weight) in &columns {
            for channel in 0..size {
                let (left, right) = (i32::from(row[left * size + channel]), i32::from(row[right * size + channel]));
                into.push(left * ((1 << WEIGHT_BITS) - weight) + right * weight);
            }
        }
    };
    let mut pixels = Vec::with_capacity(width as usize * height as usize * size);
    let (mut upper, mut lower) = ((usize::MAX, Vec::new()), (usize::MAX, Vec::new()));
    for &(first, second, weight) in &rows {
        // The lower row of one line is often the upper of the next.
        if upper.0 != first {
            std::mem::swap(&mut upper, &mut lower);
            if upper.0 != first {
                across(first, &mut upper.1);
                upper.0 = first;
            }
        }
        if lower.0 != second {
            across(second, &mut lower.1);
            lower.0 = second;
        }
        let (of_upper, of_lower) = ((1 << WEIGHT_BITS) - weight, weight);
        pixels.extend(upper.1.iter().zip(&lower.1).map(|(&upper, &lower)| {
            let sum = ((of_upper * (upper >> 4)) >> 16) + ((of_lower * (lower >> 4)) >> 16);
            ((sum + 2) >> 2).clamp(0, 255) as u8
        }));
    }
    Picture { width, height, channels: size, pixels }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::gradient;

    const ALL: [Resample; 7] = [
        Resample::Nearest,
        Resample::Linear,
        Resample::Box,
        Resample::Bilinear,
        Resample::Hamming,
        Resample::Bicubic,
        Resample::Lanczos,
    ];

    #[test]
    fn a_picture_of_one_colour_keeps_it_at_every_size() {
        for how in ALL {
            for (width, height) in [(1, 1), (3, 50), (64, 7), (200, 200)] {
                for channels in [1, 3] {
                    let resized = resize(Picture::filled(31, 17, channels, 93), width, height, how).expect("resized");
                    assert_eq!(resized, Picture::filled(width, height, channels, 93), "{how:?}");
                }
            }
        }
    }

    #[test]
    fn linear_takes_two_neighbours_each_way_and_nearest_one() {
        let picture = Picture { width: 4, height: 1, channels: 1, pixels: vec![0, 100, 200, 40] };
        assert_eq!(linear(&picture, 2, 1).pixels, [50, 120]);
        assert_eq!(nearest(&picture, 2, 1).pixels, [100, 40]);
        assert_eq!(linear(&picture, 8, 1).pixels, [0, 25, 75, 125, 175, 160, 80, 40]);
    }

    proptest! {
        #[test]
        fn every_size_is_reached_from_every_other(
            width in 1u32..40, height in 1u32..40, to in (1u32..60, 1u32..60), how in 0usize..7,
        ) {
            let resized = resize(gradient(width, height), to.0, to.1, ALL[how]).expect("resized");
            prop_assert_eq!((resized.width, resized.height), to);
            prop_assert_eq!(resized.pixels.len(), (to.0 * to.1 * 3) as usize);
        }
    }
}
