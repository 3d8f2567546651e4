//! TLS connections for the gRPC server, by the certificates that HTTP has.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::TcpIncoming;

/// Handshakes in the air on one thread; more connections wait.
const HANDSHAKES: usize = 1024;
/// A client that takes longer is not shaking hands.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// After a connection that could not be accepted: descriptors come back when
/// others end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What gRPC clients negotiate.
pub(super) fn config(mut of_http: ServerConfig) -> Arc<ServerConfig> {
    of_http.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(of_http)
}

/// The connections of `listener` that completed a handshake. One that did not
/// is dropped and delays no other.
pub(super) fn incoming(
    listener: TcpListener,
    config: Arc<ServerConfig>,
) -> impl Stream<Item = io::Result<TlsStream<TcpStream>>> {
    let acceptor = TlsAcceptor::from(config);
    TcpIncoming::from(listener)
        .with_nodelay(Some(true))
        .map(move |socket| shake(acceptor.clone(), socket))
        .buffer_unordered(HANDSHAKES)
        .filter_map(async |shaken| match shaken {
            Ok(stream) => Some(Ok(stream)),
            Err(error) => {
                log::debug!("grpc: a connection was dropped: {error}");
                None
            }
        })
}

async fn shake(acceptor: TlsAcceptor, socket: io::Result<TcpStream>) -> io::Result<TlsStream<TcpStream>> {
    let socket = match socket {
        Ok(socket) => socket,
        Err(error) => {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            return Err(error);
        }
    };
    tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(socket)).await?
}
