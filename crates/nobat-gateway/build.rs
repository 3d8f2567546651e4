//! Compiles the gRPC service; `protox` needs no protoc. The messages that jobs
//! carry are nobat-core's, so that a received request is decoded once.

use prost::Message;

const SERVICE: &str = "proto/grpc_service.proto";
const CORE: &str = "../nobat-core/proto";

/// Messages that `nobat_core::oip` generates.
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

include!("../../build/pack_relocations.rs");

fn main() -> Result<(), Box<dyn std::error::Error>> {
    pack_relocations();
    println!("cargo::rerun-if-changed=../../build");
    println!("cargo::rerun-if-changed=proto");
    println!("cargo::rerun-if-changed={CORE}");
    let files = protox::compile([SERVICE], ["proto", CORE])?;
    let descriptors = std::path::PathBuf::from(std::env::var("OUT_DIR")?).join("inference.fds");
    std::fs::write(descriptors, files.encode_to_vec())?;
    let mut config = tonic_prost_build::configure().bytes(".").codec_path("crate::grpc::MessageCodec");
    for name in CORE_MESSAGES {
        config = config.extern_path(format!(".inference.{name}"), format!("::nobat_core::oip::{name}"));
    }
    for name in JSON_MESSAGES {
        config = config.type_attribute(format!(".inference.{name}"), "#[derive(serde::Serialize)]");
    }
    config.compile_fds(files)?;
    Ok(())
}
