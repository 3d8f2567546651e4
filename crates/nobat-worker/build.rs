//! Compiles the messages that find external data in ONNX files.

include!("../../build/pack_relocations.rs");

fn main() -> Result<(), Box<dyn std::error::Error>> {
    pack_relocations();
    println!("cargo::rerun-if-changed=../../build");
    println!("cargo::rerun-if-changed=proto/onnx_files.proto");
    let files = protox::compile(["proto/onnx_files.proto"], ["proto"])?;
    prost_build::Config::new().compile_fds(files)?;
    Ok(())
}
