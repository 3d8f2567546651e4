//! Holds every crate to imports that run one way: no circle of files. A file that
//! needs another one that needs it cannot be read, tested or moved alone.
//!
//! What counts is what one file takes from another: `use`, and paths in code, macros
//! included. A re-export leads to the file that defines the name, so a `mod.rs` that
//! only declares and re-exports is in nobody's way. Declaring a module is no import, and
//! tests are left out.

mod circles;
mod read;
mod resolve;

use std::path::Path;

use circles::Circle;

fn circles_of(src: &Path) -> Vec<Circle> {
    let mut found = Vec::new();
    for root in ["lib.rs", "main.rs"].map(|name| src.join(name)).iter().filter(|root| root.is_file()) {
        found.extend(circles::circles(&resolve::imports(&read::tree(root))));
    }
    found
}

#[test]
fn imports_run_one_way_inside_every_crate() {
    let crates = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let mut told = String::new();
    let mut seen = 0;
    for entry in std::fs::read_dir(crates).expect("a folder") {
        let folder = entry.expect("an entry").path();
        let src = folder.join("src");
        if !src.is_dir() {
            continue;
        }
        seen += 1;
        for circle in circles_of(&src) {
            told += &format!("\n{}:\n{circle}", folder.file_name().expect("a name").to_string_lossy());
        }
    }
    assert!(seen > 6, "the crates are where they were");
    assert!(told.is_empty(), "files that import each other in a circle, and what ties them:\n{told}");
}

/// A crate of these files, and the circles in it.
fn circles_in(files: &[(&str, &str)]) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, text) in files {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        std::fs::write(path, text).expect("written");
    }
    circles_of(folder.path()).iter().map(ToString::to_string).collect()
}

#[test]
fn a_circle_is_told_with_the_names_that_tie_it() {
    let told = circles_in(&[
        ("lib.rs", "mod a; mod b; mod c;"),
        ("a.rs", "use crate::b::{self, Second}; pub struct First; fn f() { b::call(); }"),
        ("b.rs", "pub struct Second; pub fn call() { println!(\"{}\", super::c::third()); }"),
        ("c.rs", "pub fn third() -> crate::a::First { crate::a::First }"),
    ]);
    assert_eq!(told, "  a.rs -> b.rs: Second, call\n  b.rs -> c.rs: third\n  c.rs -> a.rs: First\n");
}

#[test]
fn a_re_export_leads_to_the_file_that_defines_and_a_declaration_to_none() {
    let files = [
        ("lib.rs", "mod parts; pub use parts::Part; pub fn of(part: &Part) {}"),
        ("parts/mod.rs", "mod part; mod user; pub use part::*; pub use user::User;"),
        ("parts/part.rs", "pub struct Part;"),
        ("parts/user.rs", "use super::Part; pub struct User(Part, crate::Part);"),
    ];
    assert_eq!(circles_in(&files), "");
    let mut tied = files;
    tied[1].1 = "mod part; mod user; pub use part::*; pub use user::User; pub struct Whole(User);";
    tied[3].1 = "pub struct User(Option<Box<super::Whole>>);";
    assert_eq!(circles_in(&tied), "  parts/mod.rs -> parts/user.rs: User\n  parts/user.rs -> parts/mod.rs: Whole\n");
}

#[test]
fn tests_are_left_out_and_other_crates_are_no_files() {
    let told = circles_in(&[
        ("lib.rs", "mod a; mod b; #[cfg(test)] mod tests;"),
        ("a.rs", "use std::fmt; pub struct A; #[cfg(test)] mod tests { use super::super::b::B; }"),
        ("b.rs", "use crate::a::A; pub struct B; #[cfg(all(test, unix))] fn only_here() { crate::a::gone(); }"),
    ]);
    assert_eq!(told, "");
}
