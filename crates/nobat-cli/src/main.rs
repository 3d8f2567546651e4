//! The `nobat` command.

fn main() {}
