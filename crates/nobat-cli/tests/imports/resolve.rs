//! Which file a name comes from.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use crate::read::{Module, Segments};

/// What each file takes from each other one, by name.
pub(crate) type Imports = BTreeMap<(PathBuf, PathBuf), BTreeSet<String>>;

/// Re-exports of re-exports are followed so deep.
const DEEPEST: usize = 16;

/// What a path leads to.
enum Found {
    Module(usize),
    Item(usize, String),
    /// In another crate, imported here.
    Elsewhere,
}

/// Resolves every import and path of a crate.
pub(crate) fn imports(modules: &[Module]) -> Imports {
    let mut imports = Imports::new();
    for (at, module) in modules.iter().enumerate() {
        let resolve = |path: &Segments| find(modules, at, path, 0);
        let named = module.aliases.values().chain(&module.paths).filter_map(|path| match resolve(path)? {
            // What is taken out of a module is named where it is used.
            Found::Module(_) | Found::Elsewhere => None,
            Found::Item(of, name) => Some((of, name)),
        });
        let whole = module.globs.iter().filter_map(|path| match resolve(path)? {
            Found::Module(of) => Some((of, "*".to_owned())),
            Found::Item(of, name) => Some((of, name)),
            Found::Elsewhere => None,
        });
        for (of, name) in named.chain(whole) {
            let (from, to) = (&module.file, &modules[of].file);
            if from != to {
                imports.entry((from.clone(), to.clone())).or_default().insert(name);
            }
        }
    }
    imports
}

/// A path as it stands in module `at`; `None` for what is another crate's, or local.
fn find(modules: &[Module], at: usize, path: &[String], depth: usize) -> Option<Found> {
    let (head, rest) = path.split_first()?;
    match head.as_str() {
        "crate" => walk(modules, 0, rest, depth),
        "self" => walk(modules, at, rest, depth),
        "super" => find_from(modules, modules[at].parent?, rest, depth),
        _ => by_name(modules, at, head, rest, depth),
    }
}

fn find_from(modules: &[Module], at: usize, path: &[String], depth: usize) -> Option<Found> {
    match path.split_first() {
        Some((head, rest)) if head == "super" => find_from(modules, modules[at].parent?, rest, depth),
        _ => walk(modules, at, path, depth),
    }
}

/// A path inside a module. What it does not seem to have is made by a macro of its own.
fn walk(modules: &[Module], at: usize, path: &[String], depth: usize) -> Option<Found> {
    match path.split_first() {
        None => Some(Found::Module(at)),
        Some((head, rest)) => by_name(modules, at, head, rest, depth).or_else(|| Some(Found::Item(at, head.clone()))),
    }
}

fn by_name(modules: &[Module], at: usize, head: &str, rest: &[String], depth: usize) -> Option<Found> {
    let module = &modules[at];
    if let Some(&child) = module.children.get(head) {
        return walk(modules, child, rest, depth);
    }
    if module.items.contains(head) {
        return Some(Found::Item(at, head.to_owned()));
    }
    if depth == DEEPEST {
        return None;
    }
    if let Some(target) = module.aliases.get(head) {
        return Some(match find(modules, at, target, depth + 1) {
            Some(Found::Module(of)) => return walk(modules, of, rest, depth + 1),
            Some(found) => found,
            None => Found::Elsewhere,
        });
    }
    module.globs.iter().find_map(|glob| match find(modules, at, glob, depth + 1)? {
        Found::Module(of) if of != at => by_name(modules, of, head, rest, depth + 1),
        _ => None,
    })
}
