//! Times runs of a transformed model on made-up rows of several lengths, which also warms its
//! session up, and finds what rows and length cost.

use std::time::{Duration, Instant};

use nobat_core::parameters::Parameters;
use nobat_core::tensor::{Datatype, Shape, Tensor, put_bytes_element};
use nobat_transform::{Finished, Row, Transform};
use smol_str::SmolStr;

use super::example::TEXT;
use super::limit::LoadLimit;
use crate::batch::run_cost::{RunCost, TimedRun};
use crate::engine::tensors::{TensorInputs, lend_outputs};
use crate::engine::{Engine, RunError};

/// Lengths that are timed, as far as rows can be so long, beside the longest; and rows of each.
const SHAPES: [(u32, u32); 6] = [(8, 1), (8, 8), (64, 1), (64, 4), (u32::MAX, 1), (u32::MAX, 2)];
/// The longest row that is timed: what longer ones cost follows from it.
const LONGEST: u32 = 512;
/// A run as long as this is timed once after its warm-up, a shorter one three times.
const LONG_RUN: Duration = Duration::from_millis(40);

/// A model under made-up rows.
pub(crate) struct RowRunner<'a> {
    pub(crate) engine: &'a mut dyn Engine,
    pub(crate) transform: &'a dyn Transform,
    pub(crate) limit: &'a LoadLimit<'a>,
}

impl RowRunner<'_> {
    /// Fits the cost of runs, within `budget` once every shape ran; of single rows where
    /// rows cannot share a run.
    ///
    /// # Errors
    /// One line: why a made-up row does not go through transformation and session.
    pub(crate) fn costs(&mut self, batched: bool, budget: Duration) -> Result<RunCost, String> {
        let (until, max) = (Instant::now() + budget, self.transform.max_cost().max(1));
        let mut timed: Vec<TimedRun> = Vec::new();
        for (length, rows) in SHAPES {
            let (length, rows) = (length.min(LONGEST).min(max), if batched { rows } else { 1 });
            if timed.iter().any(|&(of, long, _)| (of, long) == (rows, length)) {
                continue;
            }
            let mut best = self.time(rows, length)?;
            for _ in 0..3 {
                if Instant::now() + best > until {
                    break;
                }
                let took = self.time(rows, length)?;
                best = best.min(took);
                if took >= LONG_RUN {
                    break;
                }
            }
            timed.push((rows, length, best.as_secs_f64()));
            if Instant::now() > until {
                break;
            }
        }
        Ok(RunCost::fit(&timed, max).unwrap_or_else(|| RunCost::proportional(max)))
    }

    /// Runs a short and a long row, which a further session needs before it serves.
    pub(crate) fn warm_up(&mut self) -> Result<(), String> {
        let longest = self.transform.max_cost().clamp(1, LONGEST);
        for length in [8.min(longest), longest] {
            self.time(1, length)?;
        }
        Ok(())
    }

    /// Whether the word [`TEXT`] for each of these inputs is answered.
    pub(crate) fn answers(&mut self, inputs: &[(SmolStr, Datatype, Shape)]) -> bool {
        let specs = &self.transform.signature().inputs;
        let mut element = Vec::new();
        put_bytes_element(&mut element, TEXT.as_bytes());
        let given = specs.iter().map(|spec| {
            let (name, datatype, shape) = inputs.iter().find(|(name, _, _)| *name == spec.name)?.clone();
            Some(Tensor { name, datatype, shape, data: element.clone().into() })
        });
        let Ok(prepared) = self.transform.prepare(&given.collect::<Vec<_>>(), &Parameters::default()) else {
            return false;
        };
        let rows: Vec<&Row> = prepared.rows.iter().collect();
        self.run(&rows).is_ok_and(|rows| self.transform.answer(&prepared.job, rows).is_ok())
    }

    fn time(&mut self, rows: u32, length: u32) -> Result<Duration, String> {
        let made: Vec<Row> = (0..rows).map(|_| self.transform.example(length)).collect();
        let started = Instant::now();
        self.run(&made.iter().collect::<Vec<_>>())
            .map_err(|reason| format!("a made-up row of length {length} does not run: {reason}"))?;
        Ok(started.elapsed())
    }

    /// What rows came to in one run.
    ///
    /// # Errors
    /// One line: why they do not go through transformation and session.
    pub(crate) fn run(&mut self, rows: &[&Row]) -> Result<Vec<Finished>, String> {
        let inputs = TensorInputs::new(self.transform.collate(rows).map_err(|error| error.message)?);
        let (mut finished, transform) = (Ok(Vec::new()), self.transform);
        let ran = self.engine.run(&inputs.views(), Some(self.limit.next()), &mut |outputs| {
            finished = lend_outputs(outputs, |outputs| transform.finish(rows, outputs));
        });
        ran.map_err(|error| match error {
            RunError::Failed(reason) | RunError::Invalid(reason) => reason,
            RunError::Ended(_) => format!("the run was ended after {} s", self.limit.run.as_secs_f64()),
        })?;
        finished.map_err(|error| error.message)
    }
}
