//! The binary tensor extension: a body is a JSON document and then the bytes of
//! the tensors that the document says are binary, in its order.
//!
//! Owns the split, not the document. Tensors are slices of the body: nothing is
//! copied.

use actix_web::http::header::{HeaderMap, HeaderName};
use bytes::Bytes;
use nobat_core::{Error, ErrorCode, Result};

/// Header, on requests and responses, with the length of the JSON document.
pub(crate) const HEADER_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");

/// A request's body, taken apart.
#[derive(Debug, PartialEq)]
pub(crate) enum Parts {
    /// A document, and the tensor bytes after it.
    Document(Bytes, Blobs),
    /// No document (header value 0): the bytes of the model's only input.
    Raw(Bytes),
}

/// The tensor bytes that are not taken yet.
#[derive(Debug, PartialEq)]
pub(crate) struct Blobs {
    rest: Bytes,
    taken: usize,
}

/// Splits a decompressed body by its header.
///
/// # Errors
/// `invalid_parameter` when the header is no number, or over the body's length.
pub(crate) fn split(headers: &HeaderMap, mut body: Bytes) -> Result<Parts> {
    let Some(value) = headers.get(HEADER_LENGTH) else {
        return Ok(Parts::Document(body, Blobs { rest: Bytes::new(), taken: 0 }));
    };
    let length: u64 = value.to_str().ok().and_then(|text| text.trim().parse().ok()).ok_or_else(|| {
        Error::new(
            ErrorCode::InvalidParameter,
            format!("Inference-Header-Content-Length {value:?} is not a number of bytes"),
        )
    })?;
    if length == 0 {
        return Ok(Parts::Raw(body));
    }
    let at = usize::try_from(length).ok().filter(|&at| at <= body.len()).ok_or_else(|| {
        Error::new(
            ErrorCode::InvalidParameter,
            format!(
                "Inference-Header-Content-Length is {length}; the body has {} bytes (after decompression)",
                body.len()
            ),
        )
    })?;
    let document = body.split_to(at);
    Ok(Parts::Document(document, Blobs { rest: body, taken: 0 }))
}

impl Blobs {
    /// Takes the next tensor's bytes.
    ///
    /// # Errors
    /// `invalid_tensor` when fewer are left.
    pub(crate) fn take(&mut self, input: &str, size: u64) -> Result<Bytes> {
        let left = self.rest.len();
        let at = usize::try_from(size).ok().filter(|&at| at <= left).ok_or_else(|| {
            Error::new(
                ErrorCode::InvalidTensor,
                format!("input `{input}` has binary_data_size {size}; {left} bytes of the body are left for it"),
            )
        })?;
        self.taken += at;
        Ok(self.rest.split_to(at))
    }

    /// Ends the taking.
    ///
    /// # Errors
    /// `invalid_tensor` when bytes are left over.
    pub(crate) fn finish(self) -> Result<()> {
        if self.rest.is_empty() {
            return Ok(());
        }
        Err(Error::new(
            ErrorCode::InvalidTensor,
            format!("the inputs take {} bytes of binary data; the body has {} more", self.taken, self.rest.len()),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::http::header::HeaderValue;

    fn headers(value: &str) -> HeaderMap {
        let mut map = HeaderMap::new();
        map.insert(HEADER_LENGTH, HeaderValue::from_str(value).expect("a header value"));
        map
    }

    #[test]
    fn a_body_splits_into_document_and_tensors_without_copying() {
        let body = Bytes::from_static(b"{\"a\":1}AAAABB");
        let Parts::Document(document, mut blobs) = split(&headers("7"), body.clone()).expect("splits") else {
            panic!("a document");
        };
        assert_eq!(document, "{\"a\":1}");
        let first = blobs.take("x", 4).expect("4 of 6");
        assert_eq!(first, "AAAA");
        assert_eq!(first.as_ptr(), body[7..].as_ptr());
        assert_eq!(
            blobs.take("y", 3).expect_err("3 of 2").message,
            "input `y` has binary_data_size 3; 2 bytes of the body are left for it"
        );
        assert_eq!(blobs.take("y", 2).expect("2 of 2"), "BB");
        assert!(blobs.finish().is_ok());
    }

    #[test]
    fn left_over_bytes_are_refused() {
        let Parts::Document(_, blobs) = split(&headers("2"), Bytes::from_static(b"{}x")).expect("splits") else {
            panic!("a document");
        };
        assert_eq!(
            blobs.finish().expect_err("one left").message,
            "the inputs take 0 bytes of binary data; the body has 1 more"
        );
    }

    #[test]
    fn a_header_that_is_no_length_of_the_body_is_refused() {
        for value in ["-1", "x", "3", "18446744073709551616", "9223372036854775807", "1.0", ""] {
            let error = split(&headers(value), Bytes::from_static(b"{}")).expect_err(value);
            assert_eq!(error.code, ErrorCode::InvalidParameter);
        }
    }

    #[test]
    fn no_header_is_all_document_and_header_0_all_tensor() {
        let body = Bytes::from_static(b"{}");
        assert!(matches!(split(&HeaderMap::new(), body.clone()), Ok(Parts::Document(document, _)) if document == body));
        assert_eq!(split(&headers("0"), body.clone()).expect("raw"), Parts::Raw(body));
    }
}
