//! Calls over gRPC.

use std::error::Error as _;
use std::time::Instant;

use nobat_core::oip::{ModelInferRequest, ModelInferResponse};
use prost::Message;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use super::http::chain;
use super::reply::{Reply, ReplyStatus};
use super::target::Target;

const INFER: &str = "/inference.GRPCInferenceService/ModelInfer";
const METADATA: &str = "/inference.GRPCInferenceService/ModelMetadata";

/// Sends a message and reads the answer.
pub(super) async fn infer(target: &Target, message: &ModelInferRequest) -> Reply {
    let start = Instant::now();
    let reply = |status| Reply::new(target.protocol, status, start.elapsed());
    let mut request = Request::new(message.clone());
    request.metadata_mut().insert("cache-control", tonic::metadata::MetadataValue::from_static("no-cache"));
    match call::<_, ModelInferResponse>(target, INFER, request).await {
        Ok(response) => {
            let timing = response.metadata().get("server-timing").and_then(|value| value.to_str().ok());
            let server_timing = timing.map(str::to_owned);
            Reply { server_timing, protobuf: Some(Box::new(response.into_inner())), ..reply(ReplyStatus::Grpc(0)) }
        }
        Err(None) => reply(ReplyStatus::TimedOut),
        Err(Some(status)) => {
            let is_transport = status.source().is_some_and(|source| source.is::<tonic::transport::Error>());
            let message = match status.source() {
                Some(source) if is_transport => chain(source),
                _ => status.message().to_owned(),
            };
            let code = status.metadata().get("nobat-error-code").and_then(|code| Some(code.to_str().ok()?.to_owned()));
            let status = match is_transport {
                true => ReplyStatus::Unreachable,
                false => ReplyStatus::Grpc(status.code() as i32),
            };
            Reply { code, message, ..reply(status) }
        }
    }
}

/// What a server says about a model.
pub(super) async fn metadata(target: &Target) -> Result<ModelMetadata, String> {
    let settings = &target.settings;
    let asked =
        ModelMetadataRequest { name: settings.model.clone(), version: settings.version.clone().unwrap_or_default() };
    match call(target, METADATA, Request::new(asked)).await {
        Ok(response) => Ok(response.into_inner()),
        Err(None) => Err("no answer in time".into()),
        Err(Some(status)) => Err(match status.source() {
            Some(source) => chain(source),
            None => format!("{}: {}", ReplyStatus::Grpc(status.code() as i32), status.message()),
        }),
    }
}

/// A unary call; `None` is one that was not answered in time.
async fn call<Q, A>(target: &Target, path: &'static str, mut request: Request<Q>) -> Result<Response<A>, Option<Status>>
where
    Q: Message + Send + Sync + 'static,
    A: Message + Default + Send + Sync + 'static,
{
    let Some(channel) = target.grpc.clone() else {
        return Err(Some(Status::unavailable("no gRPC port is known")));
    };
    if let Some(bearer) = target.bearer.as_ref().and_then(|bearer| bearer.to_str().ok()?.parse().ok()) {
        request.metadata_mut().insert("authorization", bearer);
    }
    let mut grpc = Grpc::new(channel).max_decoding_message_size(usize::MAX).max_encoding_message_size(usize::MAX);
    let asked = async {
        grpc.ready().await.map_err(|e| Status::from_error(Box::new(e)))?;
        grpc.unary(request, PathAndQuery::from_static(path), ProstCodec::<Q, A>::default()).await
    };
    match tokio::time::timeout(target.settings.patience, asked).await {
        Ok(answer) => answer.map_err(Some),
        Err(_) => Err(None),
    }
}

/// The protocol's question about a model.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ModelMetadataRequest {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    version: String,
}

/// Its answer.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ModelMetadata {
    #[prost(string, repeated, tag = "2")]
    pub(super) versions: Vec<String>,
    #[prost(message, repeated, tag = "4")]
    pub(super) inputs: Vec<TensorMetadata>,
    #[prost(message, repeated, tag = "5")]
    pub(super) outputs: Vec<TensorMetadata>,
}

/// One input or output.
#[derive(Clone, PartialEq, Message)]
pub(super) struct TensorMetadata {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) datatype: String,
    #[prost(int64, repeated, tag = "3")]
    pub(super) shape: Vec<i64>,
}
