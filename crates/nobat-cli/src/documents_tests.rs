//! What the documents name exists: links, commands, settings, scripts, recipes, files and what they define.

use std::path::{Path, PathBuf};

use clap::CommandFactory;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Every page for people, by its path from the root.
fn pages() -> Vec<(PathBuf, String)> {
    let markdown = |folder: &str| {
        let entries = std::fs::read_dir(root().join(folder)).expect("a folder");
        let paths = entries.map(move |entry| entry.expect("an entry").path());
        paths.filter(|path| path.extension().is_some_and(|end| end == "md")).collect::<Vec<_>>()
    };
    let pages = ["", "docs", "docs/adr", "docs/benchmarks"].iter().flat_map(|folder| markdown(folder));
    let pages: Vec<_> = pages.map(|path| (path.clone(), std::fs::read_to_string(&path).expect("a page"))).collect();
    assert!(pages.len() > 15, "the pages are where they were");
    pages
}

/// What stands between backticks or on indented lines of a page.
fn code(page: &str) -> Vec<&str> {
    let spans =
        page.lines().filter(|line| !line.starts_with("    ")).flat_map(|line| line.split('`').skip(1).step_by(2));
    spans.chain(page.lines().filter(|line| line.starts_with("    ")).map(str::trim)).collect()
}

fn none(missing: Vec<String>, what: &str) {
    assert!(missing.is_empty(), "{what} that are named and are not there:\n{}", missing.join("\n"));
}

#[test]
fn every_link_between_pages_leads_somewhere() {
    let mut missing = Vec::new();
    for (path, page) in pages() {
        for link in page.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = link.split('#').next().unwrap_or_default();
            let away = link.contains("://") || link.contains(' ');
            if !away && !file.is_empty() && !path.parent().expect("a folder").join(file).exists() {
                missing.push(format!("{}: {link}", path.display()));
            }
        }
    }
    none(missing, "pages");
}

#[test]
fn every_command_and_flag_of_nobat_that_is_shown_is_one() {
    let cli = crate::Cli::command();
    let mut missing = Vec::new();
    let mut seen = 0;
    for (path, page) in pages() {
        for line in code(&page) {
            let line = line.split(" #").next().unwrap_or_default();
            let mut words = line.split_whitespace();
            if !words.next().is_some_and(|first| first == "nobat" || first.ends_with("/nobat")) {
                continue;
            }
            let Some(name) = words.next().filter(|word| word.chars().all(|c| c.is_ascii_lowercase())) else { continue };
            seen += 1;
            let Some(command) = cli.find_subcommand(name) else {
                missing.push(format!("{}: {line}", path.display()));
                continue;
            };
            let mut command = command;
            for word in words {
                if let Some(deeper) = command.find_subcommand(word) {
                    command = deeper;
                } else if let Some(flag) = word.strip_prefix("--") {
                    let of = |command: &clap::Command| command.get_arguments().any(|arg| arg.get_long() == Some(flag));
                    let parents = [&cli, cli.find_subcommand(name).expect("found above"), command];
                    if !parents.into_iter().any(of) {
                        missing.push(format!("{}: {line}: --{flag}", path.display()));
                    }
                }
            }
        }
    }
    assert!(seen > 20, "{seen} commands are shown");
    none(missing, "commands");
}

#[test]
fn every_setting_that_is_named_is_one() {
    const SECTIONS: [&str; 6] = ["store", "queue", "gateway", "worker", "scheduler", "log"];
    let shipped = include_str!("../../../config/nobat.toml");
    let table: toml::Table = toml::from_str(shipped).expect("TOML");
    let optional = |key: &str| shipped.contains(&format!("# {key} = "));
    let mut missing = Vec::new();
    let mut seen = 0;
    for (path, page) in pages() {
        // Decisions tell of their time.
        if path.parent().is_some_and(|folder| folder.ends_with("adr")) {
            continue;
        }
        for span in code(&page) {
            let name = span.split([' ', '=']).next().unwrap_or_default();
            let parts: Vec<&str> = name.split('.').collect();
            let plain = |part: &&str| !part.is_empty() && part.chars().all(|c| c.is_ascii_lowercase() || c == '_');
            if parts.len() < 2 || !SECTIONS.contains(&parts[0]) || !parts.iter().all(plain) {
                continue;
            }
            seen += 1;
            let (last, tables) = parts.split_last().expect("two parts");
            let place = tables.iter().try_fold(&table, |table, name| table.get(*name)?.as_table());
            let there = place.is_some_and(|place| place.contains_key(*last)) || optional(last);
            if !there {
                missing.push(format!("{}: {name}", path.display()));
            }
        }
    }
    assert!(seen > 30, "{seen} settings are named");
    none(missing, "settings");
}

#[test]
fn every_script_and_recipe_that_is_named_is_there() {
    let justfile = std::fs::read_to_string(root().join("justfile")).expect("a justfile");
    let recipe = |name: &str| justfile.lines().any(|line| line.split([' ', ':']).next() == Some(name));
    let mut missing = Vec::new();
    for (path, page) in pages() {
        for span in code(&page) {
            let mut words = span.split_whitespace();
            let first = words.next().unwrap_or_default().trim_start_matches("./");
            if first.starts_with("scripts/") && !root().join(first).exists() {
                missing.push(format!("{}: {first}", path.display()));
            }
            let second = words.next().unwrap_or_default();
            let name = second.chars().all(|c| c.is_ascii_lowercase() || c == '-');
            if first == "just" && name && !second.is_empty() && !recipe(second) {
                missing.push(format!("{}: just {second}", path.display()));
            }
        }
    }
    none(missing, "scripts or recipes");
}

/// A place in the code stands as `nobat-queue/src/FILE.rs`, or with what the file defines after a colon.
#[test]
fn every_file_and_function_that_is_named_is_there() {
    let mut missing = Vec::new();
    let mut functions = 0;
    for (path, page) in pages() {
        // Decisions tell of their time.
        if path.parent().is_some_and(|folder| folder.ends_with("adr")) {
            continue;
        }
        for span in code(&page) {
            let (file, names) = span.split_once(": ").unwrap_or((span, ""));
            let source = file.ends_with(".rs") || file.ends_with(".lua");
            if !file.starts_with("nobat-") || !source || file.contains([' ', '…', '*']) {
                continue;
            }
            let Ok(text) = std::fs::read_to_string(root().join("crates").join(file)) else {
                missing.push(format!("{}: {file}", path.display()));
                continue;
            };
            for name in names.split(", ").filter(|name| !name.is_empty()) {
                functions += 1;
                if !defines(&text, name) {
                    missing.push(format!("{}: {file}: {name}", path.display()));
                }
            }
        }
    }
    assert!(functions > 30, "{functions} functions are named");
    none(missing, "files or functions");
}

/// Whether a source defines `name`: a function, type, constant, or `Type::method`.
fn defines(text: &str, name: &str) -> bool {
    const KEYWORDS: [&str; 8] = ["fn", "struct", "enum", "trait", "const", "static", "type", "function"];
    let ends = |rest: &str| !rest.starts_with(|next: char| next.is_alphanumeric() || next == '_');
    let (owner, name) = name.rsplit_once("::").unwrap_or(("", name));
    let defined = KEYWORDS.iter().any(|keyword| text.split(&format!("{keyword} {name}")).skip(1).any(ends));
    defined && text.contains(owner)
}

#[test]
fn a_definition_is_told_from_a_mention() {
    let text = "impl Batch { pub fn fill(&mut self) {} }\nfn filled() {}\nstatic FULL: u8 = 0;";
    for (name, there) in [("fill", true), ("Batch::fill", true), ("FULL", true), ("fil", false), ("Other::fill", false)]
    {
        assert_eq!(defines(text, name), there, "{name}");
    }
    assert!(!defines("// calls fill()", "fill"));
}
