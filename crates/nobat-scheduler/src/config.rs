//! What an operator may set about periodic tasks.

use std::collections::HashSet;

use crate::schedule::{Crontab, Periodic};
use nobat_core::Result;
use serde::{Deserialize, Serialize};

/// The `[scheduler]` section.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SchedulerSettings {
    /// Whether this process schedules and runs periodic tasks.
    pub enabled: bool,
    /// Allows tasks of kind `exec`.
    pub periodic_exec: bool,
    /// The tasks.
    pub periodic: Vec<Periodic>,
}

impl Default for SchedulerSettings {
    fn default() -> SchedulerSettings {
        SchedulerSettings { enabled: true, periodic_exec: false, periodic: Vec::new() }
    }
}

impl SchedulerSettings {
    /// Checks every task and parses its schedule.
    ///
    /// # Errors
    /// `invalid_parameter` naming the task, the value and the remedy.
    pub fn check(&self) -> Result<Vec<(Periodic, Crontab)>> {
        let mut names = HashSet::new();
        self.periodic
            .iter()
            .map(|task| {
                if !names.insert(&task.name) {
                    return Err(task.invalid("is declared twice; rename one"));
                }
                let crontab = task.check(self.periodic_exec)?;
                if let Some(predict) = &task.predict {
                    crate::request::decode(&predict.request)
                        .map_err(|error| task.invalid(&format!("has an unusable request: {}", error.message)))?;
                }
                Ok((task.clone(), crontab))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_declared_twice_or_with_a_bad_request_is_refused() {
        let settings = |periodic: serde_json::Value| {
            let settings: SchedulerSettings =
                serde_json::from_value(serde_json::json!({ "periodic": periodic })).expect("settings");
            settings.check().expect_err("refused").message
        };
        let vacuum = serde_json::json!({"name": "v", "schedule": "@daily", "vacuum": {}});
        assert!(settings(serde_json::json!([vacuum, vacuum])).contains("task `v` is declared twice"));
        let predict = serde_json::json!({"name": "p", "schedule": "@daily", "predict": {"model": "m", "request": {
            "inputs": [{"name": "x", "datatype": "FP32", "shape": [2], "data": [1.0]}]}}});
        assert!(settings(serde_json::json!([predict])).contains("tensor `x` has 4 bytes"));
    }
}
