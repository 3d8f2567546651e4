//! How soon a canary whose classes moved is found by real traffic, as often as one may look, and
//! that a promotion which waits decides for or against it. One trial of a coarse shift without
//! `NOBAT_TRIALS`, so many of fine ones with it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use nobat_statistics::anytime::{AnytimeVersions, CONCENTRATION};
use serde_json::json;

use crate::rig::Random;
use crate::rig::http::Http;
use crate::rig::onnx::{body_of_class, matrix};
use crate::rig::process::{Service, binary};

/// Kinds of requests, equally frequent: six to a class.
const KINDS: u64 = 60;
const CLASSES: usize = 10;
/// The level of the alarm.
const ALPHA: f64 = 0.01;
/// Requests between two looks.
const EVERY: u64 = 100;
/// Trials at once.
const AT_ONCE: usize = 4;

/// A new version beside the old one, each with half of the requests.
#[derive(Clone, Copy)]
struct Canary {
    name: &'static str,
    /// Kinds of the other classes that it gives to class 0; three are five points.
    moved: u64,
    /// The margin of a promotion that waits; without, the alarm is waited for.
    margin: Option<&'static str>,
    trials: usize,
}

impl Canary {
    fn class_of(self, kind: u64) -> usize {
        let own = KINDS / CLASSES as u64;
        let is_moved = (0..self.moved).any(|n| kind == own + n * (KINDS - own) / self.moved);
        if is_moved { 0 } else { (kind / own) as usize }
    }

    fn points(self) -> u64 {
        self.moved * 100 / KINDS
    }

    /// Requests until the alarm, without a server: ascending, over many runs.
    fn simulated(self) -> Vec<u64> {
        let old = Canary { moved: 0, ..self };
        let run = |seed| {
            let (mut random, mut versions) = (Random::new(seed), AnytimeVersions::new(CLASSES, 0.5, CONCENTRATION));
            (1..).map(|look| look * EVERY).find(|_| {
                for _ in 0..EVERY {
                    let (kind, is_new) = (random.below(KINDS), random.below(2) == 0);
                    versions.count(if is_new { self } else { old }.class_of(kind), is_new);
                }
                versions.p() <= ALPHA
            })
        };
        let mut all: Vec<u64> = (0..400).filter_map(run).collect();
        all.sort_unstable();
        all
    }
}

fn models(folder: &Path, canaries: &[Canary]) -> PathBuf {
    let old = Canary { name: "first", moved: 0, margin: None, trials: 0 };
    for canary in canaries.iter().chain([&old]) {
        let is_class = |kind: usize, class| (kind as u64) < KINDS && class == canary.class_of(kind as u64);
        matrix(folder, canary.name, is_class);
    }
    folder.join("models")
}

/// What became of one trial.
#[derive(Debug)]
struct Trial {
    /// Requests until the alarm, where it came.
    alarm: Option<u64>,
    /// Requests in all.
    sent: u64,
    /// Whether the promotion promoted, and what it said.
    promotion: Option<(bool, String)>,
}

/// Waits for a verdict on the canary while the test sends.
fn promotion(service: &Service, route: &str, margin: &str) -> Child {
    let mut command = Command::new(binary("nobat"));
    command.args(["routes", "promote", route, "--wait", "1h", "--roll-back", "--classes", margin, "--failures", "0.1"]);
    command.env("NOBAT_URL", format!("http://{}", service.address)).stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it runs")
}

fn trial(service: &Service, canary: Canary, number: usize) -> Trial {
    let (mut http, mut random) = (Http::new(service.address), Random::new(number as u64 + 7));
    let route = format!("{}-{number}", canary.name);
    let rule = json!({"weighted": [{"target": "first", "percent": 50}, {"target": canary.name, "percent": 50}]});
    let headers = [("Content-Type", "application/json")];
    let put = http.send("PUT", &format!("/api/v1/routes/{route}"), &headers, rule.to_string().as_bytes());
    assert_eq!(put.expect("an answer").status, 200);
    let mut waiting = canary.margin.map(|margin| promotion(service, &route, margin));
    let (path, mut alarm, mut sent) = (format!("/v1/models/{route}:predict"), None, 0);
    let mut goes_on = |alarm: Option<u64>| match &mut waiting {
        Some(promotion) => promotion.try_wait().expect("it can be waited for").is_none(),
        None => alarm.is_none(),
    };
    while goes_on(alarm) {
        for _ in 0..EVERY {
            let answer = http.post(&path, &body_of_class(random.below(KINDS))).expect("an answer");
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
        sent += EVERY;
        let seen = http.get(&format!("/api/v1/routes/{route}")).expect("an answer").json();
        if alarm.is_none() && seen["rollouts"][0]["p"].as_f64().is_some_and(|p| p <= ALPHA) {
            alarm = Some(sent);
        }
        assert!(sent < 200_000, "nothing is decided on {route}: {seen}");
    }
    let promotion = waiting.map(|promotion| {
        let done = promotion.wait_with_output().expect("it ended");
        (done.status.success(), String::from_utf8_lossy(&done.stderr).into_owned())
    });
    Trial { alarm, sent, promotion }
}

/// All trials of all canaries, in the canaries' order.
fn all_trials(service: &Service, canaries: &[Canary]) -> Vec<Vec<Trial>> {
    let all: Vec<(usize, usize)> =
        canaries.iter().enumerate().flat_map(|(at, canary)| (0..canary.trials).map(move |trial| (at, trial))).collect();
    let next = AtomicUsize::new(0);
    let done = Mutex::new(canaries.iter().map(|_| Vec::new()).collect::<Vec<_>>());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE.min(all.len()) {
            scope.spawn(|| {
                while let Some(&(at, number)) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let ended = trial(service, canaries[at], number);
                    done.lock().expect("no panic")[at].push(ended);
                }
            });
        }
    });
    done.into_inner().expect("no panic")
}

#[test]
fn a_canary_that_moved_is_found_by_live_traffic_in_trial_after_trial() {
    let trials: Option<usize> = std::env::var("NOBAT_TRIALS").ok().map(|n| n.parse().expect("a number of trials"));
    let canary = |name, moved, margin, trials| Canary { name, moved, margin, trials };
    let canaries = match trials {
        None => vec![canary("alike", 0, Some("0.25"), 1), canary("moved-30", 18, Some("0.1"), 1)],
        Some(n) => vec![
            canary("alike", 0, Some("0.05"), n.div_ceil(4)),
            canary("moved-10", 6, Some("0.02"), n),
            canary("moved-5", 3, None, n),
        ],
    };
    let folder = tempfile::tempdir().expect("a folder");
    let mut service = Service::serve(folder.path(), &models(folder.path(), &canaries), &[], &[]);
    ["first"]
        .into_iter()
        .chain(canaries.iter().map(|canary| canary.name))
        .for_each(|name| service.wait_for_model(name));
    let done = all_trials(&service, &canaries);
    let at = |all: &[u64], share: f64| all[((all.len() - 1) as f64 * share) as usize];
    for (canary, trials) in canaries.iter().zip(&done) {
        let ascending = |of: &dyn Fn(&Trial) -> Option<u64>| {
            let mut all: Vec<u64> = trials.iter().filter_map(of).collect();
            all.sort_unstable();
            all
        };
        let (alarms, sent) = (ascending(&|trial| trial.alarm), ascending(&|trial| Some(trial.sent)));
        let (points, n) = (canary.points(), trials.len());
        if points == 0 {
            let (median, most) = (at(&sent, 0.5), at(&sent, 1.0));
            eprintln!("alike: {} false alarms in {n}; promoted after {median} requests, {most} at most", alarms.len());
            // Of 20 right ones four or more alarm in one series of 25,000.
            assert!(alarms.len() <= n / 20 + 2, "{alarms:?} of {n}");
            for trial in trials {
                let (is_promoted, told) = trial.promotion.as_ref().expect("it was asked for");
                assert!(*is_promoted && told.contains("goes to `alike`: safe at 95 %"), "{trial:?}");
            }
            continue;
        }
        let simulated = canary.simulated();
        eprintln!(
            "{points} points moved: alarm in {} of {n} after {} requests at the median, {} at most (simulated: {}, nine in ten {})",
            alarms.len(),
            at(&alarms, 0.5),
            at(&alarms, 1.0),
            at(&simulated, 0.5),
            at(&simulated, 0.9)
        );
        for trial in trials {
            // As late as the last of the simulated runs comes one in four hundred, and half as late again hardly ever.
            assert!(trial.alarm.is_some_and(|alarm| alarm <= at(&simulated, 1.0) * 3 / 2), "{trial:?}");
            if let Some((is_promoted, told)) = &trial.promotion {
                assert!(!is_promoted && told.contains("goes back to `first`"), "{trial:?}");
                assert!(told.contains("class `0` moved most"), "{trial:?}");
            }
        }
        if canary.margin.is_some() {
            eprintln!("  rolled back after {} requests at the median, {} at most", at(&sent, 0.5), at(&sent, 1.0));
        }
        if n >= 10 {
            let share = at(&alarms, 0.5) as f64 / at(&simulated, 0.5) as f64;
            assert!((0.5..2.0).contains(&share), "{share} of what was simulated");
        }
    }
}
