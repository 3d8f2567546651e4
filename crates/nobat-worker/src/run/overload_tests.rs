//! A session under more load than it can serve, by a clock of its own: the real
//! batch queue, controller and triage around runs that take a given time.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use nobat_core::job::LeasedJob;
use nobat_queue::backend::{Batcher, Next};

use super::tests::{bench_of, job};
use crate::batch::latency::Run;
use crate::batch::queue::Work;
use crate::config::BatchingConfig;

const DEADLINE: Duration = Duration::from_millis(100);
/// The gateway refuses those who would have to wait for longer than they can.
const LINE: usize = 96;
/// What a lease and a settlement take.
const STEP: Duration = Duration::from_micros(200);

/// Jobs of one row that were answered in time within each second, `a_second` of
/// them offered; a run takes 5 ms and half a millisecond a row, `slow` times.
fn answered(a_second: u32, seconds: usize, slow: impl Fn(usize) -> u32) -> Vec<u32> {
    let mut bench = bench_of(BatchingConfig::default(), 32, true);
    let began = Instant::now();
    let gap = Duration::from_secs(1) / a_second;
    let mut answered = vec![0; seconds];
    let (mut now, mut offered) = (began, 0u32);
    let mut queue: VecDeque<Instant> = VecDeque::new();
    while let Some(second) = Some((now - began).as_secs() as usize).filter(|&second| second < seconds) {
        while began + gap * offered <= now {
            if queue.len() < LINE {
                queue.push_back(began + gap * offered + DEADLINE);
            }
            offered += 1;
        }
        // The store drops what has expired in the line.
        while queue.pop_front_if(|due| *due <= now).is_some() {}
        let room = bench.batches.room().min(queue.len());
        let due = |at: Instant| LeasedJob { time_left: Some(at - now), ..job(0, &[1.0], 0) };
        let leased = queue.drain(..room).map(due).collect();
        bench.batches.admit(leased, now);
        now += STEP;
        if let Next::Run(Work::Jobs(batch)) = bench.batches.next(now) {
            let rows = batch.jobs.len() as u32;
            let took = Duration::from_micros(5_000 + 500 * u64::from(rows)) * slow(second);
            now += took;
            bench.version.controller.lock().observe(Run { rows, fills: rows, took, ended: now });
            answered[second] += batch.jobs.iter().filter(|job| job.deadline >= Some(now)).count() as u32;
        }
        bench.tracker.take_outbox();
    }
    answered
}

#[test]
fn goodput_stays_near_the_capacity_at_three_times_the_load() {
    // 32 rows in 21.2 ms are 1,509 a second.
    let each = answered(4_500, 10, |_| 1);
    assert!(each[1..].iter().all(|&count| count > 1_200), "{each:?}");
}

#[test]
fn a_slow_start_costs_its_own_seconds_and_one_more() {
    for load in [200, 4_500] {
        let normal = answered(load, 3, |_| 1)[2];
        // Twenty times slower, no run can make it.
        let each = answered(load, 6, |second| if second < 2 { 20 } else { 1 });
        assert!(each[..2].iter().all(|&count| count < normal / 10), "{each:?}");
        assert!(each[4..].iter().all(|&count| count > normal * 8 / 10), "{load} a second: {each:?} after {normal}");
    }
}
