//! Made-up pictures for tests.

use std::io::Cursor;

use image::codecs::jpeg::JpegEncoder;
use image::{DynamicImage, ImageFormat, RgbImage};

use crate::picture::Picture;

/// Colours that differ from pixel to pixel.
pub(crate) fn gradient(width: u32, height: u32) -> Picture {
    let pixel = |at: u32| {
        let (x, y) = (at % width, at / width);
        [(x * 7 + y) as u8, (y * 5) as u8, (x * y) as u8]
    };
    Picture { width, height, channels: 3, pixels: (0..width * height).flat_map(pixel).collect() }
}

/// A picture as a JPEG of high quality.
pub(crate) fn jpeg(picture: &Picture) -> Vec<u8> {
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, 95).encode_image(&dynamic(picture)).expect("encodes");
    bytes
}

/// A picture in another format.
pub(crate) fn encoded(picture: &Picture, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    dynamic(picture).write_to(&mut bytes, format).expect("encodes");
    bytes.into_inner()
}

fn dynamic(picture: &Picture) -> DynamicImage {
    let rgb = RgbImage::from_raw(picture.width, picture.height, picture.pixels.clone());
    DynamicImage::ImageRgb8(rgb.expect("as many pixels as it has"))
}
