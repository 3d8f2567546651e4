//! Loading the versions of one model: each from its file to a version with its engines.

use std::sync::Arc;

use nobat_core::chain::ChainDefinition;
use smol_str::SmolStr;

use super::chain_load::{self, NotLoaded};
use super::install::LoadedVersion;
use super::load::{Load, PreparedVersion};
use super::memory::Memory;
use super::scan::FoundVersion;
use super::settings::ModelSettings;
use super::{chains, files, transforms};
use crate::batch::controller::Controller;
use crate::model::Version;
use crate::state::WorkerState;
use crate::tune::limit::{LoadLimit, RUN_LIMIT};
use crate::tune::sizing::{self, Resources};

/// Loads the versions of one model, one after the other.
pub(super) struct VersionLoads<'a> {
    pub(super) state: &'a WorkerState,
    pub(super) name: &'a SmolStr,
    pub(super) settings: &'a ModelSettings,
    /// What the route says, of a chain that is declared as one.
    pub(super) routed: Option<&'a ChainDefinition>,
    /// Load unchanged versions too.
    pub(super) reload_all: bool,
    /// Engines per version; where nothing serves yet, the first version that loads decides.
    pub(super) sessions: Option<u32>,
}

impl VersionLoads<'_> {
    /// Loads a version; `None` when `current` is the same already.
    pub(super) fn load(
        &mut self,
        found: &FoundVersion,
        current: Option<&Arc<Version>>,
    ) -> Result<Option<LoadedVersion>, NotLoaded> {
        if chains::is_chain(&found.file) {
            let current = current.filter(|_| !self.reload_all);
            let version = chain_load::load(self.state, self.name, found, self.settings, self.routed, current)?;
            return Ok(version.map(|version| LoadedVersion { version: Arc::new(version), engines: Vec::new() }));
        }
        let found = &transforms::graphs(found, self.settings)?;
        let files = files::read(&found.graphs(), &transforms::side_files(found, self.settings))?;
        let loaded_with = self.settings.of_load(found);
        let unchanged = current.filter(|own| own.signature.digest == files.digest && own.loaded_with == loaded_with);
        let samples = unchanged.and_then(|own| own.samples.complete());
        if !self.reload_all && unchanged.is_some() && samples.is_none() {
            return Ok(None);
        }
        let limit = LoadLimit { watchdog: &self.state.watchdog, run: RUN_LIMIT, stop: &self.state.draining };
        let load = Load {
            name: self.name,
            found,
            files: &files,
            settings: self.settings,
            limit: &limit,
            samples: samples.as_deref(),
            on_signature: &|signature| self.state.publish_loading(signature),
        };
        let prepared = load.prepare()?;
        let sessions = match self.sessions {
            Some(sessions) => sessions,
            None => *self.sessions.insert(self.session_count(&prepared)?),
        };
        let PreparedVersion { signature, engine, example, transformed, wants_samples, .. } = prepared;
        let engines = load.sessions(engine, &signature, transformed.as_ref(), sessions)?;
        let batching = &self.settings.config.batching;
        let most = transformed.as_ref().map_or(signature.max_batch_size, |own| own.cost.units_of(own.padded));
        let controller = Controller::new(batching, most);
        let stats = self.state.counters.of(self.name, &found.version);
        let version = Version::new(signature, controller, stats, batching.max_batch_bytes).loaded(
            loaded_with,
            example,
            wants_samples,
        );
        let version = version.transformed(transformed);
        Ok(Some(LoadedVersion { version: Arc::new(version), engines }))
    }

    /// How many sessions the model gets, by what its first one took.
    fn session_count(&self, prepared: &PreparedVersion) -> Result<u32, String> {
        let config = &self.settings.config;
        let resources = Resources {
            cores: sizing::cores(),
            free_bytes: Memory::now(config.loading.memory_limit_bytes).left(),
            session_bytes: prepared.session_bytes,
            row_s: prepared.row_s,
            gpu: prepared.gpu,
        };
        sizing::sessions(config.sessions, resources)
    }
}
