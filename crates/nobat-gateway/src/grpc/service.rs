//! The calls of `GRPCInferenceService`.
//!
//! Each call ends in a [`Status`] made from the error's code by the table that
//! HTTP uses too. A dropped call drops its future, which cancels its job when
//! that is still queued.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt};
use nobat_core::oip::infer_parameter::ParameterChoice;
use nobat_core::oip::{InferParameter, ModelInferRequest, ModelInferResponse};
use nobat_core::{Error, ErrorCode, Result};
use nobat_serving::Predictor;
use nobat_serving::RequestContext;
use nobat_serving::audit::AuditEntry;
use nobat_serving::auth::Scope;
use nobat_serving::limits::{AdmissionPermit, HeldBytes};
use nobat_serving::registry::Want;
use nobat_serving::timing::{self, server_timing};
use prost::Message;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

use super::admission::AdmittedCall;
use super::convert::{self, Call};
use super::status::{refused, status};
use crate::error::http_status;
use crate::metrics::Protocol;
use crate::proto::grpc_inference_service_server::GrpcInferenceService;
use crate::proto::*;
use crate::state::HttpState;
use crate::v2::{config, metadata, outputs, repository, settings, statistics};

type Answer<T> = std::result::Result<Response<T>, Status>;

/// An answer and its `Server-Timing`.
struct Timed {
    timing: String,
    response: ModelInferResponse,
}

/// Requests of one stream that run at a time; more wait in the connection.
const STREAM_WIDTH: usize = 128;

/// A job ends this much before its caller stops waiting, so that the answer can
/// name it.
const DEADLINE_MARGIN: Duration = Duration::from_millis(3);

/// The service on one thread, with that thread's way into the queue.
#[derive(Clone)]
pub(super) struct Service {
    predictor: Predictor,
    http: Arc<HttpState>,
}

impl Service {
    pub(super) fn new(predictor: Predictor, http: Arc<HttpState>) -> Service {
        Service { predictor, http }
    }

    /// Has the audit log tell of a change, and how it went.
    fn changed(
        &self,
        context: &RequestContext,
        call: &str,
        target: &str,
        outcome: Result<()>,
    ) -> std::result::Result<(), Status> {
        let audit = &self.predictor.state().audit;
        if audit.is_on() {
            let status = http_status_of(&outcome);
            audit.note(AuditEntry::of(context, "api", format!("gRPC {call}"), target, status));
        }
        outcome.map_err(status)
    }

    /// Lets one message of a stream in; the permit is held while it runs.
    fn enter(&self, metadata: &MetadataMap) -> Result<(RequestContext, Option<AdmissionPermit>)> {
        let mut context = RequestContext::from_text(|name| metadata.get(name).and_then(|value| value.to_str().ok()));
        let now = context.started;
        let admission = &self.predictor.state().admission;
        let permit = admission.admit(&mut context, authorization(metadata).into(), Scope::Predict, now)?;
        Ok((context, permit))
    }

    /// One prediction that was let in or not, to its answer, counted.
    async fn serve(
        &self,
        entered: Result<(RequestContext, Option<AdmissionPermit>)>,
        message: ModelInferRequest,
        deadline: Option<Instant>,
    ) -> Result<Timed> {
        let started = Instant::now();
        let outcome = match entered {
            Ok((context, permit)) => {
                let answer = self.admitted(&context, permit, message, deadline);
                let outcome = match deadline {
                    None => answer.await,
                    Some(deadline) => {
                        tokio::time::timeout_at(deadline.into(), answer).await.unwrap_or_else(|_| Err(late()))
                    }
                };
                context.end_span(http_status_of(&outcome));
                outcome
            }
            Err(refusal) => Err(refusal),
        };
        let status = http_status_of(&outcome);
        self.http.requests.record(Protocol::Grpc, status, started.elapsed());
        outcome
    }

    /// As [`Service::infer`], once the caller's rate over all gateways allows it.
    async fn admitted(
        &self,
        context: &RequestContext,
        permit: Option<AdmissionPermit>,
        message: ModelInferRequest,
        deadline: Option<Instant>,
    ) -> Result<Timed> {
        let admission = &self.predictor.state().admission;
        // Held to the end: it counts the call as in flight.
        if let Some(permit) = &permit {
            admission.settle(permit, context).await?;
        }
        // What it is inflated; as it arrived, it was counted on its way.
        admission.held_bytes(context).reach(message.encoded_len() as u64, &context.notes.quota)?;
        self.infer(context, message, deadline).await
    }

    async fn infer(
        &self,
        context: &RequestContext,
        message: ModelInferRequest,
        deadline: Option<Instant>,
    ) -> Result<Timed> {
        let Call { model, version, id, parameters, requested, request } = convert::decode(message)?;
        let mut options = parameters.job_options();
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let patience = [options.deadline, left].into_iter().flatten().min();
        let patience = patience.unwrap_or_else(|| self.predictor.state().settings.sync_timeout);
        let target = self.predictor.resolve_loaded(context, named(&model)?, want(&version), patience).await?;
        options = target.after_wait(options);
        if let Some(deadline) = deadline {
            let left = deadline.saturating_duration_since(Instant::now()).saturating_sub(DEADLINE_MARGIN);
            if left.is_zero() {
                return Err(late());
            }
            options.deadline = Some(options.deadline.map_or(left, |asked| asked.min(left)));
        }
        let prediction = self.predictor.predict(context, &target, request, options).await?;
        let version = prediction.version(&target);
        let timing = server_timing(&prediction);
        let outputs = outputs::select(prediction.response, &requested, &target.signature)?;
        Ok(Timed { timing, response: convert::encode(&target.signature.name, &version, id, outputs) })
    }

    async fn stream_infer(
        self,
        metadata: Arc<MetadataMap>,
        message: ModelInferRequest,
        deadline: Option<Instant>,
    ) -> ModelStreamInferResponse {
        let id = message.id.clone();
        let (error_message, mut response) = match self.serve(self.enter(&metadata), message, deadline).await {
            Ok(Timed { timing, mut response }) => {
                // A stream's metadata is sent once, before its first answer.
                let timing = InferParameter { parameter_choice: Some(ParameterChoice::StringParam(timing)) };
                response.parameters.insert(timing::NAME.into(), timing);
                (String::new(), response)
            }
            Err(error) => (error.message, ModelInferResponse { id, ..ModelInferResponse::default() }),
        };
        // One answer per request: each is its request's last.
        let last = InferParameter { parameter_choice: Some(ParameterChoice::BoolParam(true)) };
        response.parameters.insert("triton_final_response".into(), last);
        ModelStreamInferResponse { error_message, infer_response: Some(response) }
    }
}

#[tonic::async_trait]
impl GrpcInferenceService for Service {
    async fn server_live(&self, _: Request<ServerLiveRequest>) -> Answer<ServerLiveResponse> {
        Ok(Response::new(ServerLiveResponse { live: true }))
    }

    async fn server_ready(&self, _: Request<ServerReadyRequest>) -> Answer<ServerReadyResponse> {
        let ready = self.predictor.state().is_ready();
        Ok(Response::new(ServerReadyResponse { ready }))
    }

    async fn model_ready(&self, request: Request<ModelReadyRequest>) -> Answer<ModelReadyResponse> {
        let context = entered(&request)?;
        let ModelReadyRequest { name, version } = request.into_inner();
        let ready = match self.predictor.resolve(&context, Some(&name), want(&version)) {
            Ok(target) => target.live,
            Err(error) if error.code == ErrorCode::ModelNotReady => false,
            Err(error) => return Err(status(error)),
        };
        Ok(Response::new(ModelReadyResponse { ready }))
    }

    async fn server_metadata(&self, request: Request<ServerMetadataRequest>) -> Answer<ServerMetadataResponse> {
        entered(&request)?;
        Ok(Response::new(metadata::server()))
    }

    async fn model_metadata(&self, request: Request<ModelMetadataRequest>) -> Answer<ModelMetadataResponse> {
        let context = entered(&request)?;
        let ModelMetadataRequest { name, version } = request.into_inner();
        context.require_model(&name).map_err(status)?;
        let (entry, target) = self.predictor.describe(&context, &name, want(&version)).map_err(status)?;
        Ok(Response::new(metadata::model(&entry, &target)))
    }

    async fn model_infer(&self, request: Request<ModelInferRequest>) -> Answer<ModelInferResponse> {
        let (_, extensions, message) = request.into_parts();
        let call = AdmittedCall::of(&extensions).map_err(status)?;
        let deadline = call.deadline;
        let notes = call.context.notes.clone();
        let entered = Ok((call.context.clone(), call.permit()));
        drop((call, extensions));
        let answer = self.serve(entered, message, deadline).await;
        let Timed { timing, response } = answer.map_err(|error| refused(error, notes.quota.get()))?;
        let mut response = Response::new(response);
        if let Ok(timing) = timing.try_into() {
            response.metadata_mut().insert(timing::NAME, timing);
        }
        Ok(response)
    }

    type ModelStreamInferStream =
        Pin<Box<dyn Stream<Item = std::result::Result<ModelStreamInferResponse, Status>> + Send>>;

    async fn model_stream_infer(
        &self,
        request: Request<Streaming<ModelInferRequest>>,
    ) -> Answer<Self::ModelStreamInferStream> {
        let (metadata, extensions, messages) = request.into_parts();
        let call = AdmittedCall::of(&extensions).map_err(status)?;
        let (notes, deadline) = (call.context.notes, call.deadline);
        let (service, metadata) = (self.clone(), Arc::new(metadata));
        let answers = messages
            .map(move |message| {
                let (service, metadata) = (service.clone(), metadata.clone());
                // From here on the message is counted by itself.
                notes.held_bytes().into_iter().for_each(HeldBytes::release);
                async move { Ok(service.stream_infer(metadata, message?, deadline).await) }
            })
            .buffered(STREAM_WIDTH);
        Ok(Response::new(Box::pin(answers)))
    }

    async fn model_config(&self, request: Request<ModelConfigRequest>) -> Answer<ModelConfigResponse> {
        let context = entered(&request)?;
        let ModelConfigRequest { name, version } = request.into_inner();
        let target = self.predictor.resolve(&context, Some(&name), want(&version)).map_err(status)?;
        Ok(Response::new(ModelConfigResponse { config: Some(config::message(&target.signature)) }))
    }

    async fn model_statistics(&self, request: Request<ModelStatisticsRequest>) -> Answer<ModelStatisticsResponse> {
        let context = entered(&request)?;
        let ModelStatisticsRequest { name, version } = request.into_inner();
        statistics::collect(&self.predictor, &context, &name, &version).await.map(Response::new).map_err(status)
    }

    async fn repository_index(&self, request: Request<RepositoryIndexRequest>) -> Answer<RepositoryIndexResponse> {
        let context = entered(&request)?;
        Ok(Response::new(repository::index(self.predictor.state(), &context, request.into_inner().ready)))
    }

    async fn repository_model_load(
        &self,
        request: Request<RepositoryModelLoadRequest>,
    ) -> Answer<RepositoryModelLoadResponse> {
        let context = entered(&request)?;
        let RepositoryModelLoadRequest { model_name, parameters, .. } = request.into_inner();
        let loaded = async {
            context.require_model(&model_name)?;
            repository::check_load_parameters(parameters.keys().map(String::as_str))?;
            repository::load(self.predictor.state(), &model_name).await
        };
        self.changed(&context, "RepositoryModelLoad", &model_name, loaded.await)?;
        Ok(Response::new(RepositoryModelLoadResponse {}))
    }

    async fn repository_model_unload(
        &self,
        request: Request<RepositoryModelUnloadRequest>,
    ) -> Answer<RepositoryModelUnloadResponse> {
        let context = entered(&request)?;
        let model_name = request.into_inner().model_name;
        let unloaded = async {
            context.require_model(&model_name)?;
            repository::unload(self.predictor.state(), &context, &model_name).await
        };
        self.changed(&context, "RepositoryModelUnload", &model_name, unloaded.await)?;
        Ok(Response::new(RepositoryModelUnloadResponse {}))
    }

    async fn system_shared_memory_status(
        &self,
        _: Request<SystemSharedMemoryStatusRequest>,
    ) -> Answer<SystemSharedMemoryStatusResponse> {
        Ok(Response::new(SystemSharedMemoryStatusResponse::default()))
    }

    async fn system_shared_memory_register(
        &self,
        _: Request<SystemSharedMemoryRegisterRequest>,
    ) -> Answer<SystemSharedMemoryRegisterResponse> {
        Err(status(settings::no_shared_memory()))
    }

    async fn system_shared_memory_unregister(
        &self,
        _: Request<SystemSharedMemoryUnregisterRequest>,
    ) -> Answer<SystemSharedMemoryUnregisterResponse> {
        Ok(Response::new(SystemSharedMemoryUnregisterResponse {}))
    }

    async fn cuda_shared_memory_status(
        &self,
        _: Request<CudaSharedMemoryStatusRequest>,
    ) -> Answer<CudaSharedMemoryStatusResponse> {
        Ok(Response::new(CudaSharedMemoryStatusResponse::default()))
    }

    async fn cuda_shared_memory_register(
        &self,
        _: Request<CudaSharedMemoryRegisterRequest>,
    ) -> Answer<CudaSharedMemoryRegisterResponse> {
        Err(status(settings::no_shared_memory()))
    }

    async fn cuda_shared_memory_unregister(
        &self,
        _: Request<CudaSharedMemoryUnregisterRequest>,
    ) -> Answer<CudaSharedMemoryUnregisterResponse> {
        Ok(Response::new(CudaSharedMemoryUnregisterResponse {}))
    }

    async fn trace_setting(&self, request: Request<TraceSettingRequest>) -> Answer<TraceSettingResponse> {
        entered(&request)?;
        if !request.into_inner().settings.is_empty() {
            return Err(status(settings::read_only("trace")));
        }
        let settings = settings::TRACE
            .iter()
            .map(|(name, value)| {
                ((*name).into(), trace_setting_response::SettingValue { value: vec![(*value).into()] })
            })
            .collect();
        Ok(Response::new(TraceSettingResponse { settings }))
    }

    async fn log_settings(&self, request: Request<LogSettingsRequest>) -> Answer<LogSettingsResponse> {
        entered(&request)?;
        use log_settings_response::SettingValue;
        use log_settings_response::setting_value::ParameterChoice;

        if !request.into_inner().settings.is_empty() {
            return Err(status(settings::read_only("log")));
        }
        let levels = settings::log_levels();
        let mut settings: HashMap<String, SettingValue> = HashMap::new();
        for (name, on) in levels {
            settings.insert(name.into(), SettingValue { parameter_choice: Some(ParameterChoice::BoolParam(on)) });
        }
        Ok(Response::new(LogSettingsResponse { settings }))
    }
}

/// Who a call is from, as its admission noted it.
fn entered<T>(request: &Request<T>) -> std::result::Result<RequestContext, Status> {
    AdmittedCall::of(request.extensions()).map(|entered| entered.context).map_err(status)
}

/// The HTTP status that an outcome would have had: one scale for all protocols.
fn http_status_of<T>(outcome: &Result<T>) -> u16 {
    outcome.as_ref().map_or_else(|error| http_status(error.code).as_u16(), |_| 200)
}

fn late() -> Error {
    Error::new(ErrorCode::DeadlineExceeded, "the call's deadline passed before its answer was there")
}

/// The credentials of a call. Ones that are not text are malformed, not absent.
fn authorization(metadata: &MetadataMap) -> Option<&str> {
    metadata.get("authorization").map(|value| value.to_str().unwrap_or_default())
}

fn want(version: &str) -> Want<'_> {
    if version.is_empty() { Want::Default } else { Want::Version(version) }
}

fn named(model: &str) -> Result<Option<&str>> {
    if model.is_empty() {
        return Err(Error::new(ErrorCode::InvalidParameter, "model_name is empty; name the model"));
    }
    Ok(Some(model))
}
