//! Sends what the stage asks, and notices when the server has gone.

use std::cell::Cell;

use futures::StreamExt;
use nobat_core::tensor::Tensor;

use crate::client::{ModelDescription, Reply, Target};

/// Calls without any answer in a row after which the server counts as gone.
const GONE_AFTER: u32 = 3;

/// Asks a model, and counts the calls that nobody answered.
pub(crate) struct Asker<'a> {
    model: &'a ModelDescription,
    unanswered: Cell<u32>,
    why: Cell<Option<String>>,
}

impl<'a> Asker<'a> {
    pub(crate) fn new(model: &'a ModelDescription) -> Asker<'a> {
        Asker { model, unanswered: Cell::new(0), why: Cell::new(None) }
    }

    /// One request's outputs and how its answer came.
    pub(crate) async fn ask(&self, target: &Target, inputs: &[Tensor]) -> Result<(Vec<Tensor>, Reply), String> {
        let prepared = target.prepare(inputs).map_err(|e| e.message)?;
        let reply = target.send(&prepared).await;
        Ok((self.outputs_of(&reply)?, reply))
    }

    /// The outputs of an answer that was asked for elsewhere.
    pub(crate) fn outputs_of(&self, reply: &Reply) -> Result<Vec<Tensor>, String> {
        self.note(reply);
        reply.outputs(self.model)
    }

    fn note(&self, reply: &Reply) {
        match reply.status.is_answer() {
            true => self.unanswered.set(0),
            false => {
                self.unanswered.set(self.unanswered.get() + 1);
                self.why.set(Some(reply.in_words()));
            }
        }
    }

    /// Why the server counts as gone, where it does.
    pub(crate) fn gone(&self) -> Option<String> {
        let why = self.why.take();
        self.why.set(why.clone());
        why.filter(|_| self.unanswered.get() >= GONE_AFTER)
    }

    /// Many requests' outputs in their order, so many at once. Ends early when the server goes.
    pub(crate) async fn ask_all(
        &self,
        target: &Target,
        requests: &[Vec<Tensor>],
        at_once: usize,
    ) -> Vec<Result<Vec<Tensor>, String>> {
        let ask = async |inputs: &Vec<Tensor>| match self.gone() {
            Some(why) => Err(why),
            None => self.ask(target, inputs).await.map(|(outputs, _)| outputs),
        };
        futures::stream::iter(requests).map(ask).buffered(at_once).collect().await
    }
}
