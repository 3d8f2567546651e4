//! What is known of a batch, and every change of it. Pure: `now` is seconds since 1970 by
//! the store's clock.

use nobat_core::{Error, ErrorCode, OwnerId, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Where a batch stands, in the words of OpenAI's API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Its file is being looked through.
    Validating,
    /// Its file cannot be carried out.
    Failed,
    /// Its lines are being answered.
    InProgress,
    /// Its answers are being put together.
    Finalizing,
    /// Every line is answered.
    Completed,
    /// Its window ended before every line was answered.
    Expired,
    /// It is to end with what is answered.
    Cancelling,
    /// It ended so.
    Cancelled,
}

impl Status {
    /// Whether it changes no more.
    pub const fn is_terminal(self) -> bool {
        match self {
            Status::Failed | Status::Completed | Status::Expired | Status::Cancelled => true,
            Status::Validating | Status::InProgress | Status::Finalizing | Status::Cancelling => false,
        }
    }
}

/// Lines of a batch by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Lines there are.
    pub total: u64,
    /// Answered.
    pub completed: u64,
    /// Refused or failed.
    pub failed: u64,
}

/// Why a batch failed as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// What to match on.
    pub code: String,
    /// The value at fault and the remedy.
    pub message: String,
    /// The line, from 1.
    pub line: Option<u64>,
    /// The parameter at fault.
    pub param: Option<String>,
}

/// What counts of a carrier's two files: bytes of whole lines, answers and refusals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measured {
    /// Bytes of answers.
    pub output: u64,
    /// Bytes of refusals.
    pub errors: u64,
}

/// One batch. Stored as JSON; each change is a swap of what was read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Batch {
    /// `batch_…`.
    pub id: String,
    /// Whose it is.
    pub owner: OwnerId,
    /// What its owner may do, for whoever answers lines.
    pub caller: Value,
    /// Path that every line asks.
    pub endpoint: String,
    /// The file of its lines.
    pub input_file_id: String,
    /// The window as its owner wrote it.
    pub completion_window: String,
    /// Where it stands.
    pub status: Status,
    /// Lines by what became of them.
    pub counts: Counts,
    /// Why it failed.
    pub errors: Vec<Fault>,
    /// The file of answers, once there is one.
    pub output_file_id: Option<String>,
    /// The file of refusals, once there is one.
    pub error_file_id: Option<String>,
    /// When it was made.
    pub created_at: u64,
    /// When its window ends.
    pub expires_at: u64,
    /// When its lines began to be answered.
    pub in_progress_at: Option<u64>,
    /// When its answers began to be put together.
    pub finalizing_at: Option<u64>,
    /// When it completed.
    pub completed_at: Option<u64>,
    /// When it failed.
    pub failed_at: Option<u64>,
    /// When its end by its window was written.
    pub expired_at: Option<u64>,
    /// When it was asked to end.
    pub cancelling_at: Option<u64>,
    /// When it ended so.
    pub cancelled_at: Option<u64>,
    /// What its owner notes about it.
    pub metadata: Map<String, Value>,
    /// Carriers so far; each has files of its own.
    pub carriers: u32,
    /// What counts of the files of the carriers before the present one.
    pub measured: Vec<Measured>,
}

impl Batch {
    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(|e| Error::internal(format!("a batch cannot be written: {e}")))
    }

    /// Asks it to end with what is answered.
    ///
    /// # Errors
    /// `job_already_finished`.
    pub(crate) fn cancel(&mut self, now: u64) -> Result<()> {
        match self.status {
            Status::Cancelling => Ok(()),
            status if status.is_terminal() || status == Status::Finalizing => Err(Error::new(
                ErrorCode::JobAlreadyFinished,
                format!(
                    "batch `{}` is {}; only one that is validating or in progress can be cancelled",
                    self.id,
                    shown(status)
                ),
            )),
            _ => {
                self.status = Status::Cancelling;
                self.cancelling_at = Some(now);
                Ok(())
            }
        }
    }

    /// A carrier takes it over; `measured` is what counts of the files of the one before.
    pub(crate) fn take_over(&mut self, measured: Option<Measured>) {
        self.measured.extend(measured);
        self.carriers += 1;
    }

    /// Its lines begin to be answered.
    pub(crate) fn begin(&mut self, now: u64) {
        if self.status == Status::Validating {
            self.status = Status::InProgress;
            self.in_progress_at = Some(now);
        }
    }

    /// Its answers begin to be put together; a cancelled one stays `cancelling`.
    pub(crate) fn finalize(&mut self, now: u64) {
        self.finalizing_at.get_or_insert(now);
        if self.status == Status::InProgress {
            self.status = Status::Finalizing;
        }
    }

    /// It is over.
    pub(crate) fn end(&mut self, now: u64, in_time: bool) {
        let (status, at) = match self.status {
            Status::Cancelling => (Status::Cancelled, &mut self.cancelled_at),
            _ if in_time => (Status::Completed, &mut self.completed_at),
            _ => (Status::Expired, &mut self.expired_at),
        };
        *at = Some(now);
        self.status = status;
    }

    /// When it ended; when it was made where it has not.
    pub(crate) fn ended_at(&self) -> u64 {
        let ends = [self.completed_at, self.failed_at, self.expired_at, self.cancelled_at];
        ends.into_iter().flatten().max().unwrap_or(self.created_at)
    }

    /// It cannot be carried out.
    pub(crate) fn fail(&mut self, now: u64, fault: Fault) {
        self.status = Status::Failed;
        self.failed_at = Some(now);
        self.errors.push(fault);
    }
}

/// A status as its owner reads it.
pub(crate) fn shown(status: Status) -> String {
    serde_json::to_value(status).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

/// How long a completion window is: `24h`, `7d`, `30m`.
///
/// # Errors
/// `invalid_parameter` naming the value and what is taken.
pub fn window_s(text: &str) -> Result<u64> {
    let (amount, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let factor = match unit {
        "m" => Some(60),
        "h" => Some(3_600),
        "d" => Some(86_400),
        _ => None,
    };
    let window = factor.and_then(|factor: u64| amount.parse::<u64>().ok()?.checked_mul(factor));
    window.filter(|window| (60..=30 * 86_400).contains(window)).ok_or_else(|| {
        let shown = nobat_core::clip(text);
        Error::invalid(format!("completion_window is `{shown}`; it takes a duration from 1m to 30d, such as 24h"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_read_with_their_units() {
        assert_eq!(window_s("24h").expect("a day"), 86_400);
        assert_eq!(window_s("5m").expect("minutes"), 300);
        for bad in ["", "24", "0h", "h", "31d", "-1h", "99999999999999999999d", "24 h", "1e3m"] {
            assert_eq!(window_s(bad).expect_err(bad).code, ErrorCode::InvalidParameter);
        }
    }
}
