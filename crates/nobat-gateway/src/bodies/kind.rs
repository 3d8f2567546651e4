//! What a body is, by its `Content-Type`.

use actix_web::http::header::{CONTENT_TYPE, HeaderMap};
use nobat_core::signature::ModelSignature;
use nobat_core::{Error, ErrorCode, Result};

use super::file;
use crate::table::TableKind;

/// How a body is read.
#[derive(Debug, PartialEq)]
pub(super) enum Kind {
    /// JSON, or what begins like it.
    Json,
    /// One row: the bytes of an input.
    File,
    /// A form of files, its parts between this boundary.
    Form(String),
    /// Rows of a table.
    Table(TableKind),
}

/// How the body of these headers is read.
///
/// # Errors
/// `unsupported_media_type` for a form without a boundary.
pub(super) fn of(headers: &HeaderMap, signature: &ModelSignature) -> Result<Kind> {
    let Some(given) = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()) else {
        return Ok(Kind::Json);
    };
    let essence = given.split(';').next().unwrap_or_default().trim();
    // What nearly all send is told without another look.
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(Kind::Json);
    }
    let essence = essence.to_ascii_lowercase();
    Ok(match &*essence {
        "multipart/form-data" => {
            let boundary = multer::parse_boundary(given).map_err(|_| {
                let message = "the form's Content-Type has no boundary; let the client set it, as curl's -F does";
                Error::new(ErrorCode::UnsupportedMediaType, message)
            })?;
            Kind::Form(boundary)
        }
        // SageMaker's clients name a picture so.
        "application/x-image" => Kind::File,
        // Some clients send JSON so: it is a file where a model takes files.
        "application/octet-stream" if file::input(signature, "a file").is_ok() => Kind::File,
        _ => match TableKind::of(&given.to_ascii_lowercase()) {
            Some(kind) => Kind::Table(kind),
            None if ["image/", "audio/", "video/"].iter().any(|kind| essence.starts_with(kind)) => Kind::File,
            None => Kind::Json,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::http::header::HeaderValue;
    use nobat_core::tensor::Datatype;

    use crate::test_models::model;

    fn kind(given: &'static str, signature: &ModelSignature) -> Result<Kind> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(given));
        of(&headers, signature)
    }

    #[test]
    fn the_type_says_how_a_body_is_read() {
        let bytes = model(&[("x", Datatype::Bytes, &[-1], false)]);
        let numbers = model(&[("x", Datatype::Fp32, &[-1, 4], false)]);
        for (given, expected) in [
            ("application/json; charset=utf-8", Kind::Json),
            ("application/x-www-form-urlencoded", Kind::Json),
            ("image/jpeg", Kind::File),
            ("Audio/WAV", Kind::File),
            ("application/x-image", Kind::File),
            ("application/octet-stream", Kind::File),
            ("text/csv; header=present", Kind::Table(TableKind::Csv)),
            ("multipart/form-data; boundary=abc", Kind::Form("abc".into())),
        ] {
            assert_eq!(kind(given, &bytes).expect(given), expected, "{given}");
        }
        assert_eq!(kind("application/octet-stream", &numbers).expect("JSON, perhaps"), Kind::Json);
        assert_eq!(of(&HeaderMap::new(), &bytes).expect("none"), Kind::Json);
        assert_eq!(kind("multipart/form-data", &bytes).expect_err("no boundary").code, ErrorCode::UnsupportedMediaType);
    }
}
