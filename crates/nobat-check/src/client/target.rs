//! Where a model is served: settings, and connections that are made when they are needed.

use std::sync::Arc;
use std::time::Duration;

use nobat_core::{Error, Result};
use reqwest::Url;
use reqwest::header::HeaderValue;
use tonic::transport::{Channel, Endpoint};

use super::protocol::CallProtocol;
use super::template::JsonTemplate;

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
    pub(super) settings: TargetSettings,
    pub(super) protocol: CallProtocol,
    /// The key as the header that shows it.
    pub(super) bearer: Option<HeaderValue>,
    pub(super) http: reqwest::Client,
    pub(super) url: Url,
    pub(super) grpc: Option<Channel>,
}

impl Target {
    /// Connections are made when they are needed: nothing is sent yet.
    ///
    /// # Errors
    /// `invalid_parameter` for an address that is none, or where the protocol needs one
    /// (or a template) that is not there.
    pub fn new(settings: TargetSettings, protocol: CallProtocol) -> Result<Target> {
        nobat_runtime::tls::use_ring();
        let bearer = settings.api_key.as_deref().map(bearer).transpose()?;
        let url: Url = settings.url.parse().map_err(|e| {
            Error::invalid(format!("`{}` is no address ({e}); give one such as http://127.0.0.1:8000", settings.url))
        })?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return Err(Error::invalid(format!(
                "`{url}` is no address of HTTP; give one such as http://127.0.0.1:8000"
            )));
        }
        let http = reqwest::Client::builder()
            .timeout(settings.patience)
            .tcp_nodelay(true)
            // Many servers close a connection that is idle for five seconds; a request that meets the
            // closing would look like a server that went away.
            .pool_idle_timeout(Duration::from_secs(2))
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|e| Error::internal(format!("no HTTP client can be made: {e}")))?;
        let grpc = match (&settings.grpc, protocol) {
            (Some(address), CallProtocol::Grpc) => Some(channel(address, settings.patience)?),
            (None, CallProtocol::Grpc) => {
                return Err(Error::invalid("gRPC needs the address of the server's gRPC port; give --grpc"));
            }
            _ => None,
        };
        if protocol == CallProtocol::Json && settings.template.is_none() {
            return Err(Error::invalid("protocol `json` needs --request-template and --answer"));
        }
        Ok(Target { settings, protocol, bearer, http, url, grpc })
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

    /// The same, sharing its connections, with another key.
    ///
    /// # Errors
    /// `invalid_parameter` for a key that no header can carry.
    pub fn with_key(&self, api_key: &str) -> Result<Target> {
        let settings = TargetSettings { api_key: Some(api_key.into()), ..self.settings.clone() };
        Ok(Target { settings, bearer: Some(bearer(api_key)?), ..self.clone() })
    }

    /// The same, sharing its connections, which waits less long for a job's result.
    #[must_use]
    pub fn with_patience(&self, patience: Duration) -> Target {
        let settings = TargetSettings { patience, ..self.settings.clone() };
        Target { settings, ..self.clone() }
    }

    /// An address under the server's.
    pub(super) fn at(&self, segments: &[&str]) -> Url {
        let mut url = self.url.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        url
    }
}

/// A key as the header that shows it. It is not repeated where it is none.
fn bearer(api_key: &str) -> Result<HeaderValue> {
    HeaderValue::from_str(&format!("Bearer {api_key}"))
        .map_err(|_| Error::invalid("the API key has a character that no header can carry; give it as it was made"))
}

/// A connection to a gRPC port, made when it is needed.
fn channel(address: &str, patience: Duration) -> Result<Channel> {
    let with_scheme = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
    if with_scheme.starts_with("https://") {
        return Err(Error::invalid(format!(
            "`{address}`: gRPC is asked without TLS alone; give the address of a plain port"
        )));
    }
    let endpoint = Endpoint::from_shared(with_scheme);
    let endpoint = endpoint
        .map_err(|e| Error::invalid(format!("`{address}` is no address ({e}); give one such as 127.0.0.1:8001")))?;
    Ok(endpoint.connect_timeout(patience.min(Duration::from_secs(10))).tcp_nodelay(true).connect_lazy())
}
