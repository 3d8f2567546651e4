//! The looks, for ever: at the store as it changes, at everything else on a timer.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nobat_core::Result;

use super::alert::{Alerts, Change};
use super::check::{Check, Patience};
use super::sampler::{self, CheckResult, Sampler};
use super::settings::MonitorConfig;
use super::status::CheckStatus;
use crate::state::ServingState;

/// A store that refuses for no longer than this is not told of.
const BLIP: Duration = Duration::from_millis(300);

/// How long each check's changes must last.
fn patience(check: &str) -> Patience {
    let seconds =
        |fail, recover| Patience { fail_after: Duration::from_secs(fail), recover_after: Duration::from_secs(recover) };
    match check {
        // Registrations outlive a dead worker by their ttl: no more waiting here.
        sampler::WORKERS => seconds(0, 2),
        // Evidence has been gathered over many rows, and stays until it is acknowledged.
        sampler::DRIFT => seconds(0, 0),
        // A connection that breaks and is opened again at once alarms nobody.
        sampler::STORE => Patience { fail_after: BLIP, recover_after: BLIP },
        _ => seconds(10, 30),
    }
}

/// Looks for ever.
///
/// # Errors
/// `invalid_parameter` at once for a webhook that cannot be used; the future
/// that is returned never ends.
pub fn start(state: Arc<ServingState>) -> Result<impl Future<Output = ()>> {
    let config = state.settings.monitor.clone();
    let alerts = Arc::new(Alerts::start(&config)?);
    Ok(async move {
        let store = watch_store(state.clone(), alerts.clone());
        tokio::join!(store, watch(state, config, alerts));
    })
}

/// Follows whether the store takes jobs, as it changes.
async fn watch_store(state: Arc<ServingState>, alerts: Arc<Alerts>) {
    let patience = patience(sampler::STORE);
    let mut check = Check::new(patience);
    let mut condition = state.queue.condition();
    loop {
        let refusal = condition.refusal();
        let now = Instant::now();
        let detail = match &refusal {
            None => "it takes jobs".to_owned(),
            Some(refusal) => refusal.error.message.clone(),
        };
        if let Some(changed) = check.look(refusal.is_none(), now) {
            alerts.tell(Change { check: sampler::STORE, state: changed, detail: detail.clone() });
        }
        let status =
            CheckStatus { name: sampler::STORE, state: check.state(), for_s: check.held(now).as_secs(), detail };
        state.status.set_store(status);
        // Whatever it is, it counts once it has lasted.
        tokio::select! {
            () = condition.changed() => {}
            () = tokio::time::sleep(patience.fail_after) => {}
        }
    }
}

async fn watch(state: Arc<ServingState>, config: MonitorConfig, alerts: Arc<Alerts>) {
    let mut sampler = Sampler::default();
    let mut checks: HashMap<&'static str, Check> = HashMap::new();
    let mut every = tokio::time::interval(Duration::from_secs(u64::from(config.every_s)));
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let results = sampler.sample(&state, &config).await;
        let now = Instant::now();
        state.caches.sweep(now);
        let mut statuses = Vec::with_capacity(results.len());
        for CheckResult { check: name, good, detail } in results {
            let check = checks.entry(name).or_insert_with(|| Check::new(patience(name)));
            if let Some(changed) = check.look(good, now) {
                alerts.tell(Change { check: name, state: changed, detail: detail.clone() });
            }
            statuses.push(CheckStatus { name, state: check.state(), for_s: check.held(now).as_secs(), detail });
        }
        state.status.set(statuses, sampler.queues().clone());
        let (totals, standing) = sampler.seen(&state);
        state.series.record(nobat_runtime::now_ms(), totals, standing);
    }
}
