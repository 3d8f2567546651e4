//! Which versions have a profile, and the counting of their rows.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use nobat_core::infer::{InferRequest, InferResponse};
use nobat_core::signature::ModelSignature;
use nobat_runtime::snapshot::{Family, Kind};
use nobat_statistics::sketch::{DriftCells, DriftSketch, PROFILE_SETTING, PublishedProfile};
use parking_lot::RwLock;
use serde_json::{Map, Value};
use smol_str::SmolStr;
use xxhash_rust::xxh3::xxh3_64;

use super::status::DriftStatus;
use crate::random_bits::random_bits;
use crate::registry::{Registry, Snapshot};
use crate::shared_counts::{Cells, Counts};

/// The versions that are followed, and how they stand. Cheap to clone.
#[derive(Clone, Default)]
pub struct Drift {
    current: Arc<ArcSwap<Followed>>,
    statuses: Arc<RwLock<Vec<DriftStatus>>>,
}

#[derive(Default)]
struct Followed {
    models: HashMap<SmolStr, Arc<FollowedModel>>,
    unusable: Vec<UnusableProfile>,
}

/// A version whose profile cannot be followed.
#[derive(Clone)]
pub(super) struct UnusableProfile {
    pub(super) model: SmolStr,
    pub(super) version: SmolStr,
    pub(super) why: String,
}

/// The followed versions of one model.
#[derive(Default)]
pub struct FollowedModel {
    versions: Vec<Arc<FollowedVersion>>,
}

/// One version and what was counted of it.
pub(super) struct FollowedVersion {
    pub(super) model: SmolStr,
    pub(super) version: SmolStr,
    /// Names version and profile: counts under another profile are others.
    pub(super) key: String,
    pub(super) sketch: DriftSketch,
}

impl Drift {
    /// The model's followed versions; `None` for a model without a profile.
    pub(crate) fn of(&self, model: &str) -> Option<Arc<FollowedModel>> {
        let current = self.current.load();
        if current.models.is_empty() { None } else { current.models.get(model).cloned() }
    }

    /// Follows what workers publish, for ever.
    pub(crate) async fn follow(self, registry: Registry) {
        let mut views = registry.changes();
        loop {
            views.borrow_and_update();
            self.fit(&registry.load());
            if views.changed().await.is_err() {
                return;
            }
        }
    }

    /// Follows the versions of this view; those that were followed by the same profile keep their counts.
    pub(crate) fn fit(&self, view: &Snapshot) {
        let before = self.current.load();
        let mut followed = Followed::default();
        for version in view.models().flat_map(|model| &model.versions) {
            let signature = &version.signature;
            let Some(published) = signature.settings.get(PROFILE_SETTING) else { continue };
            match FollowedVersion::new(signature, published, &before) {
                Ok(version) => {
                    let model = followed.models.entry(signature.name.clone()).or_default();
                    Arc::get_mut(model).expect("nobody else has it yet").versions.push(version);
                }
                Err(why) => followed.unusable.push(UnusableProfile {
                    model: signature.name.clone(),
                    version: signature.version.clone(),
                    why,
                }),
            }
        }
        let nothing = |followed: &Followed| followed.models.is_empty() && followed.unusable.is_empty();
        if !nothing(&followed) || !nothing(&before) {
            self.current.store(Arc::new(followed));
        }
    }

    pub(super) fn versions(&self) -> Vec<Arc<FollowedVersion>> {
        let current = self.current.load();
        let mut versions: Vec<_> = current.models.values().flat_map(|model| &model.versions).cloned().collect();
        versions.sort_by(|a, b| a.key.cmp(&b.key));
        versions
    }

    pub(super) fn unusable(&self) -> Vec<UnusableProfile> {
        self.current.load().unusable.clone()
    }

    /// This gateway's rows, for the others to add theirs.
    pub(crate) fn counts(&self) -> Counts {
        self.versions().iter().map(|version| (version.key.clone(), version.cells())).collect()
    }

    /// How each followed version of a model stood at the last look.
    pub fn statuses(&self, model: &str) -> Vec<DriftStatus> {
        self.statuses.read().iter().filter(|status| status.model == model).cloned().collect()
    }

    pub(super) fn set_statuses(&self, statuses: Vec<DriftStatus>) {
        *self.statuses.write() = statuses;
    }

    /// What was counted, as series.
    pub fn families(&self) -> Vec<Family> {
        let mut classes = Family::new("nobat_drift_class_total", "Rows by predicted class.", Kind::Counter);
        let mut inputs = Family::new("nobat_drift_input_bin_total", "Rows by an input's bin.", Kind::Counter);
        let mut scores = Family::new("nobat_drift_score_bin_total", "Rows by an output's bin.", Kind::Counter);
        let mut expected =
            Family::new("nobat_drift_expected_share", "A class's share of the rows in the profile.", Kind::Gauge);
        for version in self.versions() {
            for (group, counts) in version.sketch.reference().groups.iter().zip(version.sketch.counts()) {
                let labels = |tensor: &'static str, cell: (&'static str, String)| {
                    let (model, number) = (version.model.to_string(), version.version.to_string());
                    vec![("model", model), ("version", number), (tensor, group.tensor.clone()), cell]
                };
                let shares = group.expected_shares();
                for (cell, (&rows, share)) in counts.iter().zip(shares).enumerate() {
                    let name = group.cell_name(cell);
                    match (&group.cells, group.reading) {
                        (DriftCells::Classes(_), _) => {
                            classes.push(labels("output", ("class", name.clone())), rows as f64);
                            expected.push(labels("output", ("class", name)), share);
                        }
                        (DriftCells::Edges(_), None) => inputs.push(labels("input", ("bin", name)), rows as f64),
                        (DriftCells::Edges(_), Some(_)) => scores.push(labels("output", ("bin", name)), rows as f64),
                    }
                }
            }
        }
        vec![classes, inputs, scores, expected]
    }
}

impl FollowedModel {
    /// Counts a job's row: `payload` as it was enqueued with so many `rows`, `answer` as its worker gave it.
    pub(crate) fn count(&self, payload: Bytes, rows: u32, answer: &InferResponse) {
        let version = self.versions.iter().find(|version| version.version == answer.version);
        // Outputs are read in place, inputs are slices of the payload.
        if let (Some(version), Ok(request)) = (version, InferRequest::decode(payload)) {
            version.sketch.count(&request.inputs, &answer.outputs, rows as usize, random_bits());
        }
    }
}

impl FollowedVersion {
    fn new(signature: &ModelSignature, published: &Value, before: &Followed) -> Result<Arc<Self>, String> {
        let json = published.to_string();
        let key = format!("drift/{}/{}/{:016x}", signature.name, signature.version, xxh3_64(json.as_bytes()));
        let known = before.models.get(&signature.name).into_iter().flat_map(|model| &model.versions);
        if let Some(known) = known.into_iter().find(|known| known.key == key) {
            return Ok(known.clone());
        }
        match serde_json::from_str(&json) {
            Ok(PublishedProfile::Reference(reference)) => Ok(Arc::new(FollowedVersion {
                model: signature.name.clone(),
                version: signature.version.clone(),
                key,
                sketch: DriftSketch::new(reference),
            })),
            Ok(PublishedProfile::Unusable(why)) => Err(why),
            Err(error) => Err(format!("this gateway cannot read what its worker published: {error}")),
        }
    }

    fn cells(&self) -> Cells {
        let groups = self.sketch.counts().into_iter().enumerate();
        let cells = groups.flat_map(|(group, counts)| {
            counts.into_iter().enumerate().map(move |(cell, rows)| (format!("{group}.{cell}"), rows))
        });
        cells.filter(|(_, rows)| *rows > 0).collect()
    }
}

/// A version's settings as they are shown: a profile's cells are for gateways.
pub fn hide_setting(settings: &Map<String, Value>) -> Map<String, Value> {
    let shown = settings.iter().filter(|(key, _)| *key != PROFILE_SETTING);
    shown.map(|(key, value)| (key.clone(), value.clone())).collect()
}
