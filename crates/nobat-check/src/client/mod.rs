//! A served model as its callers see it, over any of the protocols that servers speak.
//!
//! [`Target::prepare`] makes a request's bytes once, [`Target::send`] sends them as often as
//! wanted over kept connections, and [`Reply::outputs`] reads an answer where someone looks at
//! it: a load test pays for neither. What a server does wrong is part of the reply, never an
//! error of the call.
//!
//! `describe` asks a server what a model takes; `discover` finds the protocols it speaks.

mod answer;
mod body;
mod describe;
mod discover;
mod grpc;
mod http;
mod reply;
mod template;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nobat_core::oip::ModelInferRequest;
use nobat_core::tensor::Tensor;
use nobat_core::{Error, ErrorCode, Result};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, Url};

pub use describe::ModelDescription;
pub use discover::{Served, ServerKind, grpc_beside};
pub use reply::{Reply, ReplyStatus, ServerTimings};
pub use template::JsonTemplate;

/// A way to ask a server for a prediction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CallProtocol {
    /// The Open Inference Protocol over HTTP, tensors as bytes.
    V2Binary,
    /// The same, tensors as JSON.
    V2,
    /// The Open Inference Protocol over gRPC.
    Grpc,
    /// TensorFlow Serving's REST.
    TfServing,
    /// nobat's own API, waiting for the answer.
    Native,
    /// A job of nobat's own API: enqueue, then poll for the result.
    Job,
    /// A server's own JSON, by a template.
    Json,
}

impl CallProtocol {
    /// All, those that round nothing first.
    pub const ALL: [CallProtocol; 7] = [
        CallProtocol::V2Binary,
        CallProtocol::V2,
        CallProtocol::Grpc,
        CallProtocol::TfServing,
        CallProtocol::Native,
        CallProtocol::Job,
        CallProtocol::Json,
    ];

    /// As it is written on command lines and in reports.
    pub const fn name(self) -> &'static str {
        match self {
            CallProtocol::V2Binary => "v2-binary",
            CallProtocol::V2 => "v2",
            CallProtocol::Grpc => "grpc",
            CallProtocol::TfServing => "tfserving",
            CallProtocol::Native => "native",
            CallProtocol::Job => "job",
            CallProtocol::Json => "json",
        }
    }

    /// The protocol of this name.
    pub fn parse(name: &str) -> Option<CallProtocol> {
        CallProtocol::ALL.into_iter().find(|protocol| protocol.name() == name)
    }
}

/// Where a model is served, and how it is asked.
#[derive(Clone, Debug)]
pub struct TargetSettings {
    /// Address of the server, such as `http://127.0.0.1:8000`.
    pub url: String,
    /// Address of its gRPC port.
    pub grpc: Option<String>,
    /// Shown to the server where it asks for one.
    pub api_key: Option<String>,
    /// The model.
    pub model: String,
    /// The version; none for the server's default.
    pub version: Option<String>,
    /// How a server with JSON of its own is asked.
    pub template: Option<Arc<JsonTemplate>>,
    /// Longest that an answer may take.
    pub patience: Duration,
}

impl TargetSettings {
    /// The same server, asked for another model or version.
    #[must_use]
    pub fn asking(&self, model: &str, version: Option<&str>) -> TargetSettings {
        TargetSettings { model: model.into(), version: version.map(Into::into), ..self.clone() }
    }
}

/// A connection pool to one model, in one protocol. Clones share it.
#[derive(Clone)]
pub struct Target {
    settings: TargetSettings,
    protocol: CallProtocol,
    http: reqwest::Client,
    url: Url,
    grpc: Option<tonic::transport::Channel>,
}

/// A request, ready to be sent again and again.
#[derive(Clone, Debug)]
pub struct Prepared {
    kind: PreparedKind,
}

#[derive(Clone, Debug)]
enum PreparedKind {
    Http(HttpCall),
    Job(HttpCall),
    Grpc(Box<ModelInferRequest>),
}

/// An HTTP request as it goes out, right or wrong.
#[derive(Clone, Debug)]
pub struct HttpCall {
    /// The method.
    pub method: Method,
    /// The whole address.
    pub url: Url,
    /// Headers beside those that every request of the target has.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl HttpCall {
    /// With one header in place of what it had of that name.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: &str) -> HttpCall {
        match HeaderValue::from_str(value) {
            Ok(value) => drop(self.headers.insert(HeaderName::from_static(name), value)),
            Err(_) => drop(self.headers.remove(name)),
        }
        self
    }

    /// With another body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Bytes>) -> HttpCall {
        self.body = body.into();
        self
    }

    /// With a parameter in its query.
    #[must_use]
    pub fn query(mut self, name: &str, value: &str) -> HttpCall {
        self.url.query_pairs_mut().append_pair(name, value);
        self
    }
}

impl Prepared {
    /// The HTTP request that it is, to be sent otherwise than right; `None` over gRPC.
    pub fn http(&self) -> Option<&HttpCall> {
        match &self.kind {
            PreparedKind::Http(call) | PreparedKind::Job(call) => Some(call),
            PreparedKind::Grpc(_) => None,
        }
    }

    /// The gRPC message that it is; `None` over HTTP.
    pub fn grpc(&self) -> Option<&ModelInferRequest> {
        match &self.kind {
            PreparedKind::Grpc(message) => Some(message),
            PreparedKind::Http(_) | PreparedKind::Job(_) => None,
        }
    }
}

impl From<HttpCall> for Prepared {
    fn from(call: HttpCall) -> Prepared {
        Prepared { kind: PreparedKind::Http(call) }
    }
}

impl From<ModelInferRequest> for Prepared {
    fn from(message: ModelInferRequest) -> Prepared {
        Prepared { kind: PreparedKind::Grpc(Box::new(message)) }
    }
}

impl Target {
    /// Connections are made when they are needed: nothing is sent yet.
    ///
    /// # Errors
    /// `invalid_parameter` for an address that is none, or where the protocol needs one
    /// (or a template) that is not there.
    pub fn new(settings: TargetSettings, protocol: CallProtocol) -> Result<Target> {
        nobat_runtime::tls::use_ring();
        let url: Url = settings.url.parse().map_err(|e| {
            refuse(format!("`{}` is no address ({e}); give one such as http://127.0.0.1:8000", settings.url))
        })?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return Err(refuse(format!("`{url}` is no address of HTTP; give one such as http://127.0.0.1:8000")));
        }
        let http = reqwest::Client::builder()
            .timeout(settings.patience)
            .tcp_nodelay(true)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|e| Error::internal(format!("no HTTP client can be made: {e}")))?;
        let grpc = match (&settings.grpc, protocol) {
            (Some(address), CallProtocol::Grpc) => Some(grpc::channel(address, settings.patience)?),
            (None, CallProtocol::Grpc) => {
                return Err(refuse("gRPC needs the address of the server's gRPC port; give --grpc"));
            }
            _ => None,
        };
        if protocol == CallProtocol::Json && settings.template.is_none() {
            return Err(refuse("protocol `json` needs --request-template and --answer"));
        }
        Ok(Target { settings, protocol, http, url, grpc })
    }

    /// What it speaks.
    pub fn protocol(&self) -> CallProtocol {
        self.protocol
    }

    /// What it was made of.
    pub fn settings(&self) -> &TargetSettings {
        &self.settings
    }

    /// The same, sharing its connections, for another model or version.
    #[must_use]
    pub fn asking(&self, model: &str, version: Option<&str>) -> Target {
        Target { settings: self.settings.asking(model, version), ..self.clone() }
    }

    /// The same, sharing its connections, with another key or none.
    #[must_use]
    pub fn with_key(&self, api_key: Option<&str>) -> Target {
        let settings = TargetSettings { api_key: api_key.map(Into::into), ..self.settings.clone() };
        Target { settings, ..self.clone() }
    }

    /// The same, sharing its connections, which waits less long for a job's result.
    #[must_use]
    pub fn with_patience(&self, patience: Duration) -> Target {
        let settings = TargetSettings { patience, ..self.settings.clone() };
        Target { settings, ..self.clone() }
    }

    /// Makes a request of these inputs.
    ///
    /// # Errors
    /// `invalid_tensor` for what this protocol cannot carry, such as FP16 as JSON.
    pub fn prepare(&self, inputs: &[Tensor]) -> Result<Prepared> {
        Ok(match self.protocol {
            CallProtocol::Grpc => body::message(&self.settings, inputs).into(),
            CallProtocol::Job => Prepared { kind: PreparedKind::Job(body::call(self, inputs)?) },
            _ => body::call(self, inputs)?.into(),
        })
    }

    /// Sends a request and waits for its answer's last byte.
    pub async fn send(&self, prepared: &Prepared) -> Reply {
        match &prepared.kind {
            PreparedKind::Http(call) => http::send(self, call).await,
            PreparedKind::Job(call) => http::run_job(self, call).await,
            PreparedKind::Grpc(message) => grpc::infer(self, message).await,
        }
    }

    /// [`Target::prepare`], [`Target::send`] and [`Reply::outputs`] in one.
    ///
    /// # Errors
    /// In words: what the request lacked, or what the server answered instead.
    pub async fn predict(&self, inputs: &[Tensor], model: &ModelDescription) -> Result<Vec<Tensor>, String> {
        let prepared = self.prepare(inputs).map_err(|e| e.message)?;
        self.send(&prepared).await.outputs(model)
    }

    /// An address under the server's.
    fn at(&self, segments: &[&str]) -> Url {
        let mut url = self.url.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        url
    }
}

fn refuse(why: impl Into<String>) -> Error {
    Error::new(ErrorCode::InvalidParameter, why.into())
}
