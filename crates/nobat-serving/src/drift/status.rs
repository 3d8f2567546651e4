//! How versions stand against their profiles, for readers.

use std::collections::HashMap;

use nobat_statistics::drift::DriftFinding;
use serde::Serialize;
use smol_str::SmolStr;

use crate::shared_counts::Cells;

/// Where acknowledgements stand in the metadata store: the time of each, by model.
pub(super) const ACKNOWLEDGED: &str = "drift_acknowledged";

/// Where the counts stand at which a model was acknowledged: a gateway that starts later goes on from
/// them. By model, what [`AcknowledgedCounts`] is as JSON.
pub(super) const ACKNOWLEDGED_COUNTS: &str = "drift_acknowledged_counts";
/// Every gateway's counts of a model's versions, by the versions' keys and the gateways.
pub(super) type AcknowledgedCounts = HashMap<String, HashMap<String, Cells>>;

/// How a version stands against its profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DriftState {
    /// Nothing shows that its rows are other than the profile's.
    AsProfiled,
    /// Its rows have left the profile; stays until it is acknowledged.
    Drifting,
    /// Its profile cannot be followed.
    NotFollowed,
}

/// A version against its profile, for readers.
#[derive(Clone, Debug, Serialize)]
pub struct DriftStatus {
    /// The model.
    #[serde(skip)]
    pub model: SmolStr,
    /// The version.
    pub version: SmolStr,
    /// How it stands.
    pub state: DriftState,
    /// The same in words.
    pub words: String,
    /// Rows counted, all gateways together.
    pub rows: u64,
    /// How each thing that is followed stands.
    pub findings: Vec<DriftFinding>,
}
