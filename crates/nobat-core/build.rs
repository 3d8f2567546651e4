//! Compiles the Open Inference Protocol messages; `protox` needs no protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto/oip.proto");
    let files = protox::compile(["proto/oip.proto"], ["proto"])?;
    prost_build::Config::new().bytes(["."]).compile_fds(files)?;
    Ok(())
}
