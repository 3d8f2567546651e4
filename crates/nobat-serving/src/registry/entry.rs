//! One model as live workers publish it: its versions, and which of them a caller's wish means.

use std::cmp::Ordering;
use std::sync::Arc;
use std::time::Duration;

use nobat_core::job::JobOptions;
use nobat_core::signature::{ModelSignature, ModelState};
use nobat_core::{Error, ErrorCode, Result, clip};
use smol_str::SmolStr;

/// A worker that comes back is expected within this.
const NO_WORKER_RETRY: Duration = Duration::from_secs(2);
/// Names listed in a "not found" message at most.
pub(super) const NAMES_SHOWN: usize = 10;

/// One model.
#[derive(Clone, Debug)]
pub struct ModelEntry {
    /// Its name, which is its queue's name.
    pub name: SmolStr,
    /// Versions, the newest first; never empty.
    pub versions: Vec<VersionEntry>,
}

/// One version of a model.
#[derive(Clone, Debug)]
pub struct VersionEntry {
    /// What it takes and gives; of a ready worker where there is one.
    pub signature: Arc<ModelSignature>,
    /// Live workers that have it in the signature's state; empty: remembered only.
    pub workers: Vec<SmolStr>,
}

/// Which version a caller asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want<'a> {
    /// The one that the model's settings name, else the newest ready one.
    Default,
    /// By number or name.
    Version(&'a str),
    /// By label.
    Label(&'a str),
}

/// A version found for a caller.
#[derive(Clone, Debug)]
pub struct ResolvedModel {
    /// What it takes and gives.
    pub signature: Arc<ModelSignature>,
    /// The version to pin in the job; empty when the caller left the choice to
    /// the worker, so that a swap between enqueue and run loses nothing.
    pub pinned: SmolStr,
    /// Whether a live worker serves it now.
    pub live: bool,
    /// The route that stands here in a model's place.
    pub route: Option<SmolStr>,
    /// How long the caller has waited for it to load: a part of its wait and of its
    /// deadline.
    pub waited: Duration,
}

impl ModelEntry {
    /// What stands for a route among models: one version, live while its targets are.
    pub fn of_route(ResolvedModel { signature, live, .. }: ResolvedModel) -> ModelEntry {
        let name = signature.name.clone();
        let workers = if live { vec!["route".into()] } else { Vec::new() };
        ModelEntry { name, versions: vec![VersionEntry { signature, workers }] }
    }

    /// The version a caller without a wish gets: of those that are ready on a live
    /// worker the one its settings name, else the newest; else the newest ready one,
    /// else the newest.
    pub fn default_version(&self) -> &VersionEntry {
        let ready = |version: &&VersionEntry| version.signature.state == ModelState::Ready;
        let live = || self.versions.iter().filter(|version| ready(version) && version.is_live());
        live()
            .find(|version| version.signature.default)
            .or_else(|| live().next())
            .or_else(|| self.versions.iter().find(ready))
            .unwrap_or(&self.versions[0])
    }

    /// Finds the version a caller asks for, ready to run.
    ///
    /// # Errors
    /// As [`ModelEntry::find`]; `model_not_ready` with the reason.
    pub fn resolve(&self, want: Want<'_>) -> Result<ResolvedModel> {
        let version = self.find(want)?;
        let signature = &version.signature;
        let pinned = if want == Want::Default { SmolStr::default() } else { signature.version.clone() };
        match signature.state {
            ModelState::Ready => {
                let (signature, live) = (signature.clone(), version.is_live());
                Ok(ResolvedModel { signature, pinned, live, route: None, waited: Duration::ZERO })
            }
            ModelState::Loading => Err(self.not_ready(signature, "is loading").retry_after(NO_WORKER_RETRY)),
            ModelState::Unloading => Err(self.not_ready(signature, "is being unloaded")),
            ModelState::Failed => Err(self.not_ready(signature, "failed to load")),
        }
    }

    /// As [`ModelEntry::resolve`], for a job that is only put into the queue: a
    /// version that loads will do, once what it takes and gives is known.
    ///
    /// # Errors
    /// As [`ModelEntry::resolve`].
    pub fn resolve_for_queue(&self, want: Want<'_>) -> Result<ResolvedModel> {
        let version = self.find(want)?;
        let signature = &version.signature;
        // What a worker says before it has opened the file has no digest.
        if signature.state != ModelState::Loading || signature.digest.is_empty() {
            return self.resolve(want);
        }
        let pinned = if want == Want::Default { SmolStr::default() } else { signature.version.clone() };
        Ok(ResolvedModel { signature: signature.clone(), pinned, live: false, route: None, waited: Duration::ZERO })
    }

    /// Whether a live worker is loading the version a caller asks for.
    pub fn is_loading(&self, want: Want<'_>) -> bool {
        self.find(want).is_ok_and(|version| version.signature.state == ModelState::Loading && version.is_live())
    }

    /// Finds the version a caller asks for, whatever its state.
    ///
    /// # Errors
    /// `version_not_found` naming the versions or labels there are.
    pub fn find(&self, want: Want<'_>) -> Result<&VersionEntry> {
        let first = |fits: &dyn Fn(&ModelSignature) -> bool| self.versions.iter().find(|entry| fits(&entry.signature));
        match want {
            Want::Default => Ok(self.default_version()),
            Want::Version(asked) => first(&|signature| signature.version == asked).ok_or_else(|| {
                self.not_found("version", asked, self.versions.iter().map(|version| &version.signature.version))
            }),
            Want::Label(asked) => {
                first(&|signature| signature.labels.iter().any(|label| label == asked)).ok_or_else(|| {
                    self.not_found("label", asked, self.versions.iter().flat_map(|version| &version.signature.labels))
                })
            }
        }
    }

    pub(super) fn add(&mut self, signature: &ModelSignature, worker: &SmolStr) {
        let Some(known) = self.versions.iter_mut().find(|known| known.signature.version == signature.version) else {
            self.versions.push(VersionEntry { signature: Arc::new(signature.clone()), workers: vec![worker.clone()] });
            return;
        };
        // What keeps a worker from loading a version is told beside the one that serves.
        let untold = |of: &ModelSignature| of.state == ModelState::Failed && !of.reason.is_empty();
        match rank(signature.state).cmp(&rank(known.signature.state)) {
            Ordering::Equal => {
                known.workers.push(worker.clone());
                if signature.default && !known.signature.default {
                    Arc::make_mut(&mut known.signature).default = true;
                }
                if signature.digest != known.signature.digest && known.signature.reason.is_empty() {
                    Arc::make_mut(&mut known.signature).reason = format!(
                        "worker `{worker}` has another file under this version (digest {} beside {}): callers get \
                         answers of both; give each file a version of its own",
                        signature.digest, known.signature.digest
                    );
                }
            }
            Ordering::Greater => {
                let mut better = signature.clone();
                if untold(&known.signature) {
                    better.reason.clone_from(&known.signature.reason);
                }
                known.signature = Arc::new(better);
                known.workers = vec![worker.clone()];
            }
            Ordering::Less if untold(signature) && known.signature.reason.is_empty() => {
                Arc::make_mut(&mut known.signature).reason.clone_from(&signature.reason);
            }
            Ordering::Less => {}
        }
    }

    pub(super) fn without_workers(&self) -> ModelEntry {
        let mut entry = self.clone();
        for version in &mut entry.versions {
            version.workers.clear();
        }
        entry
    }

    fn not_found<'a>(&self, what: &str, asked: &str, known: impl Iterator<Item = &'a SmolStr>) -> Error {
        let known: Vec<_> = known.map(SmolStr::as_str).take(NAMES_SHOWN).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        Error::new(
            ErrorCode::VersionNotFound,
            format!("model `{}` has no {what} `{}`; {what}s: {known}", self.name, clip(asked)),
        )
    }

    fn not_ready(&self, signature: &ModelSignature, how: &str) -> Error {
        let reason = if signature.reason.is_empty() { String::new() } else { format!(": {}", signature.reason) };
        Error::new(
            ErrorCode::ModelNotReady,
            format!("model `{}` version `{}` {how}{reason}", self.name, signature.version),
        )
    }
}

impl VersionEntry {
    /// Whether a live worker has it.
    pub fn is_live(&self) -> bool {
        !self.workers.is_empty()
    }
}

impl ResolvedModel {
    /// A job's options, less the time that its caller has waited for the model.
    pub fn after_wait(&self, options: JobOptions) -> JobOptions {
        JobOptions { deadline: options.deadline.map(|deadline| deadline.saturating_sub(self.waited)), ..options }
    }

    /// Refuses a version that no live worker serves: for callers that wait.
    ///
    /// # Errors
    /// `no_worker`.
    pub fn require_live(&self) -> Result<()> {
        if self.live {
            return Ok(());
        }
        let name = &self.signature.name;
        Err(Error::new(
            ErrorCode::NoWorker,
            format!("no live worker serves model `{name}`; start one, or enqueue with `Prefer: respond-async`"),
        )
        .retry_after(NO_WORKER_RETRY))
    }
}

/// How useful a state is when workers disagree.
fn rank(state: ModelState) -> u8 {
    match state {
        ModelState::Ready => 3,
        ModelState::Loading => 2,
        ModelState::Unloading => 1,
        ModelState::Failed => 0,
    }
}
