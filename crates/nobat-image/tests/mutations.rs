//! Thousands of pictures of every format with bytes changed, cut out and doubled: each is decoded within
//! bounds or refused with a reason. `fuzz/` looks for more.

mod mutated;

use std::path::Path;

use mutated::{Numbers, mutated};

const MUTATIONS: u32 = 250;

#[test]
fn a_picture_with_bytes_changed_is_decoded_within_bounds_or_refused_with_a_reason() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/image");
    let mut files: Vec<_> = std::fs::read_dir(folder).expect("a corpus").flatten().map(|entry| entry.path()).collect();
    files.sort();
    let (mut numbers, mut count) = (Numbers(1), 0);
    for file in files {
        let whole = std::fs::read(&file).expect("a file");
        for _ in 0..MUTATIONS {
            nobat_image::fuzz::image(&mutated(whole.clone(), &mut numbers));
            count += 1;
        }
    }
    assert!(count >= 5000, "{count}");
}
