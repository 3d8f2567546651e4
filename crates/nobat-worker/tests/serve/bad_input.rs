//! What goes wrong stays with whom it belongs to.

use std::time::Duration;

use futures::future::join_all;
use nobat_core::ErrorCode;
use nobat_core::job::{JobOptions, JobState};
use nobat_core::signature::ModelState;

use crate::deployment::{Deployment, floats, longs, once, quick, request, tensor};

#[tokio::test]
async fn one_bad_row_among_32_burns_one_attempt_and_31_succeed() {
    let deployment = Deployment::of(&["fails_on_marked_row"]).await;
    let jobs = (0..32i64).map(|caller| {
        let index = if caller == 13 { 99 } else { caller % 10 };
        let (deployment, asked) = (&deployment, request(vec![longs("index", &[1], &[index])]));
        // With retries allowed: a caller's mistake takes none.
        let mut options = once();
        options.retry.max_retries = 2;
        async move { (index, deployment.job("fails_on_marked_row", &asked, options).await) }
    });
    let mut largest = 0;
    for (index, view) in join_all(jobs).await {
        if index == 99 {
            assert_eq!((view.state, view.attempts), (JobState::Dead, 1));
            let error = view.error.expect("an error");
            assert_eq!(error.code, ErrorCode::InvalidTensor);
            assert!(
                error
                    .message
                    .starts_with("model `fails_on_marked_row` version 1 cannot compute this input at its Gather node")
                    && error.message.ends_with("; send indices within the model's range"),
                "{}",
                error.message
            );
        } else {
            assert_eq!((view.state, view.attempts), (JobState::Succeeded, 1), "{:?}", view.error);
            largest = largest.max(view.result.expect("a result").timings.batch_size);
        }
    }
    assert!(largest > 1, "they shared runs");
    deployment.drain().await;
}

#[tokio::test]
async fn failures_at_run_time_are_contained_and_the_neighbour_model_serves_on() {
    let deployment =
        Deployment::of(&["integer_division", "reshape_fails", "big_memory", "identity_bytes", "identity_fp32"]).await;
    let ints =
        |name: &str, value: i32| tensor(name, nobat_core::tensor::Datatype::Int32, &[1], value.to_le_bytes().to_vec());
    let terabytes = request(vec![longs("shape", &[1], &[1 << 42])]);
    let not_text = {
        let mut data = Vec::new();
        nobat_core::tensor::put_bytes_element(&mut data, &[0xff, 0xfe]);
        request(vec![tensor("x", nobat_core::tensor::Datatype::Bytes, &[1, 1], data)])
    };
    let with_nul = {
        let mut data = Vec::new();
        nobat_core::tensor::put_bytes_element(&mut data, b"a\0b");
        request(vec![tensor("x", nobat_core::tensor::Datatype::Bytes, &[1, 1], data)])
    };
    let cases = [
        (
            "integer_division",
            request(vec![ints("a", 1), ints("b", 0)]),
            ErrorCode::InvalidTensor,
            "model `integer_division` version 1 cannot compute this input at its Div node: Compute Integer division by zero; \
             send no zero as a divisor",
        ),
        (
            "reshape_fails",
            request(vec![floats("x", &[1, 4], &[0.0; 4])]),
            ErrorCode::InvalidTensor,
            "model `reshape_fails` version 1 cannot compute this input at its Reshape node: The input tensor cannot \
             be reshaped to the requested shape. Input shape:{1,4}, requested shape:{-1,7}; \
             send inputs of shapes that the model can compute with",
        ),
        (
            "big_memory",
            terabytes,
            ErrorCode::InferenceFailed,
            "model `big_memory` version 1 failed at its Expand node: Failed to allocate memory for requested buffer \
             of size 17592186044416; send fewer or smaller rows, or give the worker more memory",
        ),
        ("identity_bytes", not_text, ErrorCode::InvalidTensor, "element 0 is not UTF-8"),
        ("identity_bytes", with_nul, ErrorCode::InvalidTensor, "input `x` element 0 has a NUL at byte 1"),
        ("identity_fp32", request(vec![floats("nope", &[1, 1], &[0.0])]), ErrorCode::InvalidTensor, "`x` is missing"),
    ];
    for (model, asked, code, says) in cases {
        let view = deployment.job(model, &asked, once()).await;
        assert_eq!(view.state, JobState::Dead, "{model}");
        let error = view.error.expect("an error");
        assert_eq!(error.code, code, "{model}");
        assert!(error.message.contains(says), "{model}: {}", error.message);
        deployment.answer("identity_fp32", &request(vec![floats("x", &[1, 1], &[1.0])])).await;
    }
    deployment.drain().await;
}

#[tokio::test]
async fn a_failed_attempt_runs_again_as_often_as_its_retries_say() {
    let deployment = Deployment::of(&["big_memory"]).await;
    let mut options = once();
    options.retry.max_retries = 2;
    options.retry.delay_ms = 10;
    let view = deployment.job("big_memory", &request(vec![longs("shape", &[1], &[1 << 42])]), options).await;
    assert_eq!((view.state, view.attempts), (JobState::Dead, 3));
    deployment.drain().await;
}

#[tokio::test]
async fn files_that_cannot_be_served_say_why_and_others_serve() {
    let models = tempfile::tempdir().expect("a folder");
    for name in ["unknown_operator", "future_opset", "sequence_output", "identity_fp32"] {
        let file = format!("{name}.onnx");
        std::fs::copy(crate::deployment::test_model(name), models.path().join(file)).expect("a test model");
    }
    let whole = std::fs::read(crate::deployment::test_model("slow")).expect("a test model");
    std::fs::write(models.path().join("truncated.onnx"), &whole[..whole.len() / 2]).expect("a file");
    std::fs::write(models.path().join("corrupt.onnx"), b"this is not a model").expect("a file");
    std::fs::write(models.path().join("empty.onnx"), b"").expect("a file");
    let deployment = Deployment::start(models, quick(), Default::default()).await;
    for (model, says, remedy) in [
        ("unknown_operator", "not.here:Nonsense", "export the model with standard ones"),
        ("future_opset", "999", "export it with a lower opset"),
        ("sequence_output", "output `y`", "with tensors only"),
        ("truncated", "truncated", "export it again"),
        ("corrupt", "is not an ONNX model", "export it again"),
        ("empty", "empty.onnx", "export it again"),
    ] {
        let reason = deployment.failure(model);
        assert!(reason.contains(&format!("{model}.onnx")), "{model}: {reason}");
        assert!(reason.contains(says) && reason.contains(remedy), "{model}: {reason}");
        assert!(!reason.contains("onnxruntime::"), "{model}: no names of the runtime's functions in {reason}");
        assert!(!reason.contains('\n'), "{model}: one line, not {reason}");
    }
    assert_eq!(deployment.signature("identity_fp32").state, ModelState::Ready);
    deployment.answer("identity_fp32", &request(vec![floats("x", &[1, 1], &[1.0])])).await;
    deployment.drain().await;
}

#[tokio::test]
async fn a_run_past_its_deadline_is_ended() {
    let deployment = Deployment::of(&["slow"]).await;
    let endless = request(vec![longs("n", &[], &[i64::MAX / 2]), floats("x", &[1, 16], &[0.5; 16])]);
    let options = JobOptions { deadline: Some(Duration::from_millis(300)), ..once() };
    let view = deployment.job("slow", &endless, options).await;
    assert_eq!(view.state, JobState::Expired, "{:?}", view.error);
    assert_eq!(view.error.map(|error| error.code), Some(ErrorCode::DeadlineExceeded));
    let short = request(vec![longs("n", &[], &[3]), floats("x", &[1, 16], &[0.5; 16])]);
    deployment.answer("slow", &short).await;
    deployment.drain().await;
}
