//! A file's upload: a multipart form, streamed to the folder as it comes in.

use std::io;
use std::time::Duration;

use actix_web::HttpRequest;
use actix_web::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use actix_web::web::Payload;
use bytes::Bytes;
use futures::StreamExt;
use multer::Multipart;
use nobat_batches::Files;
use nobat_batches::files::FileRecord;
use nobat_core::{Error, ErrorCode, OwnerId, Result, clip};
use tokio::sync::mpsc;

/// What a form's parts take besides the file.
const FORM_BYTES: u64 = 64 << 10;
/// Longest value of a form's other parts.
const FIELD_BYTES: usize = 1 << 10;
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
    let (send, mut pieces) = mpsc::channel::<io::Result<Bytes>>(AHEAD);
    let stream = futures::stream::poll_fn(move |cx| pieces.poll_recv(cx));
    let form = read(Multipart::new(stream, boundary), files, owner);
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

async fn read(mut form: Multipart<'_>, files: &Files, owner: OwnerId) -> Result<FileRecord> {
    let broken = |error: multer::Error| Error::invalid(format!("the form cannot be read: {error}"));
    let (mut purpose, mut upload, mut filename) = (None, None, String::new());
    while let Some(mut field) = form.next_field().await.map_err(broken)? {
        match field.name().unwrap_or_default() {
            "purpose" => {
                let mut value = Vec::new();
                while let Some(piece) = field.chunk().await.map_err(broken)? {
                    value.extend_from_slice(&piece);
                    if value.len() > FIELD_BYTES {
                        return Err(Error::invalid("purpose is too long; it takes batch"));
                    }
                }
                let value = String::from_utf8_lossy(&value).into_owned();
                if value != "batch" {
                    return Err(Error::invalid(format!("purpose is `{}`; it takes batch", clip(&value))));
                }
                purpose = Some(value);
            }
            "file" if upload.is_none() => {
                filename = clip(field.file_name().unwrap_or("file")).to_owned();
                let mut own = files.upload(owner, &filename, "batch").await?;
                while let Some(piece) = field.chunk().await.map_err(broken)? {
                    own.write(piece).await?;
                }
                upload = Some(own);
            }
            "file" => return Err(Error::invalid("the part `file` is given twice; send one file")),
            // `expires_after[…]`: how long files are kept is the operator's.
            other if other.starts_with("expires_after") => {}
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
