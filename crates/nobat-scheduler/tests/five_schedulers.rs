//! Five schedulers on one Redis, killed at random (SIGKILL) and started again,
//! over 2,000 ticks on a compressed clock that crosses a change to summer time:
//! each tick is enqueued exactly once.
//!
//! The program starts itself again as the schedulers it kills.

use std::collections::{HashMap, HashSet};
use std::process::{Child, Command};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nobat_queue::redis::RedisQueue;
use nobat_queue::{Queue, QueueSettings};
use nobat_scheduler::schedule::{Crontab, Periodic};
use nobat_scheduler::{RunQueue, RunRequest, Scheduler};
use nobat_testkit::RedisServer;

const SCHEDULERS: usize = 5;
const TASKS: usize = 4;
const TICKS: usize = 2_000;
/// Virtual milliseconds per real one: a minute takes 50 ms.
const SPEED: i64 = 1_200;
/// Virtual start, milliseconds: four hours before Berlin's clocks go forward.
const START_MS: i64 = 1_774_731_600_000;
const ZONE: &str = "Europe/Berlin";

fn main() {
    // As test runners ask what there is.
    let asked = |flag: &str| std::env::args().any(|argument| argument == flag);
    if asked("--list") {
        if !asked("--ignored") {
            println!("each_tick_is_enqueued_once_however_many_schedulers_are_killed: test");
        }
        return;
    }
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    match std::env::var("NOBAT_TEST_SCHEDULER") {
        Ok(url) => runtime.block_on(schedule(&url)),
        Err(_) => runtime.block_on(kill_and_count()),
    }
}

/// What each child does until it is killed.
async fn schedule(url: &str) {
    let began: i64 = std::env::var("NOBAT_TEST_BEGAN").expect("set by the parent").parse().expect("milliseconds");
    let queue = RedisQueue::connect(url, QueueSettings::default(), "t").await.expect("connects");
    let run_queue = RunQueue::around(queue.metadata(), url, "t");
    let tasks = tasks().into_iter().map(|task| (task.check(false).map(|crontab| (task, crontab))).expect("valid"));
    let mut scheduler = Scheduler::new(&std::process::id().to_string(), tasks.collect(), queue.metadata(), run_queue);
    loop {
        if let Err(error) = scheduler.step(virtual_ms(began) / 1000).await {
            eprintln!("step: {error}");
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn kill_and_count() {
    let server = RedisServer::start(&[]);
    let url = server.url();
    let began = real_ms();
    let spawn = || {
        Command::new(std::env::current_exe().expect("this program"))
            .env("NOBAT_TEST_SCHEDULER", &url)
            .env("NOBAT_TEST_BEGAN", began.to_string())
            .spawn()
            .expect("a scheduler")
    };
    let mut children: Vec<Child> = (0..SCHEDULERS).map(|_| spawn()).collect();
    let mut kills = 0;
    let mut seed = 12_345u32;
    let minutes = (TICKS / TASKS) as i64 + 20;
    while virtual_ms(began) < START_MS + minutes * 60_000 {
        tokio::time::sleep(Duration::from_millis(250)).await;
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let victim = &mut children[(seed >> 16) as usize % SCHEDULERS];
        victim.kill().expect("killed");
        victim.wait().expect("ended");
        *victim = spawn();
        kills += 1;
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    for child in &mut children {
        child.kill().expect("killed");
        child.wait().expect("ended");
    }

    let port = url.rsplit(':').next().expect("a port");
    let runs = |hash: &str| {
        let listed = Command::new("redis-cli").args(["-p", port, "HVALS", hash]).output().expect("listed");
        let runs = String::from_utf8(listed.stdout).expect("text");
        runs.lines().map(|run| serde_json::from_str(run).expect("a run")).collect::<Vec<RunRequest>>()
    };
    // Each was handed to apalis-redis once, but for those whose scheduler died in between.
    let handed = runs("t{:}periodic:data");
    let keys: HashSet<&str> = handed.iter().map(|run| run.key.as_str()).collect();
    assert_eq!(keys.len(), handed.len(), "a run is doubled");
    assert!(keys.len() >= TICKS - TICKS / 10, "only {} were handed over", keys.len());
    let mut ticks: HashMap<String, Vec<i64>> = HashMap::new();
    for run in runs("t{:}timer:periodic-run") {
        ticks.entry(run.task.to_string()).or_default().push(run.tick);
    }
    assert_eq!(ticks.len(), TASKS);
    let crontab = Crontab::parse("* * * * *", ZONE).expect("a crontab");
    let mut total = 0;
    for (task, mut found) in ticks {
        found.sort_unstable();
        let mut expected = vec![found[0]];
        while let Some(next) =
            crontab.next_after(expected[expected.len() - 1]).filter(|next| next <= &found[found.len() - 1])
        {
            expected.push(next);
        }
        assert_eq!(found, expected, "{task}: a tick is missing or doubled");
        assert!(found.len() >= TICKS / TASKS, "{task}: only {} ticks", found.len());
        total += found.len();
    }
    println!("{total} ticks of {TASKS} tasks, {SCHEDULERS} schedulers, {kills} kills: each enqueued exactly once");
}

fn tasks() -> Vec<Periodic> {
    let task = |n| {
        let json = serde_json::json!({
            "name": format!("task-{n}"), "schedule": "* * * * *", "timezone": ZONE, "vacuum": {},
            // On this clock an hour lasts three seconds; a stalled machine is no misfire.
            "grace_s": 36_000,
        });
        serde_json::from_value(json).expect("a task")
    };
    (0..TASKS).map(task).collect()
}

fn real_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as i64
}

fn virtual_ms(began: i64) -> i64 {
    START_MS + (real_ms() - began) * SPEED
}
