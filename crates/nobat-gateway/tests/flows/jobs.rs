//! Routes that nobody waits for: one parent job, the answers joined in it.

use std::time::Duration;

use nobat_scheduler::SchedulerSettings;
use nobat_webhooks::WebhookSettings;
use nobat_webhooks::outbound::AddressPolicy;
use reqwest::Method;
use serde_json::{Value, json};

use crate::house::{House, Manner, Receiver, row};

pub(crate) fn group(name: &str, join: &str) -> Value {
    json!({"name": name, "fanout": {"targets": ["one", "two", "three"], "join": join}})
}

async fn result(house: &House, id: &str) -> Value {
    let reply = house.get(&format!("/api/v1/jobs/{id}/result?wait=20")).await;
    assert_eq!(reply.status, 200, "{}", reply.json);
    reply.json
}

#[tokio::test]
async fn a_group_that_nobody_waits_for_is_one_job_with_the_joined_result() {
    let house = House::start(json!([group("all", "all"), group("first", "first")])).await;
    let request = house.request(Method::POST, "/api/v1/predict/all").header("prefer", "respond-async");
    let accepted = house.send(request.body(row().to_string())).await;
    assert_eq!((accepted.status, &accepted.json["model"]), (202, &json!("all")), "{}", accepted.json);
    let id = accepted.json["id"].as_str().expect("an id");
    let joined = result(&house, id).await;
    assert_eq!(joined["model"], "all");
    assert_eq!(joined["predictions"][0]["one.y"], json!([1.0, 2.0]));
    assert_eq!(joined["predictions"][0]["three.y"], json!([3.0, 6.0]));
    let job = house.get(&format!("/api/v1/jobs/{id}")).await.json;
    assert_eq!((&job["state"], &job["model"]), (&json!("succeeded"), &json!("all")));

    // What it was made of: each target with its job, which says whose it is.
    let steps = job["explain"]["steps"].as_array().expect("steps");
    assert_eq!(steps.iter().map(|step| &step["name"]).collect::<Vec<_>>(), ["one", "two", "three"]);
    for step in steps {
        let own = house.get(&format!("/api/v1/jobs/{}", step["job"].as_str().expect("a job"))).await.json;
        let told = (&own["state"], &own["model"], &own["parent"], &own["tags"]);
        assert_eq!(told, (&json!("succeeded"), &step["name"], &json!(id), &json!([])));
    }
    let children = house.get(&format!("/api/v1/jobs?parent={id}")).await.json;
    assert_eq!(children["jobs"].as_array().map(Vec::len), Some(3), "{children}");
    assert_eq!(job["parent"], Value::Null);
    for (bad, said) in [("parent=x", "it takes a job's id"), ("tag=nobat:parent%3Dx", "begins as the server's own do")]
    {
        let refused = house.get(&format!("/api/v1/jobs?{bad}")).await;
        assert!(refused.status == 400 && refused.message().contains(said), "{}", refused.json);
    }

    house.behave("one", Manner::Answers(Duration::from_millis(500)));
    house.behave("two", Manner::Answers(Duration::from_millis(500)));
    let first = house.enqueue("first", "?priority=7").await;
    assert_eq!(result(&house, &first).await["predictions"][0], json!([3.0, 6.0]));
    let queues = house.get("/api/v1/queues/first").await;
    assert_eq!((queues.status, &queues.json["queued"]), (200, &json!(0)), "{}", queues.json);
}

#[tokio::test]
async fn a_mean_and_a_vote_are_joined_in_the_parent_too() {
    let vote = json!({"name": "vote", "fanout": {"targets": ["int-a", "int-b", "int-c"], "join": "majority"}});
    let house = House::start(json!([group("mean", "mean"), vote])).await;
    let (mean, vote) = (house.enqueue("mean", "").await, house.enqueue("vote", "").await);
    assert_eq!(result(&house, &mean).await["predictions"][0], json!([2.0, 4.0]));
    assert_eq!(result(&house, &vote).await["predictions"][0], json!([7, 14]));
}

#[tokio::test]
async fn a_child_that_fails_ends_the_parent_by_the_routes_policy() {
    let mut lenient = group("lenient", "all");
    lenient["fanout"]["on_failure"] = json!("skip");
    let house = House::start(json!([group("strict", "all"), lenient])).await;
    house.behave("two", Manner::Fails { again: false });
    let strict = house.enqueue("strict", "").await;
    let failed = house.get(&format!("/api/v1/jobs/{strict}/result?wait=20")).await;
    assert_eq!(failed.status, 500, "{}", failed.json);
    assert!(failed.message().contains("target `two`"), "{}", failed.message());
    assert_eq!(house.get(&format!("/api/v1/jobs/{strict}")).await.json["state"], "dead");
    // A parent without a result has no steps, and its children are found all the same.
    let children = house.get(&format!("/api/v1/jobs?parent={strict}")).await.json;
    let state_of = |model: &str| {
        let jobs = children["jobs"].as_array().expect("jobs");
        jobs.iter().find(|job| job["model"] == model).map(|job| job["state"].clone())
    };
    assert_eq!(state_of("two"), Some(json!("dead")), "{children}");
    // The queue of a route that is removed has its dead letters still, and is purged by the name it is listed under.
    let removed = house.send(house.request(Method::DELETE, "/api/v1/routes/strict")).await;
    assert_eq!(removed.status / 100, 2, "{}", removed.json);
    let purged = house.send(house.request(Method::DELETE, "/api/v1/queues/route%3Astrict/dead?limit=10")).await;
    assert_eq!((purged.status, &purged.json["count"]), (200, &json!(1)), "{}", purged.json);
    let lenient = house.enqueue("lenient", "").await;
    assert_eq!(result(&house, &lenient).await["predictions"][0]["one.y"], json!([1.0, 2.0]));
}

#[tokio::test]
async fn a_parent_is_carried_out_by_the_next_gateway_when_its_own_stops() {
    let house = House::start(json!([group("all", "all")])).await;
    house.behave("three", Manner::Answers(Duration::from_millis(1_200)));
    let id = house.enqueue("all", "").await;
    for _ in 0..100 {
        if house.get(&format!("/api/v1/jobs/{id}")).await.json["state"] == "leased" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let house = house.restart().await;
    assert_eq!(result(&house, &id).await["predictions"][0]["three.y"], json!([3.0, 6.0]));
    let job = house.get(&format!("/api/v1/jobs/{id}")).await.json;
    assert_eq!(job["attempts"], 1, "a drain gives back without burning an attempt: {job}");
}

#[tokio::test]
async fn a_cancelled_parent_takes_its_waiting_children_with_it() {
    let house = House::start(json!([group("all", "all")])).await;
    house.behave("one", Manner::Hangs);
    // The hanging model holds this one; the parent's child waits behind it or is held too.
    let id = house.enqueue("all", "").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let cancelled = house.post(&format!("/api/v1/jobs/{id}/cancel"), &json!({})).await;
    assert_eq!((cancelled.status, &cancelled.json["state"]), (200, &json!("cancelled")), "{}", cancelled.json);
    let late = house.get(&format!("/api/v1/jobs/{id}/result?wait=1")).await;
    assert_eq!(late.status, 409, "{}", late.json);
}

#[tokio::test]
async fn a_parents_deadline_and_webhook_are_those_of_any_job() {
    let house = House::start(json!([group("all", "all")])).await;
    let receiver = Receiver::start();
    let told = house.enqueue("all", &format!("?webhook={}", receiver.url)).await;
    let message = receiver.message("job.succeeded", &told).await;
    assert_eq!(message["data"]["model"], "all");
    let waited = house.post(&format!("/api/v1/predict/all?wait=20&webhook={}", receiver.url), &row()).await;
    assert_eq!((waited.status, &waited.json["model"]), (200, &json!("all")), "{}", waited.json);
    receiver.message("job.succeeded", waited.json["id"].as_str().expect("a job")).await;
    house.behave("two", Manner::Hangs);
    let late = house.enqueue("all", &format!("?deadline=1s&webhook={}", receiver.url)).await;
    let message = receiver.message("job.expired", &late).await;
    assert_eq!(message["data"]["error"]["code"], "deadline_exceeded");
}

#[tokio::test]
async fn a_periodic_predict_may_name_a_route_and_is_steered_over_the_api() {
    let house = House::start(json!([group("mean", "mean")])).await;
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("answer.json");
    let input = json!({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]});
    let predict = json!({"model": "mean", "request": input, "write_to": file});
    let settings: SchedulerSettings =
        serde_json::from_value(json!({"periodic": [{"name": "p", "schedule": "@yearly", "predict": predict}]}))
            .expect("settings");
    let scheduler = nobat_scheduler::start(&settings, house.queue.clone(), "", "").await.expect("starts");
    let listed = house.get("/api/v1/periodic").await.json["tasks"][0].clone();
    assert_eq!((&listed["name"], &listed["is_paused"]), (&json!("p"), &json!(false)), "{listed}");
    assert_eq!(house.post("/api/v1/periodic/p/pause", &json!({})).await.json["paused"], true);
    assert_eq!(house.get("/api/v1/periodic/p").await.json["next"], Value::Null);
    assert_eq!(house.post("/api/v1/periodic/p/resume", &json!({})).await.json["paused"], false);
    assert_eq!(house.post("/api/v1/periodic/q/run", &json!({})).await.status, 404);
    assert_eq!(house.post("/api/v1/periodic/p/run", &json!({})).await.status, 202);
    let mut shown = Value::Null;
    for _ in 0..200 {
        shown = house.get("/api/v1/periodic/p").await.json;
        if shown["runs"][0].is_object() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(shown["runs"][0]["outcome"], "succeeded", "{shown}");
    let written: Value = serde_json::from_slice(&std::fs::read(&file).expect("written")).expect("JSON");
    assert_eq!((&written["model_name"], &written["outputs"][0]["data"]), (&json!("mean"), &json!([2.0, 4.0])));
    scheduler.stop().await;
}

#[tokio::test]
async fn a_periodic_predict_is_retried_with_a_new_job_once_the_first_is_dead() {
    let house = House::start(json!([])).await;
    house.behave("one", Manner::Fails { again: false });
    let input = json!({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]});
    let task = |name: &str, retries: u32| {
        let retry = json!({"max_retries": retries, "delay_ms": 500});
        json!({"name": name, "schedule": "@yearly", "retry": retry, "predict": {"model": "one", "request": input}})
    };
    let settings: SchedulerSettings =
        serde_json::from_value(json!({"periodic": [task("mended", 40), task("hopeless", 2)]})).expect("settings");
    let scheduler = nobat_scheduler::start(&settings, house.queue.clone(), "", "").await.expect("starts");
    assert_eq!(house.post("/api/v1/periodic/hopeless/run", &json!({})).await.status, 202);
    let run = run_of(&house, "hopeless").await;
    assert_eq!((&run["outcome"], &run["attempts"]), (&json!("failed"), &json!(3)), "{run}");
    let dead =
        || async { house.get("/api/v1/jobs?state=dead&model=one").await.json["jobs"].as_array().map_or(0, Vec::len) };
    assert_eq!(dead().await, 3, "each attempt has a job of its own");
    assert_eq!(house.post("/api/v1/periodic/mended/run", &json!({})).await.status, 202);
    while dead().await == 3 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    house.behave("one", Manner::Answers(Duration::ZERO));
    let run = run_of(&house, "mended").await;
    assert_eq!(run["outcome"], "succeeded", "{run}");
    assert!(run["attempts"].as_u64() > Some(1), "{run}");
    scheduler.stop().await;
}

async fn run_of(house: &House, task: &str) -> Value {
    for _ in 0..300 {
        let run = house.get(&format!("/api/v1/periodic/{task}")).await.json["runs"][0].clone();
        if run.is_object() {
            return run;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("task {task} has not run");
}

#[tokio::test]
async fn a_message_carries_a_small_result_and_says_where_a_large_one_is() {
    let house = House::start(json!([])).await;
    let receiver = Receiver::start();
    let id = house.enqueue("one", &format!("?webhook={}", receiver.url)).await;
    let data = receiver.message("job.succeeded", &id).await["data"].clone();
    assert_eq!(data["result_url"], format!("/api/v1/jobs/{id}/result"));
    let read = house.get(data["result_url"].as_str().expect("a path")).await;
    assert_eq!(read.status, 200, "{}", read.json);
    assert_eq!(data["result"]["predictions"], read.json["predictions"], "{data}");
    assert_eq!(data["result"]["version"], read.json["version"], "{data}");
    house.behave("two", Manner::Fails { again: false });
    let dead = house.enqueue("two", &format!("?webhook={}", receiver.url)).await;
    let data = receiver.message("job.dead", &dead).await["data"].clone();
    assert!(data.get("result").is_none() && data.get("result_url").is_none(), "{data}");

    let small = WebhookSettings {
        addresses: AddressPolicy { allow_http: true, allow_private: true },
        max_result_bytes: 8,
        public_url: "https://models.example.com/".into(),
        ..WebhookSettings::default()
    };
    let house = House::start_strict(small).await;
    let id = house.enqueue("one", &format!("?webhook={}", receiver.url)).await;
    let data = receiver.message("job.succeeded", &id).await["data"].clone();
    assert_eq!(data["result_url"], format!("https://models.example.com/api/v1/jobs/{id}/result"));
    assert!(data.get("result").is_none(), "{data}");
}
