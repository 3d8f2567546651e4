//! The documents of a body, read one by one: what is none costs no more memory than it has bytes.

use std::fmt;

use nobat_core::clip;
use serde::Deserialize;
use serde::de::{Deserializer, Error, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::text::texts::Texts;

/// Reads a list of texts, or of objects with `text`.
///
/// # Errors
/// For anything else, naming the place.
pub(super) fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Texts, D::Error> {
    deserializer.deserialize_seq(Documents)
}

struct Documents;

impl<'de> Visitor<'de> for Documents {
    type Value = Texts;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a list of texts")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Texts, A::Error> {
        let mut texts = Texts::default();
        while let Some(document) = list.next_element::<&RawValue>()? {
            let text = text(document.get()).ok_or_else(|| {
                let (at, shown) = (texts.rows, clip(document.get()));
                A::Error::custom(format!("documents[{at}] is {shown}; it takes a text, or an object with `text`"))
            })?;
            texts.push(&text);
        }
        Ok(texts)
    }
}

#[derive(Deserialize)]
struct Document {
    text: String,
}

fn text(json: &str) -> Option<String> {
    match json.as_bytes().first()? {
        b'"' => serde_json::from_str(json).ok(),
        b'{' => Some(serde_json::from_str::<Document>(json).ok()?.text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_and_objects_with_one_are_documents_and_the_first_that_is_none_is_named() {
        let documents = |json: &str| read(&mut serde_json::Deserializer::from_str(json));
        let texts = documents(r#"["a", {"id": [1], "text": "\u00e9"}, ""]"#).expect("documents");
        assert_eq!(texts.to_list(), ["a", "é", ""]);
        assert_eq!(documents("[]").expect("none").rows, 0);
        for bad in ["null", "7", r#"{"txt":"b"}"#, r#"{"text":5}"#, r#"["a"]"#, r#""\ud800""#] {
            let why = documents(&format!(r#"["a", {bad}, 5]"#)).expect_err(bad).to_string();
            assert!(why.starts_with(&format!("documents[1] is {bad}; it takes a text, or")), "{why}");
        }
        assert!(documents("\"a\"").expect_err("no list").to_string().contains("expected a list of texts"));
    }
}
