//! One line of a batch, asked until the deployment takes it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::answer::AnswerLine;
use crate::written::Written;

/// Pause before what could not be taken is asked again.
const AWAY: Duration = Duration::from_secs(1);

/// A line that is asked.
pub(crate) struct Asked {
    pub(crate) answer: Arc<dyn AnswerLine>,
    pub(crate) caller: serde_json::Value,
    pub(crate) endpoint: String,
    pub(crate) key: String,
    pub(crate) at: u64,
    pub(crate) custom_id: String,
    pub(crate) body: String,
    pub(crate) expires: Instant,
}

impl Asked {
    /// Asks until the deployment takes it; the window's end drops it.
    pub(crate) async fn until_answered(self) -> Written {
        loop {
            let left = self.expires.saturating_duration_since(Instant::now());
            let answer = self.answer.answer(&self.caller, &self.endpoint, &self.body, &self.key, left).await;
            if !answer.is_passing() {
                return Written::answered(self.at, &self.custom_id, &answer);
            }
            tokio::time::sleep(AWAY).await;
        }
    }
}
