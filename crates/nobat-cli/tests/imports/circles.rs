//! Circles among files.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use crate::resolve::Imports;

/// Files each of which leads to every other one, and the names that tie them.
pub(crate) struct Circle(Imports);

impl fmt::Display for Circle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for ((from, to), names) in &self.0 {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            writeln!(f, "  {} -> {}: {}", from.display(), to.display(), names.join(", "))?;
        }
        Ok(())
    }
}

/// Every circle, each with all of its files.
pub(crate) fn circles(imports: &Imports) -> Vec<Circle> {
    let mut to: BTreeMap<&Path, Vec<&Path>> = BTreeMap::new();
    for (from, target) in imports.keys() {
        to.entry(from).or_default().push(target);
    }
    let reached: BTreeMap<&Path, BTreeSet<&Path>> = to.keys().map(|&file| (file, reach(&to, file))).collect();
    let leads = |from: &Path, target: &Path| reached.get(from).is_some_and(|files| files.contains(target));
    let mut done: BTreeSet<&Path> = BTreeSet::new();
    let mut found = Vec::new();
    for &file in to.keys() {
        if !leads(file, file) || !done.insert(file) {
            continue;
        }
        let tied = |other: &PathBuf| leads(file, other) && leads(other, file);
        let inside = imports.iter().filter(|((from, target), _)| tied(from) && tied(target));
        done.extend(
            imports.keys().flat_map(|(from, target)| [from, target]).filter(|other| tied(other)).map(PathBuf::as_path),
        );
        found.push(Circle(inside.map(|(edge, names)| (edge.clone(), names.clone())).collect()));
    }
    found
}

/// The files that a file leads to.
fn reach<'a>(to: &BTreeMap<&'a Path, Vec<&'a Path>>, from: &'a Path) -> BTreeSet<&'a Path> {
    let mut reached = BTreeSet::new();
    let mut open = vec![from];
    while let Some(file) = open.pop() {
        for &next in to.get(file).into_iter().flatten() {
            if reached.insert(next) {
                open.push(next);
            }
        }
    }
    reached
}
