//! Where the heads of HTTP/1 requests begin and end in what a connection reads,
//! and whether their lines end as they must. Pure.
//!
//! The HTTP library's parser takes a bare LF for the end of a line, as RFC 9112
//! (section 2.2) allows; a proxy before it that does not sees one request where
//! this server sees two. The scanner finds such a line before the parser does. It
//! knows as much of a head as it takes to find the next one: how long its body is.
//! Bodies are counted, not read.

/// Most bytes of one line that is kept while the rest of it is on its way. The
/// lines that say how long a body is are shorter.
const MAX_LINE: usize = 1024;

/// What the scanner knows of the bytes so far.
#[derive(Debug, Default)]
pub(crate) struct Scanner {
    state: State,
    /// The beginning of a line whose end has not come yet.
    line: Vec<u8>,
    /// The line is longer than what is kept of it.
    cut: bool,
    head: Head,
}

/// What a head says that the connection must know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Head {
    /// It waits for an interim answer before it sends its body.
    pub(crate) expects_continue: bool,
    /// The request is of HTTP/1.1: its sender understands interim answers.
    pub(crate) is_1_1: bool,
    begun: bool,
    length: u64,
    chunked: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// In a head, or between two requests.
    #[default]
    Head,
    /// So many bytes of a body are to come.
    Body(u64),
    /// The line with a chunk's size is to come.
    ChunkSize,
    /// So many bytes of a chunk, its end of line among them, are to come.
    Chunk(u64),
    /// The last chunk has come; lines up to an empty one end the body.
    Trailers,
    /// A line was refused, or the bytes are no longer of HTTP/1.
    Off,
}

/// What a piece of input brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// A head ended in it; the last one that did.
    pub(crate) head: Option<Head>,
    /// Where in the piece a line of a head ends in a bare LF.
    pub(crate) bare_lf: Option<usize>,
}

impl Scanner {
    /// Whether the input stands between two requests: everything that has begun
    /// is here whole.
    pub(crate) fn is_between(&self) -> bool {
        self.state == State::Head && !self.head.begun && self.line.is_empty()
    }

    /// Reads the next piece of input.
    pub(crate) fn read(&mut self, piece: &[u8]) -> Found {
        let mut found = Found::default();
        let mut at = 0;
        while at < piece.len() {
            let rest = &piece[at..];
            match self.state {
                State::Off => return found,
                State::Body(left) => {
                    let taken = left.min(rest.len() as u64);
                    at += taken as usize;
                    self.state = if left == taken { State::Head } else { State::Body(left - taken) };
                }
                State::Chunk(left) => {
                    let taken = left.min(rest.len() as u64);
                    at += taken as usize;
                    self.state = if left == taken { State::ChunkSize } else { State::Chunk(left - taken) };
                }
                State::Head | State::ChunkSize | State::Trailers => {
                    let Some(end) = rest.iter().position(|&byte| byte == b'\n') else {
                        self.keep(rest);
                        return found;
                    };
                    let is_bare = rest[..end].last().or(self.line.last()) != Some(&b'\r');
                    if is_bare && self.state == State::Head {
                        self.state = State::Off;
                        found.bare_lf = Some(at + end);
                        return found;
                    }
                    if self.line.is_empty() && !self.cut {
                        self.line_ended(&rest[..end], &mut found);
                    } else {
                        self.keep(&rest[..end]);
                        let line = std::mem::take(&mut self.line);
                        self.line_ended(&line, &mut found);
                        self.line = line;
                        self.line.clear();
                        self.cut = false;
                    }
                    at += end + 1;
                }
            }
        }
        found
    }

    fn keep(&mut self, part: &[u8]) {
        let room = MAX_LINE.saturating_sub(self.line.len());
        self.cut |= part.len() > room;
        self.line.extend_from_slice(&part[..part.len().min(room)]);
        // The last byte decides whether the line ends as it must.
        if self.cut
            && let (Some(kept), Some(&last)) = (self.line.last_mut(), part.last())
        {
            *kept = last;
        }
    }

    /// Takes a line, its CR with it, without its LF.
    fn line_ended(&mut self, line: &[u8], found: &mut Found) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        match self.state {
            // Empty lines before a request are passed over (RFC 9112, section 2.2).
            State::Head if line.is_empty() && !self.head.begun => {}
            State::Head if line.is_empty() => {
                let head = std::mem::take(&mut self.head);
                found.head = Some(head);
                self.state = match head {
                    Head { chunked: true, .. } => State::ChunkSize,
                    Head { length: 0, .. } => State::Head,
                    Head { length, .. } => State::Body(length),
                };
            }
            State::Head if !self.head.begun => {
                self.head.begun = true;
                self.head.is_1_1 = line.ends_with(b"HTTP/1.1");
            }
            State::Head => self.head.field(line),
            State::ChunkSize => {
                self.state = match chunk_size(line) {
                    Some(0) => State::Trailers,
                    Some(size) => State::Chunk(size.saturating_add(2)),
                    // The parser refuses it, and the connection with it.
                    None => State::Off,
                };
            }
            State::Trailers if line.is_empty() => self.state = State::Head,
            State::Trailers | State::Body(_) | State::Chunk(_) | State::Off => {}
        }
    }
}

impl Head {
    /// The same head once its sender has been told to send the body.
    pub(crate) fn told_to_continue(self) -> Head {
        Head { expects_continue: false, ..self }
    }

    /// Reads a field. Where two contradict each other the parser refuses the head.
    fn field(&mut self, line: &[u8]) {
        // Nearly all fields are others; their first letter tells.
        if !matches!(line.first(), Some(b'c' | b'C' | b't' | b'T' | b'e' | b'E')) {
            return;
        }
        let Some(colon) = line.iter().position(|&byte| byte == b':') else { return };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") {
            self.length = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            self.chunked |= self.is_1_1 && value.eq_ignore_ascii_case(b"chunked");
        } else if name.eq_ignore_ascii_case(b"expect") {
            self.expects_continue |=
                self.is_1_1 && value.to_ascii_lowercase().windows(12).any(|w| w == b"100-continue");
        }
    }
}

fn chunk_size(line: &[u8]) -> Option<u64> {
    let digits = line.iter().position(|byte| !byte.is_ascii_hexdigit()).unwrap_or(line.len());
    u64::from_str_radix(std::str::from_utf8(&line[..digits]).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Heads that ended, and whether a bare LF was found, reading in these pieces.
    fn scan<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (usize, bool, bool) {
        let mut scanner = Scanner::default();
        let (mut heads, mut bare) = (0, false);
        for piece in pieces {
            // Byte by byte, so that two heads in one piece are both counted.
            for byte in piece.chunks(1) {
                let found = scanner.read(byte);
                heads += usize::from(found.head.is_some());
                bare |= found.bare_lf.is_some();
            }
        }
        (heads, bare, scanner.is_between())
    }

    #[test]
    fn heads_are_found_and_bodies_are_counted() {
        let request = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\na\nb\nc\
            GET / HTTP/1.1\r\n\r\n\r\n\
            PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\n\n\n\n\r\n0\r\nTrailer: t\r\n\r\n\
            POST / HTTP/1.0\r\nExpect: 100-continue\r\n\r\n";
        assert_eq!(scan([&request[..]].into_iter()), (4, false, true));
        let mut whole = Scanner::default();
        let found = whole.read(request);
        assert!(found.head.is_some_and(|head| !head.expects_continue && !head.is_1_1), "HTTP/1.0 expects nothing");
        assert!(whole.is_between());
        assert!(Scanner::default().read(b"GET / HTTP/1.1\r\nHost: x").head.is_none());
    }

    #[test]
    fn a_bare_lf_in_a_head_is_found_where_it_stands() {
        for (text, at) in [
            (&b"GET / HTTP/1.1\nHost: x\r\n\r\n"[..], 14),
            (b"GET / HTTP/1.1\r\nHost: x\n\r\n", 23),
            (b"GET / HTTP/1.1\r\nHost: x\r\n\n", 25),
            (b"\nGET / HTTP/1.1\r\n\r\n", 0),
            (b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\n\n\nGET / HTTP/1.1\n", 54),
        ] {
            let mut scanner = Scanner::default();
            assert_eq!(scanner.read(text).bare_lf, Some(at), "{}", text.escape_ascii());
        }
    }

    #[test]
    fn a_line_longer_than_what_is_kept_ends_as_it_ends() {
        for (end, bare) in [("\r\n", false), ("\n", true)] {
            let text = format!("GET / HTTP/1.1\r\nX: {}{end}\r\n", "y".repeat(3 * MAX_LINE));
            for size in [1, 7, 1000, 10_000] {
                assert_eq!(scan(text.as_bytes().chunks(size)).1, bare, "{size}");
                let mut scanner = Scanner::default();
                let found = text.as_bytes().chunks(size).any(|piece| scanner.read(piece).bare_lf.is_some());
                assert_eq!(found, bare, "in pieces of {size}");
            }
        }
    }

    fn request() -> impl Strategy<Value = Vec<u8>> {
        let body = prop::collection::vec(prop::sample::select(vec![b'\n', b'\r', b'a', b'0', b':']), 0..40);
        (body, any::<bool>(), "[a-z]{1,8}").prop_map(|(body, chunked, name)| {
            let mut text = format!("POST /{name} HTTP/1.1\r\nhost: {name}\r\n").into_bytes();
            if chunked {
                text.extend_from_slice(b"transfer-encoding: chunked\r\n\r\n");
                for chunk in body.chunks(7) {
                    text.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                    text.extend_from_slice(chunk);
                    text.extend_from_slice(b"\r\n");
                }
                text.extend_from_slice(b"0\r\n\r\n");
            } else {
                text.extend_from_slice(format!("content-length: {}\r\n\r\n", body.len()).as_bytes());
                text.extend_from_slice(&body);
            }
            text
        })
    }

    proptest! {
        #[test]
        fn well_formed_requests_pass_however_they_are_cut(
            requests in prop::collection::vec(request(), 1..5), size in 1usize..64,
        ) {
            let text = requests.concat();
            prop_assert_eq!(scan(text.chunks(size)), (requests.len(), false, true));
            let mut scanner = Scanner::default();
            for piece in text.chunks(size) {
                prop_assert_eq!(scanner.read(piece).bare_lf, None);
            }
            prop_assert!(scanner.is_between());
        }

        #[test]
        fn a_bare_lf_in_any_head_is_found_however_it_is_cut(
            before in prop::collection::vec(request(), 0..3), lines in 1usize..5, bad in 0usize..5, size in 1usize..64,
        ) {
            let mut text = before.concat();
            for line in 0..=lines {
                text.extend_from_slice(if line == 0 { b"GET / HTTP/1.1" } else { b"x: y" });
                text.extend_from_slice(if line == bad % (lines + 1) { b"\n" } else { b"\r\n" });
            }
            let mut scanner = Scanner::default();
            let found = text.chunks(size).filter(|piece| scanner.read(piece).bare_lf.is_some()).count();
            prop_assert_eq!(found, 1);
        }

        #[test]
        fn no_bytes_break_it(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..20)) {
            let mut scanner = Scanner::default();
            for piece in &pieces {
                let found = scanner.read(piece);
                prop_assert!(found.bare_lf.is_none_or(|at| piece[at] == b'\n'));
            }
        }
    }
}
