//! What every answer goes through on its way out: the body is compressed when the
//! client asks, and left out when it asks for the head.
//!
//! The framework's own compression is not used: it would compress what is too short to
//! be worth it, take the length off what it compresses, and hold back events.

use std::io::{self, Read};

use actix_web::Error;
use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::Method;
use actix_web::http::header::{AcceptEncoding, CONTENT_ENCODING, ContentEncoding, Encoding, Header, HeaderValue, VARY};
use actix_web::middleware::Next;
use flate2::Compression;
use flate2::bufread::{GzEncoder, ZlibEncoder};

/// Bodies shorter than this travel as they are: compressing them costs more time than
/// the wire would.
const COMPRESS_FROM: u64 = 1 << 10;

/// Middleware around every handler. A HEAD is answered as its GET, without the
/// body (RFC 9110, section 9.3.2). Whole bodies are compressed when the client
/// accepts it and keep a Content-Length; streams (events) pass as they are.
///
/// # Errors
/// Those of the services below it.
pub(crate) async fn respond(
    mut request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let is_head = request.method() == Method::HEAD;
    if is_head {
        // Handlers know GET only. The connection remembers what was asked, and
        // leaves the body out.
        request.head_mut().method = Method::GET;
    }
    let response = next.call(request).await?.map_into_boxed_body();
    match response.response().body().size() {
        // It would be read to its end to be left out.
        BodySize::Stream if is_head => Ok(response.map_body(|_, _| BoxBody::new(actix_web::body::None::new()))),
        BodySize::Sized(COMPRESS_FROM..) if !response.headers().contains_key(CONTENT_ENCODING) => {
            Ok(compress(response))
        }
        _ => Ok(response),
    }
}

fn compress(response: ServiceResponse<BoxBody>) -> ServiceResponse<BoxBody> {
    let codings = [Encoding::gzip(), Encoding::deflate(), Encoding::identity()];
    let accepted = AcceptEncoding::parse(response.request()).ok();
    let coding = match accepted.and_then(|accepted| accepted.negotiate(codings.iter())) {
        Some(Encoding::Known(coding @ (ContentEncoding::Gzip | ContentEncoding::Deflate))) => coding,
        _ => return response,
    };
    let mut is_compressed = false;
    let mut response = response.map_body(|_, body| {
        let bytes = match body.try_into_bytes() {
            Ok(bytes) => bytes,
            Err(body) => return body,
        };
        let shorter = if coding == ContentEncoding::Gzip { gzipped(&bytes) } else { deflated(&bytes) };
        is_compressed = shorter.is_ok();
        shorter.map_or_else(|_| BoxBody::new(bytes), BoxBody::new)
    });
    if is_compressed {
        let headers = response.headers_mut();
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static(coding.as_str()));
        headers.append(VARY, HeaderValue::from_static("Accept-Encoding"));
    }
    response
}

pub(crate) fn gzipped(bytes: &[u8]) -> io::Result<Vec<u8>> {
    all(GzEncoder::new(bytes, Compression::fast()), bytes.len())
}

pub(crate) fn deflated(bytes: &[u8]) -> io::Result<Vec<u8>> {
    all(ZlibEncoder::new(bytes, Compression::fast()), bytes.len())
}

fn all(mut encoder: impl Read, length: usize) -> io::Result<Vec<u8>> {
    let mut out = Vec::with_capacity(length / 2);
    encoder.read_to_end(&mut out)?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::http::header::ACCEPT_ENCODING;
    use actix_web::test::TestRequest;
    use actix_web::{App, HttpResponse, middleware, web};

    #[actix_web::test]
    async fn responses_are_compressed_when_asked_and_worth_it() {
        let app = actix_web::test::init_service(
            App::new()
                .wrap(middleware::from_fn(respond))
                .route("/long", web::get().to(|| async { HttpResponse::Ok().body(vec![b'x'; 5000]) }))
                .route("/short", web::get().to(|| async { HttpResponse::Ok().body("short") })),
        )
        .await;
        for (path, accept, want) in [
            ("/long", "gzip, deflate", Some("gzip")),
            ("/long", "deflate, gzip;q=0.5", Some("deflate")),
            ("/long", "gzip;q=0", None),
            ("/long", "br", None),
            ("/short", "gzip", None),
        ] {
            let request = TestRequest::get().uri(path).insert_header((ACCEPT_ENCODING, accept)).to_request();
            let response = actix_web::test::call_service(&app, request).await;
            let coding =
                response.headers().get(CONTENT_ENCODING).map(|value| value.to_str().expect("ascii").to_owned());
            assert_eq!(coding.as_deref(), want, "{path} {accept}");
            assert!(matches!(response.response().body().size(), BodySize::Sized(_)), "{path} keeps its length");
        }
    }
}
