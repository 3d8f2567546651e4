//! Leases, reloads, drains, counters.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::join_all;
use nobat_core::job::JobState;
use nobat_core::signature::ModelState;
use nobat_queue::{QueueSettings, WorkerCommand};

use crate::deployment::{Deployment, as_floats, floats, longs, once, quick, request, test_model};

#[tokio::test]
async fn a_job_longer_than_three_leases_runs_once() {
    let settings = QueueSettings { lease_ms: 400, ..QueueSettings::default() };
    let deployment = Deployment::with(&["slow"], quick(), settings).await;
    let steps = |n: i64| request(vec![longs("n", &[], &[n]), floats("x", &[1, 16], &[0.5; 16])]);
    // As many steps as make a run of more than three leases here and now.
    let (mut n, outlives_us) = (20_000, 3 * 400_000);
    loop {
        let view = deployment.job("slow", &steps(n), once()).await;
        assert_eq!((view.state, view.attempts), (JobState::Succeeded, 1), "{:?}", view.error);
        let infer_us = view.result.expect("a result").timings.infer_us;
        if infer_us > outlives_us {
            break;
        }
        n *= (2 * outlives_us / infer_us.max(1)).clamp(2, 100) as i64;
    }
    deployment.drain().await;
}

#[tokio::test]
async fn a_cancelled_run_is_ended_and_its_session_serves_on() {
    let settings = QueueSettings { lease_ms: 600, ..QueueSettings::default() };
    let deployment = Deployment::with(&["slow"], quick(), settings).await;
    let endless = request(vec![longs("n", &[], &[i64::MAX / 2]), floats("x", &[1, 16], &[0.5; 16])]);
    let accepted = deployment.enqueue("slow", &endless, once()).await;
    let state = async |id| deployment.queue.get(id).await.expect("the queue answers").expect("a job").state;
    while state(accepted.id).await != JobState::Leased {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    deployment.queue.cancel(accepted.id).await.expect("a cancellation");
    // The one session is free again as soon as the next renewal says so.
    let short = request(vec![longs("n", &[], &[3]), floats("x", &[1, 16], &[0.5; 16])]);
    deployment.answer("slow", &short).await;
    assert_eq!(state(accepted.id).await, JobState::Cancelled);
    deployment.drain().await;
}

/// Bytes this process has resident.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/statm").expect("linux");
    status.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).expect("pages") * 4096
}

#[tokio::test]
async fn a_hundred_swaps_under_load_fail_no_request_and_leave_no_memory_behind() {
    let deployment = Arc::new(Deployment::of(&["identity_fp32"]).await);
    // The same graph under another producer name: another digest, the same answers.
    let original = std::fs::read(test_model("identity_fp32")).expect("a model");
    let renamed: Vec<u8> = {
        let mut bytes = original.clone();
        let at = bytes.windows(11).position(|window| window == b"nobat-tests").expect("the producer's name");
        bytes[at] = b'N';
        bytes
    };
    let done = Arc::new(AtomicBool::new(false));
    let callers = (0..8).map(|caller| {
        let (deployment, done) = (Arc::clone(&deployment), Arc::clone(&done));
        async move {
            let mut count = 0u32;
            while !done.load(Ordering::Relaxed) {
                let value = (caller * 1000) as f32 + (count % 1000) as f32;
                let (answer, _) =
                    deployment.answer("identity_fp32", &request(vec![floats("x", &[1, 1], &[value])])).await;
                assert_eq!(as_floats(&answer.outputs[0]), [value]);
                count += 1;
            }
            count
        }
    });
    let swaps = async {
        let mut after_warm_up = 0;
        for round in 0..100 {
            let before = deployment.signature("identity_fp32").digest;
            let file = deployment.models.path().join("next.tmp");
            std::fs::write(&file, if round % 2 == 0 { &renamed } else { &original }).expect("a file");
            std::fs::rename(&file, deployment.models.path().join("identity_fp32.onnx")).expect("a rename");
            deployment.worker.reload();
            deployment.until("identity_fp32", |own| own.len() == 1 && own[0].digest != before).await;
            if round == 20 {
                after_warm_up = resident();
            }
        }
        // A session that stayed would cost megabytes each: eighty of them, hundreds.
        let grown = resident().saturating_sub(after_warm_up);
        assert!(grown < 40 << 20, "{} MiB more after 80 swaps", grown >> 20);
        done.store(true, Ordering::Relaxed);
    };
    let (counts, ()) = futures::join!(join_all(callers), swaps);
    assert!(counts.iter().all(|&count| count >= 100), "each was answered all the while: {counts:?}");
    let counted = deployment.report().await.statistics;
    assert_eq!(counted[0].success.count, counts.iter().map(|&count| u64::from(count)).sum::<u64>());
    Arc::into_inner(deployment).expect("the only holder").drain().await;
}

#[tokio::test]
async fn a_failed_reload_leaves_the_old_version_serving_and_says_why() {
    let deployment = Deployment::of(&["identity_fp32"]).await;
    std::fs::write(deployment.models.path().join("identity_fp32.onnx"), b"half a fil").expect("a file");
    deployment.queue.command(&WorkerCommand::Load { model: "identity_fp32".into() }).await.expect("a command");
    deployment.until("identity_fp32", |own| own.iter().any(|own| own.state == ModelState::Failed)).await;
    let states: Vec<_> = deployment.worker.signatures().into_iter().map(|own| own.state).collect();
    assert!(states.contains(&ModelState::Ready), "{states:?}");
    deployment.answer("identity_fp32", &request(vec![floats("x", &[1, 1], &[4.0])])).await;
    deployment.drain().await;
}

#[tokio::test]
async fn models_come_and_go_with_their_files() {
    let deployment = Deployment::of(&["identity_fp32"]).await;
    std::fs::copy(test_model("two_by_two"), deployment.models.path().join("two_by_two.onnx")).expect("a model");
    std::fs::remove_file(deployment.models.path().join("identity_fp32.onnx")).expect("a removal");
    deployment.worker.reload();
    deployment.until("two_by_two", |own| own.iter().any(|own| own.state == ModelState::Ready)).await;
    deployment.until("identity_fp32", <[_]>::is_empty).await;
    deployment.drain().await;
}

#[tokio::test]
async fn a_report_asked_for_counts_what_was_answered_before() {
    let deployment = Deployment::of(&["identity_fp32"]).await;
    for _ in 0..5 {
        deployment.answer("identity_fp32", &request(vec![floats("x", &[2, 1], &[1.0, 2.0])])).await;
    }
    let report = deployment.report().await;
    let counted = &report.statistics[0];
    assert_eq!((counted.model.as_str(), counted.inference_count, counted.success.count), ("identity_fp32", 10, 5));
    assert_eq!(counted.batches.iter().map(|batch| u64::from(batch.rows) * batch.infer.count).sum::<u64>(), 10);
    deployment.drain().await;
}

#[tokio::test]
async fn a_drain_leaves_the_registry_and_no_lease_behind() {
    let deployment = Deployment::of(&["identity_fp32"]).await;
    deployment.answer("identity_fp32", &request(vec![floats("x", &[1, 1], &[1.0])])).await;
    let queue = Arc::clone(&deployment.queue);
    deployment.drain().await;
    assert!(queue.workers().await.expect("workers").is_empty());
    let counts = queue.counts("identity_fp32").await.expect("counts");
    assert_eq!((counts.leased, counts.queued), (0, 0));
}

#[tokio::test]
async fn a_model_that_is_unloaded_and_loaded_again_counts_on() {
    let deployment = Deployment::of(&["identity_fp32"]).await;
    let asked = request(vec![floats("x", &[2, 1], &[1.0, 2.0])]);
    deployment.answer("identity_fp32", &asked).await;
    let file = deployment.models.path().join("identity_fp32.onnx");
    std::fs::remove_file(&file).expect("a removal");
    deployment.worker.reload();
    deployment.until("identity_fp32", <[_]>::is_empty).await;
    std::fs::copy(test_model("identity_fp32"), &file).expect("a model");
    deployment.worker.reload();
    deployment.until("identity_fp32", |own| own.iter().any(|own| own.state == ModelState::Ready)).await;
    deployment.answer("identity_fp32", &asked).await;
    let counted = &deployment.report().await.statistics[0];
    assert_eq!((counted.inference_count, counted.success.count), (4, 2));
    deployment.drain().await;
}

#[tokio::test]
async fn the_metrics_show_what_batching_does() {
    let mut config = quick();
    // An objective that no run meets, so that the cap backs off.
    config.batching.slo_ms = 0.000_001;
    let deployment = Deployment::with(&["identity_fp32"], config, QueueSettings::default()).await;
    let metrics = nobat_runtime::Metrics::new();
    metrics.snapshot("worker", deployment.worker.families());
    for _ in 0..3 {
        deployment.answer("identity_fp32", &request(vec![floats("x", &[1, 1], &[1.0])])).await;
    }
    let text = metrics.render();
    let value = |name: &str| {
        let series = format!("{name}{{model=\"identity_fp32\",version=\"1\"}} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&series));
        line.and_then(|value| value.parse::<f64>().ok()).unwrap_or_else(|| panic!("no {name} in\n{text}"))
    };
    assert_eq!((value("nv_inference_count"), value("nobat_batch_cap_rows")), (3.0, 1.0));
    assert_eq!(value("nobat_batch_back_offs_total"), 3.0);
    assert!(value("nobat_batch_wait_seconds_total") > 0.0 && value("nobat_batch_fit_base_seconds") > 0.0);
    assert_eq!(value("nobat_batch_fit_row_seconds"), 0.0);
    assert_eq!(value("nobat_jobs_expired_total"), 0.0);
    deployment.drain().await;
}
