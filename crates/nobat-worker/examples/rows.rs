//! What the graphs of model files show of their rows, one line a file, without ONNX
//! Runtime: `cargo run -p nobat-worker --example rows -- FILE…`.
#![allow(clippy::print_stdout)]

use std::path::Path;

use nobat_worker::rows::{RowAnalysis, analyse_file};

fn main() {
    for file in std::env::args().skip(1) {
        let (verdict, why) = match analyse_file(Path::new(&file)) {
            Ok(RowAnalysis::Proven) => ("proven", String::new()),
            Ok(RowAnalysis::Mixed(why)) => ("mixed", why),
            Ok(RowAnalysis::NoBatchAxis(why)) => ("no_batch_axis", why),
            Ok(RowAnalysis::Unknown { why, suspect: None }) => ("unknown", why),
            Ok(RowAnalysis::Unknown { why, suspect: Some(suspect) }) => ("suspect", format!("{why}; {suspect}")),
            Err(why) => ("unreadable", why),
        };
        println!("{verdict}\t{file}\t{why}");
    }
}
