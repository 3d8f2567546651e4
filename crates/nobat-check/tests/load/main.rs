//! The load engine against servers whose latency is scripted: what it tells must be what they did.

mod server;

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

#[test]
fn percentiles_are_those_of_the_server() {
    // 200 to 400 ms, each of a hundred values equally often.
    let server = Scripted::start(|n, now| Act::AnswerAt(now + ms(200 + 2 * (n * 37 % 100))));
    let whole = measured(&server, &plan(constant(100.0), ms(1_500), 2)).whole();
    assert_eq!((whole.due, whole.latencies.count(), whole.failed()), (300, 300, 0));
    for (q, truth) in [(0.25, 0.25), (0.5, 0.3), (0.9, 0.38), (0.99, 0.398)] {
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
        Act::AnswerAt(free + ms(300))
    });
    let whole = measured(&server, &plan(constant(100.0), ms(4_000), 1)).whole();
    assert_eq!((whole.due, whole.failed()), (400, 0));
    // A quarter of the requests is due in the stall, and waits for what is left of it.
    let truth = |q: f64| if q <= 0.75 { 0.3 } else { 0.3 + (q - 0.75) / 0.25 };
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
    let (at, why) = outcome.gone.clone().expect("it is gone");
    assert!(at >= ms(1_000) && at <= ms(2_500) && why == "no answer", "{at:?}: {why}");
    let whole = outcome.whole();
    assert!(outcome.runs.len() <= 3 && outcome.runs[0].latencies.count() == 100, "{:?}", outcome.runs.len());
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

/// One server at a time, first come first served, each service as long as chance says: M/M/1.
fn queue(services_per_s: f64) -> Scripted {
    let state = Mutex::new((0u64, None::<Instant>));
    Scripted::start(move |_, now| {
        let (draws, free) = &mut *state.lock().expect("whole");
        // splitmix64: the top 53 bits as a number in (0, 1].
        *draws = draws.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = *draws;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let uniform = (((bits ^ (bits >> 31)) >> 11) + 1) as f64 / (1u64 << 53) as f64;
        let service = Duration::from_secs_f64(-uniform.ln() / services_per_s);
        let end = free.map_or(now, |free| free.max(now)) + service;
        *free = Some(end);
        Act::AnswerAt(end)
    })
}

#[test]
fn the_knee_of_a_queue_is_in_the_bracket() {
    // p99 is ln 100 / (services - rate): 50 ms at 408 of 500. A run of a second knows its p99
    // to a fifth, and so the rate to 6 %.
    let server = queue(500.0);
    let (target, requests) = target(&server.url);
    let rate = |rate| Rate::per_second(rate).expect("a rate");
    let plan = plan(constant(1.0), ms(1_000), 1);
    let (rates, caller) = ((rate(300.0), rate(5_000.0)), TargetCaller::each(&target, requests));
    let found = block_on(find_knee(&plan, ms(50), rates, caller, |_, _| ())).expect("searched");
    let bracket = found.bracket;
    let (held, missed) = (bracket.held.expect("held"), bracket.missed.expect("missed"));
    assert!(held <= 408.0 * 1.1 && missed >= 408.0 / 1.1 && missed <= held * 1.05, "{bracket:?} {:#?}", found.runs);
    assert_eq!(found.ended_by, None);
}

fn staged(server: &Scripted, settings: &LoadSettings) -> LoadReport {
    let (target, requests) = target(&server.url);
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

#[test]
fn a_model_that_is_five_times_slower_is_found_against_a_baseline_and_a_goal() {
    let scripted =
        |slower: u64| Scripted::start(move |n, now| Act::AnswerAt(now + ms(40 + n * 37 % 20) * slower as u32));
    let server = scripted(1);
    let goal = LoadSettings { goal: Some(ms(100)), ..settings(100.0) };
    let before = staged(&server, &goal);
    assert_eq!(verdict(&before, "answers"), Verdict::Passed, "{:#?}", before.stage);
    assert_eq!(verdict(&before, "latency"), Verdict::Passed, "{:#?}", before.stage);
    let (target, _) = target(&server.url);
    let baseline: Baseline = before.into_baseline(None, &target);
    let against = LoadSettings { baseline: Some(baseline), ..goal };
    let same = staged(&server, &against);
    assert_eq!(verdict(&same, "baseline.p50"), Verdict::Passed, "{:#?}", same.stage);
    assert_ne!(verdict(&same, "baseline.p99"), Verdict::Failed, "{:#?}", same.stage);
    let slow = staged(&scripted(5), &against);
    for id in ["latency", "baseline.p50", "baseline.p99"] {
        assert_eq!(verdict(&slow, id), Verdict::Failed, "{:#?}", slow.stage);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_server_that_leaks_with_every_request_is_found_and_one_that_does_not_is_not() {
    // The server lives in this process: its memory is read where it is found, by its port.
    let steady = staged(&Scripted::start(|_, now| Act::AnswerAt(now)), &settings(200.0));
    assert_eq!(verdict(&steady, "memory"), Verdict::Passed, "{:#?}", steady.stage);
    let leaked = Mutex::new(Vec::new());
    let leaking = Scripted::start(move |n, now| {
        leaked.lock().expect("whole").push(vec![n as u8 | 1; 64 * 1024]);
        Act::AnswerAt(now)
    });
    let leak = staged(&leaking, &settings(200.0));
    assert_eq!(verdict(&leak, "memory"), Verdict::Failed, "{:#?}", leak.stage);
}

#[test]
fn too_few_requests_say_how_many_are_needed_and_a_rate_is_found_where_none_is_given() {
    let server = Scripted::start(|_, now| Act::AnswerAt(now + ms(50)));
    let few = staged(&server, &LoadSettings { goal: Some(ms(500)), ..settings(20.0) });
    let Verdict::NotJudged { why, needed: Some(needed) } = verdict(&few, "latency") else { panic!("{:#?}", few.stage) };
    assert!(why.contains("50 predictions are too few") && needed.starts_with("368"), "{why}: {needed}");
    let derived = staged(&server, &LoadSettings { load: None, ..settings(1.0) });
    let Load::Open(arrivals) = &derived.load else { panic!("{:?}", derived.load) };
    // Sixteen users at twenty a second each, and half of it.
    assert!((110.0..=165.0).contains(&arrivals.rate().get()), "{:?}", derived.load);
}
