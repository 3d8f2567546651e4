//! A strict cursor over JSON text. What is rare (escapes, members that nobody
//! knows) is left to `serde_json`; what is hot is read here, once.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::error::{Error, ErrorCode, Result};

/// How much of an unexpected value a message repeats.
const SHOWN: usize = 24;
/// Longest text, in bytes, of a value that is read as `serde_json` reads it: a list of objects
/// becomes a hundred times its text in memory.
const MAX_PARSED: usize = 256 << 10;

/// A cursor over JSON text. Copying it is looking ahead.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// Starts at the front of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { bytes, at: 0 }
    }

    /// What is left.
    pub fn rest(&self) -> &'a [u8] {
        &self.bytes[self.at..]
    }

    /// Takes `count` bytes that [`Reader::rest`] showed.
    pub(super) fn advance(&mut self, count: usize) {
        self.at += count;
    }

    /// The next byte that is not white space, without taking it.
    #[inline]
    pub fn peek(&mut self) -> Option<u8> {
        loop {
            match *self.bytes.get(self.at)? {
                b' ' | b'\n' | b'\r' | b'\t' => self.at += 1,
                byte => return Some(byte),
            }
        }
    }

    /// Takes `byte` if it comes next.
    #[inline]
    pub fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    /// Takes `byte`.
    ///
    /// # Errors
    /// `invalid_json` saying what stands there, and that `place` needs `byte`.
    pub fn expect(&mut self, byte: u8, place: &str) -> Result<()> {
        if self.take(byte) { Ok(()) } else { Err(self.unexpected(&format!("`{}`", char::from(byte)), place)) }
    }

    /// Takes an object, calling `member` with each of its names before the value.
    ///
    /// # Errors
    /// `invalid_json`, and those of `member`.
    pub fn object(
        &mut self,
        place: &str,
        mut member: impl FnMut(&mut Reader<'a>, Cow<'a, str>) -> Result<()>,
    ) -> Result<()> {
        self.expect(b'{', place)?;
        let mut first = true;
        while !self.take(b'}') {
            if !std::mem::take(&mut first) && !self.take(b',') {
                return Err(self.unexpected("`,` or `}`", place));
            }
            if self.peek() != Some(b'"') {
                return Err(self.unexpected("a member's name in quotes", place));
            }
            let name = self.string(place)?;
            self.expect(b':', place)?;
            member(self, name)?;
        }
        Ok(())
    }

    /// Takes a list, calling `element` before each value with its index.
    ///
    /// # Errors
    /// `invalid_json`, and those of `element`.
    pub fn list(&mut self, place: &str, mut element: impl FnMut(&mut Reader<'a>, usize) -> Result<()>) -> Result<()> {
        self.expect(b'[', place)?;
        if self.take(b']') {
            return Ok(());
        }
        for index in 0.. {
            element(self, index)?;
            if self.take(b']') {
                break;
            }
            if !self.take(b',') {
                return Err(self.unexpected("`,` or `]`", place));
            }
        }
        Ok(())
    }

    /// Takes a string.
    ///
    /// # Errors
    /// `invalid_json` for anything else, bad escapes, control characters and
    /// invalid UTF-8.
    pub fn string(&mut self, place: &str) -> Result<Cow<'a, str>> {
        if self.peek() != Some(b'"') {
            return Err(self.unexpected("a string", place));
        }
        let start = self.at + 1;
        let plain = self.bytes[start..].iter().position(|&byte| matches!(byte, b'"' | b'\\') || byte < 0x20);
        let Some(plain) = plain else { return Err(self.ends_inside(place)) };
        let mut end = start + plain;
        if self.bytes[end] == b'"' {
            self.at = end + 1;
            let text = std::str::from_utf8(&self.bytes[start..end]);
            return text
                .map(Cow::Borrowed)
                .map_err(|error| self.refused("invalid UTF-8", start + error.valid_up_to(), place));
        }
        while *self.bytes.get(end).ok_or_else(|| self.ends_inside(place))? != b'"' {
            end += if self.bytes[end] == b'\\' { 2 } else { 1 };
        }
        let text = serde_json::from_slice(&self.bytes[self.at..=end]);
        let text = text.map_err(|error| self.refused_by_serde(&error, place))?;
        self.at = end + 1;
        Ok(Cow::Owned(text))
    }

    /// Takes `true` or `false`.
    pub fn boolean(&mut self) -> Option<bool> {
        self.peek();
        if self.literal(b"true") {
            Some(true)
        } else if self.literal(b"false") {
            Some(false)
        } else {
            None
        }
    }

    /// Takes `null` if it comes next.
    pub fn null(&mut self) -> bool {
        self.peek();
        self.literal(b"null")
    }

    /// Takes a value of at most 256 KiB as `serde_json` reads it.
    ///
    /// # Errors
    /// `invalid_json`.
    pub fn parse<T: Deserialize<'a>>(&mut self, place: &str) -> Result<T> {
        let mut ahead = *self;
        let length = ahead.raw(place)?.get().len();
        if length > MAX_PARSED {
            return Err(Error::new(
                ErrorCode::InvalidJson,
                format!("{place} is {length} bytes of JSON; at most {MAX_PARSED} are read there"),
            ));
        }
        self.parse_long(place)
    }

    /// Takes a value of any length as `serde_json` reads it: into what takes no more memory
    /// than the value's text, or a few times as much.
    ///
    /// # Errors
    /// `invalid_json`.
    pub fn parse_long<T: Deserialize<'a>>(&mut self, place: &str) -> Result<T> {
        let mut values = serde_json::Deserializer::from_slice(self.rest()).into_iter();
        let value = values.next().ok_or_else(|| self.ends_inside(place))?;
        let value = value.map_err(|error| self.refused_by_serde(&error, place))?;
        self.at += values.byte_offset();
        Ok(value)
    }

    /// Takes any value, checking its syntax.
    ///
    /// # Errors
    /// `invalid_json`.
    pub fn skip_value(&mut self, place: &str) -> Result<()> {
        self.raw(place).map(drop)
    }

    /// Takes any value as it is written, checking its syntax.
    ///
    /// # Errors
    /// `invalid_json`.
    pub fn raw(&mut self, place: &str) -> Result<&'a RawValue> {
        self.parse_long(place)
    }

    /// Takes the end of the text.
    ///
    /// # Errors
    /// `invalid_json` when anything but white space is left.
    pub fn end(&mut self) -> Result<()> {
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(self.unexpected("the end of the body", "the body")),
        }
    }

    /// The error for what stands here where `wanted` should, in `place`.
    pub fn unexpected(&mut self, wanted: &str, place: &str) -> Error {
        if self.peek().is_none() {
            return self.ends_inside(place);
        }
        let shown = self.shown();
        let hint = match self.rest() {
            [b'N', b'a', b'N', ..] | [b'I', b'n', b'f', ..] | [b'-', b'I', b'n', b'f', ..] => {
                "; JSON has no NaN and no Infinity"
            }
            _ => "",
        };
        Error::new(
            ErrorCode::InvalidJson,
            format!("`{shown}` at byte {} of the body, where {place} needs {wanted}{hint}", self.at),
        )
    }

    /// The next value's text, short enough to repeat in a message.
    pub fn shown(&self) -> String {
        let rest = self.rest();
        let delimiter = |byte: &u8| matches!(byte, b',' | b']' | b'}' | b' ' | b'\n' | b'\r' | b'\t');
        let end = rest.iter().skip(1).take(SHOWN).position(delimiter).map_or(rest.len().min(SHOWN), |at| at + 1);
        let mut text = String::with_capacity(end);
        for &byte in &rest[..end] {
            match byte {
                b' '..=b'~' => text.push(char::from(byte)),
                other => text.extend(other.escape_ascii().map(char::from)),
            }
        }
        text
    }

    fn ends_inside(&self, place: &str) -> Error {
        Error::new(ErrorCode::InvalidJson, format!("the body ends inside {place}, after {} bytes", self.bytes.len()))
    }

    fn literal(&mut self, word: &[u8]) -> bool {
        let rest = self.rest();
        let whole = !rest.get(word.len()).is_some_and(|byte| byte.is_ascii_alphanumeric());
        let found = rest.starts_with(word) && whole;
        self.at += if found { word.len() } else { 0 };
        found
    }

    /// What `serde_json` says against the text from here on.
    fn refused_by_serde(&self, error: &serde_json::Error, place: &str) -> Error {
        if error.is_eof() {
            return self.ends_inside(place);
        }
        let lines = self.rest().split_inclusive(|&byte| byte == b'\n').take(error.line().saturating_sub(1));
        let at = self.at + lines.map(<[u8]>::len).sum::<usize>() + error.column().saturating_sub(1);
        let text = error.to_string();
        self.refused(text.split(" at line ").next().unwrap_or_default(), at, place)
    }

    fn refused(&self, why: &str, at: usize, place: &str) -> Error {
        Error::new(ErrorCode::InvalidJson, format!("{why} at byte {at} of the body, in {place}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn is_json(bytes: &[u8]) -> bool {
        let mut reader = Reader::new(bytes);
        reader.skip_value("the body").and_then(|()| reader.end()).is_ok()
    }

    #[test]
    fn deep_nesting_costs_no_stack() {
        let deep = [b"[".repeat(1_000_000), b"]".repeat(1_000_000)].concat();
        assert!(is_json(&deep));
        assert!(!is_json(&deep[..deep.len() - 1]));
    }

    #[test]
    fn what_takes_more_memory_than_its_text_is_read_up_to_a_bound() {
        let list = |bytes: usize| format!("[{}0]", "0,".repeat((bytes - 3) / 2));
        let reader_of = |text: &str| Reader::new(text.as_bytes()).parse::<serde_json::Value>("x").map(drop);
        reader_of(&list(MAX_PARSED - 1)).expect("within the bound");
        let refused = reader_of(&list(MAX_PARSED + 1)).expect_err("too long").message;
        assert_eq!(refused, "x is 262145 bytes of JSON; at most 262144 are read there");
        // What was read before it and comes after it does not count.
        let text = format!("[{}, {{}}, 1]", list(MAX_PARSED));
        let mut reader = Reader::new(text.as_bytes());
        assert!(reader.take(b'[') && reader.skip_value("x").is_ok() && reader.take(b','));
        assert_eq!(reader.parse::<serde_json::Value>("x").expect("an object"), serde_json::json!({}));
        assert!(reader.take(b',') && reader.rest() == b" 1]");
    }

    #[test]
    fn what_is_wrong_is_told_with_its_byte() {
        for (text, expected) in [
            ("{\n \"a\": [1, x]}", "expected value at byte 12 of the body, in x"),
            ("[1,\n NaN]", "expected value at byte 5 of the body, in x"),
            ("{\"a\": \"\\q\"}", "invalid escape at byte 8 of the body, in x"),
            ("[\"a", "the body ends inside x, after 3 bytes"),
            ("", "the body ends inside x, after 0 bytes"),
        ] {
            assert_eq!(Reader::new(text.as_bytes()).skip_value("x").expect_err(text).message, expected);
        }
    }

    #[test]
    fn escapes_are_decoded_and_bad_ones_refused() {
        let read = |text: &str| Reader::new(text.as_bytes()).string("x").map(Cow::into_owned);
        assert_eq!(read(r#""a\n\u00e9\ud83d\ude00\/""#).expect("good"), "a\n\u{e9}\u{1f600}/");
        for bad in [r#""\ud800""#, r#""\udc00""#, r#""\x""#, r#""\u12""#, "\"a\nb\"", "\"abc", r#""\u+123""#] {
            assert_eq!(read(bad).expect_err(bad).code, ErrorCode::InvalidJson);
        }
        assert!(
            Reader::new(b"\"\xff\"").string("x").expect_err("bad UTF-8").message.contains("invalid UTF-8 at byte 1")
        );
    }

    proptest! {
        #[test]
        fn syntax_is_what_serde_json_says(text in "[\\[\\]{},:\"\\\\ a-fnrtule0-9.+-]{0,24}") {
            let theirs = serde_json::from_str::<&serde_json::value::RawValue>(&text).is_ok();
            prop_assert_eq!(is_json(text.as_bytes()), theirs);
        }

        #[test]
        fn rubbish_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            is_json(&bytes);
        }

        #[test]
        fn strings_read_back(text in "\\PC*") {
            let json = serde_json::to_string(&text).expect("a string serializes");
            let read = Reader::new(json.as_bytes()).string("x").expect("valid");
            prop_assert_eq!(read, text);
        }
    }
}
