//! A file's upload: a multipart form, streamed to the folder as it comes in.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::Poll;
use std::time::Duration;

use actix_web::HttpRequest;
use actix_web::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use actix_web::web::Payload;
use bytes::Bytes;
use futures::{Stream, StreamExt};
use multer::{Field, Multipart};
use nobat_batches::Files;
use nobat_batches::files::FileRecord;
use nobat_core::{Error, ErrorCode, OwnerId, Result, clip};
use tokio::sync::mpsc;

/// What a form's parts take besides the file.
const FORM_BYTES: u64 = 64 << 10;
/// Longest value of a form's other parts.
const FIELD_BYTES: usize = 1 << 10;
/// Parts of a form: the two that count, and what clients send along.
const PARTS: usize = 16;
/// Bytes in which a part has to begin.
const HEAD_BYTES: usize = 64 << 10;
/// Pieces between the connection and the disk.
const AHEAD: usize = 8;

/// Takes the form's `file`, and its `purpose` wherever that stands.
///
/// # Errors
/// `payload_too_large`, `unsupported_media_type`, `invalid_parameter`, `request_timeout`.
pub(super) async fn take(
    request: &HttpRequest,
    payload: Payload,
    files: &Files,
    owner: OwnerId,
    idle: Duration,
) -> Result<FileRecord> {
    let text = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
    if let Some(declared) = text(CONTENT_LENGTH).and_then(|length| length.parse::<u64>().ok()) {
        files.check_size(declared.saturating_sub(FORM_BYTES))?;
    }
    let boundary = text(CONTENT_TYPE).and_then(|value| multer::parse_boundary(value).ok()).ok_or_else(|| {
        let message = "a file is sent as multipart/form-data with the parts `purpose` and `file`";
        Error::new(ErrorCode::UnsupportedMediaType, message)
    })?;
    // The connection's end stays on this thread; the parser takes what may move.
    let (send, pieces) = mpsc::channel::<io::Result<Bytes>>(AHEAD);
    let (stream, unread) = bounded(pieces);
    let form = read(Multipart::new(stream, boundary), &unread, files, owner);
    let pump = pump(payload, send, idle);
    let (form, pumped) = futures::join!(form, pump);
    match (form, pumped) {
        // What the parser says of a form that broke off is only that.
        (Err(_), Err(error)) => Err(error),
        (form, _) => form,
    }
}

/// Hands the body over until nobody takes it any more.
async fn pump(mut payload: Payload, send: mpsc::Sender<io::Result<Bytes>>, idle: Duration) -> Result<()> {
    loop {
        let piece = tokio::select! {
            piece = tokio::time::timeout(idle, payload.next()) => piece,
            () = send.closed() => return Ok(()),
        };
        let piece = match piece {
            Err(_) => {
                let message = format!("the body did not go on within {} s; send it faster", idle.as_secs_f32());
                return Err(Error::new(ErrorCode::RequestTimeout, message));
            }
            Ok(None) => return Ok(()),
            Ok(Some(Err(error))) => return Err(Error::invalid(format!("the body broke off: {error}; send it again"))),
            Ok(Some(Ok(piece))) => piece,
        };
        if send.send(Ok(piece)).await.is_err() {
            return Ok(());
        }
    }
}

/// The pieces, and how many bytes were handed over since that was last set to nothing.
///
/// The parser takes whatever is there, keeps it until a part's head is whole, and looks through all
/// of it with each piece: without a bound a head without an end takes all memory, and the thread.
fn bounded(mut pieces: mpsc::Receiver<io::Result<Bytes>>) -> (impl Stream<Item = io::Result<Bytes>>, Arc<AtomicUsize>) {
    let unread = Arc::new(AtomicUsize::new(0));
    let (counted, mut gave_one) = (Arc::clone(&unread), false);
    let stream = futures::stream::poll_fn(move |cx| {
        // One at a time, so that what it can use of one is used before the next.
        if std::mem::take(&mut gave_one) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if counted.load(Relaxed) > HEAD_BYTES {
            let message = format!("a part does not begin within {HEAD_BYTES} bytes");
            return Poll::Ready(Some(Err(io::Error::new(io::ErrorKind::InvalidData, message))));
        }
        let piece = std::task::ready!(pieces.poll_recv(cx));
        if let Some(Ok(piece)) = &piece {
            counted.fetch_add(piece.len(), Relaxed);
            gave_one = true;
        }
        Poll::Ready(piece)
    });
    (stream, unread)
}

fn broken(error: multer::Error) -> Error {
    let why = match error {
        multer::Error::StreamReadFailed(why) => why.to_string(),
        error => error.to_string(),
    };
    Error::invalid(format!("the form cannot be read: {why}"))
}

async fn next_piece(field: &mut Field<'_>, unread: &AtomicUsize) -> Result<Option<Bytes>> {
    let piece = field.chunk().await.map_err(broken)?;
    unread.store(0, Relaxed);
    Ok(piece)
}

/// The value of a part that is no file.
async fn value(mut field: Field<'_>, unread: &AtomicUsize) -> Result<Vec<u8>> {
    let mut value = Vec::new();
    while let Some(piece) = next_piece(&mut field, unread).await? {
        value.extend_from_slice(&piece);
        if value.len() > FIELD_BYTES {
            let name = clip(field.name().unwrap_or_default());
            return Err(Error::invalid(format!("the part `{name}` has over {FIELD_BYTES} bytes; shorten it")));
        }
    }
    Ok(value)
}

async fn read(mut form: Multipart<'_>, unread: &AtomicUsize, files: &Files, owner: OwnerId) -> Result<FileRecord> {
    let (mut purpose, mut upload, mut filename) = (None, None, String::new());
    let mut parts = 0;
    while let Some(mut field) = form.next_field().await.map_err(broken)? {
        unread.store(0, Relaxed);
        parts += 1;
        if parts > PARTS {
            return Err(Error::invalid(format!("the form has over {PARTS} parts; send purpose and file")));
        }
        match field.name().unwrap_or_default() {
            "purpose" => {
                let value = String::from_utf8_lossy(&value(field, unread).await?).into_owned();
                if value != "batch" {
                    return Err(Error::invalid(format!("purpose is `{}`; it takes batch", clip(&value))));
                }
                purpose = Some(value);
            }
            "file" if upload.is_none() => {
                filename = clip(field.file_name().unwrap_or("file")).to_owned();
                let mut own = files.upload(owner, &filename, "batch").await?;
                while let Some(piece) = next_piece(&mut field, unread).await? {
                    own.write(piece).await?;
                }
                upload = Some(own);
            }
            "file" => return Err(Error::invalid("the part `file` is given twice; send one file")),
            // `expires_after[…]`: how long files are kept is the operator's.
            other if other.starts_with("expires_after") => drop(value(field, unread).await?),
            other => {
                return Err(Error::invalid(format!("the part `{}` is not known; send purpose and file", clip(other))));
            }
        }
    }
    let Some(mut upload) = upload else {
        return Err(Error::invalid("the part `file` is missing; send purpose and file"));
    };
    let Some(purpose) = purpose else {
        return Err(Error::invalid("the part `purpose` is missing; it takes batch"));
    };
    upload.name(&filename, &purpose);
    upload.finish().await
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "--B\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n";

    /// How much of `begin` and an endless rest is taken until it is refused.
    async fn taken(begin: &str, rest: &'static [u8]) -> (usize, String) {
        let (send, pieces) = mpsc::channel(AHEAD);
        let (stream, unread) = bounded(pieces);
        let mut form = Multipart::new(stream, "B");
        send.send(Ok(Bytes::from(begin.to_owned()))).await.expect("taken");
        let mut count = 0;
        let feed = async {
            while count < 64 << 20 && send.send(Ok(Bytes::from_static(rest))).await.is_ok() {
                count += rest.len();
            }
        };
        let read = async {
            let refused = form.next_field().await.map(drop).map_err(broken);
            drop(form);
            refused
        };
        let (refused, ()) = futures::join!(read, feed);
        drop(unread);
        (count, refused.expect_err("it has no end").message)
    }

    #[actix_web::test]
    async fn a_part_that_does_not_begin_is_refused_before_it_takes_memory() {
        for (begin, rest) in [
            (HEAD, &[b'a'; 4_096][..]),
            ("", &[b'a'; 4_096][..]),
            ("--B", &[b' '; 4_096][..]),
            (HEAD, &[b'a'; 200][..]),
        ] {
            let (count, why) = taken(begin, rest).await;
            assert!(count < 2 * HEAD_BYTES, "{begin:?}: {count} bytes");
            assert_eq!(why, "the form cannot be read: a part does not begin within 65536 bytes");
        }
    }

    #[actix_web::test]
    async fn a_file_of_any_size_comes_through_in_pieces_of_any_size() {
        let content: String = (0..100_000).map(|at| format!("{{\"line\":{at}}}\r\n--")).collect();
        let whole = Bytes::from(format!("{HEAD}\r\n{content}\r\n--B--\r\n"));
        for size in [7_000, 100_000, whole.len()] {
            let (send, pieces) = mpsc::channel(AHEAD);
            let (stream, unread) = bounded(pieces);
            let mut form = Multipart::new(stream, "B");
            let mut read = Vec::new();
            let take = async {
                let mut field = form.next_field().await.expect("read").expect("a part");
                unread.store(0, Relaxed);
                while let Some(piece) = next_piece(&mut field, &unread).await.expect("read") {
                    read.extend_from_slice(&piece);
                }
                drop(field);
                assert!(form.next_field().await.expect("read").is_none());
            };
            let feed = async {
                for at in (0..whole.len()).step_by(size) {
                    send.send(Ok(whole.slice(at..whole.len().min(at + size)))).await.expect("taken");
                }
                drop(send);
            };
            futures::join!(take, feed);
            assert!(read == content.as_bytes(), "pieces of {size}");
        }
    }
}
