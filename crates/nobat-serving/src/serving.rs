//! Starting and stopping: the state, and what goes on beside the requests.

use std::sync::Arc;
use std::time::Duration;

use nobat_core::Result;
use nobat_queue::Queue;
use nobat_runtime::Metrics;
use nobat_webhooks::{ResultView, sender};
use smol_str::SmolStr;
use tokio::task::JoinHandle;

use crate::monitor::watch;
use crate::readiness::Readiness;
use crate::routing::jobs::RouteJobs;
use crate::settings::ServingSettings;
use crate::state::ServingState;

/// How long a start waits for the first view of the registry.
const FIRST_VIEW: Duration = Duration::from_secs(2);

/// Serving at work. Dropping it stops nothing; call [`Serving::stop`].
pub struct Serving {
    state: Arc<ServingState>,
    route_jobs: RouteJobs,
    background: Vec<JoinHandle<()>>,
}

impl Serving {
    /// Begins to serve over `queue`. Ready when the models of `worker` are loaded or have
    /// failed; without it, when those of the workers that are there have. Results are told
    /// of as `view` has them, series are shown in `metrics`. Call it inside a tokio runtime
    /// that outlives it.
    ///
    /// # Errors
    /// `invalid_parameter` for settings that contradict each other.
    pub async fn start(
        settings: ServingSettings,
        queue: Arc<dyn Queue>,
        view: ResultView,
        metrics: Metrics,
        worker: Option<SmolStr>,
    ) -> Result<Serving> {
        let state = Arc::new(ServingState::new(settings, queue, view, metrics, Readiness::new(worker))?);
        match tokio::time::timeout(FIRST_VIEW, state.registry.refresh(&*state.queue)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => log::warn!("starting without a view of the workers: {error}"),
            Err(_) => log::warn!("starting without a view of the workers: the queue does not answer"),
        }
        if let Err(error) = state.routes.refresh(&state.registry).await {
            log::warn!("starting with the configuration's routes only: {error}");
        }
        if let Err(error) = state.routes.declare().await {
            log::warn!("periodic tasks do not know this configuration's routes: {error}");
        }
        let background = vec![
            tokio::spawn(state.registry.clone().follow(state.queue.clone())),
            tokio::spawn(follow_readiness(state.clone())),
            tokio::spawn(state.drift.clone().follow(state.registry.clone())),
            tokio::spawn(watch::start(state.clone())?),
            tokio::spawn(state.admission.auth.clone().follow(state.settings.auth.clone())),
            tokio::spawn(write_audit(state.clone())),
            tokio::spawn(state.routes.clone().follow(state.registry.clone())),
            tokio::spawn(sender::run(state.webhooks.clone(), state.queue.clone())),
        ];
        Ok(Serving { route_jobs: RouteJobs::start(state.clone()), state, background })
    }

    /// The state all threads share.
    pub fn state(&self) -> &Arc<ServingState> {
        &self.state
    }

    /// Gives back what is leased, when [`ServingState::start_draining`] was called and
    /// what was in flight is answered meanwhile by `answered`, and ends.
    pub async fn stop(self, answered: impl Future<Output = ()>) {
        tokio::join!(answered, self.route_jobs.stop());
        self.background.iter().for_each(JoinHandle::abort);
    }
}

async fn write_audit(state: Arc<ServingState>) {
    state.audit.write(&*state.queue.metadata()).await;
}

/// Ends the start when it is over, and tells of readiness from then on; for ever.
async fn follow_readiness(state: Arc<ServingState>) {
    let readiness = &state.readiness;
    let (mut models, mut store) = (state.registry.changes(), state.queue.condition());
    loop {
        let seen = *models.borrow_and_update() > 0;
        if !readiness.is_started() && seen && readiness.is_settled(&state.registry.load()) {
            // Routes know the models before anybody is told to send.
            state.routes.bind_anew(&state.registry);
            readiness.set_started();
            state.registry.look_again();
        }
        readiness.tell(state.is_ready());
        tokio::select! {
            _ = models.changed(), if !readiness.is_started() => {}
            () = store.changed() => {}
        }
    }
}
