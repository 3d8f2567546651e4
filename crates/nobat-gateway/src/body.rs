//! Request bodies read whole, bounded and decompressed.
//!
//! Owns the only place where the gateway reads a body. The framework's own
//! extractors are not used: they decompress into unbounded buffers, insist on
//! content types that inference clients do not send, and wait for ever.
//!
//! Invariants:
//! - No body takes more than `max_bytes` of memory, measured after
//!   decompression, whatever its headers claim; a body that declares more is
//!   refused before a byte of it is read.
//! - An uncompressed body that arrived in one piece is not copied.
//! - A sender that stalls is cut off; a long decompression yields to its neighbours.

use std::io::{self, Write};
use std::time::Duration;

use actix_web::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, ContentEncoding, HeaderMap};
use actix_web::{HttpRequest, web};
use bytes::{Bytes, BytesMut};
use flate2::write::{MultiGzDecoder, ZlibDecoder};
use futures::{FutureExt, StreamExt};
use nobat_core::{Error, ErrorCode, Result};
use nobat_serving::Predictor;
use nobat_serving::limits::COUNTED_FROM;
use serde::de::DeserializeOwned;

use crate::config::BodyLimits;
use crate::context;
use crate::state::HttpState;

/// Compressed bytes that are decoded between two yields to the runtime; at
/// deflate's best ratio (about 1000:1) they become 4 MiB.
const DECODE_STEP: usize = 4 << 10;

/// Reads a request's body: whole, decompressed, within the configured limits, counted
/// among the bodies in flight until the request ends.
///
/// # Errors
/// `payload_too_large` (declared, actual or decompressed), `request_timeout`,
/// `unsupported_encoding`, `invalid_parameter` for a body that breaks off or does not
/// decompress; `queue_full` and `quota_exceeded` when bodies take too much memory.
///
/// # Cancel safety
/// Not cancel safe: what was read is gone with the future.
pub async fn read(request: &HttpRequest, payload: web::Payload, predictor: &Predictor) -> Result<Bytes> {
    let state = predictor.state();
    let count = |bytes: usize| {
        if bytes as u64 <= COUNTED_FROM {
            return Ok(());
        }
        let context = context::of(request);
        state.admission.held_bytes(&context).reach(bytes as u64, &context.notes.quota)
    };
    read_counted(request.headers(), payload, &limits(request), &count).await
}

/// How this request's body is read.
pub fn limits(request: &HttpRequest) -> BodyLimits {
    request.app_data::<web::Data<HttpState>>().map(|http| http.config.body_limits()).unwrap_or_default()
}

/// As [`read`], of a body that is to be JSON.
///
/// # Errors
/// As [`read`] and [`require_json`].
pub async fn read_json(request: &HttpRequest, payload: web::Payload, predictor: &Predictor) -> Result<Bytes> {
    let body = read(request, payload, predictor).await?;
    require_json(request.headers(), &body)?;
    Ok(body)
}

/// Refuses a body that is neither JSON nor said to be. What begins as JSON does is
/// read whatever its type: many clients send none, or a form's.
///
/// # Errors
/// `unsupported_media_type`, naming the type and the remedy.
pub fn require_json(headers: &HeaderMap, body: &[u8]) -> Result<()> {
    // A byte order mark is told by the parser.
    if matches!(body.trim_ascii_start().first(), None | Some(b'{' | b'[' | 0xef)) {
        return Ok(());
    }
    let given = headers.get(CONTENT_TYPE).map(|value| value.to_str().unwrap_or("?"));
    let essence = given.unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if essence.ends_with("/json") || essence.ends_with("+json") {
        return Ok(());
    }
    let given = match given {
        None => "it came without a Content-Type".to_owned(),
        Some(given) => format!("its Content-Type is `{}`", given.chars().take(60).collect::<String>()),
    };
    // What takes such a body does not ask here.
    let remedy = if is_file_or_table(&essence) {
        "this path takes `application/json` alone: send a JSON object, or this body to `/api/v1/predict/MODEL`"
    } else {
        "send a JSON object with `Content-Type: application/json`, or a file or a table with its own type, such as `image/jpeg` or `text/csv`"
    };
    Err(Error::new(ErrorCode::UnsupportedMediaType, format!("the body is not JSON, and {given}; {remedy}")))
}

fn is_file_or_table(essence: &str) -> bool {
    ["image/", "audio/", "video/", "multipart/"].iter().any(|kind| essence.starts_with(kind))
        || ["text/csv", "application/csv", "application/x-image"].contains(&essence)
        || ["application/vnd.apache.arrow.", "application/vnd.apache.parquet"]
            .iter()
            .any(|kind| essence.starts_with(kind))
}

/// Reads one JSON object. By itself serde takes a list of a struct's members in their order
/// for it, too, which no document says.
///
/// # Errors
/// Says what is wrong and where.
pub fn object<T: DeserializeOwned>(body: &[u8]) -> serde_json::Result<T> {
    match body.trim_ascii_start().first() {
        Some(b'[') => Err(serde::de::Error::custom("it is a list; give an object")),
        _ => serde_json::from_slice(body),
    }
}

/// Counts what a body takes so far.
type Count<'a> = &'a dyn Fn(usize) -> Result<()>;

async fn read_counted(
    headers: &HeaderMap,
    mut payload: web::Payload,
    limits: &BodyLimits,
    count: Count<'_>,
) -> Result<Bytes> {
    let declared = declared_length(headers)?;
    let coding = coding_of(headers)?;
    if declared.is_some_and(|length| length > limits.max_bytes as u64) {
        return Err(too_large(limits.max_bytes));
    }
    if let Some(length) = declared.filter(|_| coding == ContentEncoding::Identity) {
        count(length as usize)?;
    }
    // Most bodies are plain and here already: no clock is read for them.
    let mut first = None;
    if coding == ContentEncoding::Identity
        && let Some(Some(piece)) = payload.next().now_or_never()
    {
        let piece = piece.map_err(|error| broken_off(&error))?;
        if declared == Some(piece.len() as u64) {
            return Ok(piece);
        }
        first = Some(piece);
    }
    let whole = async {
        let decoded = Bounded { bytes: Vec::new(), limit: limits.max_bytes };
        match coding {
            ContentEncoding::Gzip => {
                Box::pin(read_encoded(&mut payload, MultiGzDecoder::new(decoded), limits, count)).await
            }
            ContentEncoding::Deflate => {
                Box::pin(read_encoded(&mut payload, ZlibDecoder::new(decoded), limits, count)).await
            }
            _ => read_plain(&mut payload, first, declared, limits, count).await,
        }
    };
    match tokio::time::timeout(limits.total, whole).await {
        Ok(body) => body,
        Err(_) => Err(too_slow(limits.total)),
    }
}

/// Reads what follows `first`, if that came already.
async fn read_plain(
    payload: &mut web::Payload,
    first: Option<Bytes>,
    declared: Option<u64>,
    limits: &BodyLimits,
    count: Count<'_>,
) -> Result<Bytes> {
    let first = match first {
        Some(first) => first,
        None => match next(payload, limits).await? {
            Some(first) => first,
            None => return Ok(Bytes::new()),
        },
    };
    if first.len() > limits.max_bytes {
        return Err(too_large(limits.max_bytes));
    }
    if declared == Some(first.len() as u64) {
        return Ok(first);
    }
    let Some(second) = next(payload, limits).await? else {
        return Ok(first);
    };
    // Reserved, not touched: pages of a declared length are paid for as its
    // bytes arrive.
    let capacity = declared.map_or(2 * (first.len() + second.len()), |length| length as usize);
    let mut body = BytesMut::with_capacity(capacity.min(limits.max_bytes));
    body.extend_from_slice(&first);
    let mut piece = second;
    loop {
        if body.len() + piece.len() > limits.max_bytes {
            return Err(too_large(limits.max_bytes));
        }
        count(body.len() + piece.len())?;
        body.extend_from_slice(&piece);
        match next(payload, limits).await? {
            Some(more) => piece = more,
            None => return Ok(body.freeze()),
        }
    }
}

async fn read_encoded<D: Decoder>(
    payload: &mut web::Payload,
    mut decoder: D,
    limits: &BodyLimits,
    count: Count<'_>,
) -> Result<Bytes> {
    let undecodable = |error: &io::Error| match error.kind() {
        io::ErrorKind::StorageFull => too_large(limits.max_bytes),
        _ => Error::new(ErrorCode::InvalidParameter, format!("the body does not decompress: {error}")),
    };
    while let Some(piece) = next(payload, limits).await? {
        for step in piece.chunks(DECODE_STEP) {
            decoder.write_all(step).map_err(|error| undecodable(&error))?;
            count(decoder.decoded())?;
            if piece.len() > DECODE_STEP {
                tokio::task::yield_now().await;
            }
        }
    }
    let body = decoder.finish().map_err(|error| undecodable(&error))?;
    Ok(body.bytes.into())
}

async fn next(payload: &mut web::Payload, limits: &BodyLimits) -> Result<Option<Bytes>> {
    match tokio::time::timeout(limits.idle, payload.next()).await {
        Ok(piece) => piece.transpose().map_err(|error| broken_off(&error)),
        Err(_) => Err(too_slow(limits.idle)),
    }
}

fn broken_off(error: &actix_web::error::PayloadError) -> Error {
    Error::new(ErrorCode::InvalidParameter, format!("the body broke off: {error}; send it again"))
}

fn declared_length(headers: &HeaderMap) -> Result<Option<u64>> {
    let Some(value) = headers.get(CONTENT_LENGTH) else {
        return Ok(None);
    };
    let length = value.to_str().ok().and_then(|text| text.trim().parse().ok());
    length.map(Some).ok_or_else(|| {
        Error::new(ErrorCode::InvalidParameter, format!("Content-Length {value:?} is not a number of bytes"))
    })
}

fn too_large(limit: usize) -> Error {
    Error::new(
        ErrorCode::PayloadTooLarge,
        format!(
            "the body is over the limit of {limit} bytes (after decompression); split the request or raise the limit"
        ),
    )
}

fn too_slow(limit: Duration) -> Error {
    Error::new(
        ErrorCode::RequestTimeout,
        format!("the body did not arrive within {} s; send it faster", limit.as_secs_f32()),
    )
}

/// How a request's body is encoded.
fn coding_of(headers: &HeaderMap) -> Result<ContentEncoding> {
    let mut values = headers.get_all(CONTENT_ENCODING);
    let Some(value) = values.next() else { return Ok(ContentEncoding::Identity) };
    match value.to_str().map(|text| text.trim().parse()) {
        Ok(Ok(coding @ (ContentEncoding::Identity | ContentEncoding::Gzip | ContentEncoding::Deflate)))
            if values.next().is_none() =>
        {
            Ok(coding)
        }
        Ok(_) if value.is_empty() => Ok(ContentEncoding::Identity),
        _ => Err(Error::new(
            ErrorCode::UnsupportedEncoding,
            format!("Content-Encoding {value:?} is not supported; send gzip, deflate or identity, and only one"),
        )),
    }
}

/// A streaming decompressor over a [`Bounded`] buffer.
trait Decoder: Write {
    /// Bytes so far.
    fn decoded(&self) -> usize;
    fn finish(self) -> io::Result<Bounded>;
}

impl Decoder for MultiGzDecoder<Bounded> {
    fn decoded(&self) -> usize {
        self.get_ref().bytes.len()
    }

    fn finish(self) -> io::Result<Bounded> {
        MultiGzDecoder::finish(self)
    }
}

impl Decoder for ZlibDecoder<Bounded> {
    fn decoded(&self) -> usize {
        self.get_ref().bytes.len()
    }

    fn finish(self) -> io::Result<Bounded> {
        ZlibDecoder::finish(self)
    }
}

/// A buffer that refuses to grow over its limit.
struct Bounded {
    bytes: Vec<u8>,
    limit: usize,
}

impl Write for Bounded {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + piece.len() > self.limit {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.bytes.extend_from_slice(piece);
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::FromRequest;
    use actix_web::http::header::HeaderValue;
    use actix_web::test::TestRequest;

    use crate::respond::{deflated, gzipped};

    const LIMITS: BodyLimits =
        BodyLimits { max_bytes: 100_000, idle: Duration::from_secs(5), total: Duration::from_secs(5) };

    async fn read_as(coding: Option<&str>, body: Vec<u8>) -> Result<Bytes> {
        let mut request = TestRequest::post().set_payload(body);
        if let Some(coding) = coding {
            request = request.insert_header((CONTENT_ENCODING, coding));
        }
        let (request, mut payload) = request.to_http_parts();
        let payload = web::Payload::from_request(&request, &mut payload).await.expect("a payload");
        read_counted(request.headers(), payload, &LIMITS, &|_| Ok(())).await
    }

    #[test]
    fn a_file_where_json_is_read_is_told_where_it_is_taken() {
        let refused = |kind: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
            require_json(&headers, b"\x89PNG").expect_err(kind).message
        };
        for kind in ["image/png", "Text/CSV; header=absent", "application/vnd.apache.arrow.file", "multipart/form-data"]
        {
            let message = refused(kind);
            assert!(message.contains(kind) && message.contains("to `/api/v1/predict/MODEL`"), "{message}");
        }
        assert!(refused("text/plain").contains("with its own type, such as `image/jpeg`"));
    }

    #[actix_web::test]
    async fn bodies_read_back_in_every_coding() {
        let body: Vec<u8> = (0..50_000u32).map(|i| ((i * i) >> 7) as u8).collect();
        assert_eq!(read_as(None, body.clone()).await.expect("plain"), body);
        assert_eq!(read_as(Some("identity"), body.clone()).await.expect("identity"), body);
        assert_eq!(read_as(Some("gzip"), gzipped(&body).expect("in memory")).await.expect("gzip"), body);
        assert_eq!(read_as(Some("Deflate"), deflated(&body).expect("in memory")).await.expect("deflate"), body);
        assert_eq!(read_as(None, vec![]).await.expect("empty"), "");
    }

    #[actix_web::test]
    async fn a_body_over_the_limit_is_refused_plain_and_as_a_bomb() {
        for (coding, body) in [
            (None, vec![0; LIMITS.max_bytes + 1]),
            (Some("gzip"), gzipped(&vec![0; 64 << 20]).expect("in memory")),
            (Some("deflate"), deflated(&vec![0; LIMITS.max_bytes + 1]).expect("in memory")),
        ] {
            let error = read_as(coding, body).await.expect_err("over the limit");
            assert_eq!(error.code, ErrorCode::PayloadTooLarge, "{coding:?}: {error}");
        }
        assert_eq!(read_as(None, vec![0; LIMITS.max_bytes]).await.expect("at the limit").len(), LIMITS.max_bytes);
    }

    #[actix_web::test]
    async fn broken_and_unknown_codings_are_refused() {
        let mut broken = gzipped(&[7; 5000]).expect("in memory");
        broken.truncate(broken.len() - 9);
        assert_eq!(read_as(Some("gzip"), broken).await.expect_err("truncated").code, ErrorCode::InvalidParameter);
        assert_eq!(
            read_as(Some("gzip"), b"{}".to_vec()).await.expect_err("not gzip").code,
            ErrorCode::InvalidParameter
        );
        for coding in ["br", "gzip, gzip", "zstd"] {
            assert_eq!(read_as(Some(coding), vec![1]).await.expect_err(coding).code, ErrorCode::UnsupportedEncoding);
        }
    }

    #[test]
    fn a_declared_length_that_is_no_number_is_refused() {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("-5"));
        assert!(declared_length(&headers).is_err());
    }
}
