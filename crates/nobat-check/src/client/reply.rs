//! What a server answered.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nobat_core::oip::ModelInferResponse;
use nobat_core::tensor::Tensor;
use serde_json::Value;

use super::answer;
use super::description::ModelDescription;
use super::protocol::CallProtocol;
use super::template::JsonTemplate;

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ReplyStatus {
    /// An HTTP answer.
    Http(u16),
    /// A gRPC status; 0 is OK.
    Grpc(i32),
    /// A job of the queue that ended without a result.
    JobFailed,
    /// None came in time.
    TimedOut,
    /// The connection was refused or broke off.
    Unreachable,
}

impl ReplyStatus {
    /// Whether a prediction came.
    pub const fn is_success(self) -> bool {
        matches!(self, ReplyStatus::Http(200..=299) | ReplyStatus::Grpc(0))
    }

    /// Whether anything came.
    pub const fn is_answer(self) -> bool {
        !matches!(self, ReplyStatus::TimedOut | ReplyStatus::Unreachable)
    }
}

impl std::fmt::Display for ReplyStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {
            ReplyStatus::Http(status) => write!(f, "HTTP {status}"),
            ReplyStatus::Grpc(code) => f.write_str(grpc_name(code)),
            ReplyStatus::JobFailed => f.write_str("a failed job"),
            ReplyStatus::TimedOut => f.write_str("no answer in time"),
            ReplyStatus::Unreachable => f.write_str("no answer"),
        }
    }
}

/// A gRPC status as its specification spells it.
const fn grpc_name(code: i32) -> &'static str {
    match code {
        0 => "OK",
        1 => "CANCELLED",
        3 => "INVALID_ARGUMENT",
        4 => "DEADLINE_EXCEEDED",
        5 => "NOT_FOUND",
        6 => "ALREADY_EXISTS",
        7 => "PERMISSION_DENIED",
        8 => "RESOURCE_EXHAUSTED",
        9 => "FAILED_PRECONDITION",
        10 => "ABORTED",
        11 => "OUT_OF_RANGE",
        12 => "UNIMPLEMENTED",
        13 => "INTERNAL",
        14 => "UNAVAILABLE",
        15 => "DATA_LOSS",
        16 => "UNAUTHENTICATED",
        _ => "UNKNOWN",
    }
}

/// A server's answer, or what came instead.
#[derive(Clone, Debug)]
pub struct Reply {
    /// How the call ended.
    pub status: ReplyStatus,
    /// The body over HTTP; empty over gRPC.
    pub body: Bytes,
    /// From the first byte sent to the last one received.
    pub took: Duration,
    /// The server's own code of a refusal, where it gives one.
    pub code: Option<String>,
    /// The refusal in words; for a call without an answer, why there is none.
    pub message: String,
    /// Whether a refusal says when to come back.
    pub retry_after: bool,
    pub(crate) content_type: String,
    pub(super) server_timing: Option<String>,
    pub(super) header_length: Option<usize>,
    pub(super) protobuf: Option<Box<ModelInferResponse>>,
    pub(super) protocol: CallProtocol,
    pub(super) template: Option<Arc<JsonTemplate>>,
}

impl Reply {
    pub(crate) fn new(protocol: CallProtocol, status: ReplyStatus, took: Duration) -> Reply {
        Reply {
            status,
            body: Bytes::new(),
            took,
            code: None,
            message: String::new(),
            retry_after: false,
            content_type: String::new(),
            server_timing: None,
            header_length: None,
            protobuf: None,
            protocol,
            template: None,
        }
    }

    /// Whether a prediction came.
    pub fn is_success(&self) -> bool {
        self.status.is_success()
    }

    /// Whether the server takes nothing at the moment: 429 or 503.
    pub(crate) fn is_refused_for_now(&self) -> bool {
        matches!(self.status, ReplyStatus::Http(429 | 503))
    }

    /// The media type of the body.
    pub fn content_type(&self) -> &str {
        self.content_type.split(';').next().unwrap_or_default().trim()
    }

    /// The body as JSON.
    pub fn json(&self) -> Option<Value> {
        serde_json::from_slice(&self.body).ok()
    }

    /// Status, code and message in one line.
    pub fn in_words(&self) -> String {
        let code = self.code.as_ref().map(|code| format!(" ({code})")).unwrap_or_default();
        let colon = if self.message.is_empty() { "" } else { ": " };
        format!("{}{code}{colon}{}", self.status, self.message)
    }

    /// Reads the outputs, with their names and datatypes from the answer, or from the
    /// model where the protocol leaves them out.
    ///
    /// # Errors
    /// In words: what was answered instead.
    pub fn outputs(&self, model: &ModelDescription) -> Result<Vec<Tensor>, String> {
        if !self.is_success() {
            return Err(self.in_words());
        }
        match self.tensors(model) {
            // With nothing to compare every comparison would hold.
            Ok(tensors) if tensors.is_empty() => Err("the answer has no outputs".into()),
            read => read.map_err(|why| format!("the answer cannot be read: {why}")),
        }
    }

    fn tensors(&self, model: &ModelDescription) -> Result<Vec<Tensor>, String> {
        match self.protocol {
            CallProtocol::Grpc => match self.protobuf.as_deref() {
                Some(message) => answer::of_message(message),
                None => Err("it has no message".into()),
            },
            CallProtocol::V2 | CallProtocol::V2Binary => answer::of_v2(&self.body, self.header_length),
            CallProtocol::TfServing | CallProtocol::Native | CallProtocol::Job => {
                answer::of_columns(&self.body, &model.outputs)
            }
            CallProtocol::Json => match &self.template {
                Some(template) => template.outputs(&self.body, &model.outputs),
                None => Err("there is no template for it".into()),
            },
        }
    }

    /// Where the server says the time went; `None` where it does not.
    pub fn timings(&self) -> Option<ServerTimings> {
        ServerTimings::parse(self.server_timing.as_deref()?)
    }
}

/// The server's own account of a request, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ServerTimings {
    /// From enqueued to leased.
    pub queue_ms: f64,
    /// From leased to the start of the run.
    pub batch_ms: f64,
    /// Filling inputs, the run, splitting outputs.
    pub run_ms: f64,
    /// Rows of the run; 0 where it is not said.
    pub batch_size: u32,
}

impl ServerTimings {
    /// Reads nobat's `Server-Timing`. `None` when it names no run, as that of a cached answer.
    pub fn parse(header: &str) -> Option<ServerTimings> {
        let mut timings = ServerTimings::default();
        let mut ran = false;
        for entry in header.split(',') {
            let mut parts = entry.split(';').map(str::trim);
            let name = parts.next()?;
            let (mut duration, mut described) = (0.0, "");
            for part in parts {
                match part.split_once('=') {
                    Some(("dur", value)) => duration = value.parse().ok()?,
                    Some(("desc", value)) => described = value.trim_matches('"'),
                    _ => {}
                }
            }
            match name {
                "queue" => timings.queue_ms = duration,
                "batch" => {
                    timings.batch_ms = duration;
                    timings.batch_size = described.parse().unwrap_or(0);
                }
                "input" | "infer" | "output" => {
                    timings.run_ms += duration;
                    ran |= name == "infer";
                }
                _ => {}
            }
        }
        ran.then_some(timings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_account_is_read_and_a_cached_answer_has_none() {
        let header = "queue;dur=0.412, batch;dur=0.031;desc=8, input;dur=0.009, infer;dur=1.204, output;dur=0.015, attempts;desc=1, worker;desc=3k9f0a, cache;desc=miss";
        let timings = ServerTimings::parse(header).expect("reads");
        assert_eq!((timings.queue_ms, timings.batch_ms, timings.batch_size), (0.412, 0.031, 8));
        assert!((timings.run_ms - 1.228).abs() < 1e-9);
        assert_eq!(ServerTimings::parse("cache;desc=hit"), None);
        assert_eq!(ServerTimings::parse(""), None);
    }
}
