//! Compiles the messages that find external data and class names in ONNX files.

include!("../../build/pack_relocations.rs");

fn main() -> Result<(), Box<dyn std::error::Error>> {
    pack_relocations();
    println!("cargo::rerun-if-changed=../../build");
    println!("cargo::rerun-if-changed=proto");
    let files = protox::compile(["proto/onnx_files.proto", "proto/onnx_classes.proto"], ["proto"])?;
    prost_build::Config::new().compile_fds(files)?;
    Ok(())
}
