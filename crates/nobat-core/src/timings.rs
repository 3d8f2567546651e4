//! How an answer came about: times, batch, attempts, worker. Travels with every
//! result, feeds `Server-Timing`, the job object and the statistics.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

use crate::id::JobId;
use crate::varint::{put_bytes, put_u64, take_bytes, take_u64};

/// Where a job's time went.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timings {
    /// Enqueued to leased, microseconds, by the store's clock.
    pub queue_us: u64,
    /// Leased to the start of its batch's run, microseconds.
    pub batch_wait_us: u64,
    /// Filling the batch's input buffers, microseconds.
    pub input_us: u64,
    /// The model's run, microseconds.
    pub infer_us: u64,
    /// Splitting and encoding the outputs, microseconds.
    pub output_us: u64,
    /// Rows in the batch it ran in.
    pub batch_size: u32,
    /// Attempts so far, this one included.
    pub attempts: u32,
    /// Short id of the worker that ran it.
    pub worker: SmolStr,
    /// Of a chain, each step that ran, and of a route, each target that answered, in the order
    /// in which they began.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<StepTiming>,
}

/// Where a step of a chain, or a target of a route, spent its time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepTiming {
    /// The step's name.
    pub name: SmolStr,
    /// From the start of the chain to that of the step, microseconds.
    pub start_us: u64,
    /// From there to its last run, microseconds: waiting, and on the way between workers.
    pub wait_us: u64,
    /// Its run, inputs and outputs included, microseconds; of several the longest.
    pub run_us: u64,
    /// Rows in the batch it ran in; of several the largest.
    pub batch_size: u32,
    /// Short id of the worker that ran it.
    pub worker: SmolStr,
    /// The job that it was, where it was one of its own; of several that which ran longest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobId>,
}

impl Timings {
    /// Appends the packed form (varints; about 16 bytes).
    pub fn encode(&self, out: &mut Vec<u8>) {
        for value in [self.queue_us, self.batch_wait_us, self.input_us, self.infer_us, self.output_us] {
            put_u64(out, value);
        }
        put_u64(out, u64::from(self.batch_size));
        put_u64(out, u64::from(self.attempts));
        put_bytes(out, self.worker.as_bytes());
    }

    /// Takes the packed form off the front of `bytes`; `None` when malformed.
    pub fn decode(bytes: &mut Bytes) -> Option<Timings> {
        let mut rest = &bytes[..];
        let mut next = || take_u64(&mut rest);
        let (queue_us, batch_wait_us, input_us, infer_us, output_us) = (next()?, next()?, next()?, next()?, next()?);
        let batch_size = u32::try_from(next()?).ok()?;
        let attempts = u32::try_from(next()?).ok()?;
        let worker = std::str::from_utf8(take_bytes(&mut rest)?).ok()?.into();
        *bytes = bytes.slice_ref(rest);
        let steps = Vec::new();
        Some(Timings { queue_us, batch_wait_us, input_us, infer_us, output_us, batch_size, attempts, worker, steps })
    }

    /// Appends the steps, if there are any; they stand behind the outputs, where releases
    /// that know no chains do not read.
    pub fn encode_steps(&self, out: &mut Vec<u8>) {
        if self.steps.is_empty() {
            return;
        }
        put_u64(out, self.steps.len() as u64);
        for step in &self.steps {
            put_bytes(out, step.name.as_bytes());
            for value in [step.start_us, step.wait_us, step.run_us, u64::from(step.batch_size)] {
                put_u64(out, value);
            }
            put_bytes(out, step.worker.as_bytes());
            put_bytes(out, step.job.map(|job| job.to_string()).unwrap_or_default().as_bytes());
        }
    }

    /// Reads what [`Timings::encode_steps`] wrote; `None` for anything else.
    pub fn decode_steps(mut bytes: &[u8]) -> Option<Vec<StepTiming>> {
        let rest = &mut bytes;
        let text = |rest: &mut &[u8]| Some(SmolStr::from(std::str::from_utf8(take_bytes(rest)?).ok()?));
        let count = take_u64(rest)?;
        let mut steps = Vec::with_capacity(count.min(64) as usize);
        for _ in 0..count {
            let name = text(rest)?;
            let (start_us, wait_us, run_us) = (take_u64(rest)?, take_u64(rest)?, take_u64(rest)?);
            let batch_size = u32::try_from(take_u64(rest)?).ok()?;
            let (worker, job) = (text(rest)?, text(rest)?.parse().ok());
            steps.push(StepTiming { name, start_us, wait_us, run_us, batch_size, worker, job });
        }
        rest.is_empty().then_some(steps)
    }

    /// Everything between enqueue and settle.
    pub fn total(&self) -> Duration {
        Duration::from_micros(self.queue_us + self.batch_wait_us + self.input_us + self.infer_us + self.output_us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn timings_read_back(q: u64, w: u64, i: u64, batch_size: u32, attempts: u32, worker in "[a-z0-9]{0,8}") {
            let timings = Timings { queue_us: q, batch_wait_us: w, input_us: i, infer_us: w, output_us: q, batch_size, attempts, worker: worker.into(), steps: vec![] };
            let mut out = Vec::new();
            timings.encode(&mut out);
            out.extend_from_slice(b"rest");
            let mut bytes = Bytes::from(out);
            prop_assert_eq!(Timings::decode(&mut bytes), Some(timings));
            prop_assert_eq!(&bytes[..], b"rest");
        }
    }
}
