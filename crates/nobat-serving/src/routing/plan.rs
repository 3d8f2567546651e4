//! What a route comes down to for one request.

use smol_str::SmolStr;

use super::route::{Join, OnFailure, Target};

/// What carries out one request: models at the leaves.
#[derive(Clone, Debug, PartialEq)]
pub enum Plan {
    /// One model; an empty version is its default.
    Model {
        /// Which model.
        model: SmolStr,
        /// Which version.
        version: SmolStr,
    },
    /// Several at once, answers joined.
    Group {
        /// Targets as the route names them, and what each means.
        children: Vec<(Target, Plan)>,
        /// How the answers become one.
        join: Join,
        /// What a failing child means.
        on_failure: OnFailure,
    },
    /// One answers; the copies are compared with it.
    Shadow {
        /// The route, for the count of differences.
        route: SmolStr,
        /// Who answers.
        primary: Box<Plan>,
        /// Who gets a copy.
        copies: Vec<(Target, Plan)>,
        /// Who would get one, if a worker served it.
        missing: Vec<Target>,
        /// Relative difference up to which floats count as equal.
        tolerance: f64,
    },
}

impl Plan {
    /// Every model that may have a part in the answer; a shadow's copies have none.
    pub fn models(&self) -> Vec<&SmolStr> {
        match self {
            Plan::Model { model, .. } => vec![model],
            Plan::Group { children, .. } => children.iter().flat_map(|(_, plan)| plan.models()).collect(),
            Plan::Shadow { primary, .. } => primary.models(),
        }
    }
}
