//! A chain of three models that each move the numbers of a row.

use std::path::{Path, PathBuf};

use super::onnx::{WIDTH, matrix};

/// By how many places `three` moves them.
pub(crate) const MOVES: usize = 6;

/// A repository with `one`, `two` and `three-last`, which move the numbers of a row by so many
/// places, and the chain `three` of them.
pub(crate) fn three(folder: &Path) -> PathBuf {
    let repository = steps(folder);
    define(&repository);
    repository
}

/// The chain alone, in a repository that may have none of its models.
pub(crate) fn define(repository: &Path) {
    let chain = repository.join("three");
    std::fs::create_dir_all(&chain).expect("the chain's folder");
    let text = "[[chain.steps]]\nmodel = \"one\"\noutputs = { y = \"p\" }\n\
                [[chain.steps]]\nmodel = \"two\"\ninputs = { x = \"p\" }\noutputs = { y = \"q\" }\n\
                [[chain.steps]]\nname = \"three\"\nmodel = \"three-last\"\ninputs = { x = \"q\" }\n";
    std::fs::write(chain.join("model.toml"), text).expect("the chain's file");
}

/// The models of the steps.
pub(crate) fn steps(folder: &Path) -> PathBuf {
    let moves = |by: usize| move |from: usize, to: usize| (from + by) % WIDTH == to;
    matrix(folder, "one", moves(1));
    matrix(folder, "two", moves(2));
    matrix(folder, "three-last", moves(3))
}
