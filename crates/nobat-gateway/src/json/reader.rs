//! A strict cursor over JSON text.

use std::borrow::Cow;

use nobat_core::{Error, ErrorCode, Result};

use super::Number;

/// Deepest nesting that is read.
pub(super) const MAX_DEPTH: usize = 128;
/// How much of an unexpected value a message repeats.
const SHOWN: usize = 24;

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
        while let Some(&byte) = self.bytes.get(self.at) {
            if !matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
                return Some(byte);
            }
            self.at += 1;
        }
        None
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

    /// Steps into the next member of an object whose `{` has been taken, or out
    /// of the object. `first` starts true.
    ///
    /// # Errors
    /// `invalid_json`.
    pub fn next_key(&mut self, first: &mut bool, place: &str) -> Result<Option<Cow<'a, str>>> {
        if self.take(b'}') {
            return Ok(None);
        }
        if !std::mem::take(first) && !self.take(b',') {
            return Err(self.unexpected("`,` or `}`", place));
        }
        if self.peek() != Some(b'"') {
            return Err(self.unexpected("a member's name in quotes", place));
        }
        let key = self.string(place)?;
        self.expect(b':', place)?;
        Ok(Some(key))
    }

    /// Steps to the next element of a list whose `[` has been taken, or out of
    /// the list. `first` starts true.
    ///
    /// # Errors
    /// `invalid_json`.
    pub fn next_element(&mut self, first: &mut bool, place: &str) -> Result<bool> {
        if std::mem::take(first) {
            return Ok(!self.take(b']'));
        }
        if self.take(b']') {
            return Ok(false);
        }
        if self.take(b',') { Ok(true) } else { Err(self.unexpected("`,` or `]`", place)) }
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
        let head = self.utf8(start, start + plain, place)?;
        self.at = start + plain;
        if self.bytes[self.at] == b'"' {
            self.at += 1;
            return Ok(Cow::Borrowed(head));
        }
        self.escaped(head.to_owned(), place).map(Cow::Owned)
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

    /// Takes any value, checking its syntax.
    ///
    /// # Errors
    /// `invalid_json`.
    pub fn skip_value(&mut self, place: &str) -> Result<()> {
        let mut open = Vec::new();
        loop {
            match self.peek() {
                Some(b'{') => {
                    self.at += 1;
                    self.descend(&mut open, b'{', place)?;
                    let mut first = true;
                    if self.next_key(&mut first, place)?.is_some() {
                        continue;
                    }
                    open.pop();
                }
                Some(b'[') => {
                    self.at += 1;
                    self.descend(&mut open, b'[', place)?;
                    let mut first = true;
                    if self.next_element(&mut first, place)? {
                        continue;
                    }
                    open.pop();
                }
                Some(b'"') => drop(self.string(place)?),
                _ if self.null() || self.boolean().is_some() || Number::take(self).is_some() => {}
                _ => return Err(self.unexpected("a value", place)),
            }
            loop {
                let more = match open.last() {
                    None => return Ok(()),
                    Some(b'{') => self.next_key(&mut false, place)?.is_some(),
                    Some(_) => self.next_element(&mut false, place)?,
                };
                if more {
                    break;
                }
                open.pop();
            }
        }
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

    fn descend(&self, open: &mut Vec<u8>, bracket: u8, place: &str) -> Result<()> {
        if open.len() >= MAX_DEPTH {
            return Err(too_deep(MAX_DEPTH, place));
        }
        open.push(bracket);
        Ok(())
    }

    fn literal(&mut self, word: &[u8]) -> bool {
        let rest = self.rest();
        let whole = !rest.get(word.len()).is_some_and(|byte| byte.is_ascii_alphanumeric());
        let found = rest.starts_with(word) && whole;
        self.at += if found { word.len() } else { 0 };
        found
    }

    fn utf8(&self, from: usize, to: usize, place: &str) -> Result<&'a str> {
        std::str::from_utf8(&self.bytes[from..to]).map_err(|error| {
            Error::new(
                ErrorCode::InvalidJson,
                format!("invalid UTF-8 at byte {} of the body, in {place}", from + error.valid_up_to()),
            )
        })
    }

    /// The rest of a string from its first escape on.
    fn escaped(&mut self, mut text: String, place: &str) -> Result<String> {
        loop {
            let rest = self.rest();
            let Some(plain) = rest.iter().position(|&byte| matches!(byte, b'"' | b'\\') || byte < 0x20) else {
                return Err(self.ends_inside(place));
            };
            text.push_str(self.utf8(self.at, self.at + plain, place)?);
            self.at += plain;
            match rest[plain] {
                b'"' => {
                    self.at += 1;
                    return Ok(text);
                }
                b'\\' => {
                    let Some(found) = self.escape() else {
                        return Err(Error::new(
                            ErrorCode::InvalidJson,
                            format!("bad escape at byte {} of the body, in {place}", self.at),
                        ));
                    };
                    text.push(found);
                }
                control => {
                    return Err(Error::new(
                        ErrorCode::InvalidJson,
                        format!(
                            "bare control character 0x{control:02x} at byte {} of the body, in {place}; escape it",
                            self.at
                        ),
                    ));
                }
            }
        }
    }

    /// Takes one escape; the cursor stays where it was when it is bad.
    fn escape(&mut self) -> Option<char> {
        let rest = self.rest();
        let (found, taken) = match rest.get(1)? {
            b'"' => ('"', 2),
            b'\\' => ('\\', 2),
            b'/' => ('/', 2),
            b'b' => ('\u{8}', 2),
            b'f' => ('\u{c}', 2),
            b'n' => ('\n', 2),
            b'r' => ('\r', 2),
            b't' => ('\t', 2),
            b'u' => match hex4(rest.get(2..6)?)? {
                high @ 0xd800..=0xdbff => {
                    let low =
                        rest.get(6..12).filter(|next| next.starts_with(b"\\u")).and_then(|next| hex4(&next[2..]))?;
                    let low = low.checked_sub(0xdc00).filter(|&low| low < 0x400)?;
                    (char::from_u32(0x10000 + ((high - 0xd800) << 10 | low))?, 12)
                }
                unit => (char::from_u32(unit)?, 6),
            },
            _ => return None,
        };
        self.at += taken;
        Some(found)
    }
}

/// The error for nesting over `limit`.
pub(super) fn too_deep(limit: usize, place: &str) -> Error {
    Error::new(ErrorCode::InvalidJson, format!("{place} is nested deeper than {limit} levels"))
}

fn hex4(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0, |value, &digit| Some(value << 4 | char::from(digit).to_digit(16)?))
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
    fn deep_nesting_is_refused_without_recursion() {
        for open in [&b"["[..], b"{\"a\":"] {
            let mut reader_text = open.repeat(100_000);
            reader_text.extend_from_slice(b"1");
            let error = Reader::new(&reader_text).skip_value("the body").expect_err("too deep");
            assert!(error.message.contains("nested deeper than 128"), "{}", error.message);
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
