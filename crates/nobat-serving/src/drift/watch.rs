//! The looks at what was counted, and what they tell.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use nobat_core::{Error, Result};
use nobat_statistics::drift::{DriftFinding, DriftLimits, ProfileWatch};
use nobat_statistics::sketch::DriftReference;

use super::follow::FollowedVersion;
use super::status::{ACKNOWLEDGED, ACKNOWLEDGED_COUNTS, AcknowledgedCounts, DriftState, DriftStatus};
use crate::shared_counts::Cells;
use crate::state::ServingState;

/// How long a look waits for the store; what it does not learn it learns with the next one.
const PATIENCE: Duration = Duration::from_secs(2);

/// Says that somebody has seen a model's drift: every gateway begins to watch anew, and one that
/// starts later goes on from here.
///
/// # Errors
/// `queue_unavailable`.
pub async fn acknowledge(state: &ServingState, model: &str) -> Result<()> {
    let metadata = state.queue.metadata();
    let versions = state.drift.versions().into_iter().filter(|version| version.model == model);
    let all = state.shared_counts.all(&state.drift.counts());
    let of_version = |key: &String| {
        let counted = all.iter().filter_map(|(gateway, counts)| Some((gateway.clone(), counts.get(key)?.clone())));
        counted.collect::<HashMap<String, Cells>>()
    };
    let counts: AcknowledgedCounts = versions.map(|version| (version.key.clone(), of_version(&version.key))).collect();
    let json = serde_json::to_vec(&counts)
        .map_err(|error| Error::internal(format!("the counts of drift cannot be written: {error}")))?;
    metadata.put(ACKNOWLEDGED_COUNTS, model, &json).await?;
    // Who sees the time finds the counts.
    let now = metadata.now_ms().await?;
    metadata.put(ACKNOWLEDGED, model, now.to_string().as_bytes()).await
}

/// What is remembered between two looks.
#[derive(Default)]
pub(crate) struct DriftLooks {
    versions: HashMap<String, WatchedVersion>,
}

struct WatchedVersion {
    watch: ProfileWatch,
    /// What each gateway had counted at the last look; at first, when it was acknowledged last. `None`
    /// until the store could be asked for that: nothing is counted before, and nothing lost, as counts
    /// only grow.
    counted: Option<HashMap<String, Cells>>,
    /// When it was found to drift, by the store's clock; `None` until that could be asked.
    found_at_ms: Option<u64>,
}

impl DriftLooks {
    /// Looks at every followed version: whether all are as their profiles say, and what is seen.
    /// `None` where no model has a profile.
    pub(crate) async fn look(&mut self, state: &ServingState, limits: DriftLimits) -> Option<(bool, String)> {
        let (versions, unusable) = (state.drift.versions(), state.drift.unusable());
        self.versions.retain(|key, _| versions.iter().any(|version| version.key == *key));
        let counts = state.shared_counts.all(&state.drift.counts());
        let mut statuses = Vec::with_capacity(versions.len() + unusable.len());
        for version in &versions {
            let watched = self.versions.entry(version.key.clone()).or_insert_with(|| WatchedVersion::new(version));
            if watched.counted.is_none() {
                watched.counted = acknowledged_counts(state, version).await;
            }
            for (gateway, counts) in &counts {
                if let Some(cells) = counts.get(&version.key) {
                    watched.count(gateway, cells, limits);
                }
            }
            watched.acknowledge(state, version).await;
            statuses.push(watched.status(version));
        }
        statuses.extend(unusable.into_iter().map(|profile| DriftStatus {
            model: profile.model,
            version: profile.version,
            state: DriftState::NotFollowed,
            words: format!("its profile is not followed: {}", profile.why),
            rows: 0,
            findings: vec![],
        }));
        let told = verdict(&statuses);
        state.drift.set_statuses(statuses);
        told
    }
}

impl WatchedVersion {
    fn new(version: &FollowedVersion) -> WatchedVersion {
        let watch = ProfileWatch::new(version.sketch.reference().clone());
        WatchedVersion { watch, counted: None, found_at_ms: None }
    }

    /// Takes what a gateway has counted so far.
    fn count(&mut self, gateway: &str, cells: &Cells, limits: DriftLimits) {
        let Some(counted) = &mut self.counted else { return };
        let before = counted.insert(gateway.to_owned(), cells.clone()).unwrap_or_default();
        self.watch.count(&new_rows(self.watch.reference(), &before, cells), limits);
    }

    /// Begins anew when somebody has seen the drift, at whichever gateway.
    async fn acknowledge(&mut self, state: &ServingState, version: &FollowedVersion) {
        if self.watch.found().is_none() || state.condition.refusal().is_some() {
            return;
        }
        let metadata = state.queue.metadata();
        let Some(found_at_ms) = self.found_at_ms else {
            self.found_at_ms = in_time(metadata.now_ms()).await;
            return;
        };
        let Some(acknowledged) = in_time(metadata.documents(ACKNOWLEDGED)).await else { return };
        let seen = acknowledged.iter().find(|(model, _)| *model == version.model);
        let seen_at_ms = seen.and_then(|(_, at)| std::str::from_utf8(at).ok()?.parse::<u64>().ok());
        if seen_at_ms.is_some_and(|at| at >= found_at_ms) {
            log::info!(model = version.model.as_str(); "drift of model `{}` was acknowledged; watching anew", version.model);
            self.watch = ProfileWatch::new(version.sketch.reference().clone());
            self.found_at_ms = None;
        }
    }

    fn status(&self, version: &FollowedVersion) -> DriftStatus {
        let found = self.watch.found();
        DriftStatus {
            model: version.model.clone(),
            version: version.version.clone(),
            state: if found.is_some() { DriftState::Drifting } else { DriftState::AsProfiled },
            words: in_words(&self.watch),
            rows: self.watch.rows(),
            findings: self.watch.findings(),
        }
    }
}

/// What was counted of a version when it was acknowledged last; `None` while the store cannot say.
async fn acknowledged_counts(state: &ServingState, version: &FollowedVersion) -> Option<HashMap<String, Cells>> {
    if state.condition.refusal().is_some() {
        return None;
    }
    let documents = in_time(state.queue.metadata().documents(ACKNOWLEDGED_COUNTS)).await?;
    Some(counts_of(&documents, version))
}

/// What the documents say of a version; nothing where it never was acknowledged under this profile.
fn counts_of(documents: &[(String, Bytes)], version: &FollowedVersion) -> HashMap<String, Cells> {
    let own = documents.iter().find(|(model, _)| *model == version.model);
    let read = own.and_then(|(_, json)| serde_json::from_slice::<AcknowledgedCounts>(json).ok());
    read.and_then(|mut counts| counts.remove(&version.key)).unwrap_or_default()
}

/// A call of the store, if it answers within [`PATIENCE`].
async fn in_time<T>(call: impl Future<Output = Result<T>>) -> Option<T> {
    tokio::time::timeout(PATIENCE, call).await.ok()?.ok()
}

/// The rows since `before`, group by group. Counts only grow; what fell is another process's.
fn new_rows(reference: &DriftReference, before: &Cells, now: &Cells) -> Vec<Vec<u64>> {
    let of = |cells: &Cells, group: usize, cell: usize| cells.get(&format!("{group}.{cell}")).copied().unwrap_or(0);
    let groups = reference.groups.iter().enumerate().map(|(group, own)| {
        (0..own.expected.len()).map(|cell| of(now, group, cell).saturating_sub(of(before, group, cell))).collect()
    });
    groups.collect()
}

fn in_words(watch: &ProfileWatch) -> String {
    let profile = watch.reference();
    let against = format!("the profile of {} rows (made with version {})", profile.rows, profile.version);
    let percent = |share: f64| format!("{:.1} %", share * 100.0);
    let shares = |finding: &DriftFinding| {
        let (seen, expected) = (percent(finding.seen), percent(finding.expected));
        let DriftFinding { cell, of, newest, .. } = finding;
        format!("`{cell}` of {of} has {seen} of the newest {newest} rows, {expected} in the profile")
    };
    if let Some(found) = watch.found() {
        let chance =
            if found.p < 1e-6 { "less than one in a million".into() } else { format!("{:.4} %", found.p * 100.0) };
        return format!(
            "drifting from {against}: {}; {} have moved (chance of a false alarm: {chance}). Acknowledge it to watch anew",
            shares(found),
            percent(found.moved)
        );
    }
    match watch.findings().into_iter().filter(|finding| finding.rows > 0).min_by(|a, b| a.p.total_cmp(&b.p)) {
        None => format!("no rows yet to hold against {against}"),
        Some(finding) => format!("{} rows look like {against}; furthest off: {}", watch.rows(), shares(&finding)),
    }
}

/// What the monitor's check says.
fn verdict(statuses: &[DriftStatus]) -> Option<(bool, String)> {
    let of = |state| statuses.iter().filter(move |status| status.state == state);
    let named = |status: &DriftStatus| format!("model `{}` version {}: {}", status.model, status.version, status.words);
    let (drifting, watched) =
        (of(DriftState::Drifting).map(named).collect::<Vec<_>>(), of(DriftState::AsProfiled).count());
    match (drifting.is_empty(), statuses.is_empty()) {
        (_, true) => None,
        (false, _) => Some((false, drifting.join("; "))),
        (true, false) => Some((true, format!("{watched} model versions with a profile are as it says"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nobat_statistics::reading::Reading;
    use nobat_statistics::sketch::{DriftCells, DriftGroup, DriftSketch};

    const LIMITS: DriftLimits = DriftLimits { level: 0.01, moved: 0.02 };

    fn version() -> FollowedVersion {
        let group = DriftGroup {
            tensor: "label".into(),
            reading: Some(Reading::Class),
            cells: DriftCells::Classes(vec!["cat".into(), "dog".into()]),
            expected: vec![5_000, 5_000, 0, 0],
        };
        let reference = DriftReference { version: "1".into(), rows: 10_000, groups: vec![group] };
        let sketch = DriftSketch::new(reference);
        FollowedVersion { model: "m".into(), version: "1".into(), key: "drift/m/1/0".into(), sketch }
    }

    fn cells(cats: u64, dogs: u64) -> Cells {
        [("0.0".to_owned(), cats), ("0.1".to_owned(), dogs)].into()
    }

    #[test]
    fn gateways_add_up_and_a_look_counts_only_what_is_new() {
        let mut watched = WatchedVersion { counted: Some(HashMap::new()), ..WatchedVersion::new(&version()) };
        for (gateway, cats, dogs) in [("a", 10, 9), ("a", 10, 9), ("b", 5, 6), ("a", 20, 20)] {
            watched.count(gateway, &cells(cats, dogs), LIMITS);
        }
        assert_eq!(watched.watch.rows(), 51);
        let status = watched.status(&version());
        assert_eq!(status.state, DriftState::AsProfiled);
        assert!(status.words.starts_with("51 rows look like the profile of 10000 rows"), "{}", status.words);
        assert_eq!(verdict(&[status]), Some((true, "1 model versions with a profile are as it says".into())));
    }

    #[test]
    fn a_gateway_that_starts_after_an_acknowledgement_counts_what_came_since() {
        let (version, seen) = (version(), cells(900, 100));
        let acknowledged = HashMap::from([(version.key.clone(), HashMap::from([("a".to_owned(), seen.clone())]))]);
        let json = serde_json::to_vec(&acknowledged).expect("serializes");
        let documents = [("other".to_owned(), Bytes::new()), ("m".to_owned(), Bytes::from(json))];
        let mut watched = WatchedVersion::new(&version);
        watched.count("a", &seen, LIMITS);
        assert_eq!(watched.watch.rows(), 0, "nothing before it is known where to begin");
        watched.counted = Some(counts_of(&documents, &version));
        watched.count("a", &seen, LIMITS);
        assert_eq!((watched.watch.rows(), watched.status(&version).state), (0, DriftState::AsProfiled));
        watched.count("a", &cells(905, 105), LIMITS);
        assert_eq!(watched.watch.rows(), 10);
        assert!(counts_of(&documents[..1], &version).is_empty(), "never acknowledged");
    }

    #[test]
    fn drift_is_told_in_words_and_no_rows_as_such() {
        let mut watched = WatchedVersion { counted: Some(HashMap::new()), ..WatchedVersion::new(&version()) };
        assert!(watched.status(&version()).words.starts_with("no rows yet"));
        watched.count("a", &cells(900, 100), LIMITS);
        let status = watched.status(&version());
        assert_eq!(status.state, DriftState::Drifting);
        assert!(
            status.words.contains("`cat` of output `label` has 90.0 % of the newest 1000 rows, 50.0 % in the profile"),
            "{}",
            status.words
        );
        let Some((false, told)) = verdict(&[status]) else { panic!("an alarm") };
        assert!(told.starts_with("model `m` version 1: drifting from the profile"), "{told}");
        assert_eq!(verdict(&[]), None);
    }
}
