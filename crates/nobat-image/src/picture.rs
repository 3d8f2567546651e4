//! A picture in memory.

use image::metadata::Orientation;
use image::{DynamicImage, RgbImage};

/// Pixels of eight bits a channel, row by row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Picture {
    pub(crate) width: u32,
    pub(crate) height: u32,
    /// 3 of RGB, 1 of grey.
    pub(crate) channels: usize,
    /// Height x width x channels.
    pub(crate) pixels: Vec<u8>,
}

impl Picture {
    /// One of a single value.
    pub(crate) fn filled(width: u32, height: u32, channels: usize, value: u8) -> Picture {
        Picture { width, height, channels, pixels: vec![value; width as usize * height as usize * channels] }
    }

    /// Bytes of a row.
    pub(crate) fn stride(&self) -> usize {
        self.width as usize * self.channels
    }

    /// The picture as its camera was held; of RGB.
    pub(crate) fn upright(self, orientation: Orientation) -> Picture {
        if orientation == Orientation::NoTransforms {
            return self;
        }
        let Picture { width, height, channels, pixels } = self;
        let Some(rgb) = RgbImage::from_raw(width, height, pixels) else {
            return Picture::filled(width, height, channels, 0);
        };
        let mut turned = DynamicImage::ImageRgb8(rgb);
        turned.apply_orientation(orientation);
        Picture { width: turned.width(), height: turned.height(), channels, pixels: turned.into_bytes() }
    }

    /// Its grey, as ITU-R 601-2 weighs the colours and Pillow rounds it; of RGB.
    pub(crate) fn grey(&self) -> Picture {
        let grey = |&[r, g, b]: &[u8; 3]| {
            let weighed = u32::from(r) * 19_595 + u32::from(g) * 38_470 + u32::from(b) * 7_471;
            ((weighed + 0x8000) >> 16) as u8
        };
        let pixels = self.pixels.as_chunks::<3>().0.iter().map(grey).collect();
        Picture { channels: 1, pixels, ..*self }
    }

    /// This picture put on a canvas of another size at `left`, `top`, which may be outside of it:
    /// what is outside is cropped, what is left free is `fill`.
    pub(crate) fn placed(self, (width, height): (u32, u32), (left, top): (i64, i64), fill: u8) -> Picture {
        if (self.width, self.height, left, top) == (width, height, 0, 0) {
            return self;
        }
        let mut canvas = Picture::filled(width, height, self.channels, fill);
        // Both ranges of columns, and of rows, where the two overlap.
        let overlap = |at: i64, own: u32, other: u32| {
            let start = at.clamp(0, i64::from(other));
            let end = (at + i64::from(own)).clamp(start, i64::from(other));
            (start as usize, (start - at).max(0) as usize, (end - start) as usize)
        };
        let (to_x, from_x, columns) = overlap(left, self.width, width);
        let (to_y, from_y, rows) = overlap(top, self.height, height);
        if columns == 0 {
            return canvas;
        }
        let (from_stride, to_stride, size) = (self.stride(), canvas.stride(), self.channels);
        for row in 0..rows {
            let from = (from_y + row) * from_stride + from_x * size;
            let to = (to_y + row) * to_stride + to_x * size;
            canvas.pixels[to..to + columns * size].copy_from_slice(&self.pixels[from..from + columns * size]);
        }
        canvas
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::gradient;

    #[test]
    fn a_picture_is_turned_as_its_camera_was_held() {
        let picture = Picture { width: 2, height: 1, channels: 3, pixels: vec![1, 1, 1, 2, 2, 2] };
        let turned = picture.clone().upright(Orientation::Rotate90);
        assert_eq!((turned.width, turned.height, turned.pixels), (1, 2, vec![1, 1, 1, 2, 2, 2]));
        assert_eq!(picture.upright(Orientation::Rotate180).pixels, [2, 2, 2, 1, 1, 1]);
    }

    #[test]
    fn grey_is_weighed_as_pillow_does() {
        let picture = Picture { width: 3, height: 1, channels: 3, pixels: vec![255, 0, 0, 0, 255, 0, 10, 20, 30] };
        assert_eq!(picture.grey().pixels, [76, 150, 18]);
    }

    proptest! {
        #[test]
        fn a_placed_picture_has_its_pixels_where_they_overlap_and_the_fill_elsewhere(
            width in 1u32..9, height in 1u32..9, to in (1u32..9, 1u32..9), left in -12i64..12, top in -12i64..12,
        ) {
            let picture = gradient(width, height);
            let placed = picture.clone().placed(to, (left, top), 114);
            for y in 0..i64::from(to.1) {
                for x in 0..i64::from(to.0) {
                    let got = placed.pixels[(y as usize * to.0 as usize + x as usize) * 3];
                    let (own_x, own_y) = (x - left, y - top);
                    let inside = (0..i64::from(width)).contains(&own_x) && (0..i64::from(height)).contains(&own_y);
                    let want = match inside {
                        true => picture.pixels[(own_y as usize * width as usize + own_x as usize) * 3],
                        false => 114,
                    };
                    prop_assert_eq!(got, want);
                }
            }
        }
    }
}
