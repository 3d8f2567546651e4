//! Pillow's resampling of small pictures in Pillow's own numbers: kernels of whole numbers, rows first, rounded
//! to bytes between the two directions. Models that tell `x` from `X` by a grey step see the picture that they
//! see in Python. Pillow 13 sometimes takes columns first where a picture gets lower; those are a step off here
//! and there.

use std::f64::consts::PI;

use crate::picture::Picture;
use crate::settings::Resample;

/// Bits of the kernels' fractions.
const BITS: u32 = 22;

/// A kernel, and how far it reaches to each side.
type Kernel = (fn(f64) -> f64, f64);

/// The inputs of one output: where they begin and their weights.
struct Taps {
    first: usize,
    weights: Vec<i32>,
}

/// The picture at another size; none for ways that are not Pillow's.
pub(crate) fn resample(picture: &Picture, width: u32, height: u32, how: Resample) -> Option<Picture> {
    let kernel: Kernel = match how {
        Resample::Nearest | Resample::Linear => return None,
        Resample::Box => (|x| if x > -0.5 && x <= 0.5 { 1.0 } else { 0.0 }, 0.5),
        Resample::Bilinear => (|x| (1.0 - x.abs()).max(0.0), 1.0),
        Resample::Hamming => (hamming, 1.0),
        Resample::Bicubic => (bicubic, 2.0),
        Resample::Lanczos => (|x| if (-3.0..3.0).contains(&x) { sinc(x) * sinc(x / 3.0) } else { 0.0 }, 3.0),
    };
    let rows = if picture.width == width { picture.clone() } else { across(picture, width, kernel) };
    Some(if picture.height == height { rows } else { down(&rows, height, kernel) })
}

fn sinc(x: f64) -> f64 {
    if x == 0.0 { 1.0 } else { (x * PI).sin() / (x * PI) }
}

fn hamming(x: f64) -> f64 {
    match x.abs() {
        0.0 => 1.0,
        x if x >= 1.0 => 0.0,
        x => (x * PI).sin() / (x * PI) * (0.54 + 0.46 * (x * PI).cos()),
    }
}

fn bicubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    match x.abs() {
        x if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
        x if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
        _ => 0.0,
    }
}

fn taps(from: u32, to: u32, (kernel, reach): Kernel) -> Vec<Taps> {
    let scale = f64::from(from) / f64::from(to);
    let wide = scale.max(1.0);
    let (support, narrow) = (reach * wide, 1.0 / wide);
    let one = |at: u32| {
        let centre = (f64::from(at) + 0.5) * scale;
        // Casts cut towards zero, and below zero to it.
        let first = (centre - support + 0.5) as usize;
        let last = ((centre + support + 0.5) as usize).min(from as usize);
        let weights: Vec<f64> =
            (0..last.saturating_sub(first)).map(|x| kernel(((x + first) as f64 - centre + 0.5) * narrow)).collect();
        let sum: f64 = weights.iter().sum();
        let whole = |weight: f64| {
            let scaled = if sum == 0.0 { weight } else { weight / sum } * f64::from(1 << BITS);
            (scaled + if scaled < 0.0 { -0.5 } else { 0.5 }) as i32
        };
        Taps { first, weights: weights.into_iter().map(whole).collect() }
    };
    (0..to).map(one).collect()
}

fn rounded(sum: i32) -> u8 {
    (sum >> BITS).clamp(0, 255) as u8
}

fn across(picture: &Picture, width: u32, kernel: Kernel) -> Picture {
    let (size, taps) = (picture.channels, taps(picture.width, width, kernel));
    let mut into = Picture::filled(width, picture.height, size, 0);
    let stride = into.stride().max(1);
    for (from, into) in picture.pixels.chunks_exact(picture.stride().max(1)).zip(into.pixels.chunks_exact_mut(stride)) {
        for (taps, into) in taps.iter().zip(into.chunks_exact_mut(size)) {
            for (channel, into) in into.iter_mut().enumerate() {
                let seen = from[taps.first * size..].iter().skip(channel).step_by(size);
                let sum: i32 = seen.zip(&taps.weights).map(|(&value, weight)| i32::from(value) * weight).sum();
                *into = rounded(sum + (1 << (BITS - 1)));
            }
        }
    }
    into
}

fn down(picture: &Picture, height: u32, kernel: Kernel) -> Picture {
    let stride = picture.stride().max(1);
    let mut into = Picture::filled(picture.width, height, picture.channels, 0);
    let mut sums = vec![0i32; stride];
    for (taps, into) in taps(picture.height, height, kernel).iter().zip(into.pixels.chunks_exact_mut(stride)) {
        sums.fill(1 << (BITS - 1));
        for (line, weight) in picture.pixels[taps.first * stride..].chunks_exact(stride).zip(&taps.weights) {
            sums.iter_mut().zip(line).for_each(|(sum, &value)| *sum += i32::from(value) * weight);
        }
        into.iter_mut().zip(&sums).for_each(|(into, &sum)| *into = rounded(sum));
    }
    into
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `Image.fromarray(...).resize((5, 8), how)`, and `(13, 7)`, of Pillow 13, of `(x * 29 + y * 83 + x * y) % 256`.
    #[test]
    fn bytes_are_pillows() {
        let (width, height) = (9u32, 7u32);
        let value = |at: u32| ((at % width) * 29 + (at / width) * 83 + (at % width) * (at / width)) as u8;
        let picture = Picture { width, height, channels: 1, pixels: (0..width * height).map(value).collect() };
        for (how, narrow, wide) in GOLDEN {
            let of = |width, height| resample(&picture, width, height, how).expect("Pillow's").pixels;
            assert_eq!((of(5, 8), of(13, 7)), (narrow.to_vec(), wide.to_vec()), "{how:?}");
        }
        let colours = Picture { width: 3, height: 7, channels: 3, pixels: picture.pixels.clone() };
        let one =
            Picture { width: 3, height: 7, channels: 1, pixels: picture.pixels.iter().step_by(3).copied().collect() };
        let red = resample(&colours, 8, 5, Resample::Lanczos).expect("Pillow's").pixels;
        let alone = resample(&one, 8, 5, Resample::Lanczos).expect("Pillow's").pixels;
        assert!(red.iter().step_by(3).eq(alone.iter()), "each channel by itself");
    }

    #[rustfmt::skip]
    const GOLDEN: [(Resample, [u8; 40], [u8; 91]); 5] = [
        (Resample::Box, [15, 73, 116, 160, 218, 98, 158, 203, 120, 52, 182, 116, 34, 81, 143, 137, 73, 121, 169, 233, 137, 73, 121, 169, 233, 93, 159, 208, 130, 68, 176, 116, 39, 90, 158, 132, 74, 126, 179, 121], [0, 29, 29, 58, 87, 87, 116, 145, 145, 174, 203, 203, 232, 83, 113, 113, 143, 173, 173, 203, 233, 233, 7, 37, 37, 67, 166, 197, 197, 228, 3, 3, 34, 65, 65, 96, 127, 127, 158, 249, 25, 25, 57, 89, 89, 121, 153, 153, 185, 217, 217, 249, 76, 109, 109, 142, 175, 175, 208, 241, 241, 18, 51, 51, 84, 159, 193, 193, 227, 5, 5, 39, 73, 73, 107, 141, 141, 175, 242, 21, 21, 56, 91, 91, 126, 161, 161, 196, 231, 231, 10]),
        (Resample::Bilinear, [17, 62, 116, 170, 215, 84, 131, 187, 99, 81, 158, 150, 87, 89, 112, 159, 101, 83, 142, 191, 120, 98, 159, 143, 158, 121, 148, 155, 97, 93, 170, 134, 55, 120, 149, 134, 60, 126, 192, 118], [0, 16, 36, 56, 76, 96, 116, 136, 156, 176, 196, 216, 232, 83, 99, 120, 141, 161, 182, 203, 224, 146, 9, 30, 51, 67, 166, 183, 204, 226, 90, 13, 34, 55, 77, 98, 120, 141, 158, 249, 128, 32, 55, 77, 99, 121, 143, 165, 187, 210, 232, 249, 76, 94, 117, 139, 162, 185, 208, 231, 155, 21, 43, 66, 84, 159, 177, 201, 224, 90, 15, 39, 63, 86, 110, 133, 157, 175, 242, 123, 29, 53, 78, 102, 126, 150, 174, 199, 223, 129, 10]),
        (Resample::Hamming, [13, 64, 116, 168, 219, 94, 146, 200, 79, 59, 168, 159, 58, 88, 131, 161, 99, 90, 147, 202, 129, 94, 152, 145, 176, 103, 151, 184, 87, 82, 173, 156, 42, 103, 158, 145, 63, 126, 189, 107], [0, 17, 31, 58, 80, 91, 116, 141, 152, 174, 201, 215, 232, 83, 101, 115, 143, 165, 177, 203, 229, 176, 7, 35, 49, 67, 166, 184, 199, 228, 59, 7, 34, 61, 73, 96, 125, 140, 158, 249, 117, 27, 57, 81, 93, 121, 149, 161, 185, 215, 230, 249, 76, 95, 111, 142, 167, 179, 208, 237, 185, 18, 49, 65, 84, 159, 179, 195, 227, 61, 10, 39, 68, 82, 107, 139, 155, 175, 242, 112, 23, 56, 82, 96, 126, 156, 170, 196, 229, 140, 10]),
        (Resample::Bicubic, [11, 60, 113, 172, 224, 78, 135, 211, 97, 64, 171, 160, 71, 80, 105, 172, 87, 63, 149, 215, 112, 85, 179, 150, 161, 113, 158, 171, 87, 75, 183, 135, 31, 117, 159, 136, 49, 129, 203, 114], [0, 13, 36, 56, 76, 96, 116, 136, 156, 176, 196, 219, 234, 81, 97, 120, 141, 161, 182, 203, 243, 153, 1, 25, 53, 69, 164, 180, 209, 234, 83, 0, 34, 55, 77, 98, 120, 144, 160, 255, 131, 15, 54, 77, 99, 121, 143, 165, 187, 210, 234, 251, 74, 91, 117, 139, 162, 185, 208, 250, 162, 12, 38, 69, 86, 157, 174, 206, 233, 83, 0, 39, 63, 86, 110, 133, 160, 177, 255, 125, 12, 53, 78, 102, 126, 150, 174, 199, 240, 127, 0]),
        (Resample::Lanczos, [10, 60, 109, 172, 228, 70, 126, 224, 101, 63, 181, 172, 70, 72, 83, 184, 78, 37, 156, 237, 99, 71, 211, 154, 153, 117, 169, 170, 76, 62, 191, 129, 19, 127, 166, 134, 40, 133, 212, 112], [0, 12, 37, 56, 76, 95, 116, 137, 156, 176, 195, 220, 234, 81, 95, 121, 141, 162, 179, 203, 253, 152, 0, 14, 61, 69, 164, 173, 220, 237, 84, 0, 34, 59, 77, 98, 118, 145, 160, 255, 136, 0, 50, 81, 98, 121, 144, 165, 187, 208, 236, 251, 74, 90, 118, 140, 163, 182, 208, 255, 161, 9, 27, 77, 86, 157, 167, 217, 236, 85, 0, 39, 66, 86, 109, 132, 161, 177, 255, 130, 0, 49, 82, 101, 126, 151, 170, 203, 255, 122, 0]),
    ];
}
