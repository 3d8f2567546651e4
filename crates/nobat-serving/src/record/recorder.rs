//! Which requests are recorded, decided on their way.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::time::Instant;

use chrono::Utc;
use nobat_core::infer::InferRequest;
use nobat_core::{Error, Result};
use nobat_runtime::Metrics;
use parking_lot::Mutex;
use prometheus::{IntCounterVec, opts};
use smol_str::SmolStr;

use super::files;
use super::line::{RecordedInput, RecordedRow, row_of, shape_of};
use super::settings::RecordConfig;
use crate::context::RequestContext;
use crate::random_bits::random_bits;
use crate::registry::ResolvedModel;

/// Rows that wait for the disk; with `max_row_bytes` it bounds the memory they take.
const WAITING: usize = 256;

/// Takes a sample of requests to disk; off, nothing. Cheap to clone.
#[derive(Clone, Default)]
pub struct Recorder {
    on: Option<Arc<Recording>>,
}

struct Recording {
    config: RecordConfig,
    writer: SyncSender<RecordedRow>,
    /// Looked at by requests that were drawn.
    rates: Mutex<HashMap<SmolStr, Rate>>,
    dropped: IntCounterVec,
}

/// What is left of a model's second.
struct Rate {
    left: f64,
    at: Instant,
}

impl Rate {
    /// Takes one, where `per_s` come every second and at most a second's worth is saved.
    fn take(&mut self, per_s: f64, now: Instant) -> bool {
        let come = now.saturating_duration_since(self.at).as_secs_f64() * per_s;
        (self.left, self.at) = ((self.left + come).min(per_s.max(1.0)), now);
        let taken = self.left >= 1.0;
        self.left -= f64::from(u8::from(taken));
        taken
    }
}

impl Recorder {
    /// Starts the writer, where a folder is set. Series are shown in `metrics`.
    ///
    /// # Errors
    /// `internal` when no thread can be started. A folder that cannot be written is told by
    /// the writer, again and again until it can.
    pub(crate) fn start(config: &RecordConfig, metrics: &Metrics) -> Result<Recorder> {
        if config.folder.is_empty() {
            return Ok(Recorder::default());
        }
        let counter = |name: &str, help: &str, label: &str| {
            let made = IntCounterVec::new(opts!(name, help), &[label]);
            made.inspect(|made| metrics.register(made.clone())).map_err(|e| Error::internal(format!("metrics: {e}")))
        };
        let written = counter("nobat_recorded_requests_total", "Requests written to the recording.", "model")?;
        let dropped =
            counter("nobat_record_dropped_total", "Requests drawn for the recording and left out.", "reason")?;
        let (writer, rows) = sync_channel(WAITING);
        let files = files::RecordFiles::new(config.clone(), written, dropped.clone());
        std::thread::Builder::new()
            .name("nobat-record".into())
            .spawn(move || files.write(&rows))
            .map_err(|error| Error::internal(format!("cannot start the recording: {error}")))?;
        log::info!("recording {} % of requests, with their inputs, in `{}`", config.share * 100.0, config.folder);
        let rates = Mutex::default();
        Ok(Recorder { on: Some(Arc::new(Recording { config: config.clone(), writer, rates, dropped })) })
    }

    /// Takes one row of a request to `target`, if it is drawn and there is room. What the
    /// model would refuse is not recorded.
    pub(crate) fn take(&self, context: &RequestContext, target: &ResolvedModel, request: &InferRequest) {
        if let Some(recording) = &self.on {
            recording.take(context, target, request);
        }
    }
}

impl Recording {
    fn take(&self, context: &RequestContext, target: &ResolvedModel, request: &InferRequest) {
        let (config, name) = (&self.config, &target.signature.name);
        let drawn = || (random_bits() >> 11) as f64 / (1u64 << 53) as f64;
        if !config.covers(name) || drawn() >= config.share {
            return;
        }
        // What is refused later is nobody's traffic, whoever sent it.
        let allowed = context.require_model(name).is_ok();
        let Some(rows) = target.signature.validate(request).ok().filter(|_| allowed) else { return };
        let now = Instant::now();
        let taken = {
            let mut rates = self.rates.lock();
            let rate = rates.entry(name.clone()).or_insert(Rate { left: config.rate_per_s.max(1.0), at: now });
            rate.take(config.rate_per_s, now)
        };
        if !taken {
            return self.drop_one("rate");
        }
        let Some(inputs) = self.inputs(request, rows as usize) else { return self.drop_one("size") };
        let row = RecordedRow {
            name: name.clone(),
            version: target.pinned.clone(),
            at: Utc::now(),
            owner: config.owner.then_some(context.owner),
            inputs,
        };
        match self.writer.try_send(row) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => self.drop_one("busy"),
            Err(TrySendError::Disconnected(_)) => self.drop_one("failed"),
        }
    }

    /// A row of the inputs; of several one at random, since they depend on each other.
    fn inputs(&self, request: &InferRequest, rows: usize) -> Option<Vec<RecordedInput>> {
        let row = (random_bits() % rows.max(1) as u64) as usize;
        let mut room = self.config.max_row_bytes;
        let mut inputs = Vec::with_capacity(request.inputs.len());
        for tensor in &request.inputs {
            let redacted = self.config.redact.contains(&tensor.name);
            // Of a redacted one only the shape is kept.
            let tensor = if redacted { shape_of(tensor, rows) } else { row_of(tensor, rows, row, room)? };
            room -= tensor.data.len();
            inputs.push(RecordedInput { tensor, redacted });
        }
        Some(inputs)
    }

    fn drop_one(&self, reason: &str) {
        self.dropped.with_label_values(&[reason]).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_rate_is_kept_over_seconds_and_saves_no_more_than_one() {
        let start = Instant::now();
        let mut rate = Rate { left: 5.0, at: start };
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!((0..9).filter(|_| rate.take(5.0, start)).count(), 5);
        assert_eq!((0..10).filter(|step| rate.take(5.0, at(100 * step))).count(), 4, "two tenths each");
        assert_eq!((0..99).filter(|_| rate.take(5.0, at(60_000))).count(), 5);
        let mut slow = Rate { left: 1.0, at: start };
        assert_eq!((0..=40).filter(|second| slow.take(0.125, at(1_000 * second))).count(), 6, "one in eight seconds");
    }
}
