//! Starting and stopping: listeners, threads, the registry's follower.
//!
//! Each HTTP thread has its own current-thread runtime and its own
//! [`Predictor`]; the follower and other background tasks run on the caller's
//! runtime and end with the handle.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::ServerHandle;
use nobat_batches::{Batches, Files, RunningBatches};
use nobat_core::tensor::Tensor;
use nobat_core::{Error, ErrorCode, Result};
use nobat_runtime::{Metrics, MetricsServer};
use nobat_serving::auth::Authenticator;
use nobat_serving::state::ServingState;
use nobat_serving::store::Queue;
use nobat_serving::{Predictor, Serving};
use nobat_webhooks::ResultView;
use smol_str::SmolStr;
use tokio::task::JoinHandle;

use crate::config::GatewayConfig;
use crate::grpc::GrpcServer;
use crate::native::job_objects::result_url;
use crate::openai::EmbeddingLines;
use crate::rows::{self, Format};
use crate::state::HttpState;
use crate::{exporter, http};

/// The gateway, before it serves: its settings hold and its addresses are its own.
pub struct Gateway {
    config: GatewayConfig,
    http: TcpListener,
    grpc: Option<TcpListener>,
    metrics: Option<TcpListener>,
    tls: Option<rustls::ServerConfig>,
    worker: Option<SmolStr>,
}

/// A running gateway. Dropping it does not stop it; call [`GatewayHandle::stop`].
pub struct GatewayHandle {
    serving: Serving,
    tls: bool,
    http: SocketAddr,
    metrics: Option<MetricsServer>,
    server: ServerHandle,
    http_task: JoinHandle<std::io::Result<()>>,
    grpc: Option<GrpcServer>,
    batches: Option<RunningBatches>,
}

impl Gateway {
    /// Checks the settings, reads keys and certificates and binds the addresses:
    /// whatever may be refused before anything else of a process starts.
    ///
    /// # Errors
    /// `invalid_parameter` naming the setting and the file or the address that cannot
    /// be used.
    pub fn bind(config: GatewayConfig) -> Result<Gateway> {
        config.validate()?;
        let auth = Authenticator::new(&config.auth)?;
        let tls = config.tls.load()?;
        let taken = |setting: &str, address: &str| match address {
            "" => Ok(None),
            address => bind(setting, address).map(Some),
        };
        let http = bind("listen", &config.listen)?;
        let grpc = taken("grpc", &config.grpc)?;
        let metrics = taken("metrics", &config.metrics)?;
        for (setting, listener) in [("listen", Some(&http)), ("grpc", grpc.as_ref())] {
            let Some(listener) = listener else { continue };
            let address = listener.local_addr().map_err(|error| cannot_bind(setting, setting, &error))?;
            auth.check_address(&config.auth, address)?;
        }
        Ok(Gateway { config, http, grpc, metrics, tls, worker: None })
    }

    /// Is ready when this worker's models are loaded or have failed; without, when
    /// those of the workers that are there have.
    #[must_use]
    pub fn expecting(mut self, worker: &str) -> Gateway {
        self.worker = Some(worker.into());
        self
    }

    /// [`Gateway::bind`] and [`Gateway::serve`].
    ///
    /// # Errors
    /// As both.
    pub async fn start(config: GatewayConfig, queue: Arc<dyn Queue>) -> Result<GatewayHandle> {
        Gateway::bind(config)?.serve(queue).await
    }

    /// Starts; returns when requests can be sent. Call it inside a tokio runtime that
    /// outlives the handle.
    ///
    /// # Errors
    /// `invalid_parameter` for settings that contradict each other; `internal` when
    /// the system refuses a thread.
    pub async fn serve(self, queue: Arc<dyn Queue>) -> Result<GatewayHandle> {
        let Gateway { config, http: listener, grpc, metrics, tls, worker } = self;
        let address = listener.local_addr().map_err(|error| cannot_bind("listen", &config.listen, &error))?;
        let view = ResultView { url: result_url, json: row_answer };
        let serving = Serving::start(config.serving(), queue, view, Metrics::new(), worker).await?;
        let shared = serving.state();
        let batches = batches(&config, shared).await?;
        let state = Arc::new(HttpState::new(config, shared.admission.auth.is_on(), &shared.metrics, batches));
        exporter::show(shared);
        let metrics = metrics.map(|listener| {
            let asked = Arc::downgrade(shared);
            let ready = move || asked.upgrade().is_some_and(|shared| shared.is_ready());
            MetricsServer::serve(listener, shared.metrics.clone(), ready)
        });
        let metrics = metrics.transpose()?;
        let server = http::serve(shared, &state, listener, tls.clone())
            .map_err(|error| cannot_bind("listen", &state.config.listen, &error))?;
        let grpc = grpc.map(|listener| GrpcServer::start(shared, &state, listener, tls)).transpose()?;
        let batches = state.batches.clone().map(|batches| {
            let answer = Arc::new(EmbeddingLines::new(Predictor::new(shared.clone())));
            RunningBatches::start(batches, answer)
        });
        let (handle, tls) = (server.handle(), state.config.tls.is_on());
        let http_task = tokio::spawn(server);
        let scheme = if tls { "https" } else { "http" };
        log::info!(address = address.to_string().as_str(); "http: listening on {scheme}://{address}");
        Ok(GatewayHandle { serving, tls, http: address, metrics, server: handle, http_task, grpc, batches })
    }
}

impl GatewayHandle {
    /// Where HTTP is served; with port 0 the port that was free.
    pub fn http_addr(&self) -> SocketAddr {
        self.http
    }

    /// Where HTTP is served, as an address to open.
    pub fn url(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{}", self.http)
    }

    /// Where gRPC is served; `None` when it is turned off.
    pub fn grpc_addr(&self) -> Option<SocketAddr> {
        self.grpc.as_ref().map(GrpcServer::address)
    }

    /// Its series, to which others of the process may be added.
    pub fn metrics(&self) -> &Metrics {
        &self.serving.state().metrics
    }

    /// Where metrics are shown; `None` when they are off.
    pub fn metrics_addr(&self) -> Option<SocketAddr> {
        self.metrics.as_ref().map(MetricsServer::address)
    }

    /// The state all threads share.
    pub fn serving(&self) -> &Arc<ServingState> {
        self.serving.state()
    }

    /// Drains: refuses new predictions, finishes those in flight for up to
    /// `drain_s`, and stops.
    pub async fn stop(self) {
        self.serving.state().start_draining();
        let grpc = async {
            if let Some(grpc) = self.grpc {
                grpc.stop().await;
            }
        };
        let batches = async {
            if let Some(batches) = self.batches {
                batches.stop().await;
            }
        };
        let answered = async {
            tokio::join!(self.server.stop(true), grpc, batches);
        };
        self.serving.stop(answered).await;
        if let Ok(Err(error)) = self.http_task.await {
            log::warn!("http: stopped with an error: {error}");
        }
        log::info!("http: drained and stopped");
    }
}

/// Files and batches in the bucket or the folder that is set, else beside the embedded store.
async fn batches(config: &GatewayConfig, shared: &ServingState) -> Result<Option<Batches>> {
    let (metadata, settings) = (shared.queue.metadata(), config.files.clone());
    let files = if settings.bucket.is_empty() {
        let beside = || shared.queue.folder().map(|folder| folder.join("files"));
        let folder = Some(settings.folder.clone()).filter(|folder| !folder.as_os_str().is_empty()).or_else(beside);
        let Some(folder) = folder else { return Ok(None) };
        Files::in_folder(metadata.clone(), settings, folder)?
    } else {
        nobat_runtime::tls::use_ring();
        Files::in_bucket(metadata.clone(), settings).await?
    };
    let lease = Duration::from_millis(u64::from(shared.queue.settings().lease_ms));
    Ok(Some(Batches::new(metadata, files, lease)))
}

/// Outputs as the native API answers them, a row each.
fn row_answer(outputs: &[Tensor]) -> Vec<u8> {
    let mut json = Vec::new();
    rows::answer(&mut json, outputs, Format::Row, None);
    json
}

fn bind(setting: &str, address: &str) -> Result<TcpListener> {
    TcpListener::bind(address).map_err(|error| cannot_bind(setting, address, &error))
}

fn cannot_bind(setting: &str, address: &str, error: &std::io::Error) -> Error {
    Error::new(
        ErrorCode::InvalidParameter,
        format!("cannot listen on `{address}` (setting `{setting}`): {error}; choose another address or port 0"),
    )
}
