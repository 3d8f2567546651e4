//! Batches at work: whichever process takes one carries it out, renews its record, and is
//! followed by another when it is killed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use nobat_core::Result;
use nobat_queue::Timer;
use tokio::sync::watch;
use tokio::task::{Id, JoinHandle, JoinSet};

use crate::answer::AnswerLine;
use crate::batch::Batch;
use crate::batch::store::Batches;
use crate::carrier::Carrier;
use crate::files::store::BATCHES;

/// Looked at without being rung: a batch that another process made, or has left.
const LOOK: Duration = Duration::from_secs(1);
/// Pause after the metadata store could not be reached.
const AWAY: Duration = Duration::from_secs(1);
/// Batches that one process carries out at once.
const AT_ONCE: usize = 4;
/// How often files whose time is over are looked for.
const SWEEP: Duration = Duration::from_secs(60);
/// And how often what is nobody's: it has lain there for a day.
const SWEEP_STRAYS: Duration = Duration::from_secs(3_600);

/// This process's carrying out of batches.
pub struct RunningBatches {
    stop: watch::Sender<bool>,
    running: JoinHandle<()>,
}

impl RunningBatches {
    /// Begins. Call it inside the runtime that is to do it.
    pub fn start(batches: Batches, answer: Arc<dyn AnswerLine>) -> RunningBatches {
        let (stop, stopped) = watch::channel(false);
        RunningBatches { stop, running: tokio::spawn(run(batches, answer, stopped)) }
    }

    /// Leaves what is carried out to others, at once, and ends.
    pub async fn stop(self) {
        let _ = self.stop.send(true);
        if let Err(error) = self.running.await {
            log::warn!("batches: carrying out ended early: {error}");
        }
    }
}

async fn run(batches: Batches, answer: Arc<dyn AnswerLine>, mut stopped: watch::Receiver<bool>) {
    let mut carried = JoinSet::new();
    let mut held: HashMap<Id, String> = HashMap::new();
    let mut swept = tokio::time::Instant::now();
    let mut strays_swept = swept;
    loop {
        let looked = async {
            if swept.elapsed() >= SWEEP {
                swept = tokio::time::Instant::now();
                if let Err(error) = batches.sweep_files().await {
                    log::debug!("batches: files are swept later: {error}");
                }
            }
            if strays_swept.elapsed() >= SWEEP_STRAYS {
                strays_swept = tokio::time::Instant::now();
                if let Err(error) = batches.files().sweep_strays().await {
                    log::debug!("batches: what is nobody's is swept later: {error}");
                }
            }
            // What there is no room for is left to others.
            match AT_ONCE.saturating_sub(carried.len()) {
                0 => Ok(Vec::new()),
                room => batches.metadata.take_due(BATCHES, room, batches.lease).await,
            }
        };
        let pause = match looked.await {
            Ok(due) => {
                for due in due {
                    take(&batches, &answer, &stopped, due, &mut held, &mut carried).await;
                }
                LOOK
            }
            Err(error) => {
                log::debug!("batches: waiting for the metadata store: {error}");
                AWAY
            }
        };
        tokio::select! {
            _ = stopped.wait_for(|stop| *stop) => break,
            Some(ended) = carried.join_next_with_id() => {
                let task = match ended {
                    Ok((task, ())) => task,
                    // Its lease ends by itself, and it is taken again.
                    Err(error) => {
                        log::error!("batches: a batch ended early: {error}");
                        error.id()
                    }
                };
                held.remove(&task);
            }
            () = batches.work.notified() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
    while carried.join_next().await.is_some() {}
}

async fn take(
    batches: &Batches,
    answer: &Arc<dyn AnswerLine>,
    stopped: &watch::Receiver<bool>,
    due: Timer,
    held: &mut HashMap<Id, String>,
    carried: &mut JoinSet<()>,
) {
    let id = due.key.clone();
    // One of ours: having been taken, it is renewed; its carrier sees what has changed.
    if held.values().any(|held| *held == id) {
        return;
    }
    let outcome = async {
        match serde_json::from_slice::<Batch>(&due.value) {
            Err(_) => {
                log::warn!(batch = id.as_str(); "batches: dropping a record that cannot be read");
                batches.metadata.remove_timer(BATCHES, &id).await.map(drop)
            }
            Ok(batch) if batch.status.is_terminal() => forget(batches, &batch, &due.value).await,
            // Others take it, or this process does when it has room: it is due again.
            Ok(_) if carried.len() >= AT_ONCE => Ok(()),
            Ok(batch) => {
                let carrier = Carrier::new(batches.clone(), answer.clone(), stopped.clone(), batch, due.value.to_vec());
                let task = carried.spawn(carrier.carry_out());
                held.insert(task.id(), id.clone());
                Ok(())
            }
        }
    };
    if let Err(error) = outcome.await {
        log::debug!(batch = due.key.as_str(); "batches: looked at later: {error}");
    }
}

/// Forgets a batch that ended long ago; a clock that was set back has made it due too early.
async fn forget(batches: &Batches, batch: &Batch, value: &[u8]) -> Result<()> {
    let kept = u64::from(batches.files().settings().keep_s);
    let until = batch.ended_at() + kept;
    let now = batches.metadata.now_ms().await? / 1_000;
    match until.checked_sub(now).filter(|&left| left > 0) {
        Some(left) => batches.metadata.move_timer(BATCHES, &batch.id, value, Duration::from_secs(left)).await.map(drop),
        None => batches.metadata.remove_timer(BATCHES, &batch.id).await.map(drop),
    }
}
