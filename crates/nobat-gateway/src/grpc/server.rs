//! Runs the service on threads of its own: each has a current-thread runtime
//! and its own queue client, and takes connections from the one shared listener.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use nobat_core::{Error, ErrorCode, Result};
use nobat_serving::Predictor;
use nobat_serving::state::ServingState;
use rustls::ServerConfig;
use tokio::sync::watch;
use tonic::codec::CompressionEncoding;
use tonic::server::NamedService;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use super::admission::AdmissionService;
use super::service::Service;
use super::tls;
use crate::proto::DESCRIPTORS;
use crate::proto::grpc_inference_service_server::GrpcInferenceServiceServer;
use crate::state::HttpState;

/// Bytes a client may send ahead on one call: a tensor of this size arrives
/// without waiting for a round trip.
const STREAM_WINDOW: u32 = 1 << 20;
/// Bytes a client may send ahead on all calls of a connection.
const CONNECTION_WINDOW: u32 = 8 << 20;
/// Calls in the air on one connection; more wait at the client.
const CALLS_PER_CONNECTION: u32 = 1024;
/// A silent connection is asked whether it lives.
const KEEP_ALIVE: Duration = Duration::from_secs(60);

/// The running gRPC server. Dropping it stops it without a drain.
pub struct GrpcServer {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    threads: Vec<JoinHandle<()>>,
    drain: Duration,
}

impl GrpcServer {
    /// Serves on `listener` with the gateway's configured number of threads;
    /// encrypted where HTTP is, with `tls`.
    ///
    /// # Errors
    /// `internal` when a thread, its runtime or the listener cannot be set up.
    pub fn start(
        serving: &Arc<ServingState>,
        http: &Arc<HttpState>,
        listener: TcpListener,
        tls: Option<ServerConfig>,
    ) -> Result<GrpcServer> {
        let tls = tls.map(tls::config);
        let failed = |error: std::io::Error| Error::new(ErrorCode::Internal, format!("cannot start gRPC: {error}"));
        listener.set_nonblocking(true).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let (stop, stopped) = watch::channel(false);
        let mut threads = Vec::new();
        for number in 0..http.config.thread_count() {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
            let (serving, http) = (serving.clone(), http.clone());
            let (listener, stopped) = (listener.try_clone().map_err(failed)?, stopped.clone());
            let tls = tls.clone();
            let thread = std::thread::Builder::new().name(format!("grpc-{number}")).spawn(move || {
                if let Err(error) = runtime.block_on(serve(serving, http, listener, tls, stopped)) {
                    log::error!("grpc: a serving thread ended: {error}");
                }
            });
            threads.push(thread.map_err(failed)?);
        }
        log::info!(address = address.to_string().as_str(); "grpc: listening on {address}");
        Ok(GrpcServer { address, stop, threads, drain: Duration::from_secs(u64::from(http.config.drain_s)) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops accepting, finishes the calls in the air for up to the drain time,
    /// and ends the threads.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        let threads = std::mem::take(&mut self.threads);
        let joined = tokio::task::spawn_blocking(move || threads.into_iter().all(|thread| thread.join().is_ok()));
        match tokio::time::timeout(self.drain + Duration::from_secs(1), joined).await {
            Ok(Ok(true)) => log::info!("grpc: drained and stopped"),
            Ok(_) => log::warn!("grpc: a serving thread panicked"),
            Err(_) => log::warn!("grpc: calls were still running after {} s", self.drain.as_secs()),
        }
    }
}

impl Drop for GrpcServer {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

async fn serve(
    serving: Arc<ServingState>,
    http: Arc<HttpState>,
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
    mut stopped: watch::Receiver<bool>,
) -> std::result::Result<(), Box<dyn std::error::Error>> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let limit = http.config.max_body_bytes;
    let drain = Duration::from_secs(u64::from(http.config.drain_s));
    let (health, health_service) = tonic_health::server::health_reporter();
    let telling = tell_health(health.clone(), serving.readiness.changes());
    let inference = GrpcInferenceServiceServer::new(Service::new(Predictor::new(serving.clone()), http.clone()))
        .max_decoding_message_size(limit)
        .max_encoding_message_size(usize::MAX)
        .accept_compressed(CompressionEncoding::Gzip)
        .accept_compressed(CompressionEncoding::Deflate)
        .send_compressed(CompressionEncoding::Gzip)
        .send_compressed(CompressionEncoding::Deflate);
    let inference = AdmissionService::new(inference, serving, http);
    let reflection =
        || tonic_reflection::server::Builder::configure().register_encoded_file_descriptor_set(DESCRIPTORS);
    let mut signal = stopped.clone();
    let shutdown = async move {
        // Fails only when the server's handle is gone, which is a stop too.
        let _ = signal.wait_for(|stop| *stop).await;
        set_health(&health, false).await;
    };
    let router = Server::builder()
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(CALLS_PER_CONNECTION)
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .add_service(inference)
        .add_service(health_service)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?);
    let serving = async move {
        match tls {
            Some(tls) => router.serve_with_incoming_shutdown(tls::incoming(listener, tls), shutdown).await,
            None => {
                let plain = TcpIncoming::from(listener).with_nodelay(Some(true));
                router.serve_with_incoming_shutdown(plain, shutdown).await
            }
        }
    };
    let overdue = async move {
        let _ = stopped.wait_for(|stop| *stop).await;
        tokio::time::sleep(drain).await;
    };
    tokio::select! {
        served = serving => served.map_err(Into::into),
        () = overdue => Ok(()),
        () = telling => Ok(()),
    }
}

/// Has the health service say what `/readyz` says; for ever.
async fn tell_health(health: HealthReporter, mut readiness: watch::Receiver<bool>) {
    loop {
        let ready = *readiness.borrow_and_update();
        set_health(&health, ready).await;
        if readiness.changed().await.is_err() {
            std::future::pending().await
        }
    }
}

async fn set_health(health: &HealthReporter, ready: bool) {
    let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
    // The empty name is the whole server's.
    for service in ["", <GrpcInferenceServiceServer<Service> as NamedService>::NAME] {
        health.set_service_status(service, status).await;
    }
}
