//! Generates the protobuf messages and the gRPC service that the other crates keep
//! in their sources, so that who builds them compiles no protobuf compiler.
//!
//! `cargo run -p nobat-codegen` writes them; a test compares what stands with what
//! would be written.

use std::path::{Path, PathBuf};

use prost::Message;

/// Messages of nobat-core that the gRPC service takes and gives as they are, so
/// that a received request is decoded once.
const CORE_MESSAGES: [&str; 4] = ["InferParameter", "InferTensorContents", "ModelInferRequest", "ModelInferResponse"];

/// Messages that the HTTP protocol writes as JSON, with those inside them.
const JSON_MESSAGES: [&str; 8] = [
    "ServerMetadataResponse",
    "ModelMetadataResponse",
    "StatisticDuration",
    "InferStatistics",
    "InferBatchStatistics",
    "ModelStatistics",
    "ModelStatisticsResponse",
    "RepositoryIndexResponse",
];

type Failure = Box<dyn std::error::Error>;

/// A generated file: where it stands in the repository, and what is in it.
type Generated = (PathBuf, Vec<u8>);

fn main() -> Result<(), Failure> {
    for (path, content) in generate()? {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(&path, content)?;
        println!("wrote {}", path.display());
    }
    Ok(())
}

/// Every generated file of the repository.
fn generate() -> Result<Vec<Generated>, Failure> {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize()?;
    let (core, worker, gateway) =
        (crates.join("nobat-core"), crates.join("nobat-worker"), crates.join("nobat-gateway"));

    let messages = protox::compile(["oip.proto"], [core.join("proto")])?;
    let mut generated = written(&core.join("src/generated"), |out| {
        Ok(prost_build::Config::new().bytes(["."]).out_dir(out).compile_fds(messages)?)
    })?;

    let files = protox::compile(["onnx_files.proto", "onnx_classes.proto"], [worker.join("proto")])?;
    generated.extend(written(&worker.join("src/generated"), |out| {
        Ok(prost_build::Config::new().out_dir(out).compile_fds(files)?)
    })?);

    let service = protox::compile(["grpc_service.proto"], [gateway.join("proto"), core.join("proto")])?;
    let folder = gateway.join("src/generated");
    generated.push((folder.join("inference.fds"), service.encode_to_vec()));
    generated.extend(written(&folder, |out| {
        let mut config = tonic_prost_build::configure().bytes(".").codec_path("crate::grpc::MessageCodec").out_dir(out);
        for name in CORE_MESSAGES {
            config = config.extern_path(format!(".inference.{name}"), format!("::nobat_core::oip::{name}"));
        }
        for name in JSON_MESSAGES {
            config = config.type_attribute(format!(".inference.{name}"), "#[derive(serde::Serialize)]");
        }
        Ok(config.compile_fds(service)?)
    })?);
    Ok(generated)
}

/// What `generate` writes into a folder, as it is to stand in `target`.
fn written(target: &Path, generate: impl FnOnce(&Path) -> Result<(), Failure>) -> Result<Vec<Generated>, Failure> {
    let out = tempfile::tempdir()?;
    generate(out.path())?;
    let mut files = Vec::new();
    for entry in std::fs::read_dir(out.path())? {
        let entry = entry?;
        files.push((target.join(entry.file_name()), std::fs::read(entry.path())?));
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_stands_is_what_would_be_generated() {
        for (path, content) in super::generate().expect("the protocol files compile") {
            let stands = std::fs::read(&path).unwrap_or_default();
            assert!(stands == content, "{} is out of date; run cargo run -p nobat-codegen", path.display());
        }
    }
}
