//! Which models there are, as live workers publish them: name -> versions ->
//! signature, state, labels, workers.
//!
//! Reads are one atomic load and a hash look-up. One task refreshes the view
//! when the queue says that workers or models changed. A model whose last
//! worker left is remembered with its signature for this process's life: its
//! queue is durable, so jobs can still be accepted for its return; blocking
//! callers are told `no_worker`.

mod entry;

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use nobat_core::{Error, ErrorCode, Result, clip};
use nobat_queue::{Queue, WorkerInfo};
use smol_str::SmolStr;
use tokio::sync::watch;

use entry::NAMES_SHOWN;
pub use entry::{ModelEntry, ResolvedModel, VersionEntry, Want};

/// A handle to the current view. Cheap to clone.
#[derive(Clone, Default)]
pub struct Registry {
    current: Arc<ArcSwap<Snapshot>>,
    /// Counts the views.
    views: Arc<watch::Sender<u64>>,
}

/// The view at one moment.
#[derive(Default)]
pub struct Snapshot {
    models: HashMap<SmolStr, ModelEntry>,
    /// Live workers as they registered, with their reports.
    pub workers: Vec<WorkerInfo>,
}

impl Registry {
    /// The current view. Do not hold it across an await: it pins the old one.
    pub fn load(&self) -> Guard<Arc<Snapshot>> {
        self.current.load()
    }

    /// Follows the count of views: 0 before the first.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.views.subscribe()
    }

    /// Has everybody who follows the views look again.
    pub(crate) fn look_again(&self) {
        self.views.send_modify(|views| *views += 1);
    }

    /// Finds a version; see [`Snapshot::resolve`].
    ///
    /// # Errors
    /// As [`Snapshot::resolve`].
    pub fn resolve(&self, model: &str, want: Want<'_>) -> Result<ResolvedModel> {
        self.load().resolve(model, want)
    }

    /// Reads the workers once.
    ///
    /// # Errors
    /// `queue_unavailable`; the view stays as it was.
    pub async fn refresh(&self, queue: &dyn Queue) -> Result<()> {
        let workers = queue.workers().await?;
        let next = self.load().next(workers);
        self.current.store(Arc::new(next));
        self.views.send_modify(|views| *views += 1);
        Ok(())
    }

    /// Refreshes for ever, whenever the queue says that something changed.
    pub async fn follow(self, queue: Arc<dyn Queue>) {
        let (mut away, mut seen) = (false, 0);
        loop {
            match self.refresh(&*queue).await {
                Ok(()) if away => {
                    away = false;
                    log::info!("registry: the queue answers again");
                }
                Ok(()) => {}
                Err(error) if !away => {
                    away = true;
                    log::warn!("registry: keeping the last known models: {error}");
                }
                Err(_) => {}
            }
            seen = queue.registry_changed(seen).await;
            // Workers register in bursts; this also bounds a queue that is away.
            tokio::time::sleep(Duration::from_millis(if away { 500 } else { 5 })).await;
        }
    }
}

impl Snapshot {
    /// Every model, in no order.
    pub fn models(&self) -> impl Iterator<Item = &ModelEntry> {
        self.models.values()
    }

    /// One model.
    ///
    /// # Errors
    /// `model_not_found`, naming what there is.
    pub fn model(&self, name: &str) -> Result<&ModelEntry> {
        self.model_among(name, |_| true)
    }

    /// As [`Snapshot::model`], for a caller who may know of the models that it `covers` alone.
    ///
    /// # Errors
    /// `model_not_found`, naming what there is of those.
    pub fn model_among(&self, name: &str, covers: impl Fn(&str) -> bool) -> Result<&ModelEntry> {
        self.models.get(name).ok_or_else(|| {
            let mut names: Vec<_> = self.models.keys().map(SmolStr::as_str).filter(|name| covers(name)).collect();
            names.sort_unstable();
            let more = if names.len() > NAMES_SHOWN { ", …" } else { "" };
            names.truncate(NAMES_SHOWN);
            let known = match &names[..] {
                [] if self.models.is_empty() => "no worker has registered a model yet".to_owned(),
                [] => "none that the API key covers is served".to_owned(),
                names => format!("models: {}{more}", names.join(", ")),
            };
            Error::new(ErrorCode::ModelNotFound, format!("there is no model `{}`; {known}", clip(name)))
        })
    }

    /// The model of the routes that name none: `preferred` when set, else the
    /// only one there is.
    ///
    /// # Errors
    /// `model_not_found` when there is none, or more than one to choose from.
    pub fn default_model(&self, preferred: &str, covers: impl Fn(&str) -> bool) -> Result<&ModelEntry> {
        if !preferred.is_empty() {
            return self.model_among(preferred, covers);
        }
        let mut models = self.models.values();
        match (models.next(), models.next()) {
            (Some(only), None) => Ok(only),
            (None, _) => self.model("default"),
            (Some(_), Some(_)) => Err(Error::new(
                ErrorCode::ModelNotFound,
                format!(
                    "{} models are served and none is the default; name one in the path or set `default_model`",
                    self.models.len()
                ),
            )),
        }
    }

    /// Finds the version a caller asks for.
    ///
    /// # Errors
    /// `model_not_found`, `version_not_found`, `model_not_ready`.
    pub fn resolve(&self, model: &str, want: Want<'_>) -> Result<ResolvedModel> {
        self.model(model)?.resolve(want)
    }

    /// The view after `workers` registered so.
    fn next(&self, mut workers: Vec<WorkerInfo>) -> Snapshot {
        // Where workers of one version disagree the newest is heard, whatever order they come in.
        workers.sort_by(|a, b| b.started_at_ms.cmp(&a.started_at_ms).then_with(|| a.id.cmp(&b.id)));
        let mut models: HashMap<SmolStr, ModelEntry> = HashMap::with_capacity(self.models.len());
        for worker in &workers {
            for signature in &worker.models {
                let entry = models
                    .entry(signature.name.clone())
                    .or_insert_with(|| ModelEntry { name: signature.name.clone(), versions: Vec::new() });
                entry.add(signature, &worker.id);
            }
        }
        let still_here = |id: &SmolStr| workers.iter().any(|worker| &worker.id == id);
        for (name, known) in &self.models {
            // A live worker that no longer lists the model unloaded it on purpose.
            let unloaded = known.versions.iter().any(|version| version.workers.iter().any(still_here));
            if !unloaded {
                models.entry(name.clone()).or_insert_with(|| known.without_workers());
            }
        }
        for entry in models.values_mut() {
            entry.versions.sort_by(|a, b| newest_first(&a.signature.version, &b.signature.version));
        }
        Snapshot { models, workers }
    }
}

/// Numbers before names, larger numbers first, names in reverse order.
fn newest_first(a: &str, b: &str) -> Ordering {
    match (a.parse::<u64>(), b.parse::<u64>()) {
        (Ok(a), Ok(b)) => b.cmp(&a),
        (Ok(_), Err(_)) => Ordering::Less,
        (Err(_), Ok(_)) => Ordering::Greater,
        (Err(_), Err(_)) => b.cmp(a),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nobat_core::signature::{ModelSignature, ModelState};
    use nobat_core::tensor::Datatype;
    use nobat_testkit::signatures::{ready, spec};

    fn signature(name: &str, version: &str, state: ModelState) -> ModelSignature {
        let x = spec("x", Datatype::Fp32, &[-1, 2]);
        ModelSignature { version: version.into(), state, ..ready(name, vec![x.clone()], vec![x]) }
    }

    fn worker(id: &str, models: Vec<ModelSignature>) -> WorkerInfo {
        WorkerInfo {
            id: id.into(),
            host: "here:1".into(),
            started_at_ms: 0,
            sessions: 1,
            models,
            report: serde_json::Value::Null,
        }
    }

    #[test]
    fn the_newest_ready_version_is_the_default_and_numbers_compare_as_numbers() {
        let view = Snapshot::default().next(vec![worker(
            "a",
            vec![
                signature("m", "2", ModelState::Ready),
                signature("m", "10", ModelState::Ready),
                signature("m", "11", ModelState::Loading),
            ],
        )]);
        let target = view.resolve("m", Want::Default).expect("a ready version");
        assert_eq!((target.signature.version.as_str(), target.pinned.as_str(), target.live), ("10", "", true));
        let pinned = view.resolve("m", Want::Version("2")).expect("version 2");
        assert_eq!(pinned.pinned, "2");
    }

    #[test]
    fn the_version_that_the_settings_name_is_the_default_while_it_is_served() {
        let named = |state| ModelSignature { default: true, ..signature("m", "2", state) };
        let newer = || signature("m", "10", ModelState::Ready);
        let unnamed = || signature("m", "2", ModelState::Ready);
        let default = |workers: Vec<WorkerInfo>| {
            let view = Snapshot::default().next(workers);
            view.resolve("m", Want::Default).expect("a ready version").signature.version.clone()
        };
        assert_eq!(default(vec![worker("a", vec![named(ModelState::Ready), newer()])]), "2");
        assert_eq!(default(vec![worker("a", vec![named(ModelState::Failed), newer()])]), "10");
        // Its worker is the second to tell of it.
        let two = vec![worker("a", vec![unnamed(), newer()]), worker("b", vec![named(ModelState::Ready)])];
        assert_eq!(default(two), "2");
    }

    #[test]
    fn a_ready_worker_outranks_one_that_failed_to_load() {
        let view = Snapshot::default().next(vec![
            worker("a", vec![signature("m", "1", ModelState::Failed)]),
            worker("b", vec![signature("m", "1", ModelState::Ready)]),
            worker("c", vec![signature("m", "1", ModelState::Ready)]),
        ]);
        let entry = view.model("m").expect("known");
        assert_eq!(entry.versions[0].workers, ["b", "c"]);
        assert!(view.resolve("m", Want::Default).is_ok());
    }

    #[test]
    fn why_a_worker_could_not_load_a_version_is_told_beside_the_one_that_serves() {
        let ready = || signature("m", "1", ModelState::Ready);
        let failed = || ModelSignature { reason: "cut short".into(), ..signature("m", "1", ModelState::Failed) };
        for models in [vec![ready(), failed()], vec![failed(), ready()]] {
            let view = Snapshot::default().next(vec![worker("a", models)]);
            let version = &view.model("m").expect("known").versions[0];
            assert_eq!((version.signature.state, version.signature.reason.as_str()), (ModelState::Ready, "cut short"));
            assert_eq!(version.workers, ["a"]);
        }
    }

    #[test]
    fn workers_that_have_different_files_under_one_version_are_told_and_the_newest_is_heard() {
        let with =
            |digest: &str| vec![ModelSignature { digest: digest.into(), ..signature("m", "1", ModelState::Ready) }];
        let old = worker("a", with("d1"));
        let new = WorkerInfo { started_at_ms: 9, ..worker("b", with("d2")) };
        for workers in [vec![old.clone(), new.clone()], vec![new.clone(), old.clone()]] {
            let view = Snapshot::default().next(workers);
            let version = &view.model("m").expect("known").versions[0];
            assert_eq!((version.signature.digest.as_str(), version.workers.len()), ("d2", 2));
            assert!(
                version.signature.reason.starts_with("worker `a` has another file"),
                "{}",
                version.signature.reason
            );
        }
        let alone = Snapshot::default().next(vec![old.clone(), new]).next(vec![old]);
        let version = &alone.model("m").expect("known").versions[0];
        assert_eq!((version.signature.digest.as_str(), version.signature.reason.as_str()), ("d1", ""));
    }

    #[test]
    fn misses_name_what_there_is() {
        let mut labelled = signature("m", "1", ModelState::Ready);
        labelled.labels = vec!["stable".into()];
        let view = Snapshot::default().next(vec![worker("a", vec![labelled])]);
        let message = |name, want| view.resolve(name, want).expect_err("a miss").message;
        assert_eq!(message("n", Want::Default), "there is no model `n`; models: m");
        assert_eq!(message("m", Want::Version("3")), "model `m` has no version `3`; versions: 1");
        assert_eq!(message("m", Want::Label("beta")), "model `m` has no label `beta`; labels: stable");
        assert_eq!(view.resolve("m", Want::Label("stable")).expect("labelled").pinned, "1");
    }

    #[test]
    fn a_model_whose_worker_left_is_remembered_but_not_live() {
        let view =
            Snapshot::default().next(vec![worker("a", vec![signature("m", "1", ModelState::Ready)])]).next(vec![]);
        let target = view.resolve("m", Want::Default).expect("remembered");
        assert!(!target.live);
        assert_eq!(target.require_live().expect_err("no worker").code, ErrorCode::NoWorker);
    }

    #[test]
    fn a_model_that_its_live_worker_unloaded_is_gone() {
        let view = Snapshot::default().next(vec![worker("a", vec![signature("m", "1", ModelState::Ready)])]);
        let view = view.next(vec![worker("a", vec![])]);
        assert_eq!(view.resolve("m", Want::Default).expect_err("unloaded").code, ErrorCode::ModelNotFound);
    }

    #[test]
    fn the_only_model_is_the_default_and_a_choice_is_refused() {
        let one = Snapshot::default().next(vec![worker("a", vec![signature("m", "1", ModelState::Ready)])]);
        assert_eq!(one.default_model("", |_| true).expect("the only one").name, "m");
        let two = one.next(vec![worker("b", vec![signature("n", "1", ModelState::Ready)])]);
        assert!(two.default_model("", |_| true).is_err());
        assert_eq!(two.default_model("n", |_| true).expect("the set one").name, "n");
    }
}
