//! What comes back of a prediction: its outputs, or the job that goes on.

use bytes::Bytes;
use nobat_core::infer::InferResponse;
use nobat_core::job::{JobState, JobView};
use nobat_core::timings::Timings;
use nobat_core::{Error, ErrorCode, JobId, Result};
use smol_str::SmolStr;

use crate::cache::CacheOutcome;
use crate::registry::ResolvedModel;

/// An answered prediction.
#[derive(Clone, Debug)]
pub struct Prediction {
    /// The job that produced it; `None` when no job was needed.
    pub job: Option<JobId>,
    /// What the model's cache had to do with it.
    pub cache: CacheOutcome,
    /// Where its time went.
    pub timings: Timings,
    /// The outputs.
    pub response: InferResponse,
}

/// What a bounded wait ended with.
#[derive(Clone, Debug)]
pub enum Answer {
    /// The prediction.
    Done(Prediction),
    /// The wait ended first; the job goes on.
    Pending(Box<JobView>),
}

impl Answer {
    /// Reads a job after a wait.
    ///
    /// # Errors
    /// The job's own error when it ended without a result.
    pub fn of(view: JobView) -> Result<Answer> {
        match view.state {
            JobState::Succeeded => Prediction::of(view).map(Answer::Done),
            state if state.is_terminal() => Err(failure(&view)),
            _ => Ok(Answer::Pending(Box::new(view))),
        }
    }

    /// Whether it is of the `pinned` version; where none is pinned any will do.
    pub(crate) fn is_of(&self, pinned: &str) -> bool {
        pinned.is_empty() || matches!(self, Answer::Done(prediction) if prediction.response.version == pinned)
    }
}

impl Prediction {
    /// The outputs as a cache keeps them.
    pub(crate) fn packed(&self) -> Bytes {
        let mut packed = Vec::new();
        self.response.encode(&mut packed);
        packed.into()
    }

    /// Reads kept outputs; no job ran.
    pub(crate) fn of_packed(packed: &Bytes, cache: CacheOutcome) -> Result<Prediction> {
        let response = InferResponse::decode(packed)?;
        Ok(Prediction { job: None, cache, timings: Timings::default(), response })
    }

    /// Reads a succeeded job's outputs; they stay slices of the stored result.
    ///
    /// # Errors
    /// `invalid_worker_result`; `result_expired` when the store kept none.
    pub fn of(view: JobView) -> Result<Prediction> {
        let id = view.id;
        let result = view
            .result
            .ok_or_else(|| Error::new(ErrorCode::ResultExpired, "the job's result has outlived its ttl").for_job(id))?;
        let response = InferResponse::decode(&result.outputs).map_err(|error| error.for_job(id))?;
        Ok(Prediction { job: Some(id), cache: CacheOutcome::None, timings: result.timings, response })
    }

    /// The version that answered, for protocols that repeat it: the worker's word, else
    /// that of the signature which was asked.
    pub fn version(&self, asked: &ResolvedModel) -> SmolStr {
        match self.response.version.as_str() {
            "" => asked.signature.version.clone(),
            _ => self.response.version.clone(),
        }
    }
}

/// Why a job ended without a result, as an error to render.
fn failure(view: &JobView) -> Error {
    let (code, message) = match (&view.error, view.state) {
        (_, JobState::Cancelled) => (ErrorCode::JobCancelled, "the job was cancelled".to_owned()),
        (Some(error), _) => (error.code, error.message.clone()),
        (None, JobState::Expired) => {
            (ErrorCode::DeadlineExceeded, "the job's deadline passed before it finished".to_owned())
        }
        (None, state) => (ErrorCode::InferenceFailed, format!("the job ended {} without a reason", state.as_str())),
    };
    Error::new(code, message).for_job(view.id)
}
