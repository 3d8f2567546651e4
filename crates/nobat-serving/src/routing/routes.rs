//! The deployment's routes, bound to the models that are live.
//!
//! Owns the current table ([`Routes`]) and its storage in the metadata store.
//!
//! Invariants:
//! - A gateway without routes pays one atomic load and one comparison a request.
//! - Routes of the configuration stand under those of admin calls: a call that
//!   replaces or removes one outlives restarts.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use nobat_core::chain::{Known, plan};
use nobat_core::signature::ModelSignature;
use nobat_core::{Error, ErrorCode, Result};
use nobat_queue::MetadataStore;
use nobat_queue::route_jobs::{self, SPACE};
use nobat_runtime::Metrics;
use parking_lot::Mutex;
use prometheus::{IntCounterVec, opts};
use serde::Serialize;
use smol_str::SmolStr;
use tokio::sync::Semaphore;

use super::bound::{BoundRoute, BoundTable};
use super::evidence::{RouteEvidence, ShadowPair};
use super::route::Route;
use super::signature::{MissingTarget, ServedModel};
use super::table::Table;
use crate::random_bits::random_bits;
use crate::registry::{Registry, ResolvedModel, Want};
use crate::shared_counts::Counts;

/// How often other gateways' calls are looked for.
const REFRESH: Duration = Duration::from_secs(2);
/// Shadow copies in the air at once; more are dropped and counted.
const SHADOWS_AT_ONCE: usize = 64;
/// The lock of who changes routes, and how long a change may take; a gateway that is killed in one
/// holds up the others no longer.
const LOCK: &str = "routes";
const HELD: Duration = Duration::from_secs(5);
/// How often a lock that another has is asked for.
const LOOK: Duration = Duration::from_millis(50);

/// The deployment's routes as this gateway sees them. Cheap to clone.
#[derive(Clone)]
pub struct Routes {
    current: Arc<ArcSwap<BoundTable>>,
    declared: Arc<Vec<Route>>,
    metadata: Arc<dyn MetadataStore>,
    /// Routes whose queues have, or once had, jobs.
    in_use: Arc<ArcSwap<BTreeSet<SmolStr>>>,
    /// What became of shadow copies.
    pub shadows: Arc<Shadows>,
    /// What canaries and copies have shown.
    pub(crate) evidence: Arc<RouteEvidence>,
}

/// What became of shadow copies in this gateway.
pub struct Shadows {
    pub(crate) slots: Arc<Semaphore>,
    // Held for an increment; a copy is settled at most a few hundred times a second.
    counts: Mutex<HashMap<(SmolStr, SmolStr), ShadowCounts>>,
    shown: IntCounterVec,
}

/// Outcomes of one route's copies to one target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ShadowCounts {
    /// Same answer within the tolerance.
    pub same: u64,
    /// Another answer.
    pub different: u64,
    /// The copy failed or did not finish in time.
    pub failed: u64,
    /// Not sent: too many copies in the air.
    pub dropped: u64,
    /// Not sent: no live worker serves the target.
    pub missing: u64,
}

/// How one copy ended.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ShadowOutcome {
    Same,
    Different,
    Failed,
    Dropped,
    Missing,
}

impl Routes {
    /// Starts with the configuration's routes.
    ///
    /// # Errors
    /// `invalid_parameter` naming the route, the value and the remedy.
    pub fn new(declared: Vec<Route>, metadata: Arc<dyn MetadataStore>, metrics: &Metrics) -> Result<Routes> {
        let table = Table::build(declared.clone())?;
        if let Some(chain) = declared.iter().find(|route| route.chain.is_some()) {
            let what =
                "is a chain, which workers must know: put it with PUT /api/v1/routes, or make it a model's folder";
            return Err(chain.invalid(what));
        }
        let options = opts!("nobat_shadow_copies_total", "Shadow copies by how they compared with the answer.");
        let shown = IntCounterVec::new(options, &["route", "target", "outcome"])
            .map_err(|error| Error::internal(format!("metrics: {error}")))?;
        metrics.register(shown.clone());
        let slots = Arc::new(Semaphore::new(SHADOWS_AT_ONCE));
        let shadows = Shadows { slots, counts: Mutex::default(), shown };
        Ok(Routes {
            current: Arc::new(ArcSwap::from_pointee(BoundTable::bind(&table, &[]))),
            declared: Arc::new(declared),
            metadata,
            in_use: Arc::default(),
            shadows: Arc::new(shadows),
            evidence: Arc::default(),
        })
    }

    /// The current table. Do not hold it across an await.
    pub fn load(&self) -> Guard<Arc<BoundTable>> {
        self.current.load()
    }

    /// What stands for a model when `name` is a route: its signature, marked
    /// with the route. `None` when it is none.
    ///
    /// # Errors
    /// `model_not_ready` when the route cannot serve, with the reason.
    pub fn target(&self, name: &str) -> Option<Result<ResolvedModel>> {
        let bound = self.current.load();
        let route = bound.get(name)?;
        Some(match &route.signature {
            Err(error) => Err(error.clone()),
            Ok(signature) => Ok(ResolvedModel {
                signature: Arc::new(signature.clone()),
                pinned: SmolStr::default(),
                live: route.live,
                route: Some(SmolStr::new(name)),
                waited: Duration::ZERO,
            }),
        })
    }

    /// Reads the metadata store and the registry once.
    ///
    /// # Errors
    /// `queue_unavailable`; the table stays as it was.
    pub async fn refresh(&self, registry: &Registry) -> Result<()> {
        let mut routes: HashMap<SmolStr, Route> =
            self.declared.iter().map(|route| (route.name.clone(), route.clone())).collect();
        let mut in_use = BTreeSet::new();
        for (name, value) in self.metadata.documents(SPACE).await? {
            if let Some(route) = route_jobs::route_of(&name) {
                in_use.insert(SmolStr::from(route));
            }
            if name.contains(':') {
                continue;
            }
            match serde_json::from_slice::<Option<Route>>(&value) {
                // One that an earlier gateway took is no reason to serve none of the others.
                Ok(Some(route)) => match route.check() {
                    Ok(()) => drop(routes.insert(route.name.clone(), route)),
                    Err(error) => log::warn!(route = name.as_str(); "routes: leaving out one: {}", error.message),
                },
                Ok(None) => drop(routes.remove(name.as_str())),
                Err(error) => log::warn!(route = name.as_str(); "routes: leaving out one that cannot be read: {error}"),
            }
        }
        if in_use != **self.in_use.load() {
            self.in_use.store(Arc::new(in_use));
        }
        if routes.is_empty() && self.current.load().table().routes().is_empty() {
            return Ok(());
        }
        // Two gateways may have accepted routes that only together make a cycle.
        match Table::build(routes.into_values()) {
            Ok(table) => self.bind(&table, registry),
            Err(error) => {
                log::warn!("routes: keeping the last good table: {error}");
                let table = self.current.load().table().clone();
                self.bind(&table, registry);
            }
        }
        Ok(())
    }

    fn bind(&self, table: &Table, registry: &Registry) {
        let bound = bound(table, registry).after(&self.current.load());
        tell(&self.current.load(), &bound);
        self.current.store(Arc::new(bound));
    }

    /// Fits the table to the models that are live now, when those changed.
    pub fn bind_anew(&self, registry: &Registry) {
        let table = self.current.load().table().clone();
        if !table.routes().is_empty() {
            self.bind(&table, registry);
        }
    }

    /// The newest pairs of a route's copy after `number`, as this gateway saw them.
    pub fn pairs(&self, route: &str, copy: &str, number: u64) -> Vec<ShadowPair> {
        self.evidence.pairs(route, copy, number)
    }

    /// This gateway's evidence, for the others to add theirs; empty counts ask for those of the others.
    pub(crate) fn counts(&self) -> Counts {
        let bound = self.current.load();
        self.evidence.retain(|route| bound.get(route).map(|route| &route.scope));
        let mut counts = Counts::new();
        let judged =
            bound.table().routes().into_iter().filter(|route| route.weighted.is_some() || route.shadow.is_some());
        for route in judged {
            let Some(BoundRoute { scope, .. }) = bound.get(&route.name) else { continue };
            for target in route.targets() {
                counts.insert(scope.key(target), self.evidence.of(scope, target));
            }
        }
        counts
    }

    /// Routes whose queues this gateway serves.
    pub fn in_use(&self) -> Guard<Arc<BTreeSet<SmolStr>>> {
        self.in_use.load()
    }

    /// Makes sure that the jobs of a route are served, by this gateway and all others.
    ///
    /// # Errors
    /// `queue_unavailable`.
    pub(crate) async fn open_queue(&self, route: &str) -> Result<()> {
        if !self.in_use.load().contains(route) {
            route_jobs::open(&*self.metadata, route).await?;
            let mut in_use = BTreeSet::clone(&self.in_use.load());
            in_use.insert(route.into());
            self.in_use.store(Arc::new(in_use));
        }
        Ok(())
    }

    /// Makes the configuration's routes known to processes that do not read it.
    ///
    /// # Errors
    /// `queue_unavailable`.
    pub async fn declare(&self) -> Result<()> {
        let names: Vec<SmolStr> = self.declared.iter().map(|route| route.name.clone()).collect();
        route_jobs::declare(&*self.metadata, &names).await
    }

    /// Refreshes for ever: what other gateways were told every two seconds, what
    /// became of the models at once.
    pub async fn follow(self, registry: Registry) {
        let mut changed = registry.changes();
        loop {
            if let Err(error) = self.refresh(&registry).await {
                log::debug!("routes: keeping the last known: {error}");
                // The routes that are known go by the models there are all the same.
                self.bind_anew(&registry);
            }
            let again = tokio::time::sleep(REFRESH);
            tokio::pin!(again);
            loop {
                tokio::select! {
                    () = &mut again => break,
                    Ok(()) = changed.changed() => self.bind_anew(&registry),
                }
            }
        }
    }

    /// Declares or replaces a route, for every gateway and for good.
    ///
    /// # Errors
    /// `invalid_parameter` naming the value and the remedy: a cycle, an unknown
    /// target, a topic that matches nothing, weights that do not add up, models
    /// that differ. `queue_unavailable`.
    pub async fn put(&self, registry: &Registry, route: Route) -> Result<()> {
        self.alone(self.write(registry, None, route)).await
    }

    /// Puts `route` in the place of `judged`, where that is still what is declared.
    ///
    /// # Errors
    /// As [`Routes::put`]; `invalid_parameter` where it was changed meanwhile.
    pub(crate) async fn replace(&self, registry: &Registry, judged: &Route, route: Route) -> Result<()> {
        self.alone(self.write(registry, Some(judged), route)).await
    }

    /// Makes a change of the table while no other gateway makes one: what is read for it is what it
    /// replaces, and two that only together make a cycle come one after the other.
    async fn alone(&self, change: impl Future<Output = Result<()>>) -> Result<()> {
        let busy = || Error::new(ErrorCode::QueueUnavailable, "other routes are being changed; try again");
        let holder = format!("{:016x}{:016x}", random_bits(), random_bits());
        let begun = tokio::time::Instant::now();
        while !self.metadata.lock(LOCK, &holder, HELD).await? {
            if begun.elapsed() > HELD + LOOK {
                return Err(busy());
            }
            tokio::time::sleep(LOOK).await;
        }
        let done = tokio::time::timeout(HELD - LOOK, change).await.unwrap_or_else(|_| Err(busy()));
        if let Err(error) = self.metadata.unlock(LOCK, &holder).await {
            log::debug!("routes: the lock of changes ends by itself: {error}");
        }
        done
    }

    async fn write(&self, registry: &Registry, judged: Option<&Route>, route: Route) -> Result<()> {
        self.refresh(registry).await?;
        if judged.is_some_and(|judged| self.current.load().table().get(&judged.name) != Some(judged)) {
            let what = format!("route `{}` was changed while it was judged; ask again", route.name);
            return Err(Error::invalid(what));
        }
        let table = self.current.load().table().with(route.clone())?;
        let bound = bound(&table, registry).after(&self.current.load());
        if let Some(chain) = &route.chain {
            let known = KnownModels(registry);
            plan(&route.name, chain, &known).map_err(|error| route.invalid(&format!("is no chain: {error}")))?;
        }
        // Workers make a chain's model of what is about to be stored.
        let unfit = bound.get(&route.name).filter(|_| route.chain.is_none()).and_then(|route| match &route.signature {
            Err(error) => Some(error),
            // Declared by hand, a target that fits nothing is a slip of it.
            Ok(_) => route.missing.iter().find(|missing| !missing.fits).map(|missing| &missing.error),
        });
        if let Some(error) = unfit {
            return Err(Error { code: ErrorCode::InvalidParameter, ..error.clone() });
        }
        let json = serde_json::to_vec(&route)
            .map_err(|error| Error::internal(format!("a route cannot be written: {error}")))?;
        self.metadata.put(SPACE, &route.name, &json).await?;
        tell(&self.current.load(), &bound);
        self.current.store(Arc::new(bound));
        log::info!(route = route.name.as_str(); "routes: `{}` declared", route.name);
        Ok(())
    }

    /// Removes a route, for every gateway and for good.
    ///
    /// # Errors
    /// `route_not_found`; `queue_unavailable`.
    pub async fn remove(&self, registry: &Registry, name: &str) -> Result<()> {
        self.alone(self.erase(registry, name)).await
    }

    async fn erase(&self, registry: &Registry, name: &str) -> Result<()> {
        self.refresh(registry).await?;
        if self.current.load().get(name).is_none() {
            return Err(no_route(name));
        }
        if self.declared.iter().any(|route| route.name == name) {
            self.metadata.put(SPACE, name, b"null").await?;
        } else {
            self.metadata.remove(SPACE, name).await?;
        }
        self.refresh(registry).await?;
        log::info!(route = name; "routes: `{name}` removed");
        Ok(())
    }
}

/// The models of the registry, for chains.
struct KnownModels<'a>(&'a Registry);

impl Known for KnownModels<'_> {
    fn model(&self, name: &str, version: &str) -> Option<ModelSignature> {
        let view = self.0.load();
        let found = match version {
            "" => view.resolve(name, Want::Default),
            _ => view.resolve(name, Want::Version(version)).or_else(|_| view.resolve(name, Want::Label(version))),
        };
        found.ok().map(|model| ModelSignature::clone(&model.signature))
    }
}

impl Shadows {
    pub(crate) fn count(&self, route: &SmolStr, copy: &SmolStr, outcome: ShadowOutcome) {
        let mut counts = self.counts.lock();
        let count = counts.entry((route.clone(), copy.clone())).or_default();
        let (slot, label) = match outcome {
            ShadowOutcome::Same => (&mut count.same, "same"),
            ShadowOutcome::Different => (&mut count.different, "different"),
            ShadowOutcome::Failed => (&mut count.failed, "failed"),
            ShadowOutcome::Dropped => (&mut count.dropped, "dropped"),
            ShadowOutcome::Missing => (&mut count.missing, "missing"),
        };
        *slot += 1;
        self.shown.with_label_values(&[route.as_str(), copy.as_str(), label]).inc();
    }

    /// Outcomes of a route's copies, by target.
    pub fn of(&self, route: &str) -> Vec<(SmolStr, ShadowCounts)> {
        let counts = self.counts.lock();
        let mut found: Vec<_> = counts
            .iter()
            .filter(|((name, _), _)| name == route)
            .map(|((_, copy), count)| (copy.clone(), *count))
            .collect();
        found.sort_by(|a, b| a.0.cmp(&b.0));
        found
    }
}

/// A `route_not_found`.
pub fn no_route(name: &str) -> Error {
    Error::new(ErrorCode::RouteNotFound, format!("there is no route `{name}`; GET /api/v1/routes lists them"))
}

/// The table with the models as they are served now.
fn bound(table: &Table, registry: &Registry) -> BoundTable {
    let snapshot = registry.load();
    let versions = snapshot.models().flat_map(|model| &model.versions);
    let known = versions.map(|version| ServedModel { signature: &version.signature, live: version.is_live() });
    BoundTable::bind(table, &known.collect::<Vec<_>>())
}

/// Says once whom a route begins to pass over, and when it no longer does.
fn tell(before: &BoundTable, now: &BoundTable) {
    for route in now.table().routes() {
        let missing =
            |bound: &BoundTable| bound.get(&route.name).map(|bound| bound.missing.clone()).unwrap_or_default();
        let (was, is) = (missing(before), missing(now));
        let among = |list: &[MissingTarget], one: &MissingTarget| list.iter().any(|other| other.target == one.target);
        for one in is.iter().filter(|one| !among(&was, one)) {
            let (name, target) = (route.name.as_str(), one.target.as_str());
            log::warn!(route = name, target; "routes: `{name}` goes on without `{target}`: {}", one.error);
        }
        for one in was.iter().filter(|one| !among(&is, one)) {
            let (name, target) = (route.name.as_str(), one.target.as_str());
            log::info!(route = name, target; "routes: `{name}` has `{target}` again");
        }
    }
}
