//! Replays the fuzz corpora through the entries that the fuzz targets use: what
//! once broke a parser does not break it again. See `fuzz/`.

use std::path::{Path, PathBuf};

#[path = "../../../fuzz/targets.rs"]
mod targets;

fn fuzz(below: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz").join(below)
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut names: Vec<_> =
        entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("a name of text")).collect();
    names.sort();
    names
}

#[test]
fn every_corpus_file_replays() {
    for (target, entry) in targets::TARGETS {
        let folder = fuzz("corpus").join(target);
        let files = names(&folder);
        assert!(files.len() >= 3, "{target} has a corpus");
        for file in files {
            println!("{target}/{file}");
            entry(&std::fs::read(folder.join(&file)).expect("a file"));
        }
    }
}

#[test]
fn every_target_is_listed_built_and_has_a_corpus() {
    let mut listed: Vec<String> = targets::TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    listed.sort();
    assert_eq!(names(&fuzz("corpus")), listed);
    assert_eq!(names(&fuzz("fuzz_targets")), listed.iter().map(|name| format!("{name}.rs")).collect::<Vec<_>>());
    let manifest = std::fs::read_to_string(fuzz("Cargo.toml")).expect("the manifest");
    for name in &listed {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name} is a binary of fuzz/Cargo.toml");
    }
}
