//! An encoded picture to pixels: the header first, within bounds, upright, in RGB.
//!
//! What a decoder would allocate is known and bounded before it is asked. The first frame of an
//! animation is decoded, and nothing behind it is read. As Pillow does it: alpha is dropped and colours
//! keep their values, colours of 16 bits keep their upper eight, and grey of 16 bits is cut at 255
//! unless the model says that it is scaled.

mod convert;
mod jpeg;
mod sniff;

use std::io::Cursor;

use image::codecs::bmp::BmpDecoder;
use image::codecs::gif::GifDecoder;
use image::codecs::jpeg::JpegDecoder;
use image::codecs::png::PngDecoder;
use image::codecs::tiff::TiffDecoder;
use image::codecs::webp::WebPDecoder;
use image::metadata::Orientation;
use image::{ImageDecoder, ImageResult, Limits};
use nobat_core::clip;

use crate::picture::Picture;
use crate::settings::SixteenBit;
pub(crate) use sniff::Format;

/// Most pixels of a picture where nothing else is said, as Pillow has it.
pub(crate) use nobat_core::chain::function::MOST_PIXELS as DEFAULT_MOST_PIXELS;
/// Most bytes that a decoder may hold for one picture.
const MOST_BYTES: u64 = 512 << 20;
/// Longest side of a picture.
const LONGEST_SIDE: u32 = 65_535;

/// What a picture may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// Width times height.
    pub(crate) most_pixels: u64,
    /// What becomes of grey values of 16 bits.
    pub(crate) sixteen_bit: SixteenBit,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds { most_pixels: DEFAULT_MOST_PIXELS, sixteen_bit: SixteenBit::default() }
    }
}

/// Decodes a picture.
///
/// # Errors
/// What is wrong with it and what to send, to be put behind the name of the picture.
pub(crate) fn decode(bytes: &[u8], bounds: &Bounds) -> Result<Picture, String> {
    let format = sniff::format(bytes)?;
    let broken = |error: image::ImageError| {
        format!("is a {format} that cannot be decoded: {}; save it again", clip(&error.to_string()))
    };
    let source = Cursor::new(bytes);
    match format {
        Format::Jpeg => {
            let jpeg = jpeg::inspect(bytes)?;
            bounds.check(format, jpeg.width, jpeg.height, jpeg.bytes_per_pixel())?;
            let decoder = JpegDecoder::new(source).map_err(broken)?;
            read(decoder, Some(jpeg.orientation), format, bounds)
        }
        Format::Png => read(PngDecoder::with_limits(source, limits()).map_err(broken)?, None, format, bounds),
        Format::WebP => read(WebPDecoder::new(source).map_err(broken)?, None, format, bounds),
        Format::Gif => read(GifDecoder::new(source).map_err(broken)?, None, format, bounds),
        Format::Bmp => read(BmpDecoder::new(source).map_err(broken)?, None, format, bounds),
        Format::Tiff => read(TiffDecoder::new(source).map_err(broken)?, None, format, bounds),
    }
}

/// Reads the pixels of a picture whose header was read; `orientation` where it is known already.
fn read(
    mut decoder: impl ImageDecoder,
    orientation: Option<Orientation>,
    format: Format,
    bounds: &Bounds,
) -> Result<Picture, String> {
    let (width, height) = decoder.dimensions();
    let broken = |error: image::ImageError| {
        let what = clip(&error.to_string()).to_owned();
        format!(
            "is a {format} of {width} x {height} pixels that cannot be decoded: {what}; send the whole file, or save it again"
        )
    };
    // The decoder's pixels, and the RGB that is made of them.
    let (color, per_pixel) = (decoder.color_type(), u64::from(decoder.color_type().bytes_per_pixel()));
    bounds.check(format, width, height, if convert::is_in_place(color) { per_pixel } else { per_pixel + 3 })?;
    let orientation = match orientation {
        Some(known) => known,
        // A picture whose EXIF cannot be read is as it stands.
        None => decoder.orientation().unwrap_or(Orientation::NoTransforms),
    };
    decoder.set_limits(limits()).map_err(broken)?;
    let pixels = pixels(decoder).map_err(broken)?;
    let picture = Picture { width, height, channels: 3, pixels: convert::rgb(color, pixels, bounds.sixteen_bit) };
    Ok(picture.upright(orientation))
}

/// What a decoder may allocate by itself.
fn limits() -> Limits {
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(MOST_BYTES);
    limits
}

fn pixels(decoder: impl ImageDecoder) -> ImageResult<Vec<u8>> {
    let mut pixels = vec![0; usize::try_from(decoder.total_bytes()).unwrap_or(usize::MAX)];
    decoder.read_image(&mut pixels)?;
    Ok(pixels)
}

impl Bounds {
    fn check(&self, format: Format, width: u32, height: u32, bytes_per_pixel: u64) -> Result<(), String> {
        let count = u64::from(width) * u64::from(height);
        let is = format!("is a {format} of {width} x {height} pixels");
        if count == 0 {
            return Err(format!("{is}, which is empty; send a picture with pixels"));
        }
        if count > self.most_pixels || width.max(height) > LONGEST_SIDE {
            return Err(format!(
                "{is}; at most {} pixels are decoded, and sides of {LONGEST_SIDE}; send a smaller picture, \
                 or set `max_pixels` in `[image]` of model.toml, or of the chain's step",
                self.most_pixels
            ));
        }
        if count * bytes_per_pixel > MOST_BYTES {
            return Err(format!(
                "{is}, for which its decoder needs {} MiB; it may have {}; send a smaller picture",
                (count * bytes_per_pixel) >> 20,
                MOST_BYTES >> 20
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use image::{ImageFormat, RgbaImage};

    use super::*;
    use crate::testing::{encoded, gradient, jpeg};

    const FORMATS: [(ImageFormat, Format); 5] = [
        (ImageFormat::Png, Format::Png),
        (ImageFormat::WebP, Format::WebP),
        (ImageFormat::Gif, Format::Gif),
        (ImageFormat::Bmp, Format::Bmp),
        (ImageFormat::Tiff, Format::Tiff),
    ];

    fn bounds(most_pixels: u64) -> Bounds {
        Bounds { most_pixels, ..Bounds::default() }
    }

    /// A JPEG with an EXIF orientation put behind its first marker.
    fn oriented(picture: &Picture, orientation: u8) -> Vec<u8> {
        let mut exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".to_vec();
        exif.extend_from_slice(&[orientation, 0, 0, 0, 0, 0, 0, 0]);
        let mut bytes = jpeg(picture);
        let mut segment = vec![0xFF, 0xE1];
        segment.extend_from_slice(&(exif.len() as u16 + 2).to_be_bytes());
        segment.extend_from_slice(&exif);
        bytes.splice(2..2, segment);
        bytes
    }

    #[test]
    fn every_format_is_decoded_and_those_without_loss_to_the_same_pixels() {
        let picture = gradient(33, 20);
        for (format, known) in FORMATS {
            let bytes = encoded(&picture, format);
            assert_eq!(sniff::format(&bytes), Ok(known));
            let decoded = decode(&bytes, &Bounds::default()).expect("decodes");
            assert_eq!((decoded.width, decoded.height), (33, 20), "{known}");
            if known != Format::Gif {
                assert_eq!(decoded, picture, "{known}");
            }
        }
        let decoded = decode(&jpeg(&picture), &Bounds::default()).expect("decodes");
        assert_eq!((decoded.width, decoded.height), (33, 20));
    }

    #[test]
    fn a_picture_is_upright_and_its_header_is_held_to_the_bounds_first() {
        let turned = decode(&oriented(&gradient(30, 20), 6), &Bounds::default()).expect("decodes");
        assert_eq!((turned.width, turned.height), (20, 30));
        let upright = decode(&jpeg(&gradient(30, 20)), &Bounds::default()).expect("decodes");
        assert_eq!(turned, upright.upright(Orientation::Rotate90));
        for bytes in [jpeg(&gradient(30, 20)), encoded(&gradient(30, 20), ImageFormat::Png)] {
            let refused = decode(&bytes, &bounds(599)).expect_err("too large");
            assert!(refused.contains("30 x 20 pixels; at most 599") && refused.contains("`max_pixels`"), "{refused}");
            assert!(decode(&bytes, &bounds(600)).is_ok());
        }
    }

    #[test]
    fn a_header_of_60_000_by_60_000_pixels_is_refused_before_anything_is_allocated() {
        let mut png = encoded(&gradient(2, 2), ImageFormat::Png);
        png[16..24].copy_from_slice(&[0, 0, 0xEA, 0x60, 0, 0, 0xEA, 0x60]);
        let checksum = crc(&png[12..29]).to_be_bytes();
        png[29..33].copy_from_slice(&checksum);
        let mut jpeg = jpeg(&gradient(2, 2));
        let frame = jpeg.windows(2).position(|two| two == [0xFF, 0xC0]).expect("a frame");
        jpeg[frame + 5..frame + 9].copy_from_slice(&[0xEA, 0x60, 0xEA, 0x60]);
        let mut gif = encoded(&gradient(2, 2), ImageFormat::Gif);
        gif[6..10].copy_from_slice(&[0x60, 0xEA, 0x60, 0xEA]);
        let mut bmp = encoded(&gradient(2, 2), ImageFormat::Bmp);
        bmp[18..26].copy_from_slice(&[0x60, 0xEA, 0, 0, 0x60, 0xEA, 0, 0]);
        for bytes in [png, jpeg, gif, bmp] {
            let refused = decode(&bytes, &Bounds::default()).expect_err("a bomb");
            assert!(refused.contains("60000 x 60000 pixels; at most 89478485"), "{refused}");
        }
    }

    fn crc(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0u32, |sum, &byte| {
            (0..8).fold(sum ^ u32::from(byte), |sum, _| (sum >> 1) ^ if sum & 1 == 1 { 0xEDB8_8320 } else { 0 })
        })
    }

    #[test]
    fn a_picture_that_is_cut_off_is_refused_in_every_format() {
        let picture = gradient(64, 48);
        let mut all: Vec<Vec<u8>> = FORMATS.iter().map(|(format, _)| encoded(&picture, *format)).collect();
        all.push(jpeg(&picture));
        for bytes in all {
            for share in [2, 10, 50, 90] {
                let cut = &bytes[..bytes.len() * share / 100];
                assert!(decode(cut, &Bounds::default()).is_err(), "{:?} of {share} %", sniff::format(&bytes));
            }
        }
    }

    #[test]
    fn of_an_animation_the_first_frame_is_decoded_and_nothing_behind_it_is_read() {
        let mut bytes = Vec::new();
        {
            let mut encoder = image::codecs::gif::GifEncoder::new(&mut bytes);
            for value in [10u8, 200] {
                let frame = RgbaImage::from_pixel(8, 8, image::Rgba([value, value, value, 255]));
                encoder.encode_frame(image::Frame::new(frame)).expect("encodes");
            }
        }
        let first = decode(&bytes, &Bounds::default()).expect("decodes");
        // The second frame is cut off, which nobody notices.
        assert_eq!(decode(&bytes[..bytes.len() - 8], &Bounds::default()).expect("decodes"), first);
        assert_eq!(first.pixels[0], 10);
    }
}
