//! Chains: models whose graph is other models.
//!
//! [`definition`] is a chain as its owner writes it; [`plan()`] checks it against the
//! signatures of its steps and puts the steps in order. Pure: who runs the steps, and
//! where their models are, is the worker's matter.

pub mod definition;
mod draft;
pub mod function;
mod order;
pub mod plan;
pub mod step;
mod tensors;

#[cfg(test)]
mod tests;

pub use definition::{ChainDefinition, Declared, StepDefinition};
pub use draft::Known;
pub use function::{FUNCTIONS, Function, FunctionSpecs};
pub use plan::{check, plan};
pub use step::{Chain, PlanError, Step, StepWork, Wire};
