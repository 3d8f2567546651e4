//! One HTTP connection, below the HTTP library: what the library gets wrong or
//! leaves open is put right on the bytes.
//!
//! - A head with a line that ends in a bare LF is refused ([`head`]): its LF becomes
//!   a byte that the parser refuses, with 400.
//! - An interim `100 Continue` that its final answer has overtaken is not sent: who
//!   is refused by its head alone does not send its body first (RFC 9110, section
//!   10.1.1). The library writes it before a handler has seen the head.
//! - A caller that shut its sending side is answered. One that is gone looks the
//!   same until something is sent to it (TCP has no other sign), and its job is to be
//!   cancelled: so it is sent an interim `100 Continue`, which every client passes
//!   over (RFC 9110, section 15.2), and a socket that is gone answers with a reset.
//! - Cleartext HTTP/2 is told by its preface.
//!
//! Invariant: what is read and written is otherwise untouched, and not copied.

pub(crate) mod head;

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use actix_http::Protocol;
use head::{Head, Scanner};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

/// What the HTTP library writes when a request expects it, and what asks whether a
/// caller is still there.
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
/// What an HTTP/2 connection begins with; the first bytes decide.
const PREFACE: &[u8; 14] = b"PRI * HTTP/2.0";
/// The first look after a caller shut its sending side; a reset takes one round trip.
const FIRST_LOOK: Duration = Duration::from_millis(10);
const LAST_LOOK: Duration = Duration::from_secs(1);

/// A connection and what is known of its requests.
pub(crate) struct Connection<S> {
    stream: S,
    /// `None` where the bytes are not of HTTP/1.
    scanner: Option<Scanner>,
    /// The newest head, until something has been written after it.
    unanswered: Option<Head>,
    /// The last write was not taken whole: an answer is on its way.
    is_writing: bool,
    /// The caller shut its sending side with a request unanswered.
    half_closed: Option<HalfClosed>,
    /// Whether the caller is gone, where that can be told.
    is_gone: Option<fn(&S) -> bool>,
}

/// When to look whether a caller that shut its sending side is still there.
struct HalfClosed {
    look: Pin<Box<Sleep>>,
    pause: Duration,
    was_asked: bool,
}

/// A connection as the HTTP library takes it.
pub(crate) type Accepted<S> = (Connection<S>, Protocol, Option<SocketAddr>);

/// A cleartext connection, of the protocol that its first bytes say.
///
/// # Errors
/// Those of the socket.
pub(crate) async fn plain(stream: TcpStream) -> io::Result<Accepted<TcpStream>> {
    let mut first = [0; PREFACE.len()];
    let protocol = match stream.peek(&mut first).await? {
        length if length == first.len() && first == *PREFACE => Protocol::Http2,
        _ => Protocol::Http1,
    };
    stream.set_nodelay(true)?;
    let peer = stream.peer_addr().ok();
    let is_gone = |stream: &TcpStream| !matches!(stream.take_error(), Ok(None));
    Ok((Connection::new(stream, protocol, Some(is_gone)), protocol, peer))
}

impl<S> Connection<S> {
    /// Wraps a stream. Without `is_gone`, a caller that shuts its sending side is
    /// taken to have left.
    pub(crate) fn new(stream: S, protocol: Protocol, is_gone: Option<fn(&S) -> bool>) -> Connection<S> {
        Connection {
            stream,
            scanner: (protocol == Protocol::Http1).then(Scanner::default),
            unanswered: None,
            is_writing: false,
            half_closed: None,
            is_gone,
        }
    }

    /// Looks at a piece that was read. Returns whether the library may know of it:
    /// the end of the input waits until the request before it is answered. It would
    /// take the part of a body that it has not handed on yet for broken off.
    fn was_read(&mut self, piece: &mut [u8]) -> bool {
        let Some(scanner) = &mut self.scanner else { return true };
        if piece.is_empty() {
            let waits = self.unanswered.is_some() && scanner.is_between() && self.is_gone.is_some();
            if waits && self.half_closed.is_none() {
                let look = Box::pin(sleep(Duration::ZERO));
                self.half_closed = Some(HalfClosed { look, pause: FIRST_LOOK, was_asked: false });
            }
            return !waits;
        }
        let found = scanner.read(piece);
        if let Some(at) = found.bare_lf {
            piece[at] = 0;
        }
        self.unanswered = found.head.or(self.unanswered);
        true
    }
}

impl<S: AsyncWrite + Unpin> Connection<S> {
    /// Looks after a caller that shut its sending side.
    ///
    /// # Errors
    /// `ConnectionReset` when it is gone: the request is dropped, its job cancelled.
    fn watch(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        let gone = || io::Error::from(io::ErrorKind::ConnectionReset);
        let (Some(half_closed), Some(head), Some(is_gone)) = (&mut self.half_closed, self.unanswered, self.is_gone)
        else {
            return Ok(());
        };
        while half_closed.look.as_mut().poll(context).is_ready() {
            if is_gone(&self.stream) {
                return Err(gone());
            }
            if !std::mem::replace(&mut half_closed.was_asked, true) && head.is_1_1 && !self.is_writing {
                // The socket's buffer is empty: it is taken whole.
                match Pin::new(&mut self.stream).poll_write(context, CONTINUE) {
                    Poll::Ready(Ok(taken)) if taken < CONTINUE.len() => return Err(gone()),
                    Poll::Ready(Err(error)) => return Err(error),
                    Poll::Ready(Ok(_)) | Poll::Pending => {}
                }
            }
            half_closed.look = Box::pin(sleep(half_closed.pause));
            half_closed.pause = (2 * half_closed.pause).min(LAST_LOOK);
        }
        Ok(())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Connection<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let start = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        match self.was_read(&mut buffer.filled_mut()[start..]) {
            true => Poll::Ready(Ok(())),
            // Woken by the look that a flush waits for, or by the answer.
            false => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Connection<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        // Only the first write after its head may be the interim answer.
        let head = self.unanswered.take();
        let expected = head.is_some_and(|head| head.expects_continue);
        let skipped = match bytes.strip_prefix(CONTINUE) {
            Some([]) if expected => {
                self.unanswered = head.map(Head::told_to_continue);
                0
            }
            Some(_) if expected => CONTINUE.len(),
            _ => 0,
        };
        if self.unanswered.is_none() && self.half_closed.take().is_some() {
            // The end of the input may be known now.
            context.waker().wake_by_ref();
        }
        let bytes = &bytes[skipped..];
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.is_writing = !matches!(written, Poll::Ready(Ok(taken)) if taken == bytes.len());
        match written {
            Poll::Ready(Ok(taken)) => Poll::Ready(Ok(skipped + taken)),
            Poll::Pending if skipped > 0 => Poll::Ready(Ok(skipped)),
            other => other,
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.watch(context)?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
