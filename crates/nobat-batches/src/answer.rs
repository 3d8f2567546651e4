//! What answers a line: the protocol's part.

use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;

/// What became of a line.
#[derive(Clone, Debug)]
pub struct LineAnswer {
    /// HTTP status of the answer.
    pub status: u16,
    /// Id of the request.
    pub request_id: String,
    /// Its body, JSON on one line.
    pub body: Vec<u8>,
}

impl LineAnswer {
    /// Whether the deployment could not take the request: it is asked again.
    pub(crate) fn is_passing(&self) -> bool {
        matches!(self.status, 429 | 503)
    }
}

/// Answers a line's request; the protocol's part.
#[async_trait]
pub trait AnswerLine: Send + Sync + 'static {
    /// The answer to `body` at `endpoint`. `key` names the line for ever: what is asked
    /// again under it is found again. Nobody waits for longer than `left`.
    async fn answer(&self, caller: &Value, endpoint: &str, body: &str, key: &str, left: Duration) -> LineAnswer;
}
