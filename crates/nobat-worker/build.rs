//! Compiles the messages that find external data in ONNX files.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto/onnx_files.proto");
    let files = protox::compile(["proto/onnx_files.proto"], ["proto"])?;
    prost_build::Config::new().compile_fds(files)?;
    Ok(())
}
