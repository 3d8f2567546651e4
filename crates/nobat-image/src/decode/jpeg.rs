//! What a JPEG says before its pixels are decoded, and whether it is whole.
//!
//! The decoder fills up what is missing with grey and calls it a picture. So the markers are walked to
//! the end of the image first, which also gives the size, the number of scans and the orientation.

use image::metadata::Orientation;

/// Most scans of a progressive picture: each costs a pass over all of its pixels.
const MOST_SCANS: u32 = 64;

/// What the markers say.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Jpeg {
    pub(super) width: u32,
    pub(super) height: u32,
    progressive: bool,
    pub(super) orientation: Orientation,
}

impl Jpeg {
    /// What decoding holds for a pixel: a progressive picture's coefficients stay until its last scan.
    pub(super) fn bytes_per_pixel(self) -> u64 {
        if self.progressive { 9 } else { 3 }
    }
}

/// Walks the markers from the start of the image to its end.
///
/// # Errors
/// What is missing or wrong, and what to send.
pub(super) fn inspect(bytes: &[u8]) -> Result<Jpeg, String> {
    let (mut size, mut scans, mut progressive) = (None, 0u32, false);
    let mut orientation = Orientation::NoTransforms;
    let mut at = 2;
    let cut_off = |size: Option<(u32, u32)>| {
        let of = size.map_or(String::new(), |(width, height)| format!(" of {width} x {height} pixels"));
        format!("is a JPEG{of} that is cut off: {} bytes are no whole picture; send the whole file", bytes.len())
    };
    loop {
        let Some(marker) = next_marker(bytes, &mut at) else { return Err(cut_off(size)) };
        match marker {
            // Markers without a length.
            0x01 | 0xD0..=0xD8 => continue,
            0xD9 => break,
            _ => {}
        }
        let length = bytes.get(at..at + 2).map(|two| usize::from(u16::from_be_bytes([two[0], two[1]])));
        let Some(segment) = length.and_then(|length| bytes.get(at + 2..at + length.max(2))) else {
            return Err(cut_off(size));
        };
        at += 2 + segment.len();
        match marker {
            0xC0..=0xCF if !matches!(marker, 0xC4 | 0xC8 | 0xCC) => {
                let &[_, h1, h0, w1, w0, ..] = segment else { return Err(cut_off(size)) };
                progressive |= matches!(marker, 0xC2 | 0xC6 | 0xCA | 0xCE);
                size = Some((u32::from(u16::from_be_bytes([w1, w0])), u32::from(u16::from_be_bytes([h1, h0]))));
            }
            0xE1 => {
                let exif = segment.strip_prefix(b"Exif\0\0").and_then(Orientation::from_exif_chunk);
                orientation = exif.unwrap_or(orientation);
            }
            0xDA => {
                scans += 1;
                if scans > MOST_SCANS {
                    return Err(format!("is a JPEG of over {MOST_SCANS} scans; save it again"));
                }
            }
            _ => {}
        }
    }
    match size {
        Some((width, height)) if scans > 0 => Ok(Jpeg { width, height, progressive, orientation }),
        _ => Err(cut_off(size)),
    }
}

/// The next marker's second byte, over whatever stands before it, such as a scan's data; `at` is moved
/// behind it.
fn next_marker(bytes: &[u8], at: &mut usize) -> Option<u8> {
    loop {
        *at += before_ff(bytes.get(*at..)?)? + 1;
        // Any number of fill bytes may stand before a marker.
        while bytes.get(*at) == Some(&0xFF) {
            *at += 1;
        }
        let &marker = bytes.get(*at)?;
        *at += 1;
        // A zero: an 0xFF of the data.
        if marker != 0 {
            return Some(marker);
        }
    }
}

/// How many bytes stand before the first 0xFF. A scan's data is most of a file, and `contains` looks at many of its
/// bytes at once.
fn before_ff(bytes: &[u8]) -> Option<usize> {
    const AT_ONCE: usize = 64;
    let from = bytes.chunks(AT_ONCE).position(|chunk| chunk.contains(&0xFF))? * AT_ONCE;
    Some(from + bytes[from..].iter().position(|&byte| byte == 0xFF)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn the_first_ff_is_found_wherever_it_stands() {
        for at in [0, 1, 63, 64, 65, 127, 128, 199] {
            let mut bytes = [7u8; 200];
            (bytes[at], bytes[199]) = (0xFF, 0xFF);
            assert_eq!(before_ff(&bytes), Some(at));
        }
        assert_eq!((before_ff(&[7; 200]), before_ff(&[])), (None, None));
    }

    #[test]
    fn the_size_stands_in_the_markers_and_every_cut_is_found() {
        let whole = testing::jpeg(&testing::gradient(37, 21));
        let jpeg = inspect(&whole).expect("a whole picture");
        assert_eq!((jpeg.width, jpeg.height, jpeg.progressive), (37, 21, false));
        for end in 2..whole.len() {
            let refused = inspect(&whole[..end]).expect_err("cut off");
            assert!(refused.contains("cut off") && refused.contains("send the whole file"), "{end}: {refused}");
        }
    }

    #[test]
    fn what_follows_the_end_is_not_read() {
        let mut bytes = testing::jpeg(&testing::gradient(8, 8));
        bytes.extend_from_slice(b"\xFF\xD8\xFF trailing");
        assert!(inspect(&bytes).is_ok());
    }
}
