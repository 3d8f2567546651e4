//! The load engine against servers whose latency is scripted: what it tells must be what they did.

mod server;

use std::collections::VecDeque;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nobat_check::client::{CallProtocol, ModelDescription, Prepared, Target, TargetSettings};
use nobat_check::load::{
    Arrivals, Baseline, Load, LoadOutcome, LoadPlan, LoadReport, LoadSettings, Pause, Rate, TargetCaller, WarmUpLength,
    find_knee, measure, run,
};
use nobat_check::stage::Verdict;
use server::{Act, Scripted};

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn target(url: &str) -> (Target, Arc<[Prepared]>) {
    let settings = TargetSettings {
        url: url.into(),
        grpc: None,
        api_key: None,
        model: "m".into(),
        version: None,
        template: None,
        patience: Duration::from_secs(20),
    };
    let target = Target::new(settings, CallProtocol::TfServing).expect("a target");
    let request = target.prepare(&[]).expect("a request");
    (target, [request].into())
}

fn constant(rate: f64) -> Load {
    Load::Open(Arrivals::Constant(Rate::per_second(rate).expect("a rate")))
}

fn plan(load: Load, run: Duration, runs: usize) -> LoadPlan {
    LoadPlan { run, runs, threads: 2, warm_up: WarmUpLength::Fixed(ms(300)), ..LoadPlan::new(load, run) }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future)
}

fn measured(server: &Scripted, plan: &LoadPlan) -> LoadOutcome {
    let (target, requests) = target(&server.url);
    block_on(measure(plan, TargetCaller::each(&target, requests), |_| ())).expect("measured")
}

fn within(what: &str, found: Duration, truth: f64) {
    let found = found.as_secs_f64();
    assert!((found / truth - 1.0).abs() < 0.02, "{what}: {found} s for {truth} s");
}

// Latencies are two seconds and more: a machine that is busy with other things wakes both sides some
// milliseconds late, and that is to be small beside them.

#[test]
fn percentiles_are_those_of_the_server() {
    // Two to three seconds, each of a hundred values equally often.
    let server = Scripted::start(|n, now| Act::AnswerAt(now + ms(2_000 + 10 * (n * 37 % 100))));
    let whole = measured(&server, &plan(constant(50.0), ms(2_000), 2)).whole();
    assert_eq!((whole.due, whole.latencies.count(), whole.failed()), (200, 200, 0));
    for (q, truth) in [(0.25, 2.25), (0.5, 2.5), (0.9, 2.9), (0.99, 2.99)] {
        within(&format!("{q}"), whole.latencies.quantile(q), truth);
    }
    let server_time = whole.server.expect("the server's account");
    assert_eq!((server_time.queue.quantile(0.5).as_millis(), server_time.run.quantile(0.5).as_millis()), (3, 5));
}

#[test]
fn a_stall_is_seen_by_those_who_would_have_met_it() {
    // From a second after the first request on, nothing is answered for a second.
    let first: Mutex<Option<Instant>> = Mutex::new(None);
    let server = Scripted::start(move |_, now| {
        let stall = *first.lock().expect("whole").get_or_insert(now) + ms(1_000);
        let free = if now >= stall { now.max(stall + ms(1_000)) } else { now };
        Act::AnswerAt(free + ms(2_000))
    });
    let whole = measured(&server, &plan(constant(50.0), ms(4_000), 1)).whole();
    assert_eq!((whole.due, whole.failed()), (200, 0));
    // A quarter of the requests is due in the stall, and waits for what is left of it.
    let truth = |q: f64| if q <= 0.75 { 2.0 } else { 2.0 + (q - 0.75) / 0.25 };
    for q in [0.5, 0.7, 0.8, 0.9, 0.95, 0.99] {
        within(&format!("{q}"), whole.latencies.quantile(q), truth(q));
    }
}

#[test]
fn users_make_as_many_requests_as_they_pause_for() {
    let server = Scripted::start(|_, now| Act::AnswerAt(now + ms(100)));
    let closed = |users, pause| plan(Load::Closed { users, pause }, ms(2_000), 1);
    let busy = measured(&server, &closed(5, Pause::None)).whole();
    assert!((90..=101).contains(&busy.due), "five users at ten a second: {}", busy.due);
    let pace = Pause::requests_a_minute(120.0).expect("a pace");
    let paced = measured(&server, &closed(10, pace)).whole();
    assert!((38..=42).contains(&paced.due), "ten users at two a second: {}", paced.due);
    // Fewer users than threads.
    let one = measured(&server, &closed(1, Pause::None)).whole();
    assert!((18..=21).contains(&one.due), "one user at ten a second: {}", one.due);
    let slow = Pause::requests_a_minute(6_000.0).expect("a pace");
    let late = measured(&server, &closed(5, slow)).whole();
    assert!((90..=101).contains(&late.due), "they wait for their answers: {}", late.due);
}

#[test]
fn a_server_that_goes_away_leaves_what_it_did() {
    let mut server = Scripted::start(|_, now| Act::AnswerAt(now + ms(20)));
    let (target, requests) = target(&server.url);
    let plan = plan(constant(100.0), ms(1_000), 9);
    let outcome = block_on(async {
        let (killing, measuring) =
            (tokio::time::sleep(ms(1_800)), measure(&plan, TargetCaller::each(&target, requests), |_| ()));
        tokio::join!(
            async {
                killing.await;
                server.stop()
            },
            measuring
        )
        .1
    })
    .expect("measured");
    let gone = outcome.gone.clone().expect("it is gone");
    assert!(gone.at >= ms(1_000) && gone.at <= ms(2_500) && gone.why == "no answer", "{gone:?}");
    let whole = outcome.whole();
    assert!(outcome.runs.len() <= 6 && outcome.runs[0].latencies.count() == 100, "{:?}", outcome.runs.len());
    assert!(whole.failed() > 20 && whole.errors.contains_key("no answer"), "{:?}", whole.errors);
}

#[test]
fn refusals_are_counted_by_their_codes() {
    let server = Scripted::start(|n, now| match n % 4 {
        0 => Act::Refuse(503),
        1 => Act::HangUp,
        _ => Act::AnswerAt(now),
    });
    let outcome = measured(&server, &plan(constant(200.0), ms(1_000), 1));
    let whole = outcome.whole();
    assert_eq!(whole.due, 200);
    let busy = whole.errors["HTTP 503 (queue_full)"];
    assert!((40..=60).contains(&busy) && whole.retry_after == busy, "{:?}", whole.errors);
    assert!(outcome.gone.is_none() && whole.errors["no answer"] >= 20, "{:?}", whole.errors);
    assert_eq!(whole.latencies.count() + whole.failed(), 200);
}

#[test]
fn a_search_ends_around_what_a_server_does_not_refuse() {
    // At most a hundred in any second.
    let recent: Mutex<VecDeque<Instant>> = Mutex::default();
    let server = Scripted::start(move |_, now| {
        let mut recent = recent.lock().expect("whole");
        while recent.front().is_some_and(|&first| now - first > ms(1_000)) {
            recent.pop_front();
        }
        if recent.len() >= 100 {
            return Act::Refuse(503);
        }
        recent.push_back(now);
        Act::AnswerAt(now)
    });
    let (target, requests) = target(&server.url);
    let rate = |rate| Rate::per_second(rate).expect("a rate");
    let plan = plan(constant(1.0), ms(800), 1);
    let (rates, caller) = ((rate(64.0), rate(5_000.0)), TargetCaller::each(&target, requests));
    let found = block_on(find_knee(&plan, ms(5_000), rates, caller, |_, _| ())).expect("searched");
    let (held, missed) = (found.bracket.held.expect("held"), found.bracket.missed.expect("missed"));
    // Arrivals at random come in clusters: some are refused below a hundred.
    assert!((50.0..130.0).contains(&held) && missed > held && missed <= held * 1.05, "{found:#?}");
    assert_eq!(found.ended_by, None);
}

fn staged(url: &str, settings: &LoadSettings) -> LoadReport {
    let (target, requests) = target(url);
    let model = ModelDescription { name: "m".into(), version: "1".into(), ..ModelDescription::default() };
    block_on(run(&target, &model, requests, settings, &|_, _, _| ())).expect("ran")
}

fn verdict(report: &LoadReport, id: &str) -> Verdict {
    let finding = report.stage.findings.iter().find(|finding| finding.id == id);
    finding.unwrap_or_else(|| panic!("no {id} in {:#?}", report.stage)).verdict.clone()
}

fn settings(rate: f64) -> LoadSettings {
    let load = Some(constant(rate));
    LoadSettings { load, length: ms(2_500), warm_up: WarmUpLength::Fixed(ms(300)), ..LoadSettings::default() }
}

/// Calls `trial` for each of `NOBAT_TRIALS` trials, one without it; four at a time, as they mostly wait.
fn in_trial_after_trial(trial: impl Fn(u64) + Sync) {
    let trials: u64 = std::env::var("NOBAT_TRIALS").map_or(1, |trials| trials.parse().expect("a number of trials"));
    let (next, trial) = (AtomicU64::new(0), &trial);
    std::thread::scope(|scope| {
        for _ in 0..trials.min(4) {
            scope.spawn(|| {
                while let Some(at) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|at| *at < trials) {
                    trial(at);
                }
            });
        }
    });
    eprintln!("found in {trials} of {trials} trials");
}

#[test]
fn a_model_that_is_five_times_slower_is_found_in_trial_after_trial() {
    in_trial_after_trial(|trial| {
        let scripted = |slower: u32| {
            Scripted::start(move |n, now| Act::AnswerAt(now + ms(1_000 + (n + trial) * 37 % 200) * slower))
        };
        let server = scripted(1);
        let goal = LoadSettings {
            goal: Some(ms(3_000)),
            length: ms(3_200),
            connections: 1_000,
            seed: trial,
            ..settings(120.0)
        };
        let before = staged(&server.url, &goal);
        assert_eq!(verdict(&before, "answers"), Verdict::Passed, "{:#?}", before.stage);
        let (target, _) = target(&server.url);
        let baseline: Baseline = before.clone().into_baseline(None, &target).expect("the first session");
        let against = LoadSettings { baseline: Some(baseline), seed: trial + 1_000, ..goal };
        let same = staged(&server.url, &against);
        // On a machine that is busy with other things it may not be judged, and is no failure.
        for (id, report) in [("latency", &before), ("latency", &same), ("baseline.p50", &same), ("baseline.p99", &same)]
        {
            assert_ne!(verdict(report, id), Verdict::Failed, "trial {trial}: {:#?}", report.stage);
        }
        let slow = staged(&scripted(5).url, &against);
        for id in ["latency", "baseline.p50", "baseline.p99"] {
            assert_eq!(verdict(&slow, id), Verdict::Failed, "trial {trial}: {:#?}", slow.stage);
        }
    });
}

/// The server that does nothing, in a process of its own; it keeps so many bytes of each request.
struct LeakingServer {
    process: Child,
    url: String,
}

impl LeakingServer {
    fn start(bytes: &str) -> LeakingServer {
        let own = std::env::current_exe().expect("a path");
        let built = own.parent().and_then(|folder| folder.parent()).expect("a target folder");
        let mut server = Command::new(built.join("examples/load_speed"));
        let mut process = server.args(["serve", "127.0.0.1:0", bytes]).stdout(Stdio::piped()).spawn().expect("it runs");
        let mut url = String::new();
        BufReader::new(process.stdout.take().expect("piped")).read_line(&mut url).expect("an address");
        LeakingServer { process, url: url.trim().into() }
    }
}

impl Drop for LeakingServer {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_server_that_leaks_with_every_request_is_found_and_one_that_does_not_is_not_in_trial_after_trial() {
    in_trial_after_trial(|trial| {
        // The stage says that it does not see less than 8 KiB of so many requests. The process is
        // found by the port that it listens on.
        let (steady, leaking) = (LeakingServer::start("0"), LeakingServer::start("16384"));
        let settings = LoadSettings { seed: trial, ..settings(200.0) };
        let report = staged(&steady.url, &settings);
        assert_eq!(verdict(&report, "memory"), Verdict::Passed, "trial {trial}: {:#?}", report.stage);
        let report = staged(&leaking.url, &settings);
        assert_eq!(verdict(&report, "memory"), Verdict::Failed, "trial {trial}: {:#?}", report.stage);
    });
}

#[test]
fn too_few_requests_say_how_many_are_needed_and_a_rate_is_found_where_none_is_given() {
    let server = Scripted::start(|_, now| Act::AnswerAt(now + ms(500)));
    let few = staged(&server.url, &LoadSettings { goal: Some(ms(5_000)), ..settings(20.0) });
    let Verdict::NotJudged { why, needed: Some(needed) } = verdict(&few, "latency") else { panic!("{:#?}", few.stage) };
    assert!(why.contains("50 predictions are too few") && needed.starts_with("368"), "{why}: {needed}");
    let derived = staged(&server.url, &LoadSettings { load: None, ..settings(1.0) });
    let Load::Open(arrivals) = &derived.load else { panic!("{:?}", derived.load) };
    // Sixteen users at two a second each, and half of it.
    assert!((12.0..=17.0).contains(&arrivals.rate().get()), "{:?}", derived.load);
}
