//! The HTTP server: the application on every HTTP thread, over connections that
//! [`crate::connection`] looks after. The framework's own server would take the
//! sockets as they are.

use std::io;
use std::net::TcpListener;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use actix_http::error::DispatchError;
use actix_http::{HttpService, Protocol};
use actix_server::{GracefulShutdownSignal, Server};
use actix_service::{ServiceFactory, ServiceFactoryExt, fn_service, map_config};
use actix_web::dev::AppConfig;
use actix_web::middleware::from_fn;
use actix_web::web;
use bytes::Bytes;
use futures::future::Either;
use nobat_serving::Predictor;
use nobat_serving::state::ServingState;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use crate::connection::{self, Accepted, Connection};
use crate::docs::DocumentText;
use crate::state::HttpState;
use crate::{context, middleware, respond, routes};

/// Time for a head to arrive complete; before it, for the first bytes of a
/// connection, or its TLS handshake.
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);
/// An idle connection is closed after this.
const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// Time to take the rest of a body that nobody reads, so that its sender sees the
/// refusal and not a reset.
const LINGER: Duration = Duration::from_secs(1);

/// Starts serving `listener`: cleartext HTTP/1.1 and HTTP/2, or both over TLS.
///
/// # Errors
/// Those of the listener.
pub(crate) fn serve(
    serving: &Arc<ServingState>,
    http: &Arc<HttpState>,
    listener: TcpListener,
    tls: Option<ServerConfig>,
) -> io::Result<Server> {
    let builder = Server::build()
        .workers(http.config.thread_count())
        .shutdown_timeout(u64::from(http.config.drain_s))
        .disable_signals();
    let (serving, http, stop) = (serving.clone(), http.clone(), builder.graceful_shutdown_signal());
    // Each factory runs on each HTTP thread: a queue client's I/O belongs to its thread.
    let builder =
        match tls {
            None => builder.listen("http", listener, move || {
                let begun = stop.clone();
                fn_service(move |stream: TcpStream| begin(connection::plain(stream), begun.clone()))
                    .and_then(application(serving.clone(), http.clone(), stop.clone(), true))
            })?,
            Some(mut config) => {
                config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
                let acceptor = TlsAcceptor::from(Arc::new(config));
                builder.listen("https", listener, move || {
                    let (begun, acceptor) = (stop.clone(), acceptor.clone());
                    fn_service(move |stream: TcpStream| begin(encrypted(acceptor.clone(), stream), begun.clone()))
                        .and_then(application(serving.clone(), http.clone(), stop.clone(), false))
                })?
            }
        };
    Ok(builder.run())
}

/// The application on one thread, over connections that tell a caller that shut
/// its sending side from one that left (`knows_leavers`), or do not.
fn application<S: AsyncRead + AsyncWrite + Unpin + 'static>(
    serving: Arc<ServingState>,
    http: Arc<HttpState>,
    stop: GracefulShutdownSignal,
    knows_leavers: bool,
) -> impl ServiceFactory<Accepted<S>, Config = (), Response = (), Error = DispatchError, InitError = ()> {
    static DOCUMENT: OnceLock<Bytes> = OnceLock::new();
    let (app, document) = routes::application();
    let text = DOCUMENT.get_or_init(|| document.to_json().unwrap_or_default().into());
    let app = app
        .app_data(web::Data::new(DocumentText(text.clone())))
        .app_data(web::Data::new(Predictor::new(serving)))
        .app_data(web::Data::from(http))
        .wrap(from_fn(respond::respond))
        .wrap_fn(middleware::guard)
        .wrap_fn(context::attach);
    let app = actix_service::IntoServiceFactory::into_factory(app).map_err(|error| error.error_response());
    HttpService::build()
        .graceful_shutdown_signal(move || {
            let stop = stop.clone();
            async move { stop.notified().await }
        })
        .keep_alive(KEEP_ALIVE)
        .client_request_timeout(HEAD_TIMEOUT)
        .client_disconnect_timeout(LINGER)
        .h1_allow_half_closed(knows_leavers)
        .finish(map_config(app, |()| AppConfig::default()))
}

/// Waits for what a connection begins with; a drain and patience end it.
async fn begin<S>(
    opened: impl Future<Output = io::Result<Accepted<S>>>,
    stop: GracefulShutdownSignal,
) -> Result<Accepted<S>, DispatchError> {
    let opened = std::pin::pin!(tokio::time::timeout(HEAD_TIMEOUT, opened));
    let stopped = std::pin::pin!(stop.notified());
    match futures::future::select(opened, stopped).await {
        Either::Left((Ok(accepted), _)) => accepted.map_err(DispatchError::Io),
        Either::Left((Err(_), _)) => Err(DispatchError::SlowRequestTimeout),
        Either::Right(_) => Err(DispatchError::Io(io::ErrorKind::ConnectionAborted.into())),
    }
}

async fn encrypted(
    acceptor: TlsAcceptor,
    stream: TcpStream,
) -> io::Result<Accepted<tokio_rustls::server::TlsStream<TcpStream>>> {
    stream.set_nodelay(true)?;
    let peer = stream.peer_addr().ok();
    let stream = acceptor.accept(stream).await?;
    let protocol = match stream.get_ref().1.alpn_protocol() {
        Some(b"h2") => Protocol::Http2,
        _ => Protocol::Http1,
    };
    Ok((Connection::new(stream, protocol, None), protocol, peer))
}
