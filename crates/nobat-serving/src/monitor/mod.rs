//! The monitor: watches the deployment from one gateway and says so when a
//! check's state changes: in the log, at the webhook, in `/readyz?verbose` and
//! `/api/v1/status`, in `nobat_check_failing`.
//!
//! Owns the checks' thresholds ([`MonitorConfig`]), their state machines
//! ([`check`]), what is looked at ([`observe`]) and the alerts ([`alert`]).
//! Every gateway watches by itself and tells by itself: a receiver may hear of
//! one failure from each.
//!
//! Invariants:
//! - A look never delays a request; a store that hangs is a look that failed.
//! - It costs the store two commands and one per model, once per `every_s`.

pub mod alert;
pub mod check;
pub mod observe;
mod roll;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nobat_core::secret::{Secret, SecretUrl};
use nobat_core::{Error, ErrorCode, Result};
use nobat_queue::Counts;
use nobat_webhooks::outbound::AddressPolicy;
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

pub use check::{Check, Patience, State};

use crate::state::ServingState;
use alert::{Alerts, Change};
use observe::{Look, Observer};

/// What an operator may set about the monitor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MonitorConfig {
    /// Seconds between two looks.
    pub every_s: u32,
    /// Where changes are posted; empty: they are only logged.
    pub webhook: SecretUrl,
    /// Signs them (`whsec_…`); empty: unsigned.
    pub webhook_secret: Secret,
    /// What the webhook may reach beyond public https.
    pub addresses: AddressPolicy,
    /// Oldest queued job of any model older than this, in seconds: failing.
    pub max_queue_age_s: u32,
    /// Share of predictions that fail on our side over the last minute: failing.
    pub max_error_rate: f64,
    /// Free bytes under `disk`: failing below.
    pub min_disk_bytes: u64,
    /// A folder of the file system to watch; empty: that of the embedded store, or
    /// the working folder where the store is elsewhere.
    pub disk: String,
}

impl Default for MonitorConfig {
    fn default() -> MonitorConfig {
        MonitorConfig {
            every_s: 2,
            webhook: SecretUrl::default(),
            webhook_secret: Secret::default(),
            addresses: AddressPolicy::default(),
            max_queue_age_s: 60,
            max_error_rate: 0.05,
            min_disk_bytes: 512 << 20,
            disk: String::new(),
        }
    }
}

impl MonitorConfig {
    /// Checks the settings against each other.
    ///
    /// # Errors
    /// `invalid_parameter`, naming the key and the remedy.
    pub fn validate(&self) -> Result<()> {
        let refuse = |why: &str| Err(Error::new(ErrorCode::InvalidParameter, why));
        if self.every_s == 0 {
            return refuse("monitor.every_s is 0; give at least 1");
        }
        if !(0.0..=1.0).contains(&self.max_error_rate) {
            return refuse("monitor.max_error_rate is a share; give 0 to 1");
        }
        if self.webhook.is_empty() && !self.webhook_secret.is_empty() {
            return refuse("monitor.webhook_secret needs monitor.webhook; give both or neither");
        }
        Ok(())
    }
}

/// A store that refuses for no longer than this is not told of.
const BLIP: Duration = Duration::from_millis(300);

/// How long each check's changes must last.
fn patience(check: &str) -> Patience {
    let seconds =
        |fail, recover| Patience { fail_after: Duration::from_secs(fail), recover_after: Duration::from_secs(recover) };
    match check {
        // Registrations outlive a dead worker by their ttl: no more waiting here.
        observe::WORKERS => seconds(0, 2),
        // A connection that breaks and is opened again at once alarms nobody.
        observe::STORE => Patience { fail_after: BLIP, recover_after: BLIP },
        _ => seconds(10, 30),
    }
}

/// What the monitor saw last. A clone-able handle.
#[derive(Clone, Default)]
pub struct Status {
    seen: Arc<RwLock<Seen>>,
}

#[derive(Default)]
struct Seen {
    /// Followed as it changes; the others are looked at.
    store: Option<CheckStatus>,
    checks: Vec<CheckStatus>,
    queues: HashMap<SmolStr, Counts>,
}

/// One check, for readers.
#[derive(Clone, Debug, Serialize)]
pub struct CheckStatus {
    /// Which.
    pub name: &'static str,
    /// Where it stands.
    pub state: State,
    /// How long it has stood there.
    pub for_s: u64,
    /// What was seen last.
    pub detail: String,
}

impl Status {
    /// Every check, as it was seen last; empty before the first look.
    pub fn checks(&self) -> Vec<CheckStatus> {
        let seen = self.seen.read();
        seen.store.iter().chain(&seen.checks).cloned().collect()
    }

    /// Every queue that a known model has, as it was seen last.
    pub fn queues(&self) -> HashMap<SmolStr, Counts> {
        self.seen.read().queues.clone()
    }
}

/// Looks for ever.
///
/// # Errors
/// `invalid_parameter` at once for a webhook that cannot be used; the future
/// that is returned never ends.
pub fn start(shared: Arc<ServingState>) -> Result<impl Future<Output = ()>> {
    let config = shared.settings.monitor.clone();
    let alerts = Arc::new(Alerts::start(&config)?);
    Ok(async move {
        let store = watch_store(shared.clone(), alerts.clone());
        tokio::join!(store, watch(shared, config, alerts));
    })
}

/// Follows whether the store takes jobs, as it changes.
async fn watch_store(shared: Arc<ServingState>, alerts: Arc<Alerts>) {
    let patience = patience(observe::STORE);
    let mut check = Check::new(patience);
    let mut condition = shared.queue.condition();
    loop {
        let refusal = condition.refusal();
        let now = Instant::now();
        let detail = match &refusal {
            None => "it takes jobs".to_owned(),
            Some(refusal) => refusal.error.message.clone(),
        };
        if let Some(state) = check.look(refusal.is_none(), now) {
            alerts.tell(Change { check: observe::STORE, state, detail: detail.clone() });
        }
        let status =
            CheckStatus { name: observe::STORE, state: check.state(), for_s: check.held(now).as_secs(), detail };
        shared.status.seen.write().store = Some(status);
        // Whatever it is, it counts once it has lasted.
        tokio::select! {
            () = condition.changed() => {}
            () = tokio::time::sleep(patience.fail_after) => {}
        }
    }
}

async fn watch(shared: Arc<ServingState>, config: MonitorConfig, alerts: Arc<Alerts>) {
    let mut observer = Observer::default();
    let mut checks: HashMap<&'static str, Check> = HashMap::new();
    let mut every = tokio::time::interval(Duration::from_secs(u64::from(config.every_s)));
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let looks = observer.look(&shared, &config).await;
        let now = Instant::now();
        shared.caches.sweep(now);
        let mut statuses = Vec::with_capacity(looks.len());
        for Look { check: name, good, detail } in looks {
            let check = checks.entry(name).or_insert_with(|| Check::new(patience(name)));
            if let Some(state) = check.look(good, now) {
                alerts.tell(Change { check: name, state, detail: detail.clone() });
            }
            statuses.push(CheckStatus { name, state: check.state(), for_s: check.held(now).as_secs(), detail });
        }
        let mut seen = shared.status.seen.write();
        seen.checks = statuses;
        seen.queues = observer.queues().clone();
    }
}
