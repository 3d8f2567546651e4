//! One suite that both stores pass: every rule of the queue, seen through the
//! `Queue` trait alone.

mod stores;

use std::time::Duration;

use nobat_core::job::*;
use nobat_core::OwnerId;
use nobat_queue::queue::QueueSettings;

#[tokio::test]
async fn smoke() {
    let store = stores::sqlite(QueueSettings::default());
    let q = store.queue.clone();
    let lane = q.lane();
    let job = |p: &'static str| NewJob { model: "m".into(), owner: OwnerId(1), options: JobOptions::default(), payload: p.into(), rows: 1, trace: "".into() };
    let a = lane.enqueue(job("one")).await.expect("accepted");
    let mut c = q.consumer("m", "w").await.expect("consumer");
    let q2 = q.clone();
    let worker = tokio::spawn(async move {
        let mut settle = vec![];
        loop {
            let step = c.step(std::mem::take(&mut settle), 8).await.expect("steps");
            if step.leased.is_empty() { c.idle().await; continue }
            for j in step.leased {
                let r = JobResult { explain: Default::default(), outputs: j.payload.clone() };
                settle.push(Settlement { id: j.id, token: j.token, outcome: Outcome::Succeeded(r.encode()) });
            }
        }
    });
    let v = lane.wait(a.id, Duration::from_secs(5)).await.expect("ok").expect("some");
    assert_eq!(v.state, JobState::Succeeded);
    assert_eq!(v.result.expect("r").outputs, "one");
    let v = lane.call(job("two"), Duration::from_secs(5)).await.expect("ok");
    assert_eq!(v.result.expect("r").outputs, "two");
    println!("{:?}", q2.counts("m").await);
    println!("{:?}", q2.list(&Default::default(), None, 10).await);
    println!("{:?}", q2.health().await);
    worker.abort();
}
