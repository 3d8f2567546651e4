//! Random operations on a store and on the reference, compared at every step.
//!
//! `NOBAT_MODEL_OPS` is how many operations each store gets (`just model` runs
//! 200,000); `NOBAT_MODEL_SEED` repeats a run. A failure names its seed.

use std::collections::HashMap;
use std::time::Duration;

use nobat_core::ErrorCode;
use nobat_core::JobId;
use nobat_core::job::{Idempotency, JobOptions, JobState, LeasedJob};
use nobat_queue::{Consumer, QueueSettings, Renewal};

use crate::model::{Arrival, Model, Number, Verdict};
use crate::on_every_store;
use crate::play::*;
use crate::stores::{Backend, Store};

on_every_store! { the_store_does_what_the_reference_does }

/// Operations between fresh starts.
const SEQUENCE: usize = 400;
/// As good as for ever.
const LONG: Duration = Duration::from_secs(86_400);

fn number_from(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

async fn the_store_does_what_the_reference_does(backend: Backend) {
    let seed = number_from("NOBAT_MODEL_SEED").unwrap_or_else(|| u64::from(std::process::id()) << 20 | 1);
    let operations = number_from("NOBAT_MODEL_OPS").unwrap_or(4_000) as usize;
    let settings = QueueSettings { aging_s: 0, lease_ms: 3_600_000, ..QueueSettings::default() };
    for sequence in 0..operations.div_ceil(SEQUENCE) as u64 {
        let seed = seed + sequence;
        println!("repeat with NOBAT_MODEL_SEED={seed}");
        let store = backend.open_with(settings.clone()).await;
        let mut run = Run::new(&store, Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)).await;
        for _ in 0..SEQUENCE {
            run.operation().await;
        }
        run.everything_is_as_it_should_be().await;
    }
}

/// Xorshift: small, repeatable, good enough to choose operations.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as usize % sides
    }
}

struct Run<'a> {
    store: &'a Store,
    dice: Dice,
    model: Model,
    ids: Vec<JobId>,
    numbers: HashMap<JobId, Number>,
    consumers: Vec<(Box<dyn Consumer>, Vec<LeasedJob>)>,
    /// Leases that were settled or lost.
    stale: Vec<LeasedJob>,
    /// Cancelled while leased and not settled since: the store may count them as leased.
    ghosts: u64,
}

impl<'a> Run<'a> {
    async fn new(store: &'a Store, dice: Dice) -> Run<'a> {
        let mut consumers = Vec::new();
        for name in ["a", "b", "c"] {
            consumers.push((store.queue.consumer(MODEL, name).await.expect("a consumer"), Vec::new()));
        }
        let (ids, numbers) = (Vec::new(), HashMap::new());
        Run { store, dice, model: Model::default(), ids, numbers, consumers, stale: Vec::new(), ghosts: 0 }
    }

    async fn operation(&mut self) {
        match self.dice.roll(100) {
            0..30 => self.enqueue().await,
            30..65 => self.step().await,
            65..72 => self.renew().await,
            72..79 => self.cancel().await,
            79..90 => self.get().await,
            90..93 => self.redrive().await,
            93..95 => self.purge().await,
            95..97 => self.pause().await,
            _ => self.counts().await,
        }
    }

    async fn enqueue(&mut self) {
        let priority = [0, 0, 1, 10, 255][self.dice.roll(5)];
        let delayed = self.dice.roll(10) == 0;
        let key = (self.dice.roll(5) == 0).then(|| (self.dice.roll(8) as u8, self.dice.roll(2) as u128));
        let options = JobOptions {
            priority,
            delay: delayed.then_some(LONG),
            idempotency: key.map(|(key, fingerprint)| Idempotency { key: key.to_string().into(), fingerprint }),
            ..JobOptions::default()
        };
        let accepted = self.store.queue.client().enqueue(job_with(self.ids.len().to_string(), options)).await;
        match (self.model.enqueue(priority, delayed, key), accepted) {
            (Arrival::New(number), Ok(accepted)) => {
                assert!(!accepted.duplicate && !self.numbers.contains_key(&accepted.id));
                self.ids.push(accepted.id);
                self.numbers.insert(accepted.id, number);
            }
            (Arrival::Duplicate(number), Ok(accepted)) => {
                assert_eq!((accepted.duplicate, accepted.id), (true, self.ids[number]));
            }
            (Arrival::Mismatch, Err(error)) => assert_eq!(error.code, ErrorCode::IdempotencyMismatch),
            (expected, found) => panic!("expected {expected:?}, got {found:?}"),
        }
    }

    async fn step(&mut self) {
        let at = self.dice.roll(3);
        let (mut settlements, mut refused) = (Vec::new(), Vec::new());
        let held = std::mem::take(&mut self.consumers[at].1);
        for job in held {
            if self.dice.roll(4) == 0 {
                self.consumers[at].1.push(job);
                continue;
            }
            let verdict = [
                Verdict::Succeed,
                Verdict::Succeed,
                Verdict::FailForGood,
                Verdict::FailAndRunAgain,
                Verdict::FailAndWait,
                Verdict::TooLate,
                Verdict::Release,
            ][self.dice.roll(7)];
            settlements.push(match verdict {
                Verdict::Succeed => success(&job, job.payload.clone()),
                Verdict::FailForGood => failure(&job, "for good", None),
                Verdict::FailAndRunAgain => failure(&job, "again", Some(Duration::ZERO)),
                Verdict::FailAndWait => failure(&job, "later", Some(LONG)),
                Verdict::TooLate => too_late(&job),
                Verdict::Release => release(&job),
            });
            let number = self.numbers[&job.id];
            // Held here and not leased any more: it was cancelled.
            if self.model.jobs[number].state == JobState::Leased {
                self.model.settle(number, verdict);
            } else {
                refused.push(job.id);
                self.ghosts -= 1;
            }
            self.stale.push(job);
        }
        if !self.stale.is_empty() && self.dice.roll(4) == 0 {
            let job = self.stale[self.dice.roll(self.stale.len())].clone();
            if !settlements.iter().any(|settlement| settlement.id == job.id) {
                settlements.push(success(&job, "stale"));
                refused.push(job.id);
            }
        }
        let want = self.dice.roll(6);
        let above = (self.dice.roll(3) == 0).then(|| [-1, 0, 1, 10][self.dice.roll(4)]);
        let consumer = &mut self.consumers[at].0;
        let step = match above {
            Some(level) => consumer.settle_and_lease_above(settlements, want, level).await,
            None => consumer.settle_and_lease(settlements, want).await,
        }
        .expect("a step");
        let expected = self.model.lease(want, above);
        let leased: Vec<_> = step.leased.iter().map(|job| self.numbers[&job.id]).collect();
        assert_eq!(leased, expected);
        for (job, &number) in step.leased.iter().zip(&expected) {
            assert_eq!((job.attempt, job.deaths), (self.model.jobs[number].attempts, 0));
            assert_eq!(job.payload, number.to_string());
        }
        let mut found = step.refused;
        found.sort();
        refused.sort();
        assert_eq!(found, refused);
        if !self.model.paused {
            assert_eq!(step.more, self.model.count(&[JobState::Queued]) > 0);
        }
        self.consumers[at].1.extend(step.leased);
    }

    async fn renew(&mut self) {
        let mut leases = Vec::new();
        let mut expected = Vec::new();
        for (_, held) in &self.consumers {
            for job in held {
                leases.push((job.id, job.token));
                let holds = self.model.jobs[self.numbers[&job.id]].state == JobState::Leased;
                expected.push(if holds { Renewal::Renewed } else { Renewal::Lost });
            }
        }
        for job in self.stale.iter().rev().take(3) {
            leases.push((job.id, job.token));
            expected.push(Renewal::Lost);
        }
        if !leases.is_empty() {
            let mut renewer = self.store.queue.renewer().await.expect("a renewer");
            assert_eq!(renewer.renew(MODEL, &leases).await.expect("an answer"), expected);
        }
    }

    fn any(&mut self) -> Option<Number> {
        (!self.ids.is_empty()).then(|| self.dice.roll(self.ids.len()))
    }

    async fn cancel(&mut self) {
        let Some(number) = self.any() else { return };
        if self.model.jobs[number].purged {
            let error = self.store.queue.cancel(self.ids[number]).await.expect_err("purged");
            assert_eq!(error.code, ErrorCode::JobNotFound);
            return;
        }
        let leased = self.model.jobs[number].state == JobState::Leased;
        match (self.model.cancel(number), self.store.queue.cancel(self.ids[number]).await) {
            (true, Ok(view)) => assert_eq!(view.state, JobState::Cancelled),
            (false, Err(error)) => assert_eq!(error.code, ErrorCode::JobAlreadyFinished),
            (expected, found) => panic!("expected {expected}, got {found:?}"),
        }
        if leased && self.model.jobs[number].state == JobState::Cancelled {
            self.ghosts += 1;
        }
    }

    async fn get(&mut self) {
        if let Some(number) = self.any() {
            self.look(number).await;
        }
    }

    async fn look(&self, number: Number) {
        let view = self.store.queue.get(self.ids[number]).await.expect("the store answers");
        let expected = &self.model.jobs[number];
        if expected.purged {
            assert!(view.is_none());
            return;
        }
        let view = view.expect("it is there");
        assert_eq!(view.state, expected.state);
        // A cancelled job's running attempt may or may not have been counted.
        if !matches!(view.state, JobState::Leased | JobState::Cancelled) {
            assert_eq!(view.attempts, expected.attempts, "{view:?}");
        }
        if view.state == JobState::Succeeded {
            assert_eq!(outputs(&view), number.to_string());
        }
    }

    fn some(&mut self) -> Vec<Number> {
        let mut numbers: Vec<_> = (0..self.dice.roll(4) + 1).filter_map(|_| self.any()).collect();
        let dead: Vec<_> = (0..self.ids.len()).filter(|&number| self.model.is_dead_letter(number)).collect();
        if !dead.is_empty() {
            numbers.push(dead[self.dice.roll(dead.len())]);
        }
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }

    async fn redrive(&mut self) {
        let numbers = self.some();
        let ids: Vec<_> = numbers.iter().map(|&number| self.ids[number]).collect();
        if !ids.is_empty() {
            let sent = self.store.queue.redrive(MODEL, &ids, 100).await.expect("redriven");
            assert_eq!(sent, self.model.redrive(&numbers));
        }
    }

    async fn purge(&mut self) {
        let numbers = self.some();
        let ids: Vec<_> = numbers.iter().map(|&number| self.ids[number]).collect();
        if !ids.is_empty() {
            let gone = self.store.queue.purge(MODEL, &ids, 100).await.expect("purged");
            assert_eq!(gone, self.model.purge(&numbers));
        }
    }

    async fn pause(&mut self) {
        self.model.paused = !self.model.paused;
        self.store.queue.set_paused(MODEL, self.model.paused).await.expect("set");
    }

    async fn counts(&mut self) {
        let counts = self.store.queue.counts(MODEL).await.expect("counts");
        let count = |states: &[JobState]| self.model.count(states);
        assert_eq!(counts.queued, count(&[JobState::Queued]));
        assert_eq!(counts.scheduled, count(&[JobState::Scheduled, JobState::Failed]));
        assert_eq!(counts.dead, count(&[JobState::Dead]));
        assert_eq!(counts.paused, self.model.paused);
        assert_eq!(counts.enqueued_total, self.ids.len() as u64);
        assert_eq!(counts.finished_total, self.model.finished);
        assert_eq!(counts.dropped_total, count(&[JobState::Cancelled, JobState::Expired]));
        if self.ghosts == 0 {
            assert_eq!(counts.leased, count(&[JobState::Leased]));
        }
    }

    async fn everything_is_as_it_should_be(&mut self) {
        self.counts().await;
        for number in 0..self.ids.len() {
            self.look(number).await;
        }
    }
}
