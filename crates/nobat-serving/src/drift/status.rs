//! How versions stand against their profiles, for readers.

use nobat_statistics::drift::DriftFinding;
use serde::Serialize;
use smol_str::SmolStr;

/// Where acknowledgements stand in the metadata store: the time of each, by model.
pub(super) const ACKNOWLEDGED: &str = "drift_acknowledged";

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
