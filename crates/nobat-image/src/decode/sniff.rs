//! Which format bytes have, by how they begin, and what they are if it is none that is decoded.

use std::fmt;

use nobat_core::clip;

/// The formats that are decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Jpeg,
    Png,
    WebP,
    Gif,
    Bmp,
    Tiff,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Format::Jpeg => "JPEG",
            Format::Png => "PNG",
            Format::WebP => "WebP",
            Format::Gif => "GIF",
            Format::Bmp => "BMP",
            Format::Tiff => "TIFF",
        })
    }
}

/// What is taken, in the words of refusals.
const TAKEN: &str = "send the bytes of a JPEG, PNG, WebP, GIF, BMP or TIFF";

/// Formats of others, by how they begin and from which byte.
const OTHERS: [(usize, &[u8], &str); 13] = [
    (4, b"ftyphei", "HEIC picture"),
    (4, b"ftypmif1", "HEIC picture"),
    (4, b"ftypavif", "AVIF picture"),
    (4, b"ftyp", "video"),
    (0, b"%PDF", "PDF document"),
    (0, b"PK\x03\x04", "ZIP archive"),
    (0, b"\x1F\x8B", "gzip file"),
    (0, b"\x00\x00\x01\x00", "Windows icon"),
    (0, b"\x00\x00\x00\x0CJXL ", "JPEG XL picture"),
    (0, b"\xFF\x0A", "JPEG XL picture"),
    (0, b"\x00\x00\x00\x0CjP", "JPEG 2000 picture"),
    (0, b"8BPS", "Photoshop file"),
    (0, b"\x93NUMPY", "NumPy array"),
];

/// The format of these bytes.
///
/// # Errors
/// What they are instead, and what is taken.
pub(crate) fn format(bytes: &[u8]) -> Result<Format, String> {
    let begins = |with: &[u8]| bytes.starts_with(with);
    if begins(b"\xFF\xD8\xFF") {
        Ok(Format::Jpeg)
    } else if begins(b"\x89PNG\r\n\x1A\n") {
        Ok(Format::Png)
    } else if begins(b"GIF87a") || begins(b"GIF89a") {
        Ok(Format::Gif)
    } else if begins(b"RIFF") && bytes.get(8..12) == Some(b"WEBP") {
        Ok(Format::WebP)
    } else if begins(b"II*\0") || begins(b"MM\0*") || begins(b"II+\0") || begins(b"MM\0+") {
        Ok(Format::Tiff)
    } else if begins(b"BM") && bytes.len() >= 26 && !is_text(bytes) {
        Ok(Format::Bmp)
    } else {
        Err(format!("is {}; {TAKEN}", looks_like(bytes)))
    }
}

fn looks_like(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return "empty".to_owned();
    }
    if let Some((_, _, name)) =
        OTHERS.iter().find(|(at, with, _)| bytes.get(*at..).is_some_and(|rest| rest.starts_with(with)))
    {
        return format!("no picture that is decoded: it begins as a {name} does");
    }
    if is_text(bytes) {
        let head = String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned();
        let encoded = ["/9j/", "iVBOR", "R0lGOD", "UklGR", "data:"].iter().any(|start| head.starts_with(start));
        return match encoded {
            true => format!("a picture in base64, `{}…`, where its bytes are wanted", clip(&head)),
            false => format!("text, `{}`, and no picture", clip(head.trim_end())),
        };
    }
    let head: Vec<String> = bytes.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("no picture that is known: its {} bytes begin with {}", bytes.len(), head.join(" "))
}

/// Whether the bytes begin as a text does.
fn is_text(bytes: &[u8]) -> bool {
    let head = &bytes[..bytes.len().min(256)];
    let valid = match std::str::from_utf8(head) {
        Ok(_) => head.len(),
        // The end may cut a character.
        Err(error) => error.valid_up_to() + 3,
    };
    valid >= head.len() && head.iter().all(|&byte| byte >= 0x20 || matches!(byte, b'\t' | b'\n' | b'\r'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_picture_is_named_for_what_it_looks_like() {
        let cases: [(&[u8], &str); 7] = [
            (b"", "is empty"),
            (b"hello, this is a text that is called cat.jpg", "text, `hello, this is"),
            (b"/9j/4AAQSkZJRgABAQAAAQABAAD", "in base64"),
            (b"data:image/png;base64,iVBORw0KGgo", "in base64"),
            (b"%PDF-1.7\n\xE2\xE3", "PDF document"),
            (b"\0\0\0\x20ftypheic\0\0\0\0", "HEIC"),
            (b"\x01\x02\x03\x04", "begin with 01 02 03 04"),
        ];
        for (bytes, says) in cases {
            let refused = format(bytes).expect_err(says);
            assert!(refused.contains(says) && refused.contains("send the bytes of a JPEG, PNG"), "{refused}");
        }
        assert!(format("BMW is a maker of cars and more".as_bytes()).is_err());
    }
}
