//! Whether requests may share a model's runs: what the owner says, else what the graph
//! shows, else what a trial shows. What nothing shows runs one request at a time.

use std::path::Path;

use nobat_core::signature::{Rows, RowsVerdict, TensorSpec};

use super::load::{Load, LoadError};
use super::stream::Stream;
use crate::engine::Engine;
use crate::engine::onnx::Description;
use crate::probe::{self, Effort, Trial};
use crate::rows::{self, Shown};

/// What a model file's graph shows of its rows. The weights are skipped.
///
/// # Errors
/// What a person may be told, where the file cannot be read.
pub fn shown(file: &Path) -> Result<Shown, String> {
    let mut stream = Stream::open(file, None).map_err(|error| error.to_string())?;
    let model = rows::read::read(&mut stream);
    stream.finish().map_err(|error| error.to_string())?;
    Ok(rows::show(&model.map_err(|error| error.to_string())?))
}

impl Load<'_> {
    /// Whether jobs may share a run, how that is known, and a line in the log about it;
    /// and whether real requests may show it.
    pub(super) fn rows(&self, engine: &mut dyn Engine, described: &Description) -> Result<(Rows, bool), LoadError> {
        let (rows, open) = self.judge(engine, &described.inputs)?;
        let (model, verdict, why) = (self.name, rows.verdict.as_str(), &rows.why);
        match rows.verdict {
            RowsVerdict::Proven => {
                log::info!(model, verdict; "requests of model `{model}` may share runs: its graph keeps rows apart");
            }
            RowsVerdict::Tried => {
                log::info!(model, verdict; "requests of model `{model}` may share runs: in trials each row was the same alone and among others; its graph does not say ({why})");
            }
            RowsVerdict::Told => log::info!(model, verdict; "whether requests of model `{model}` share runs: {why}"),
            RowsVerdict::NoBatchAxis | RowsVerdict::Mixed => {
                log::warn!(model, verdict; "model `{model}` runs one request at a time: {why}");
            }
            RowsVerdict::Unknown if open => {
                log::warn!(model, verdict; "model `{model}` runs one request at a time until its first requests, alone and together, show whether they may share runs: {why}");
            }
            RowsVerdict::Unknown => {
                log::warn!(model, verdict; "model `{model}` runs one request at a time, as nothing shows that its rows are independent: {why}; if they are, set batching.rows_independent = true in its model.toml");
            }
        }
        Ok((rows, open))
    }

    /// Whether requests are joined along the first axis.
    pub(super) fn joins(&self, rows: &Rows) -> bool {
        match rows.verdict {
            RowsVerdict::Proven | RowsVerdict::Tried => true,
            RowsVerdict::Told => self.settings.config.batching.rows_independent == Some(true),
            RowsVerdict::Mixed | RowsVerdict::NoBatchAxis | RowsVerdict::Unknown => false,
        }
    }

    fn judge(&self, engine: &mut dyn Engine, inputs: &[TensorSpec]) -> Result<(Rows, bool), LoadError> {
        let is = |verdict: RowsVerdict, why: String| Ok((Rows { verdict, why }, false));
        let shown = shown(&self.found.file)
            .unwrap_or_else(|why| Shown::Unknown { why: format!("its graph cannot be read: {why}"), suspect: None });
        if let Shown::NoBatchAxis(why) = shown {
            return is(RowsVerdict::NoBatchAxis, why);
        }
        if let Some(spec) = inputs.iter().find(|spec| spec.shape.first() != Some(&-1)) {
            let why = format!("the first axis of input `{}` of shape {:?} is not open", spec.name, spec.shape);
            return is(RowsVerdict::NoBatchAxis, why);
        }
        // What is given for one is one request's own, and the graph is read with its default.
        if let Some(spec) = inputs.iter().find(|spec| spec.optional) {
            return is(RowsVerdict::NoBatchAxis, format!("input `{}` may be left out", spec.name));
        }
        if inputs.is_empty() {
            return is(RowsVerdict::NoBatchAxis, "it has no inputs".into());
        }
        match self.settings.config.batching.rows_independent {
            Some(true) => return is(RowsVerdict::Told, "batching.rows_independent = true".into()),
            Some(false) => return is(RowsVerdict::Told, "batching.rows_independent = false".into()),
            None => {}
        }
        let verify = self.settings.config.loading.verify_batching;
        match shown {
            Shown::Mixed(why) => is(RowsVerdict::Mixed, why),
            Shown::NoBatchAxis(why) => is(RowsVerdict::NoBatchAxis, why),
            Shown::Proven if !verify => is(RowsVerdict::Proven, String::new()),
            // A trial can refute, should a rule be wrong.
            Shown::Proven => match self.trial(engine, inputs, Effort::Once)? {
                Trial::Differs(why) => {
                    is(RowsVerdict::Mixed, format!("its graph keeps rows apart, but in a trial {why}"))
                }
                Trial::Same | Trial::None(_) => is(RowsVerdict::Proven, String::new()),
            },
            Shown::Unknown { why, suspect: Some(suspect) } => {
                is(RowsVerdict::Unknown, if why == suspect { why } else { format!("{why}, and {suspect}") })
            }
            Shown::Unknown { why, suspect: None } if !verify => is(RowsVerdict::Unknown, why),
            Shown::Unknown { why, suspect: None } => match self.trial(engine, inputs, Effort::Thorough)? {
                Trial::Same => is(RowsVerdict::Tried, why),
                Trial::Differs(differs) => is(RowsVerdict::Mixed, format!("in a trial {differs}")),
                Trial::None(refusal) => {
                    self.judge_real(engine, format!("{why}, and it refuses made-up input ({refusal})"))
                }
            },
        }
    }

    /// What the first real requests show, once they are there.
    fn judge_real(&self, engine: &mut dyn Engine, why: String) -> Result<(Rows, bool), LoadError> {
        let Some(samples) = self.samples else { return Ok((Rows { verdict: RowsVerdict::Unknown, why }, true)) };
        let (verdict, why) = match self.endless(probe::try_samples(engine, samples, self.bound))? {
            Trial::Same => (RowsVerdict::Tried, format!("{why}; its first requests were answered alone as together")),
            Trial::Differs(differs) => (RowsVerdict::Mixed, format!("of its first requests {differs}")),
            Trial::None(refusal) => {
                (RowsVerdict::Unknown, format!("{why}; its first requests ran no more ({refusal})"))
            }
        };
        Ok((Rows { verdict, why }, false))
    }

    fn trial(&self, engine: &mut dyn Engine, inputs: &[TensorSpec], effort: Effort) -> Result<Trial, LoadError> {
        self.endless(probe::try_rows(engine, inputs, effort, self.budget(), self.bound))
    }
}
