//! How the binary is linked.

include!("../../build/pack_relocations.rs");

fn main() {
    println!("cargo::rerun-if-changed=../../build");
    pack_relocations();
}
