//! Which idle consumer to wake, and when not to.
//!
//! One consumer is woken per batch that is there to take: a woken consumer is
//! trusted to take as many jobs as it asked for last time, and only what is
//! over that wakes another. The consumer that steps re-checks, so what is left
//! over wakes the next: no herd, no lost wake-up.

use std::collections::BTreeMap;

/// Index of a consumer; unique in a process.
pub(crate) type ConsumerNo = u32;

/// The consumers of one queue.
#[derive(Debug, Default)]
pub(crate) struct IdleConsumers {
    consumers: BTreeMap<ConsumerNo, ConsumerState>,
    /// Asleep, the one that fell asleep last at the end: its caches are warm.
    asleep: Vec<ConsumerNo>,
    /// Jobs that woken consumers will take.
    claimed: usize,
}

#[derive(Debug)]
struct ConsumerState {
    /// Jobs it asked for in its last step.
    want: usize,
    woken: bool,
}

impl IdleConsumers {
    /// Adds a consumer, awake.
    pub(crate) fn add(&mut self, consumer: ConsumerNo) {
        self.consumers.insert(consumer, ConsumerState { want: 1, woken: false });
    }

    /// Forgets a consumer. Call [`IdleConsumers::wake`] after: its wake-up may be due to another.
    pub(crate) fn remove(&mut self, consumer: ConsumerNo) {
        self.awake(consumer);
        self.consumers.remove(&consumer);
    }

    /// A consumer takes what it wants now (`want`), or gave up sleeping.
    pub(crate) fn awake(&mut self, consumer: ConsumerNo) {
        if let Some(sleeper) = self.consumers.get_mut(&consumer) {
            if sleeper.woken {
                sleeper.woken = false;
                self.claimed -= sleeper.want;
            } else if let Some(at) = self.asleep.iter().position(|&asleep| asleep == consumer) {
                self.asleep.remove(at);
            }
        }
    }

    /// A consumer steps, asking for `want` jobs.
    pub(crate) fn step(&mut self, consumer: ConsumerNo, want: usize) {
        self.awake(consumer);
        if let Some(sleeper) = self.consumers.get_mut(&consumer) {
            sleeper.want = want.max(1);
        }
    }

    /// Puts a consumer to sleep unless there is work nobody was woken for;
    /// whether it sleeps.
    pub(crate) fn sleep(&mut self, consumer: ConsumerNo, ready: usize) -> bool {
        self.awake(consumer);
        if ready > self.claimed {
            return false;
        }
        self.asleep.push(consumer);
        true
    }

    /// The consumer to wake for `ready` jobs, if there is cause.
    pub(crate) fn wake(&mut self, ready: usize) -> Option<ConsumerNo> {
        if ready <= self.claimed {
            return None;
        }
        let consumer = self.asleep.pop()?;
        let sleeper = self.consumers.get_mut(&consumer)?;
        sleeper.woken = true;
        self.claimed += sleeper.want;
        Some(consumer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asleep(count: u32, want: usize) -> IdleConsumers {
        let mut idle_consumers = IdleConsumers::default();
        for consumer in 0..count {
            idle_consumers.add(consumer);
            idle_consumers.step(consumer, want);
            assert!(idle_consumers.sleep(consumer, 0));
        }
        idle_consumers
    }

    #[test]
    fn one_job_wakes_one_of_a_hundred() {
        let mut idle_consumers = asleep(100, 32);
        assert_eq!(idle_consumers.wake(1), Some(99));
        assert_eq!(idle_consumers.wake(1), None);
    }

    #[test]
    fn a_backlog_wakes_one_consumer_per_batch() {
        let mut idle_consumers = asleep(100, 32);
        let woken = (1..=320).filter_map(|ready| idle_consumers.wake(ready)).count();
        assert_eq!(woken, 10);
    }

    #[test]
    fn a_wake_up_that_was_not_used_goes_to_the_next() {
        let mut idle_consumers = asleep(2, 8);
        assert_eq!(idle_consumers.wake(1), Some(1));
        idle_consumers.remove(1);
        assert_eq!(idle_consumers.wake(1), Some(0));
    }

    #[test]
    fn work_that_nobody_was_woken_for_keeps_a_consumer_awake() {
        let mut idle_consumers = asleep(2, 4);
        assert_eq!(idle_consumers.wake(1), Some(1));
        idle_consumers.awake(0);
        assert!(idle_consumers.sleep(0, 4), "consumer 1 will take all four");
        idle_consumers.awake(0);
        assert!(!idle_consumers.sleep(0, 5));
    }
}
