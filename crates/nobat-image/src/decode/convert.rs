//! A decoder's pixels as RGB of eight bits.

use image::ColorType;

use crate::settings::SixteenBit;

/// RGB of pixels that a decoder gave in its own colour type, numbers in the machine's order of bytes.
pub(super) fn rgb(color: ColorType, pixels: Vec<u8>, sixteen_bit: SixteenBit) -> Vec<u8> {
    match color {
        ColorType::Rgb8 => pixels,
        ColorType::L8 => grey(pixels.iter().copied()),
        ColorType::La8 => grey(pixels.as_chunks::<2>().0.iter().map(|pixel| pixel[0])),
        ColorType::Rgba8 => without_alpha(pixels),
        ColorType::L16 => {
            let value = |bytes: &[u8; 2]| u16::from_ne_bytes(*bytes);
            match sixteen_bit {
                SixteenBit::Clip => grey(pixels.as_chunks().0.iter().map(|bytes| value(bytes).min(255) as u8)),
                SixteenBit::Scale => grey(pixels.as_chunks().0.iter().map(|bytes| (value(bytes) >> 8) as u8)),
            }
        }
        ColorType::La16 => grey(sixteen(&pixels).step_by(2)),
        ColorType::Rgb16 => sixteen(&pixels).collect(),
        ColorType::Rgba16 => {
            let upper: Vec<u8> = sixteen(&pixels).collect();
            upper.as_chunks::<4>().0.iter().flat_map(|&[r, g, b, _]| [r, g, b]).collect()
        }
        ColorType::Rgb32F => float(&pixels).collect(),
        // The only one left: floats with alpha.
        _ => float(&pixels).enumerate().filter(|(at, _)| at % 4 != 3).map(|(_, value)| value).collect(),
    }
}

/// Whether the colours take the place of the decoder's pixels, so that no other memory is needed.
pub(super) fn is_in_place(color: ColorType) -> bool {
    matches!(color, ColorType::Rgb8 | ColorType::Rgba8)
}

/// RGBA to RGB where it is: a large picture's memory is not taken twice.
fn without_alpha(mut pixels: Vec<u8>) -> Vec<u8> {
    let count = pixels.len() / 4;
    for at in 1..count {
        let [r, g, b] = [0, 1, 2].map(|channel| pixels[at * 4 + channel]);
        pixels[at * 3..at * 3 + 3].copy_from_slice(&[r, g, b]);
    }
    pixels.truncate(count * 3);
    pixels
}

fn grey(values: impl Iterator<Item = u8>) -> Vec<u8> {
    values.flat_map(|value| [value; 3]).collect()
}

/// The upper bytes of numbers of 16 bits.
fn sixteen(pixels: &[u8]) -> impl Iterator<Item = u8> {
    pixels.as_chunks().0.iter().map(|&bytes| (u16::from_ne_bytes(bytes) >> 8) as u8)
}

/// Numbers from 0 to 1, as bytes.
fn float(pixels: &[u8]) -> impl Iterator<Item = u8> {
    pixels.as_chunks().0.iter().map(|&bytes| (f32::from_ne_bytes(bytes) * 255.0).round() as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_keep_their_values_and_alpha_is_dropped() {
        let clip = SixteenBit::Clip;
        assert_eq!(rgb(ColorType::L8, vec![7], clip), [7, 7, 7]);
        assert_eq!(rgb(ColorType::La8, vec![7, 0], clip), [7, 7, 7]);
        assert_eq!(rgb(ColorType::Rgba8, vec![1, 2, 3, 0, 4, 5, 6, 9, 7, 8, 9, 0], clip), [1, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert!(rgb(ColorType::Rgba8, Vec::new(), clip).is_empty());
        let wide: Vec<u8> = [40_000u16, 200].iter().flat_map(|value| value.to_ne_bytes()).collect();
        assert_eq!(rgb(ColorType::L16, wide.clone(), clip), [255, 255, 255, 200, 200, 200]);
        assert_eq!(rgb(ColorType::L16, wide, SixteenBit::Scale), [156, 156, 156, 0, 0, 0]);
        let wide: Vec<u8> = [40_000u16, 512, 255, 1].iter().flat_map(|value| value.to_ne_bytes()).collect();
        assert_eq!(rgb(ColorType::Rgba16, wide, clip), [156, 2, 0]);
        let floats: Vec<u8> = [0.0f32, 1.0, 9.0, f32::NAN].iter().flat_map(|value| value.to_ne_bytes()).collect();
        assert_eq!(rgb(ColorType::Rgba32F, floats, clip), [0, 255, 255]);
    }
}
