//! What a comparison of two versions found.

use nobat_statistics::pairs::{Gate, GateVerdict};
use serde::Serialize;

/// The comparison.
#[derive(Clone, Debug, Serialize)]
pub struct CompareReport {
    /// Unsafe when any gate is; safe when all are.
    #[serde(flatten)]
    pub verdict: GateVerdict,
    /// The verdict in words.
    pub summary: String,
    /// Requests that were sent to both.
    pub requests: u64,
    /// One question each.
    pub gates: Vec<NamedGate>,
    /// How the classes of both are distributed.
    pub classes: Vec<ClassCounts>,
    /// Chance that changes between classes go as one-sidedly if neither version prefers any.
    pub class_shift_p: f64,
    /// Share of the requests that moved between classes on balance.
    pub classes_moved: f64,
    /// Requests that the versions answer differently, the first of them.
    pub examples: Vec<Disagreement>,
}

/// A gate and what it asks.
#[derive(Clone, Debug, Serialize)]
pub struct NamedGate {
    /// Which.
    pub name: String,
    /// The gate.
    #[serde(flatten)]
    pub gate: Gate,
    /// In words.
    pub words: String,
}

/// How often each version named a class.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClassCounts {
    /// The class.
    pub class: String,
    /// By the old version.
    pub old: u64,
    /// By the new one.
    pub new: u64,
}

/// A request on which the versions differ.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Disagreement {
    /// Which request, from 0.
    pub request: u64,
    /// The start of its first input.
    pub input: String,
    /// The old version's answer.
    pub old: String,
    /// The new one's.
    pub new: String,
    /// The right one, where it is known.
    pub label: Option<String>,
}
