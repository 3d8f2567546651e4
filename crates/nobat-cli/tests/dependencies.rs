//! Holds the dependency graph to `deny.toml`: who may depend on whom, under
//! which licences, from which sources. The architecture's "must not know" rules
//! are these bans, so they fail a test run, not a review.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

#[derive(Deserialize)]
struct Deny {
    graph: Graph,
    bans: Bans,
    licenses: Licenses,
}

#[derive(Deserialize)]
struct Graph {
    targets: Vec<Target>,
}

#[derive(Deserialize)]
struct Target {
    triple: String,
}

#[derive(Deserialize)]
struct Bans {
    deny: Vec<Ban>,
}

#[derive(Deserialize)]
struct Ban {
    name: String,
    #[serde(default)]
    wrappers: BTreeSet<String>,
}

#[derive(Deserialize)]
struct Licenses {
    allow: BTreeSet<String>,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    license: Option<String>,
    source: Option<String>,
    manifest_path: PathBuf,
    dependencies: Vec<Declared>,
    metadata: serde_json::Value,
}

/// A dependency as a manifest declares it.
#[derive(Deserialize)]
struct Declared {
    name: String,
    /// `dev`, `build`, or none: for the crate itself.
    kind: Option<String>,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dep>,
}

#[derive(Deserialize)]
struct Dep {
    pkg: String,
    dep_kinds: Vec<DepKind>,
}

#[derive(Deserialize)]
struct DepKind {
    /// Absent for what is linked; `dev` for what tests alone use.
    kind: Option<String>,
}

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

fn deny() -> Deny {
    let text = std::fs::read_to_string(root().join("deny.toml")).expect("deny.toml is in the root");
    toml::from_str(&text).expect("deny.toml reads")
}

fn metadata(deny: &Deny) -> Metadata {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(root()).args(["metadata", "--format-version", "1", "--all-features", "--locked"]);
    for target in &deny.graph.targets {
        cargo.args(["--filter-platform", &target.triple]);
    }
    let output = cargo.output().expect("cargo runs");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON")
}

#[test]
fn only_the_named_crates_depend_on_a_guarded_one() {
    let deny = deny();
    let metadata = metadata(&deny);
    let names: BTreeMap<&str, &str> = metadata.packages.iter().map(|p| (p.id.as_str(), p.name.as_str())).collect();
    let mut broken = Vec::new();
    for node in &metadata.resolve.nodes {
        let from = names[node.id.as_str()];
        let shipped = |dep: &&Dep| dep.dep_kinds.iter().any(|of| of.kind.as_deref() != Some("dev"));
        for to in node.deps.iter().filter(shipped).map(|dep| names[dep.pkg.as_str()]) {
            if deny.bans.deny.iter().any(|ban| ban.name == to && !ban.wrappers.contains(from)) {
                broken.push(format!("{from} depends on {to}"));
            }
        }
    }
    assert!(broken.is_empty(), "not allowed by deny.toml [bans]: {broken:?}");
    assert!(names.values().any(|name| *name == "ort"), "the graph was read");
}

#[test]
fn every_licence_is_an_allowed_one() {
    let deny = deny();
    let refused: Vec<String> = metadata(&deny)
        .packages
        .iter()
        .filter(|package| !package.license.as_deref().is_some_and(|text| satisfied(text, &deny.licenses.allow)))
        .map(|package| format!("{} ({:?})", package.name, package.license))
        .collect();
    assert!(refused.is_empty(), "not allowed by deny.toml [licenses]: {refused:?}");
}

#[test]
fn every_dependency_comes_from_the_default_registry_or_this_workspace() {
    let deny = deny();
    let sources: BTreeSet<String> = metadata(&deny).packages.into_iter().filter_map(|package| package.source).collect();
    let strange: Vec<&String> = sources.iter().filter(|source| !source.starts_with("registry+")).collect();
    assert!(strange.is_empty(), "not a registry: {strange:?}");
    assert_eq!(sources.len(), 1, "one registry, the default one: {sources:?}");
}

/// Whether any Rust file under one of these paths has this word.
fn is_named(word: &str, paths: &[PathBuf]) -> bool {
    paths.iter().any(|path| {
        if path.is_dir() {
            let entries = std::fs::read_dir(path).expect("a folder").map(|entry| entry.expect("an entry").path());
            return is_named(word, &entries.collect::<Vec<_>>());
        }
        path.extension().is_some_and(|end| end == "rs")
            && std::fs::read_to_string(path).is_ok_and(|text| {
                text.split(|letter: char| !letter.is_alphanumeric() && letter != '_').any(|found| found == word)
            })
    })
}

#[test]
fn every_declared_dependency_is_used() {
    let mut unused = Vec::new();
    let mut declared = BTreeSet::new();
    for package in metadata(&deny()).packages.iter().filter(|package| package.source.is_none()) {
        // A crate of ours may stand for itself.
        declared.insert(package.name.clone());
        let folder = package.manifest_path.parent().expect("a folder");
        // As cargo-machete reads it: what gives a feature to a crate that another one brings.
        let for_others = package.metadata["cargo-machete"]["ignored"].as_array();
        for Declared { name, kind } in &package.dependencies {
            let places: &[&str] = match kind.as_deref() {
                Some("dev") => &["tests", "examples", "src"],
                Some("build") => &["build.rs"],
                _ => &["src"],
            };
            let places: Vec<PathBuf> = places.iter().map(|place| folder.join(place)).collect();
            let is_for_others = for_others.into_iter().flatten().any(|other| other == name.as_str());
            if !is_for_others && !is_named(&name.replace('-', "_"), &places) {
                unused.push(format!("{}: {name}", package.name));
            }
            declared.insert(name.clone());
        }
    }
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).expect("a manifest");
    let manifest: toml::Table = toml::from_str(&manifest).expect("TOML");
    let shared = manifest["workspace"]["dependencies"].as_table().expect("dependencies").keys();
    unused.extend(shared.filter(|name| !declared.contains(*name)).map(|name| format!("the workspace: {name}")));
    assert!(unused.is_empty(), "declared and not used: {unused:#?}");
}

/// Whether an SPDX expression can be met by the allowed licences. `/` is the
/// old spelling of `OR`; `AND` binds tighter.
fn satisfied(expression: &str, allow: &BTreeSet<String>) -> bool {
    let text = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut words = text.split_whitespace().peekable();
    any_of(&mut words, allow)
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn any_of(words: &mut Words<'_>, allow: &BTreeSet<String>) -> bool {
    let mut met = all_of(words, allow);
    while words.next_if_eq(&"OR").is_some() {
        met |= all_of(words, allow);
    }
    met
}

fn all_of(words: &mut Words<'_>, allow: &BTreeSet<String>) -> bool {
    let mut met = one(words, allow);
    while words.next_if_eq(&"AND").is_some() {
        met &= one(words, allow);
    }
    met
}

fn one(words: &mut Words<'_>, allow: &BTreeSet<String>) -> bool {
    let word = words.next().expect("an expression has a licence here");
    if word == "(" {
        let met = any_of(words, allow);
        words.next();
        return met;
    }
    let mut licence = word.to_owned();
    if words.next_if_eq(&"WITH").is_some() {
        licence = format!("{word} WITH {}", words.next().expect("an exception's name follows"));
    }
    allow.contains(&licence)
}

#[test]
fn licence_expressions_are_read_as_spdx_means_them() {
    let allow: BTreeSet<String> = ["MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception"].map(String::from).into();
    for (expression, expected) in [
        ("MIT", true),
        ("GPL-3.0", false),
        ("GPL-3.0 OR MIT", true),
        ("GPL-3.0 AND MIT", false),
        ("MIT/GPL-3.0", true),
        ("(GPL-3.0 OR MIT) AND Apache-2.0", true),
        ("MIT OR GPL-3.0 AND GPL-2.0", true),
        ("Apache-2.0 WITH LLVM-exception", true),
        ("GPL-3.0 WITH LLVM-exception", false),
    ] {
        assert_eq!(satisfied(expression, &allow), expected, "{expression}");
    }
}
