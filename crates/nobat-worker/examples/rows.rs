//! What the graphs of model files show of their rows, one line a file, without ONNX
//! Runtime: `cargo run -p nobat-worker --example rows -- FILE…`.
#![allow(clippy::print_stdout)]

use std::path::Path;

use nobat_worker::repository::batch_axis::shown;
use nobat_worker::rows::Shown;

fn main() {
    for file in std::env::args().skip(1) {
        let (verdict, why) = match shown(Path::new(&file)) {
            Ok(Shown::Proven) => ("proven", String::new()),
            Ok(Shown::Mixed(why)) => ("mixed", why),
            Ok(Shown::NoBatchAxis(why)) => ("no_batch_axis", why),
            Ok(Shown::Unknown { why, suspect: None }) => ("unknown", why),
            Ok(Shown::Unknown { why, suspect: Some(suspect) }) => ("suspect", format!("{why}; {suspect}")),
            Err(why) => ("unreadable", why),
        };
        println!("{verdict}\t{file}\t{why}");
    }
}
