//! Properties of the machine over random operations and a clock that jumps:
//! no job is ever lost, in two places, or counted wrong.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use nobat_core::job::{JobError, JobOptions, LeasedJob, NewJob, Outcome, Settlement};
use nobat_core::{ErrorCode, IdIssuer, OwnerId};
use proptest::prelude::*;

use super::*;
use crate::api::{LAST_CHANCE, QueueSettings};

const MODELS: [&str; 2] = ["a", "b"];

#[derive(Clone, Debug)]
enum Op {
    Enqueue { model: usize, priority: u8, delay_ms: u64, deadline_ms: u64, call: bool },
    Lease { model: usize, want: usize },
    Settle { held: usize, how: u8 },
    Forget { held: usize },
    Renew { held: usize },
    Cancel { row: u64 },
    Redrive { model: usize },
    Pass { ms: u64 },
    Commit,
    FailCommit,
}

fn any_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0..2usize, 0..3u8, prop_oneof![3 => Just(0u64), 1 => 1..5_000u64], prop_oneof![3 => Just(0u64), 1 => 1..20_000u64], any::<bool>())
            .prop_map(|(model, priority, delay_ms, deadline_ms, call)| Op::Enqueue { model, priority, delay_ms, deadline_ms, call }),
        4 => (0..2usize, 0..5usize).prop_map(|(model, want)| Op::Lease { model, want }),
        4 => (any::<prop::sample::Index>(), 0..5u8).prop_map(|(held, how)| Op::Settle { held: held.index(64), how }),
        1 => any::<prop::sample::Index>().prop_map(|held| Op::Forget { held: held.index(64) }),
        1 => any::<prop::sample::Index>().prop_map(|held| Op::Renew { held: held.index(64) }),
        1 => (1..60u64).prop_map(|row| Op::Cancel { row }),
        1 => (0..2usize).prop_map(|model| Op::Redrive { model }),
        3 => prop_oneof![1..50u64, 1_000..20_000u64].prop_map(|ms| Op::Pass { ms }),
        3 => Just(Op::Commit),
        1 => Just(Op::FailCommit),
    ]
}

struct World {
    machine: Machine,
    now_us: u64,
    held: Vec<LeasedJob>,
    /// Every job that was durably accepted or is still unknown to the journal.
    known: BTreeSet<Row>,
    ended: BTreeSet<Row>,
    consumer: ConsumerNo,
}

impl World {
    fn new(aging_s: u32) -> World {
        let settings = QueueSettings { aging_s, max_dead: 3, dead_ttl_s: 1_000_000, ..QueueSettings::default() };
        let mut machine = Machine::new(settings, IdIssuer::new([1; 16]), 1, 100);
        for model in MODELS {
            machine.queue(model);
        }
        let consumer = machine.add_consumer(0);
        World {
            machine,
            now_us: 1_000_000_000,
            held: Vec::new(),
            known: BTreeSet::new(),
            ended: BTreeSet::new(),
            consumer,
        }
    }

    fn apply(&mut self, op: Op) {
        self.machine.advance(self.now_us);
        match op {
            Op::Enqueue { model, priority, delay_ms, deadline_ms, call } => {
                let duration = |ms: u64| (ms > 0).then(|| Duration::from_millis(ms));
                let options = JobOptions {
                    priority,
                    delay: duration(delay_ms),
                    deadline: duration(deadline_ms),
                    ..JobOptions::default()
                };
                let payload = Bytes::from_static(b"sixty bytes or so of a tensor that nobody is ever going to run");
                let new = NewJob {
                    model: MODELS[model].into(),
                    owner: OwnerId(1),
                    options,
                    payload,
                    rows: 1,
                    trace: "".into(),
                };
                let commit = match (call, self.known.len() % 2) {
                    (true, 0) => Commit::Within(10_000),
                    (true, _) => Commit::Relaxed { insert_us: 10_000, end_us: 3_000 },
                    (false, _) => Commit::Now,
                };
                let enqueued =
                    self.machine.enqueue(self.now_us, new, u128::from(self.now_us), commit).expect("no limit");
                assert!(self.known.insert(enqueued.id.locator), "a row is used once");
            }
            Op::Lease { model, want } => {
                let mut leased = Vec::new();
                self.machine.lease(self.now_us, model as QueueNo, self.consumer, (want, None), &mut leased);
                assert!(leased.len() <= want.max(1));
                assert!(leased.len() < 2 || leased.iter().all(|job| job.deaths == 0), "a suspect runs alone");
                for job in &leased {
                    assert!(job.time_left.is_none_or(|left| left > Duration::ZERO));
                    assert!(self.machine.holds(job.id, job.token));
                }
                self.held.extend(leased);
            }
            Op::Settle { held, how } => {
                let Some(job) = self.take(held) else { return };
                let error = || JobError { code: ErrorCode::InferenceFailed, message: "failed".into() };
                let outcome = match how {
                    0 => Outcome::Succeeded(Bytes::new()),
                    1 => Outcome::Failed { error: error(), retry_in: None },
                    2 => Outcome::Failed { error: error(), retry_in: Some(Duration::from_millis(500)) },
                    3 => Outcome::Expired(error()),
                    _ => Outcome::Released,
                };
                let holds = self.machine.holds(job.id, job.token);
                let settlement = Settlement { id: job.id, token: job.token, outcome };
                assert_eq!(self.machine.settle(self.now_us, settlement.clone()), holds);
                assert!(!self.machine.settle(self.now_us, settlement), "a lease is settled once");
            }
            Op::Forget { held } => drop(self.take(held)),
            Op::Renew { held } => {
                if !self.held.is_empty() {
                    let job = &self.held[held % self.held.len()];
                    assert_eq!(
                        self.machine.renew(self.now_us, job.id, job.token),
                        self.machine.holds(job.id, job.token)
                    );
                }
            }
            Op::Cancel { row } => {
                let id = self.machine.jobs.get(&row).map(|job| job.id(row, &self.machine.ids));
                if let Some(id) = id {
                    let terminal = self.machine.find(id).is_some_and(|job| job.state().is_terminal());
                    assert_eq!(self.machine.cancel(self.now_us, id).is_err(), terminal);
                }
            }
            Op::Redrive { model } => {
                self.machine.redrive(self.now_us, model as QueueNo, &[], 2);
            }
            Op::Pass { ms } => self.now_us += ms * 1_000,
            Op::Commit => {
                let group = self.machine.take_group(self.now_us);
                let purged: Vec<_> = group
                    .writes
                    .iter()
                    .filter(|write| write.kind == WriteKind::Delete)
                    .map(|write| write.row)
                    .collect();
                for settled in self.machine.committed(group) {
                    if settled.expires_ms.is_some() {
                        assert!(self.ended.insert(settled.row), "a job ends once");
                    }
                }
                self.ended.extend(purged);
            }
            Op::FailCommit => {
                let group = self.machine.take_group(self.now_us);
                for row in self.machine.failed(group) {
                    self.known.remove(&row);
                }
            }
        }
        drop(self.machine.take_wakes());
        self.note_ends();
        self.audit();
    }

    /// What consumers do once they hold a job no more.
    fn note_ends(&mut self) {
        for queue in 0..MODELS.len() {
            let Some((_, token)) = self.machine.index.queues[queue].last_chance else { continue };
            let leased = |job: &Job| matches!(job.phase, Phase::Leased { token: held, .. } if held == token);
            if !self.machine.jobs.values().any(|job| leased(job)) {
                self.machine.end_last_chance(queue as QueueNo, token);
            }
        }
    }

    fn take(&mut self, held: usize) -> Option<LeasedJob> {
        (!self.held.is_empty()).then(|| self.held.swap_remove(held % self.held.len()))
    }

    /// Recomputes from the jobs alone what the indexes say.
    fn audit(&self) {
        let machine = &self.machine;
        let (mut scheduled, mut deadlines, mut dead, mut resident) =
            (BTreeSet::new(), BTreeSet::new(), BTreeSet::new(), 0);
        for (queue, state) in machine.index.queues.iter().enumerate() {
            let (mut ready, mut due, mut leased, mut bytes, mut last_chances) = (0, 0, 0, 0, 0);
            for (&row, job) in machine.jobs.iter().filter(|(_, job)| job.queue as usize == queue) {
                resident += job.payload.resident();
                let waits = match job.phase {
                    Phase::Scheduled { due_us } | Phase::Failed { due_us } | Phase::Postponed { due_us } => {
                        scheduled.insert((due_us, row));
                        due += 1;
                        true
                    }
                    Phase::Queued => {
                        ready += 1;
                        true
                    }
                    Phase::Leased { .. } => {
                        leased += 1;
                        last_chances += u32::from(job.deaths >= LAST_CHANCE);
                        false
                    }
                    Phase::Dead { at_us } => {
                        dead.insert((at_us, row));
                        false
                    }
                    Phase::Finished(_) | Phase::Purged => false,
                };
                if waits {
                    bytes += job.payload.len();
                    deadlines.extend(job.deadline_us.map(|at| (at, row)));
                }
            }
            assert_eq!(
                (state.ready.len(), state.scheduled, state.leased, state.waiting_bytes),
                (ready, due, leased, bytes)
            );
            assert!(state.dead.len() <= 3);
            assert!(last_chances <= 1, "one last chance at a time");
        }
        assert_eq!(
            (&machine.index.scheduled, &machine.index.deadlines, &machine.index.dead),
            (&scheduled, &deadlines, &dead)
        );
        assert_eq!(machine.resident_bytes, resident);
        let here: BTreeSet<_> = machine.jobs.keys().copied().collect();
        assert!(here.is_disjoint(&self.ended));
        assert_eq!(here.len() + self.ended.len(), self.known.len(), "no job is lost");
    }

    /// Lets a good worker and a good disk finish everything.
    fn drain(&mut self) {
        for _ in 0..10_000 {
            self.apply(Op::Commit);
            if self.machine.jobs.values().all(|job| matches!(job.phase, Phase::Dead { .. })) {
                return;
            }
            self.apply(Op::Pass { ms: 2_000 });
            for model in 0..MODELS.len() {
                self.apply(Op::Lease { model, want: 4 });
            }
            while !self.held.is_empty() {
                self.apply(Op::Settle { held: 0, how: 0 });
            }
        }
        panic!("it does not end");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn no_operation_loses_a_job(ops in prop::collection::vec(any_op(), 1..200), aging_s in prop_oneof![Just(0u32), Just(60)]) {
        let mut world = World::new(aging_s);
        for op in ops {
            world.apply(op);
        }
        world.drain();
    }
}

/// A machine that was suspended renews nothing, and nothing died.
#[test]
fn after_a_standstill_leases_have_as_long_again() {
    let mut world = World::new(60);
    world.apply(Op::Enqueue { model: 0, priority: 0, delay_ms: 0, deadline_ms: 0, call: false });
    world.apply(Op::Lease { model: 0, want: 1 });
    let held = world.held[0].clone();
    world.apply(Op::Pass { ms: 3_600_000 });
    world.apply(Op::Lease { model: 0, want: 1 });
    assert_eq!(world.held.len(), 1, "it is held still");
    assert!(world.machine.next_event().is_some_and(|at| at > world.now_us), "no event is left over");
    world.machine.advance(world.now_us + 10_000_000);
    assert!(world.machine.renew(world.now_us + 10_000_000, held.id, held.token));

    // Its holder died: nobody asks for it when the time is over.
    for _ in 0..7 {
        world.apply(Op::Pass { ms: 5_000 });
        world.machine.advance(world.now_us);
    }
    world.apply(Op::Lease { model: 0, want: 1 });
    assert_eq!((world.held.len(), world.held[1].deaths), (2, 1));
}

#[test]
fn a_job_that_came_and_went_between_two_groups_is_one_write() {
    let mut world = World::new(60);
    world.apply(Op::Enqueue { model: 0, priority: 0, delay_ms: 0, deadline_ms: 0, call: true });
    assert!(world.machine.take_group(world.now_us).writes.is_empty(), "a call's insert waits");
    world.apply(Op::Lease { model: 0, want: 1 });
    world.apply(Op::Settle { held: 0, how: 0 });
    let group = world.machine.take_group(world.now_us);
    assert_eq!(group.writes.iter().map(|write| write.kind).collect::<Vec<_>>(), [WriteKind::Finish { stored: false }]);
    assert_eq!(world.machine.committed(group).len(), 1);
}

#[test]
fn payloads_past_the_budget_are_dropped_from_memory_once_stored() {
    let mut world = World::new(60);
    for _ in 0..5 {
        world.apply(Op::Enqueue { model: 0, priority: 0, delay_ms: 0, deadline_ms: 0, call: false });
    }
    assert!(world.machine.resident_bytes > 300, "what is not stored cannot be dropped");
    world.apply(Op::Commit);
    assert!(world.machine.resident_bytes <= 100);
    let mut leased = Vec::new();
    world.machine.lease(world.now_us, 0, world.consumer, (5, None), &mut leased);
    let on_disk = leased.iter().filter(|job| world.machine.payload_on_disk(job.id)).count();
    assert_eq!(on_disk, leased.iter().filter(|job| job.payload.is_empty()).count());
    assert!(on_disk >= 3);
}
