//! What a chain's version has in the place of a graph: its steps, its functions, and what
//! its steps took lately.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nobat_core::chain::{Chain, Step, StepWork};
use nobat_core::timings::StepTiming;
use nobat_runtime::snapshot::Latencies;
use nobat_transform::StepFunction;
use parking_lot::Mutex;
use smol_str::SmolStr;

use crate::batch::latency::{LatencySamples, Run};
use crate::transform_threads::TransformThreads;

/// What waits is estimated by so much more than it seems: a request that was let in and is late
/// costs the runs of others.
const WAIT_MARGIN: f64 = 1.25;
/// Weight of a step's wait in their average.
const NEWEST: f64 = 0.2;

/// A chain that is ready to run.
#[derive(Debug)]
pub(crate) struct LoadedChain {
    pub(crate) plan: Chain,
    /// By the place in the chain's file.
    functions: BTreeMap<usize, Arc<dyn StepFunction>>,
    /// Where functions run.
    pub(crate) threads: Option<TransformThreads>,
    /// By step.
    costs: Vec<Mutex<StepCost>>,
    /// By step, those that come right after it.
    next: Vec<Vec<usize>>,
}

/// What a step took.
#[derive(Debug)]
pub(crate) struct StepCost {
    samples: LatencySamples,
    /// From its start to its run, on average of late.
    wait: Duration,
    pub(crate) took: StepTimes,
}

/// A step's times, for metrics.
#[derive(Clone, Debug, Default)]
pub(crate) struct StepTimes {
    /// From its start to its last run.
    pub(crate) wait: Latencies,
    /// Its runs.
    pub(crate) run: Latencies,
    pub(crate) failed: u64,
    /// Given up for the chain's deadline.
    pub(crate) expired: u64,
}

impl LoadedChain {
    pub(crate) fn new(
        plan: Chain,
        functions: BTreeMap<usize, Arc<dyn StepFunction>>,
        threads: Option<TransformThreads>,
    ) -> LoadedChain {
        let cost = || {
            Mutex::new(StepCost { samples: LatencySamples::new(), wait: Duration::ZERO, took: StepTimes::default() })
        };
        let costs = plan.steps.iter().map(|_| cost()).collect();
        let takes = |other: &Step, step: &Step| {
            other.inputs.iter().any(|wire| step.outputs.iter().any(|own| own.tensor == wire.tensor))
        };
        let next = plan
            .steps
            .iter()
            .map(|step| (0..plan.steps.len()).filter(|&other| takes(&plan.steps[other], step)).collect())
            .collect();
        LoadedChain { plan, functions, threads, costs, next }
    }

    /// The function of a step that is one.
    pub(crate) fn function(&self, step: &Step) -> Option<Arc<dyn StepFunction>> {
        match &step.work {
            StepWork::Function { at, .. } => self.functions.get(at).cloned(),
            StepWork::Model { .. } => None,
        }
    }

    /// The steps without which these outputs are not there; of none named, all of them.
    pub(crate) fn needed(&self, outputs: &[SmolStr]) -> Vec<bool> {
        let mut wanted: Vec<SmolStr> = match outputs {
            [] => self.plan.outputs.iter().map(|spec| spec.name.clone()).collect(),
            some => some.to_vec(),
        };
        let mut needed = vec![false; self.plan.steps.len()];
        // Backwards: whatever a step needs stands before it.
        for (at, step) in self.plan.steps.iter().enumerate().rev() {
            needed[at] = step.outputs.iter().any(|wire| wanted.contains(&wire.tensor));
            if needed[at] {
                wanted.extend(step.inputs.iter().map(|wire| wire.tensor.clone()));
            }
        }
        needed
    }

    /// How long a step takes from now on, and the longest way from its end to the chain's: runs as
    /// long as three in four of late, and as many of them before its own as `ahead` says of a
    /// step, or the wait of late where it does not know. Nothing for what is not known.
    pub(crate) fn estimate(
        &self,
        at: usize,
        needed: &[bool],
        ahead: impl Fn(usize) -> Option<u32>,
        now: Instant,
    ) -> (Duration, Duration) {
        let takes = |at: usize| {
            let run = self.run(at, now);
            let wait = ahead(at).map_or_else(|| self.costs[at].lock().wait, |runs| run * runs);
            run + wait.mul_f64(WAIT_MARGIN)
        };
        let mut after = vec![Duration::ZERO; self.next.len()];
        for own in (at..self.next.len()).rev() {
            let longest = self.next[own].iter().filter(|&&next| needed[next]);
            after[own] = longest.map(|&next| takes(next) + after[next]).max().unwrap_or_default();
        }
        (takes(at), after[at])
    }

    fn run(&self, at: usize, now: Instant) -> Duration {
        self.costs[at].lock().samples.p75(now).map_or(Duration::ZERO, |line| line.run(1))
    }

    /// Whether a request without hope may run all the same, to find out what steps take now.
    pub(crate) fn allow_test_run(&self, now: Instant) -> bool {
        self.costs[0].lock().samples.allow_test_run(now)
    }

    /// Notes what a step took.
    pub(crate) fn took(&self, at: usize, timing: &StepTiming, now: Instant) {
        let mut cost = self.costs[at].lock();
        let (took, rows) = (Duration::from_micros(timing.run_us), timing.batch_size.max(1));
        cost.samples.add(Run { rows, fills: rows, took, ended: now });
        cost.took.run.observe(took);
        let wait = Duration::from_micros(timing.wait_us);
        cost.wait = cost.wait.mul_f64(1.0 - NEWEST) + wait.mul_f64(NEWEST);
        cost.took.wait.observe(wait);
    }

    /// Notes that a step failed, or was given up.
    pub(crate) fn ended(&self, at: usize, expired: bool) {
        let took = &mut self.costs[at].lock().took;
        if expired { took.expired += 1 } else { took.failed += 1 }
    }

    /// Each step with its times.
    pub(crate) fn times(&self) -> impl Iterator<Item = (&SmolStr, StepTimes)> {
        self.plan.steps.iter().map(|step| &step.name).zip(self.costs.iter().map(|cost| cost.lock().took.clone()))
    }
}

#[cfg(test)]
mod tests {
    use nobat_core::chain::{ChainDefinition, Known, plan};
    use nobat_core::signature::ModelSignature;
    use serde_json::json;

    use super::*;

    struct Any;

    impl Known for Any {
        fn model(&self, name: &str, _: &str) -> Option<ModelSignature> {
            let spec = |name: &str| json!({ "name": name, "datatype": "FP32", "shape": [-1, 1] });
            let signature = json!({
                "name": name, "version": "1", "digest": "", "inputs": [spec("x")], "outputs": [spec("y")],
                "batched": true, "max_batch_size": 8, "max_rows": 8,
            });
            serde_json::from_value(signature).ok()
        }
    }

    /// `a` feeds `b` and `c`; `c` feeds `d`.
    fn chain() -> LoadedChain {
        let step = |name: &str, from: &str| json!({ "model": name, "inputs": { "x": from }, "outputs": { "y": name } });
        let steps = json!([step("a", "in"), step("b", "a"), step("c", "a"), step("d", "c")]);
        let definition = json!({ "steps": steps, "outputs": ["b", "d"] });
        let definition: ChainDefinition = serde_json::from_value(definition).expect("a definition");
        LoadedChain::new(plan("m", &definition, &Any).expect("a chain"), BTreeMap::new(), None)
    }

    #[test]
    fn only_steps_that_lead_to_a_wanted_output_run() {
        let chain = chain();
        assert_eq!(chain.needed(&[]), [true; 4]);
        assert_eq!(chain.needed(&["b".into()]), [true, true, false, false]);
        assert_eq!(chain.needed(&["d".into()]), [true, false, true, true]);
    }

    #[test]
    fn the_time_that_is_left_is_that_of_the_longest_way_to_the_end() {
        let (chain, now) = (chain(), Instant::now());
        let ms = Duration::from_millis;
        let nothing = |_: usize| Some(0);
        assert_eq!(chain.estimate(0, &[true; 4], nothing, now), (ms(0), ms(0)), "nothing is known yet");
        for (at, took) in [10, 50, 20, 40].into_iter().enumerate() {
            let timing = StepTiming { run_us: took * 1_000, batch_size: 1, ..StepTiming::default() };
            (0..16).for_each(|_| chain.took(at, &timing, now));
        }
        let near = |(run, after): (Duration, Duration), expected: (u64, u64)| {
            assert_eq!((run.as_millis() as u64, after.as_millis() as u64), expected);
        };
        near(chain.estimate(0, &[true; 4], nothing, now), (10, 60));
        near(chain.estimate(2, &[true; 4], nothing, now), (20, 40));
        near(chain.estimate(3, &[true; 4], nothing, now), (40, 0));
        near(chain.estimate(0, &chain.needed(&["b".into()]), nothing, now), (10, 50));
        // Two runs before its own, of which it takes a margin; of others it knows no wait.
        near(chain.estimate(0, &[true; 4], |at| (at != 3).then_some(2 * u32::from(at == 0)), now), (35, 60));
    }
}
