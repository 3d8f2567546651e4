//! One line of a batch's file. Pure.

use serde::Deserialize;
use serde_json::value::RawValue;

/// Longest custom id.
const MAX_CUSTOM_ID: usize = 512;
/// Longest line, in bytes.
pub(crate) const MAX_LINE: usize = 16 << 20;

/// A line that can be asked.
#[derive(Debug)]
pub struct Line<'a> {
    /// The owner's name of it.
    pub custom_id: String,
    /// The request's body, as it was written.
    pub body: &'a str,
}

/// A line that cannot: its custom id, where it has one, what to match on and why.
#[derive(Debug, PartialEq, Eq)]
pub struct BadLine {
    /// The owner's name of it.
    pub custom_id: Option<String>,
    /// What to match on.
    pub code: &'static str,
    /// The value at fault and the remedy.
    pub message: String,
}

#[derive(Deserialize)]
struct Written<'a> {
    custom_id: Option<String>,
    method: Option<String>,
    url: Option<String>,
    #[serde(borrow)]
    body: Option<&'a RawValue>,
}

/// Reads a line that is to ask `endpoint`.
///
/// # Errors
/// What is wrong with it.
pub fn read<'a>(text: &'a [u8], endpoint: &str) -> Result<Line<'a>, BadLine> {
    let bad = |custom_id: Option<String>, code, message: String| BadLine { custom_id, code, message };
    if text.len() > MAX_LINE {
        return Err(bad(
            None,
            "line_too_long",
            format!("the line has over {MAX_LINE} bytes, the most there may be; split it"),
        ));
    }
    let text = std::str::from_utf8(text).map_err(|error| {
        bad(None, "invalid_json_line", format!("the line is not UTF-8 from byte {} on", error.valid_up_to()))
    })?;
    let Written { custom_id, method, url, body } = serde_json::from_str(text).map_err(|error| {
        let message = error.to_string();
        let why = message.split(" at line ").next().unwrap_or_default();
        bad(
            None,
            "invalid_json_line",
            format!("the line cannot be read as a JSON request: {why} at column {}", error.column()),
        )
    })?;
    let Some(id) = custom_id.filter(|id| !id.is_empty() && id.len() <= MAX_CUSTOM_ID) else {
        let message = format!("the line has no custom_id of 1 to {MAX_CUSTOM_ID} bytes; give each line one of its own");
        return Err(bad(None, "missing_custom_id", message));
    };
    if method.as_deref() != Some("POST") {
        let message = format!("method is `{}`; it takes POST", nobat_core::clip(&method.unwrap_or_default()));
        return Err(bad(Some(id), "invalid_method", message));
    }
    if url.as_deref() != Some(endpoint) {
        let message = format!(
            "url is `{}`, and the batch's endpoint is `{endpoint}`",
            nobat_core::clip(&url.unwrap_or_default())
        );
        return Err(bad(Some(id), "mismatched_url", message));
    }
    match body.map(RawValue::get) {
        Some(body) if body.starts_with('{') => Ok(Line { custom_id: id, body }),
        _ => Err(bad(Some(id), "missing_body", "body is not an object; give the request's body".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ENDPOINT: &str = "/v1/embeddings";

    #[test]
    fn a_line_reads_back_and_bad_ones_are_told_apart() {
        let good = br#"{"custom_id":"a","method":"POST","url":"/v1/embeddings","body": {"input":"hi"} }"#;
        let line = read(good, ENDPOINT).expect("a line");
        assert_eq!((line.custom_id.as_str(), line.body), ("a", r#"{"input":"hi"}"#));
        for (text, code, id) in [
            (&b"{\"custom_id\":"[..], "invalid_json_line", None),
            (b"[]", "invalid_json_line", None),
            (b"{\"custom_id\":5}", "invalid_json_line", None),
            (b"\xff", "invalid_json_line", None),
            (b"{}", "missing_custom_id", None),
            (br#"{"custom_id":""}"#, "missing_custom_id", None),
            (br#"{"custom_id":"a"}"#, "invalid_method", Some("a")),
            (br#"{"custom_id":"a","method":"GET"}"#, "invalid_method", Some("a")),
            (br#"{"custom_id":"a","method":"POST","url":"/v1/chat"}"#, "mismatched_url", Some("a")),
            (br#"{"custom_id":"a","method":"POST","url":"/v1/embeddings"}"#, "missing_body", Some("a")),
            (br#"{"custom_id":"a","method":"POST","url":"/v1/embeddings","body":7}"#, "missing_body", Some("a")),
        ] {
            let bad = read(text, ENDPOINT).expect_err(code);
            assert_eq!((bad.code, bad.custom_id.as_deref()), (code, id), "{}", bad.message);
        }
    }

    proptest! {
        #[test]
        fn rubbish_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes, ENDPOINT);
        }
    }
}
