//! Whether requests may share a model's runs: what the owner says, else what the graph
//! shows, else what a trial shows. What nothing shows runs one request at a time.

use std::path::Path;

use nobat_core::signature::{Rows, RowsVerdict};

use super::rows::{RowAnalysis, analyse_file};
use crate::config::WorkerConfig;
use crate::tune::limit::RunTimedOut;
use crate::tune::row_costs::RowRunner;
use crate::tune::samples::Sample;
use crate::tune::synthetic::SyntheticRunner;
use crate::tune::tower_trial::try_towers;
use crate::tune::trial::{Effort, Trial, try_rows, try_samples};

/// The check of one version's rows.
pub(crate) struct RowCheck<'a> {
    /// The model's name.
    pub(crate) name: &'a str,
    pub(crate) file: &'a Path,
    pub(crate) config: &'a WorkerConfig,
    /// Real requests, where enough were kept.
    pub(crate) samples: Option<&'a [Sample]>,
}

impl RowCheck<'_> {
    /// Whether jobs may share a run and how that is known, which is logged; and whether
    /// real requests may show it.
    pub(crate) fn run(&self, runner: &mut SyntheticRunner<'_>) -> Result<(Rows, bool), RunTimedOut> {
        let (rows, open) = self.judge(runner)?;
        self.log(&rows, open);
        Ok((rows, open))
    }

    /// The same of a model of two towers, whose rows are not those of its graph's inputs.
    pub(crate) fn of_towers(&self, runner: &mut RowRunner<'_>) -> Rows {
        const WHY: &str = "rows of texts and of pictures are two axes of it";
        let (verdict, why) = match self.config.batching.rows_independent {
            Some(independent) => (RowsVerdict::Told, format!("batching.rows_independent = {independent}")),
            None if !self.config.loading.verify_batching => (RowsVerdict::Unknown, WHY.to_owned()),
            None => match try_towers(runner) {
                Trial::Same => (RowsVerdict::Tried, WHY.to_owned()),
                Trial::Differs(differs) => (RowsVerdict::Mixed, format!("in a trial {differs}")),
                Trial::None(refusal) => (RowsVerdict::Unknown, format!("{WHY}, and a trial does not run ({refusal})")),
            },
        };
        let rows = Rows { verdict, why };
        self.log(&rows, false);
        rows
    }

    fn log(&self, rows: &Rows, open: bool) {
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
    }

    /// Whether requests are joined along the first axis.
    pub(crate) fn joins(&self, rows: &Rows) -> bool {
        match rows.verdict {
            RowsVerdict::Proven | RowsVerdict::Tried => true,
            RowsVerdict::Told => self.config.batching.rows_independent == Some(true),
            RowsVerdict::Mixed | RowsVerdict::NoBatchAxis | RowsVerdict::Unknown => false,
        }
    }

    fn judge(&self, runner: &mut SyntheticRunner<'_>) -> Result<(Rows, bool), RunTimedOut> {
        let is = |verdict: RowsVerdict, why: String| Ok((Rows { verdict, why }, false));
        let analysis = analyse_file(self.file).unwrap_or_else(|why| RowAnalysis::Unknown {
            why: format!("its graph cannot be read: {why}"),
            suspect: None,
        });
        if let RowAnalysis::NoBatchAxis(why) = analysis {
            return is(RowsVerdict::NoBatchAxis, why);
        }
        if let Some(spec) = runner.inputs.iter().find(|spec| spec.shape.first() != Some(&-1)) {
            let why = format!("the first axis of input `{}` of shape {:?} is not open", spec.name, spec.shape);
            return is(RowsVerdict::NoBatchAxis, why);
        }
        // A value given for an optional input is one request's own, and the graph is read with the default.
        if let Some(spec) = runner.inputs.iter().find(|spec| spec.optional) {
            return is(RowsVerdict::NoBatchAxis, format!("input `{}` may be left out", spec.name));
        }
        if runner.inputs.is_empty() {
            return is(RowsVerdict::NoBatchAxis, "it has no inputs".into());
        }
        if let Some(independent) = self.config.batching.rows_independent {
            return is(RowsVerdict::Told, format!("batching.rows_independent = {independent}"));
        }
        let (verify, budget) = (self.config.loading.verify_batching, self.config.loading.tune_budget());
        match analysis {
            RowAnalysis::Mixed(why) => is(RowsVerdict::Mixed, why),
            RowAnalysis::NoBatchAxis(why) => is(RowsVerdict::NoBatchAxis, why),
            RowAnalysis::Proven if !verify => is(RowsVerdict::Proven, String::new()),
            // A trial refutes a proof whose rule is wrong.
            RowAnalysis::Proven => match try_rows(runner, Effort::ONCE, budget)? {
                Trial::Differs(why) => {
                    is(RowsVerdict::Mixed, format!("its graph keeps rows apart, but in a trial {why}"))
                }
                Trial::Same | Trial::None(_) => is(RowsVerdict::Proven, String::new()),
            },
            RowAnalysis::Unknown { why, suspect: Some(suspect) } => {
                is(RowsVerdict::Unknown, if why == suspect { why } else { format!("{why}, and {suspect}") })
            }
            RowAnalysis::Unknown { why, suspect: None } if !verify => is(RowsVerdict::Unknown, why),
            RowAnalysis::Unknown { why, suspect: None } => match try_rows(runner, Effort::THOROUGH, budget)? {
                Trial::Same => is(RowsVerdict::Tried, why),
                Trial::Differs(differs) => is(RowsVerdict::Mixed, format!("in a trial {differs}")),
                Trial::None(refusal) => {
                    self.judge_samples(runner, format!("{why}, and it refuses synthetic input ({refusal})"))
                }
            },
        }
    }

    /// What the first real requests show, once there are enough.
    fn judge_samples(&self, runner: &mut SyntheticRunner<'_>, why: String) -> Result<(Rows, bool), RunTimedOut> {
        let Some(samples) = self.samples else { return Ok((Rows { verdict: RowsVerdict::Unknown, why }, true)) };
        let (verdict, why) = match try_samples(runner, samples)? {
            Trial::Same => (RowsVerdict::Tried, format!("{why}; its first requests were answered alone as together")),
            Trial::Differs(differs) => (RowsVerdict::Mixed, format!("of its first requests {differs}")),
            Trial::None(refusal) => {
                (RowsVerdict::Unknown, format!("{why}; its first requests did not run again ({refusal})"))
            }
        };
        Ok((Rows { verdict, why }, false))
    }
}
