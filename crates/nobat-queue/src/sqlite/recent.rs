//! Results that were settled a moment ago, kept in memory for the reader who
//! asks next. First in, first out, within a count and a byte budget.

use std::collections::{HashMap, VecDeque};

use nobat_core::JobId;
use nobat_core::job::JobView;

use super::machine::Row;

const MAX_RESULTS: usize = 16_384;
const MAX_BYTES: usize = 16 << 20;
/// A result over this is read from the journal.
const MAX_EACH: usize = 64 << 10;

/// The results.
#[derive(Default)]
pub(super) struct Recent {
    views: HashMap<Row, (JobView, u64)>,
    order: VecDeque<Row>,
    bytes: usize,
}

impl Recent {
    /// Keeps a result that expires at `expires_ms`.
    pub(super) fn insert(&mut self, view: JobView, expires_ms: u64) {
        let size = size(&view);
        if size > MAX_EACH {
            return;
        }
        let row = view.id.locator;
        self.bytes += size;
        self.order.push_back(row);
        self.views.insert(row, (view, expires_ms));
        while self.bytes > MAX_BYTES || self.order.len() > MAX_RESULTS {
            let Some(oldest) = self.order.pop_front() else { break };
            if let Some((view, _)) = self.views.remove(&oldest) {
                self.bytes -= self::size(&view);
            }
        }
    }

    /// The result of `id`, if it is here and has not expired.
    pub(super) fn get(&self, id: JobId, now_ms: u64) -> Option<&JobView> {
        let (view, expires_ms) = self.views.get(&id.locator)?;
        (view.id.random == id.random && *expires_ms > now_ms).then_some(view)
    }
}

fn size(view: &JobView) -> usize {
    let error = view.error.as_ref().map_or(0, |error| error.message.len());
    std::mem::size_of::<JobView>() + error + view.result.as_ref().map_or(0, |result| result.outputs.len())
}
