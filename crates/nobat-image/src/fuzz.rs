//! Entries for the fuzz targets and the replay of their corpora (`fuzz/`).

use std::collections::BTreeMap;

use crate::decode::{Bounds, decode};
use crate::folder::processor_config::ProcessorConfig;
use crate::metadata::Metadata;
use crate::settings::{Resample, SixteenBit};
use crate::sizes::{Canvas, Placement, Resize};

/// Any bytes as a picture: decoded and drawn within bounds, or refused with a reason.
pub fn image(data: &[u8]) {
    let bounds = Bounds { most_pixels: 1 << 18, sixteen_bit: SixteenBit::Clip };
    let picture = match decode(data, &bounds) {
        Ok(picture) => picture,
        Err(reason) => return assert!(reason.starts_with("is ") && reason.contains(';'), "{reason}"),
    };
    let pixels = picture.width as usize * picture.height as usize;
    assert!(pixels <= 1 << 18 && picture.pixels.len() == pixels * 3);
    let from = (picture.width, picture.height);
    for (resize, canvas) in [
        (Resize::ShortestEdge(32, None), Canvas::Centered(32, 32)),
        (Resize::Fit { width: 32, height: 24, round: true }, Canvas::Letterboxed(32, 24)),
        (Resize::Height { height: 16, least: 1, most: 64, round_up: true }, Canvas::Own),
    ] {
        if let Ok(placement) = Placement::new(from, resize, canvas, 1 << 18) {
            let drawn = placement.draw(picture.clone(), Resample::Bilinear, 0).expect("a picture is drawn");
            assert_eq!((drawn.width, drawn.height), placement.canvas);
        }
    }
}

/// A `preprocessor_config.json`, a NUL, and a value of a file's metadata.
pub fn image_files(data: &[u8]) {
    let mut parts = data.splitn(2, |&byte| byte == 0);
    if let Ok(config) = serde_json::from_slice::<ProcessorConfig>(parts.next().unwrap_or_default()) {
        match config.recipe() {
            Ok((_, how)) => assert!(!how.is_empty()),
            Err(error) => assert!(error.message.contains("`[image]`"), "{}", error.message),
        }
    }
    if let Some(value) = parts.next().and_then(|part| std::str::from_utf8(part).ok()) {
        let keys = ["names", "imgsz", "stride", "task", "character", "end2end"];
        Metadata::read(&keys.iter().map(|key| ((*key).to_owned(), value.to_owned())).collect::<BTreeMap<_, _>>());
    }
}
