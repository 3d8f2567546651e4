//! Lines of the output and of the errors, on their way into a carrier's files.

use serde_json::json;

use crate::answer::LineAnswer;
use crate::batch::segments::{Kind, LINE_ID, Pair};

/// Answers are written when there are so many bytes of them.
const WRITE_AT: usize = 1 << 20;

/// Answers on their way into the carrier's segments.
#[derive(Default)]
pub(crate) struct Writer {
    pub(crate) pair: Option<Pair>,
    pub(crate) output: Vec<u8>,
    pub(crate) errors: Vec<u8>,
    pub(crate) numbers: Vec<(Kind, u64)>,
}

impl Writer {
    pub(crate) fn is_full(&self) -> bool {
        self.bytes() >= WRITE_AT as u64
    }

    /// Bytes that wait to be written.
    pub(crate) fn bytes(&self) -> u64 {
        (self.output.len() + self.errors.len()) as u64
    }

    pub(crate) fn put(&mut self, written: &Written) {
        let file = if written.kind == Kind::Output { &mut self.output } else { &mut self.errors };
        file.extend_from_slice(&written.text);
        file.push(b'\n');
        self.numbers.push((written.kind, written.number));
    }
}

/// One line of the output or of the errors.
pub(crate) struct Written {
    kind: Kind,
    pub(crate) number: u64,
    text: Vec<u8>,
}

impl Written {
    /// Bytes that it takes in its file.
    pub(crate) fn bytes(&self) -> u64 {
        self.text.len() as u64 + 1
    }

    /// `number` counts the lines that ask for something, from 0; `line` all of them from 1, as editors do.
    pub(crate) fn refused(number: u64, line: u64, custom_id: Option<&str>, code: &str, message: &str) -> Written {
        let error = json!({ "code": code, "message": message, "line": line });
        let id = json!(custom_id);
        let text = format!("{{\"id\":\"{LINE_ID}{number}\",\"custom_id\":{id},\"response\":null,\"error\":{error}}}");
        Written { kind: Kind::Errors, number, text: text.into_bytes() }
    }

    pub(crate) fn answered(number: u64, custom_id: &str, answer: &LineAnswer) -> Written {
        let (id, request) = (json!(custom_id), json!(answer.request_id));
        let mut text = format!(
            "{{\"id\":\"{LINE_ID}{number}\",\"custom_id\":{id},\"response\":{{\"status_code\":{},\"request_id\":{request},\"body\":",
            answer.status
        )
        .into_bytes();
        text.extend_from_slice(&answer.body);
        text.extend_from_slice(b"},\"error\":null}");
        let kind = if answer.status < 400 { Kind::Output } else { Kind::Errors };
        Written { kind, number, text }
    }
}
