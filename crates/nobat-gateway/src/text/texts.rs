//! Texts, or their token ids, read out of JSON straight into an input's bytes.

use nobat_core::infer::InferRequest;
use nobat_core::json::Reader;
use nobat_core::parameters::{Parameter, Parameters};
use nobat_core::tensor::{Datatype, Tensor, put_bytes_element, take_bytes_element};
use nobat_core::{Error, ErrorCode, Result};

/// The input of every task.
pub(crate) const TEXT: &str = "text";
/// The second text of a pair.
pub(crate) const TEXT_PAIR: &str = "text_pair";

/// Texts or lists of token ids, as an input has them.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Texts {
    data: Vec<u8>,
    pub(crate) rows: usize,
    /// Each is a JSON list of token ids.
    pub(crate) is_ids: bool,
    /// It was given alone, not in a list.
    pub(crate) is_alone: bool,
}

impl Texts {
    /// Appends one.
    pub(crate) fn push(&mut self, text: &str) {
        put_bytes_element(&mut self.data, text.as_bytes());
        self.rows += 1;
    }

    /// Appends others.
    pub(crate) fn extend(&mut self, others: &Texts) {
        self.data.extend_from_slice(&others.data);
        self.rows += others.rows;
    }

    /// So many times the same text.
    pub(crate) fn repeated(text: &str, rows: usize) -> Texts {
        let mut texts = Texts::default();
        (0..rows).for_each(|_| texts.push(text));
        texts
    }

    /// Reads a text, a list of texts, a list of token ids or a list of such lists.
    ///
    /// # Errors
    /// `invalid_json` for anything else, and for nothing at all, naming `place`.
    pub(crate) fn read(reader: &mut Reader<'_>, place: &str) -> Result<Texts> {
        let mut texts = Texts::default();
        match reader.peek() {
            Some(b'"') => {
                texts.push(&reader.string(place)?);
                texts.is_alone = true;
            }
            Some(b'[') => {
                let mut ahead = *reader;
                ahead.take(b'[');
                match ahead.peek() {
                    Some(b'"') => reader.list(place, |reader, at| {
                        let text = reader.string(&format!("{place}[{at}]"))?;
                        texts.push(&text);
                        Ok(())
                    })?,
                    Some(b'[') => {
                        texts.is_ids = true;
                        reader.list(place, |reader, at| texts.push_ids(reader, &format!("{place}[{at}]")))?;
                    }
                    Some(b'0'..=b'9' | b'-') => {
                        (texts.is_ids, texts.is_alone) = (true, true);
                        texts.push_ids(reader, place)?;
                    }
                    Some(b']') => return Err(empty(place)),
                    _ => return Err(ahead.unexpected("a text, a token id or a list of token ids", place)),
                }
            }
            _ => return Err(reader.unexpected("a text, or a list of texts", place)),
        }
        Ok(texts)
    }

    fn push_ids(&mut self, reader: &mut Reader<'_>, place: &str) -> Result<()> {
        let ids: Vec<u32> = reader.parse_long(place)?;
        if ids.is_empty() {
            return Err(empty(place));
        }
        let text: Vec<String> = ids.iter().map(u32::to_string).collect();
        self.push(&format!("[{}]", text.join(",")));
        Ok(())
    }

    /// Refuses what is no list of texts.
    ///
    /// # Errors
    /// `invalid_json`, naming `place`.
    pub(crate) fn require_list(&self, place: &str) -> Result<()> {
        match self.is_ids || self.is_alone {
            true => Err(Error::new(ErrorCode::InvalidJson, format!("{place} takes a list of texts"))),
            false => Ok(()),
        }
    }

    /// The texts, for an answer that repeats them.
    pub(crate) fn to_list(&self) -> Vec<String> {
        let mut rest = &self.data[..];
        let elements = std::iter::from_fn(|| take_bytes_element(&mut rest));
        elements.map(|element| String::from_utf8_lossy(element).into_owned()).collect()
    }

    /// The input of this name.
    pub(crate) fn tensor(self, name: &str) -> Tensor {
        Tensor {
            name: name.into(),
            datatype: Datatype::Bytes,
            shape: [self.rows as i64].as_slice().into(),
            data: self.data.into(),
        }
    }

    /// The request of a task that takes one text a row.
    pub(crate) fn request(self, mut parameters: Parameters) -> InferRequest {
        if self.is_ids {
            parameters.set("input", Parameter::Text("ids".into()));
        }
        InferRequest { inputs: vec![self.tensor(TEXT)], parameters, ..InferRequest::default() }
    }
}

/// Nothing where there has to be something.
pub(crate) fn empty(place: &str) -> Error {
    Error::new(ErrorCode::InvalidJson, format!("{place} is empty; give at least one"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Result<(Vec<String>, bool, bool)> {
        let texts = Texts::read(&mut Reader::new(text.as_bytes()), "input")?;
        let (is_ids, is_alone) = (texts.is_ids, texts.is_alone);
        let tensor = texts.tensor(TEXT);
        tensor.check().expect("whole");
        let mut rest = &tensor.data[..];
        let mut found = Vec::new();
        while let Some(element) = take_bytes_element(&mut rest) {
            found.push(String::from_utf8(element.to_vec()).expect("a text"));
        }
        Ok((found, is_ids, is_alone))
    }

    #[test]
    fn texts_and_token_ids_are_told_apart() {
        let of = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        assert_eq!(read("\"a\"").expect("one"), (of(&["a"]), false, true));
        assert_eq!(read("[\"a\", \"\", \"\\u00e9\"]").expect("texts"), (of(&["a", "", "é"]), false, false));
        assert_eq!(read("[1, 2]").expect("ids"), (of(&["[1,2]"]), true, true));
        assert_eq!(read("[[1],[2,3]]").expect("lists of ids"), (of(&["[1]", "[2,3]"]), true, false));
        for bad in [
            "",
            "[]",
            "[[]]",
            "5",
            "{}",
            "null",
            "[null]",
            "[\"a\", 1]",
            "[1, \"a\"]",
            "[-1]",
            "[1.5]",
            "[[1],\"a\"]",
            "[true]",
        ] {
            let error = read(bad).expect_err(bad);
            assert_eq!(error.code, ErrorCode::InvalidJson, "{bad}: {error}");
            assert!(error.message.contains("input"), "{bad}: {error}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(texts in prop::collection::vec("\\PC*", 1..20)) {
            let json = serde_json::to_string(&texts).expect("a list serializes");
            prop_assert_eq!(read(&json).expect("texts"), (texts, false, false));
        }
    }
}
