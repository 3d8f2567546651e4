//! The result caches of the models that asked for one, and what the answer
//! says about them (`Cache-Status`, RFC 9211).
//!
//! A model opts in by its `cache` setting (its `model.toml`, as its workers
//! publish it) or by the gateway's `cache.<model>` section, which stands over it.
//! Answers are shared between callers: they are functions of the input alone.
//! Who may use the model is checked before.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use nobat_core::Result;
use nobat_core::infer::{InferRequest, InferResponse};
use nobat_core::job::JobOptions;
use nobat_core::signature::{ModelSignature, digest_mark};
use parking_lot::Mutex;
use smol_str::SmolStr;

use super::config::CacheConfig;
use super::key::{CacheKey, KeyHasher, Source};
use super::result_cache::ResultCache;
use super::store::CacheStats;
use crate::registry::Registry;

/// Per-model settings that stand over the models' own.
pub type CacheOverrides = BTreeMap<String, CacheConfig>;

/// What a cache did for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum CacheOutcome {
    /// The model has no cache, or the request cannot use one.
    None,
    /// Answered from it.
    Hit,
    /// Ran, and kept.
    Miss,
    /// Answered by an identical request's run.
    Coalesced,
    /// Ran because the caller asked for a fresh answer; kept.
    Bypass,
}

impl CacheOutcome {
    /// The value of `Cache-Status`; empty for [`CacheOutcome::None`].
    pub fn header(self) -> &'static str {
        match self {
            CacheOutcome::None => "",
            CacheOutcome::Hit => "nobat; hit",
            CacheOutcome::Miss => "nobat; fwd=miss; stored",
            CacheOutcome::Coalesced => "nobat; fwd=miss; collapsed",
            CacheOutcome::Bypass => "nobat; fwd=request; stored",
        }
    }

    /// Its name in explanations and in `Server-Timing`.
    pub fn name(self) -> &'static str {
        match self {
            CacheOutcome::None => "none",
            CacheOutcome::Hit => "hit",
            CacheOutcome::Miss => "miss",
            CacheOutcome::Coalesced => "coalesced",
            CacheOutcome::Bypass => "bypass",
        }
    }

    /// Reads the number of a variant back.
    pub(crate) fn from_u8(number: u8) -> CacheOutcome {
        use CacheOutcome::{Bypass, Coalesced, Hit, Miss, None};
        [None, Hit, Miss, Coalesced, Bypass].into_iter().find(|one| *one as u8 == number).unwrap_or(None)
    }
}

/// Every model's cache.
pub struct Caches {
    hasher: KeyHasher,
    overrides: CacheOverrides,
    models: ArcSwap<HashMap<SmolStr, Arc<ModelCache>>>,
    // Held while one is made or brought up to date: once per registry view.
    changing: Mutex<()>,
}

/// One model's cache and the versions it was last asked for.
struct ModelCache {
    config: CacheConfig,
    cache: ResultCache,
    versions: Vec<(Arc<ModelSignature>, Source)>,
}

/// Where a request's answer is looked for, and kept.
pub struct CacheSlot {
    /// The model's cache.
    pub cache: ResultCache,
    /// Under which key the version that is to answer has it.
    pub key: CacheKey,
    /// Its settings: whether a second tier has it, and for how long.
    pub config: CacheConfig,
    model: SmolStr,
    hasher: KeyHasher,
}

impl CacheSlot {
    /// Under which key `answer` is kept: that of the version which gave it. A worker may
    /// have run another one than this gateway had in view. `None` where it does not say.
    pub fn key_of(&self, answer: &InferResponse) -> Option<CacheKey> {
        let source = || self.hasher.source(&self.model, &answer.version, answer.mark);
        (answer.mark != 0).then(|| self.key.of(source()))
    }
}

impl Caches {
    /// Makes the caches as models ask for them. `seed` is the deployment's secret.
    ///
    /// # Errors
    /// `invalid_parameter` for an override that contradicts itself.
    pub fn new(seed: u64, overrides: CacheOverrides) -> Result<Caches> {
        overrides.values().try_for_each(CacheConfig::validate)?;
        let hasher = KeyHasher::new(seed);
        Ok(Caches { hasher, overrides, models: ArcSwap::default(), changing: Mutex::new(()) })
    }

    /// Where the answer of `request` is kept; `None` when its model has no cache
    /// or `options` ask for a job of its own.
    pub fn slot(
        &self,
        registry: &Registry,
        signature: &Arc<ModelSignature>,
        request: &InferRequest,
        options: &JobOptions,
    ) -> Option<CacheSlot> {
        let asked = signature.cache().is_some() || self.overrides.contains_key(signature.name.as_str());
        if !asked || options.idempotency.is_some() || options.delay.is_some() || options.webhook.is_some() {
            return None;
        }
        let cached = self.model(registry, signature)?;
        let &(_, source) = cached.versions.iter().find(|(known, _)| Arc::ptr_eq(known, signature))?;
        let key = self.hasher.key(source, request);
        let (cache, config) = (cached.cache.clone(), cached.config.clone());
        Some(CacheSlot { cache, key, config, model: signature.name.clone(), hasher: self.hasher })
    }

    /// What each cache has done and holds.
    pub fn stats(&self) -> Vec<(SmolStr, CacheStats)> {
        self.models.load().iter().map(|(model, slot)| (model.clone(), slot.cache.stats())).collect()
    }

    /// Frees what expired; for a timer.
    pub fn sweep(&self, now: Instant) {
        self.models.load().values().for_each(|slot| slot.cache.sweep(now));
    }

    fn model(&self, registry: &Registry, signature: &Arc<ModelSignature>) -> Option<Arc<ModelCache>> {
        let knows = |slot: &&Arc<ModelCache>| slot.versions.iter().any(|(known, _)| Arc::ptr_eq(known, signature));
        if let Some(slot) = self.models.load().get(&signature.name).filter(knows) {
            return Some(slot.clone());
        }
        self.update(registry, signature)
    }

    /// Brings a model's cache up to the registry's present view of it.
    fn update(&self, registry: &Registry, signature: &Arc<ModelSignature>) -> Option<Arc<ModelCache>> {
        let _changing = self.changing.lock();
        let config = match self.overrides.get(signature.name.as_str()) {
            Some(config) => config.clone(),
            None => match CacheConfig::from_setting(signature.cache()) {
                Ok(config) => config?,
                Err(error) => {
                    log::warn!(model = signature.name.as_str(); "model `{}` is not cached: {error}", signature.name);
                    return None;
                }
            },
        };
        let mut versions = vec![signature.clone()];
        if let Ok(entry) = registry.load().model(&signature.name) {
            let others = entry.versions.iter().map(|version| version.signature.clone());
            versions.extend(others.filter(|other| !Arc::ptr_eq(other, signature)));
        }
        let sourced = |version: Arc<ModelSignature>| {
            let source = self.hasher.source(&version.name, &version.version, digest_mark(&version.digest));
            (version, source)
        };
        let versions: Vec<_> = versions.into_iter().map(sourced).collect();
        let slots = self.models.load_full();
        let cache = match slots.get(&signature.name) {
            Some(slot) if slot.config == config => slot.cache.clone(),
            _ => ResultCache::new(&config),
        };
        let live: Vec<Source> = versions.iter().map(|&(_, source)| source).collect();
        cache.retain(&live);
        let slot = Arc::new(ModelCache { config, cache, versions });
        let mut slots = (*slots).clone();
        slots.insert(signature.name.clone(), slot.clone());
        self.models.store(Arc::new(slots));
        Some(slot)
    }
}
