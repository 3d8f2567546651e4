//! kill -9 of workers that carry out chains, and of workers that have their steps.

use std::time::Duration;

use serde_json::json;

use crate::rig::process::{Redis, Service, free_port, worker};
use crate::rig::{Random, chain, onnx, wait_for};
use crate::rounds;

/// Chains are carried out by two workers that have no model of their own; the models are with
/// two others. Any of the four is killed at any time, and every accepted job ends with its
/// own answer.
#[test]
fn no_chain_is_lost_when_its_worker_or_its_steps_is_killed() {
    let kills = rounds(6, 100);
    let folder = tempfile::tempdir().expect("a folder");
    let models = chain::steps(folder.path());
    let chains = folder.path().join("chains");
    chain::define(&chains);
    let redis = Redis::start(folder.path(), false);
    let env = [("NOBAT_QUEUE__LEASE_MS", "1500")];
    let start = |number: usize| worker(folder.path(), &redis.url(), if number < 2 { &chains } else { &models }, &env);
    let mut workers: Vec<_> = (0..4).map(start).collect();
    let mut gateway = Service::gateway(folder.path(), &redis.url(), free_port(), &env);
    gateway.wait_for_model("three");
    let mut http = gateway.http();
    let mut random = Random::new(11);
    let mut accepted: Vec<(usize, String)> = Vec::new();
    for kill in 0..kills {
        for _ in 0..20 {
            let class = random.below(onnx::WIDTH as u64) as usize;
            let row: Vec<u8> = (0..onnx::WIDTH).map(|at| u8::from(at == class)).collect();
            let answer = http.post("/api/v1/predict/three", &json!({ "inputs": { "x": [row] } }).to_string());
            let answer = answer.expect("the gateway is never touched");
            // While both workers of the chain are new, nobody may serve it.
            if answer.status == 202 {
                accepted.push((class, answer.json()["id"].as_str().expect("an id").to_owned()));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let victim = (kill as usize + random.below(2) as usize * 2) % 4;
        workers[victim].kill();
        workers[victim] = start(victim);
    }
    assert!(accepted.len() > kills as usize, "almost nothing was accepted");
    wait_for("every chain has ended", || {
        let counts = http.get("/api/v1/queues/three").expect("an answer").json();
        ["queued", "scheduled", "leased"].iter().all(|state| counts[state] == 0)
    });
    for (class, id) in &accepted {
        let result = http.get(&format!("/api/v1/jobs/{id}/result?form=column")).expect("an answer");
        assert_eq!(result.status, 200, "{}", result.text());
        let moved = (class + chain::MOVES) % onnx::WIDTH;
        assert_eq!(result.json()["outputs"][0][moved], 1.0, "{class}: {}", result.text());
    }
    println!("kills {kills}: accepted {}, all answered", accepted.len());
}
