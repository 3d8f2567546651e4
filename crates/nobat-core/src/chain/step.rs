//! A chain that fits together: its steps in order, and what callers give and get.

use smol_str::SmolStr;

use crate::signature::{Rows, TensorSpec};

/// A chain that fits together.
#[derive(Clone, Debug, PartialEq)]
pub struct Chain {
    /// Its steps, each after those that it needs.
    pub steps: Vec<Step>,
    /// What callers give.
    pub inputs: Vec<TensorSpec>,
    /// What callers get.
    pub outputs: Vec<TensorSpec>,
    /// Whether every row of a request goes its own way from the inputs to the outputs.
    pub batched: bool,
    /// How it is known, of the step of which the least is known.
    pub rows: Rows,
    /// Most rows of a request; 1 where it is not batched.
    pub max_rows: u32,
    /// Most rows that every step takes in one run.
    pub max_batch_size: u32,
    /// Requests that one worker carries out at once.
    pub max_in_flight: u32,
}

/// One step.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// What people call it; unique in its chain.
    pub name: SmolStr,
    /// What it runs.
    pub work: StepWork,
    /// What it takes.
    pub inputs: Vec<Wire>,
    /// What it gives.
    pub outputs: Vec<Wire>,
    /// Whether the first axis of what it takes and gives is its rows.
    pub by_rows: bool,
    /// Most rows in one request to its model; more are sent in several.
    pub max_rows: u32,
}

/// What a step runs.
#[derive(Clone, Debug, PartialEq)]
pub enum StepWork {
    /// A model, and the version asked for; empty for its default.
    Model {
        /// Its name, which is its queue's.
        name: SmolStr,
        /// Version or label.
        version: SmolStr,
    },
    /// The function at this place of the chain's definition.
    Function {
        /// Its name.
        name: SmolStr,
        /// Which of the definition's steps it is.
        at: usize,
    },
}

/// One tensor on its way into a step or out of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Wire {
    /// As the step declares it.
    pub spec: TensorSpec,
    /// Its name in the chain.
    pub tensor: SmolStr,
}

impl Step {
    /// The step with its model or function, as errors name it.
    pub fn title(&self) -> String {
        match &self.work {
            StepWork::Model { name, .. } => format!("step `{}` (model `{name}`)", self.name),
            StepWork::Function { name, .. } => format!("step `{}` (function `{name}`)", self.name),
        }
    }
}

/// Why there is no chain. Each is one line with the remedy.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PlanError {
    /// A step's model is not there yet.
    #[error("{0}")]
    Waits(String),
    /// It cannot work as it is written.
    #[error("{0}")]
    Refused(String),
}

pub(super) type Planned<T> = std::result::Result<T, PlanError>;

pub(super) fn refused<T>(message: String) -> Planned<T> {
    Err(PlanError::Refused(message))
}
