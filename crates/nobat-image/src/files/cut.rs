//! The first and the last bytes of a file, as numbers.

use nobat_core::{Error, Result};

use super::config::MagikaConfig;
use super::settings::BytesSettings;

/// Most numbers that are made of a file.
const MOST: usize = 1 << 20;

/// Which bytes of a file are taken, as magika's Python takes them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Cut {
    pub(crate) begin: usize,
    pub(crate) end: usize,
    pub(crate) padding: u16,
    strip: bool,
    block: usize,
    least: usize,
}

/// What is made of a file.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum CutFile {
    /// For the graph: its first bytes, its last bytes.
    Numbers(Vec<u16>),
    /// It has too few bytes, and is this.
    TooShort(&'static str),
}

impl Cut {
    /// # Errors
    /// Nothing to take, or too much, with the setting.
    pub(crate) fn new(settings: &BytesSettings, config: Option<&MagikaConfig>) -> Result<Cut> {
        let cut = Cut {
            begin: settings.begin.or(config.map(|own| own.beg_size)).unwrap_or(0),
            end: settings.end.or(config.map(|own| own.end_size)).unwrap_or(0),
            padding: settings.padding.or(config.map(|own| own.padding_token)).unwrap_or(0),
            strip: settings.strip.unwrap_or(config.is_some()),
            block: settings.block.or(config.map(|own| own.block_size)).unwrap_or(4096),
            least: settings.least.or(config.map(|own| own.min_file_size_for_dl)).unwrap_or(0),
        };
        let refused = |what: &str| Err(Error::invalid(format!("{what}, in `[bytes]` of model.toml")));
        if cut.width() == 0 {
            return refused("nothing says which bytes of a file are taken; set `begin` or `end`, or both");
        }
        if cut.begin > MOST || cut.end > MOST {
            return refused(&format!("`begin` {} and `end` {} are over {MOST} bytes; set less", cut.begin, cut.end));
        }
        if cut.strip && cut.block < cut.begin.max(cut.end) {
            let most = cut.begin.max(cut.end);
            return refused(&format!("`block` is {} and {most} bytes are taken from it; set more", cut.block));
        }
        Ok(cut)
    }

    /// Numbers of a file.
    pub(crate) fn width(&self) -> usize {
        self.begin.saturating_add(self.end)
    }

    /// A file's numbers.
    pub(crate) fn of(&self, file: &[u8]) -> CutFile {
        let block = if self.strip { self.block } else { self.begin.max(self.end).max(self.least) };
        let (head, tail) = (&file[..block.min(file.len())], &file[file.len().saturating_sub(block)..]);
        let (first, last) = match self.strip {
            true => (stripped_start(head), stripped_end(tail)),
            false => (head, tail),
        };
        if first.len() < self.least {
            return CutFile::TooShort(match file {
                [] => "empty",
                _ if std::str::from_utf8(head).is_ok() => "txt",
                _ => "unknown",
            });
        }
        let first = &first[..self.begin.min(first.len())];
        let last = &last[last.len() - self.end.min(last.len())..];
        // What is missing is missing in the middle.
        let missing = std::iter::repeat_n(self.padding, self.width() - first.len() - last.len());
        CutFile::Numbers(
            first.iter().copied().map(u16::from).chain(missing).chain(last.iter().copied().map(u16::from)).collect(),
        )
    }
}

/// The bytes that Python's `bytes.strip` leaves out: also the vertical tab, which Rust's does not.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

fn stripped_start(bytes: &[u8]) -> &[u8] {
    let start = bytes.iter().position(|&byte| !is_space(byte)).unwrap_or(bytes.len());
    &bytes[start..]
}

fn stripped_end(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().rposition(|&byte| !is_space(byte)).map_or(0, |last| last + 1);
    &bytes[..end]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cut(text: &str) -> Result<Cut> {
        Cut::new(&serde_json::from_str(text).expect("settings"), None)
    }

    fn numbers(cut: &Cut, file: &[u8]) -> Vec<u16> {
        match cut.of(file) {
            CutFile::Numbers(numbers) => numbers,
            CutFile::TooShort(what) => panic!("{what}"),
        }
    }

    #[test]
    fn a_short_file_is_filled_up_in_the_middle_and_spaces_are_left_out_at_its_ends() {
        let own = cut(r#"{"begin": 4, "end": 3, "padding": 256, "strip": true}"#).expect("a cut");
        assert_eq!(numbers(&own, b" \x0b\x0cab\n"), [97, 98, 10, 256, 12, 97, 98], "each end by itself");
        let plain = cut(r#"{"begin": 2, "end": 2}"#).expect("a cut");
        assert_eq!(numbers(&plain, b" a "), [32, 97, 97, 32]);
        assert_eq!(numbers(&plain, b""), [0; 4]);
    }

    #[test]
    fn a_file_that_is_too_short_is_named() {
        let own = cut(r#"{"begin": 8, "least": 4, "strip": true, "padding": 256}"#).expect("a cut");
        for (file, what) in
            [(&b""[..], "empty"), (b"abc", "txt"), (b"        abc", "txt"), (b"\xff\xfe", "unknown"), (b"    ", "txt")]
        {
            assert_eq!(own.of(file), CutFile::TooShort(what), "{file:?}");
        }
        assert_eq!(numbers(&own, b" abcd")[..5], [97, 98, 99, 100, 256]);
    }

    #[test]
    fn what_takes_nothing_or_too_much_is_refused_with_the_setting() {
        for (text, says) in [
            ("{}", "set `begin` or `end`"),
            (r#"{"begin": 99999999}"#, "over 1048576 bytes"),
            (r#"{"begin": 5000, "strip": true}"#, "`block` is 4096"),
        ] {
            let refused = cut(text).expect_err(text).message;
            assert!(refused.contains(says) && refused.contains("`[bytes]`"), "{refused}");
        }
    }

    proptest! {
        /// Written as magika's Python is: strip, slice, pad.
        #[test]
        fn numbers_are_those_of_the_reference(
            file in prop::collection::vec(prop_oneof![Just(b' '), Just(0x0b), any::<u8>()], 0..60),
            begin in 0usize..20, end in 1usize..20, block in 20usize..40, strip: bool,
        ) {
            let own = Cut { begin, end, padding: 256, strip, block, least: 0 };
            let seen = if strip { block } else { file.len() };
            let mut first = file[..seen.min(file.len())].to_vec();
            let mut last = file[file.len() - seen.min(file.len())..].to_vec();
            if strip {
                while first.first().is_some_and(|byte| b" \t\n\r\x0b\x0c".contains(byte)) { first.remove(0); }
                while last.last().is_some_and(|byte| b" \t\n\r\x0b\x0c".contains(byte)) { last.pop(); }
            }
            let mut wanted: Vec<u16> = first.iter().take(begin).map(|&byte| byte.into()).collect();
            wanted.resize(begin, 256);
            let taken = end.min(last.len());
            wanted.extend(std::iter::repeat_n(256, end - taken));
            wanted.extend(last[last.len() - taken..].iter().map(|&byte| u16::from(byte)));
            prop_assert_eq!(numbers(&own, &file), wanted);
        }
    }
}
