//! Guesses of keys and of job ids over HTTP: nothing gets through, a foreign id
//! looks like one that never was, and a guesser of ids is soon told to slow down. `NOBAT_OPERATIONS=full` makes a million.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::amount;
use crate::rig::Random;
use crate::rig::http::{Answer, Http};
use crate::rig::onnx;
use crate::rig::process::{Service, binary};
use crate::rig::wait_for;

const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

fn made_up(random: &mut Random, len: usize) -> String {
    (0..len).map(|_| char::from(DIGITS[random.below(62) as usize])).collect()
}

/// What an answer tells: its status, its headers' names and its body, without
/// what differs by nature.
fn told(answer: &Answer, guess: &str) -> String {
    let mut names: Vec<&str> = answer.headers.iter().map(|(name, _)| name.as_str()).collect();
    // Their order is that of a hash map with a seed of its own, whatever was guessed.
    names.sort_unstable();
    let request = answer.header("x-request-id").unwrap_or_default().to_owned();
    format!("{} {names:?} {}", answer.status, answer.text().replace(guess, "GUESS").replace(&request, "REQUEST"))
}

/// One client's guesses: what it was told of each kind, and the times it took.
#[derive(Default)]
struct Outcome {
    of_keys: BTreeSet<String>,
    of_missing: BTreeSet<String>,
    of_foreign: BTreeSet<String>,
    missing: Vec<Duration>,
    foreign: Vec<Duration>,
}

fn guess(address: SocketAddr, seed: u64, guesses: u64, key: &str, foreign: &[String]) -> Outcome {
    let (mut http, mut random, mut outcome) = (Http::new(address), Random::new(seed), Outcome::default());
    let (public, _) = key.rsplit_once('_').expect("an id and a secret");
    let own = format!("Bearer {key}");
    for number in 0..guesses {
        match number % 4 {
            // A secret for a key that exists, and a whole key.
            kind @ (0 | 1) => {
                let whole = match kind {
                    0 => format!("{public}_{}", made_up(&mut random, 43)),
                    _ => {
                        format!("nobat_{}_{}", format_args!("0{}", made_up(&mut random, 10)), made_up(&mut random, 43))
                    }
                };
                let header = format!("Bearer {whole}");
                let answer = http.send("GET", "/api/v1/jobs", &[("authorization", &header)], b"").expect("an answer");
                assert_eq!(answer.status, 401, "{}", answer.text());
                outcome.of_keys.insert(told(&answer, &whole));
            }
            kind => {
                let theirs = &foreign[random.below(foreign.len() as u64) as usize];
                let id = if kind == 2 { theirs.clone() } else { made_up(&mut random, theirs.len()) };
                let start = Instant::now();
                let answer = http
                    .send("GET", &format!("/api/v1/jobs/{id}"), &[("authorization", &own)], b"")
                    .expect("an answer");
                let took = start.elapsed();
                let (answers, times) = match kind {
                    2 => (&mut outcome.of_foreign, &mut outcome.foreign),
                    _ => (&mut outcome.of_missing, &mut outcome.missing),
                };
                assert!(matches!(answer.status, 404 | 429), "{}", answer.text());
                answers.insert(told(&answer, &id));
                if answer.status == 404 {
                    times.push(took);
                }
            }
        }
    }
    outcome
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

#[test]
fn guessed_keys_and_ids_are_refused_alike_and_in_the_same_time() {
    let guesses = amount(4_000, 1_000_000);
    let folder = tempfile::tempdir().expect("a folder");
    let models = onnx::echo(folder.path(), 64, 1);
    let make = |name: &str| {
        let mut command = Command::new(binary("nobat"));
        command.args(["keys", "--keys", "keys.toml", "new", name]).current_dir(folder.path());
        let output = command.output().expect("nobat runs");
        String::from_utf8(output.stdout).expect("text").trim().to_owned()
    };
    let (mine, theirs) = (make("mine"), make("theirs"));
    let mut service = Service::serve(folder.path(), &models, &["--keys", "keys.toml"], &[]);
    let header = format!("Bearer {theirs}");
    let headers = [("authorization", header.as_str())];
    wait_for("the model is ready", || {
        assert!(service.process.is_running(), "{}", service.process.output());
        service
            .http()
            .send("GET", "/v1/models/echo", &headers, b"")
            .is_ok_and(|answer| answer.text().contains("AVAILABLE"))
    });
    let mut http = service.http();
    let foreign: Vec<String> = (0..200)
        .map(|value| {
            let body = onnx::body(value, 1);
            let answer = http.send("POST", "/api/v1/predict/echo", &headers, body.as_bytes()).expect("an answer");
            answer.json()["id"].as_str().expect("an id").to_owned()
        })
        .collect();

    let address = service.address;
    let outcomes: Vec<Outcome> = std::thread::scope(|scope| {
        let (mine, foreign) = (&mine, &foreign);
        let guessers: Vec<_> =
            (0..2).map(|seed| scope.spawn(move || guess(address, seed + 1, guesses / 2, mine, foreign))).collect();
        guessers.into_iter().map(|guesser| guesser.join().expect("a guesser")).collect()
    });
    let mut all = Outcome::default();
    for outcome in outcomes {
        all.of_keys.extend(outcome.of_keys);
        all.of_missing.extend(outcome.of_missing);
        all.of_foreign.extend(outcome.of_foreign);
        all.missing.extend(outcome.missing);
        all.foreign.extend(outcome.foreign);
    }
    assert_eq!(all.of_keys.len(), 1, "wrong secrets and unknown keys look alike: {:#?}", all.of_keys);
    assert_eq!(all.of_missing, all.of_foreign, "foreign and made-up ids look alike");
    assert_eq!(all.of_missing.len(), 2, "not found, and from some number on too many: {:#?}", all.of_missing);
    assert!(all.missing.len() + all.foreign.len() < guesses as usize / 2, "so many ids can be asked for");
    let (missing, foreign) = (median(&mut all.missing), median(&mut all.foreign));
    println!(
        "{guesses} guesses: none got through, one body each; median {missing:?} for missing, {foreign:?} for foreign ids"
    );
    let ratio = foreign.as_secs_f64() / missing.as_secs_f64();
    assert!((0.5..2.0).contains(&ratio), "the time tells them apart: {missing:?} {foreign:?}");
}
