//! v2 over gRPC.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use nobat_core::oip::infer_parameter::ParameterChoice;
use nobat_core::oip::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use nobat_core::oip::{InferParameter, InferTensorContents, ModelInferRequest};
use nobat_core::tensor::Datatype;
use nobat_gateway::proto::*;
use prost::Message as _;
use tonic::codec::CompressionEncoding;
use tonic::{Code, Request};

use super::support::{MAX_BODY, Server};

fn parameter(choice: ParameterChoice) -> InferParameter {
    InferParameter { parameter_choice: Some(choice) }
}

fn raw(model: &str, datatype: &str, shape: &[i64], data: Vec<u8>) -> ModelInferRequest {
    let input =
        InferInputTensor { name: "x".into(), datatype: datatype.into(), shape: shape.to_vec(), ..Default::default() };
    ModelInferRequest {
        model_name: model.into(),
        inputs: vec![input],
        raw_input_contents: vec![data.into()],
        ..Default::default()
    }
}

fn digits(id: &str, first: f32) -> ModelInferRequest {
    let data = [first, 2.0, 3.0, 4.0].iter().flat_map(|value| value.to_le_bytes()).collect();
    ModelInferRequest { id: id.into(), ..raw("digits", "FP32", &[1, 4], data) }
}

#[actix_web::test]
async fn every_datatype_travels_raw_and_comes_back_the_same() {
    let server = Server::start().await;
    let mut client = server.grpc().await;
    for datatype in Datatype::ALL {
        let data = match datatype.size() {
            Some(size) => vec![1; 2 * size],
            None => b"\x02\0\0\0hi\0\0\0\0".to_vec(),
        };
        let model = format!("identity_{}", datatype.as_str().to_lowercase());
        let answer = client
            .model_infer(raw(&model, datatype.as_str(), &[2, 1], data.clone()))
            .await
            .expect("answers")
            .into_inner();
        assert_eq!(answer.raw_output_contents, [Bytes::from(data)], "{datatype}");
        assert_eq!(
            (answer.outputs[0].datatype.as_str(), &answer.outputs[0].shape[..]),
            (datatype.as_str(), &[2, 1][..])
        );
        assert_eq!((answer.model_name, answer.model_version.as_str()), (model, "1"));
    }
}

#[actix_web::test]
async fn typed_contents_and_classification_work() {
    let server = Server::start().await;
    let mut request = digits("a", 0.0);
    request.raw_input_contents.clear();
    request.inputs[0].contents =
        Some(InferTensorContents { fp32_contents: vec![1.0, 9.0, 3.0, 4.0], ..Default::default() });
    let classes = HashMap::from([("classification".to_owned(), parameter(ParameterChoice::Int64Param(1)))]);
    request.outputs = vec![InferRequestedOutputTensor { name: "scores".into(), parameters: classes }];
    let answer = server.grpc().await.model_infer(request).await.expect("answers").into_inner();
    assert_eq!((answer.id.as_str(), answer.outputs[0].datatype.as_str()), ("a", "BYTES"));
    assert_eq!(&answer.raw_output_contents[0][4..], b"9.000000:1:one");
}

#[actix_web::test]
async fn misfits_are_invalid_argument_and_unknown_models_not_found() {
    let server = Server::start().await;
    let mut client = server.grpc().await;
    let change = |edit: &dyn Fn(&mut ModelInferRequest)| {
        let mut request = digits("", 1.0);
        edit(&mut request);
        request
    };
    let requests = [
        change(&|request| request.raw_input_contents = vec![vec![0; 15].into()]),
        change(&|request| request.raw_input_contents = vec![vec![0; 17].into()]),
        change(&|request| request.raw_input_contents.push(Bytes::new())),
        change(&|request| request.raw_input_contents.clear()),
        change(&|request| request.inputs[0].shape = vec![i64::MAX, i64::MAX]),
        change(&|request| request.inputs[0].shape = vec![-1, 4]),
        change(&|request| request.inputs[0].name = "y".into()),
        change(&|request| request.inputs[0].datatype = "FLOAT".into()),
        change(&|request| request.inputs.clear()),
        change(&|request| {
            request.inputs.push(request.inputs[0].clone());
            request.raw_input_contents.push(vec![0; 16].into());
        }),
        change(&|request| {
            request.inputs[0].contents = Some(InferTensorContents { fp32_contents: vec![1.0], ..Default::default() })
        }),
        change(&|request| {
            request.outputs = vec![InferRequestedOutputTensor { name: "nope".into(), ..Default::default() }]
        }),
        change(&|request| {
            request.parameters.insert("triton_other".into(), parameter(ParameterChoice::BoolParam(true)));
        }),
        change(&|request| {
            request.parameters.insert("timeout".into(), parameter(ParameterChoice::Int64Param(-1)));
        }),
        change(&|request| request.model_name = String::new()),
    ];
    for request in requests {
        let status = client.model_infer(request.clone()).await.expect_err("a misfit");
        assert_eq!(status.code(), Code::InvalidArgument, "{request:?}: {status}");
    }
    let unknown = change(&|request| request.model_name = "nope".into());
    let status = client.model_infer(unknown).await.expect_err("no such model");
    assert_eq!(status.code(), Code::NotFound);
    assert_eq!(status.metadata().get("nobat-error-code").expect("a code"), "model_not_found");
    assert!(client.model_infer(digits("", 1.0)).await.is_ok(), "the connection is still good");
}

#[actix_web::test]
async fn oversized_and_malformed_messages_and_bombs_are_refused() {
    let server = Server::start().await;
    let mut client = server.grpc().await;
    let large = raw("identity_uint8", "UINT8", &[1, 2 * MAX_BODY as i64], vec![0; 2 * MAX_BODY]);
    let status = client.model_infer(large.clone()).await.expect_err("over the limit");
    assert!(matches!(status.code(), Code::OutOfRange | Code::ResourceExhausted), "{status}");
    let mut compressed = server.grpc().await.send_compressed(CompressionEncoding::Gzip);
    let status = compressed.model_infer(large).await.expect_err("a bomb");
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert!(compressed.model_infer(digits("", 1.0)).await.is_ok(), "compressed requests are read");
    // A field of the wrong wire type, and a message cut off, under every call with a message.
    for method in ["ModelInfer", "ModelMetadata", "ModelConfig", "ModelStatistics", "RepositoryModelLoad"] {
        for body in [&b"\0\0\0\0\x03\x0a\xff\x01"[..], b"\0\0\0\0\x02\x0a\x05"] {
            assert_eq!(call(&server, method, &[], body.to_vec()).await, Code::InvalidArgument, "{method}");
        }
    }
}

#[actix_web::test]
async fn a_stream_answers_in_order_and_goes_on_after_a_misfit() {
    let server = Server::start().await;
    let mut bad = digits("1", 1.0);
    bad.model_name = "nope".into();
    let requests: Vec<_> =
        (0..40u32).map(|at| if at == 1 { bad.clone() } else { digits(&at.to_string(), at as f32) }).collect();
    let enabled = parameter(ParameterChoice::BoolParam(true));
    let requests = requests.into_iter().map(move |mut request| {
        request.parameters.insert("triton_enable_empty_final_response".into(), enabled.clone());
        request
    });
    let mut answers =
        server.grpc().await.model_stream_infer(futures::stream::iter(requests)).await.expect("a stream").into_inner();
    for at in 0..40u32 {
        let answer = answers.message().await.expect("no status").expect("an answer");
        let response = answer.infer_response.expect("always present");
        assert_eq!(response.id, at.to_string());
        assert_eq!(response.parameters["triton_final_response"], parameter(ParameterChoice::BoolParam(true)));
        if at == 1 {
            assert!(answer.error_message.contains("no model `nope`"), "{}", answer.error_message);
        } else {
            assert_eq!(answer.error_message, "");
            assert_eq!(&response.raw_output_contents[0][..4], (at as f32).to_le_bytes());
        }
    }
    assert!(answers.message().await.expect("no status").is_none());
}

#[actix_web::test]
async fn a_deadline_ends_the_call_and_its_job_and_so_does_dropping_it() {
    let server = Server::start().await;
    let mut client = server.grpc().await;
    let stuck = || ModelInferRequest { model_name: "stuck".into(), ..digits("", 1.0) };
    let mut request = Request::new(stuck());
    request.set_timeout(Duration::from_millis(300));
    let status = client.model_infer(request).await.expect_err("nobody serves it");
    // This client counts too, and calls it cancelled.
    assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled), "{status}");
    server.await_stuck(0).await;
    let mut by_parameter = stuck();
    by_parameter.parameters.insert("timeout".into(), parameter(ParameterChoice::Int64Param(100_000)));
    assert_eq!(client.model_infer(by_parameter).await.expect_err("late").code(), Code::DeadlineExceeded);
    let mut alone = client.clone();
    let call = tokio::spawn(async move { alone.model_infer(stuck()).await });
    server.await_stuck(1).await;
    call.abort();
    server.await_stuck(0).await;
    let requests = futures::stream::iter((0..5).map(move |_| stuck()));
    let answers = client.model_stream_infer(requests).await.expect("a stream");
    server.await_stuck(5).await;
    drop(answers);
    server.await_stuck(0).await;
}

#[actix_web::test]
async fn the_server_itself_says_that_a_deadline_passed() {
    let server = Server::start().await;
    let message = ModelInferRequest { model_name: "stuck".into(), ..digits("", 1.0) }.encode_to_vec();
    let framed = [&[0][..], &(message.len() as u32).to_be_bytes(), &message].concat();
    for timeout in ["50m", "200m"] {
        let headers = [("grpc-timeout", timeout)];
        assert_eq!(call(&server, "ModelInfer", &headers, framed.clone()).await, Code::DeadlineExceeded, "{timeout}");
    }
    assert_eq!(call(&server, "ModelInfer", &[("grpc-timeout", "soon")], framed).await, Code::InvalidArgument);
    server.await_stuck(0).await;
}

/// One call written by hand, with headers that a client would not send; its status.
async fn call(server: &Server, method: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Code {
    let http2 = reqwest::Client::builder().http2_prior_knowledge().build().expect("a client");
    let mut request = http2
        .post(format!("http://{}/inference.GRPCInferenceService/{method}", server.grpc))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(body);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let reply = request.send().await.expect("an answer");
    let status = reply.headers().get("grpc-status").expect("a status in the head: the call was refused");
    Code::from_bytes(status.as_bytes())
}

#[actix_web::test]
async fn the_server_and_its_models_describe_themselves() {
    let server = Server::start().await;
    let mut client = server.grpc().await;
    assert!(client.server_live(ServerLiveRequest {}).await.expect("answers").into_inner().live);
    assert!(client.server_ready(ServerReadyRequest {}).await.expect("answers").into_inner().ready);
    let about = client.server_metadata(ServerMetadataRequest {}).await.expect("answers").into_inner();
    assert!(about.extensions.iter().any(|extension| extension == "statistics"));
    let named = |name: &str| (name.to_owned(), String::new());
    let (name, version) = named("digits");
    assert!(client.model_ready(ModelReadyRequest { name, version }).await.expect("answers").into_inner().ready);
    let (name, version) = named("digits");
    let metadata = client.model_metadata(ModelMetadataRequest { name, version }).await.expect("answers").into_inner();
    assert_eq!(
        (metadata.inputs[0].shape.as_slice(), metadata.versions.as_slice()),
        (&[-1, 4][..], &["1".to_owned()][..])
    );
    let (name, version) = named("digits");
    let config = client
        .model_config(ModelConfigRequest { name, version })
        .await
        .expect("answers")
        .into_inner()
        .config
        .expect("a config");
    assert_eq!((config.max_batch_size, config.input[0].dims.as_slice()), (8, &[4][..]));
    client.model_infer(digits("", 1.0)).await.expect("answers");
    let (name, version) = named("digits");
    let stats = client.model_statistics(ModelStatisticsRequest { name, version }).await.expect("answers").into_inner();
    assert_eq!((stats.model_stats[0].inference_count, stats.model_stats[0].execution_count), (1, 1));
    let load = RepositoryModelLoadRequest { model_name: "late".into(), ..Default::default() };
    client.repository_model_load(load).await.expect("loads");
    let index = client
        .repository_index(RepositoryIndexRequest { ready: true, ..Default::default() })
        .await
        .expect("answers")
        .into_inner();
    assert!(index.models.iter().any(|row| row.name == "late" && row.state == "READY"));
    let unload = RepositoryModelUnloadRequest { model_name: "late".into(), ..Default::default() };
    client.repository_model_unload(unload).await.expect("unloads");
    let path = RepositoryModelLoadRequest { model_name: "../../etc".into(), ..Default::default() };
    assert_eq!(client.repository_model_load(path).await.expect_err("a path").code(), Code::InvalidArgument);
    let region = SystemSharedMemoryRegisterRequest { name: "r".into(), ..Default::default() };
    assert_eq!(client.system_shared_memory_register(region).await.expect_err("no").code(), Code::Unimplemented);
    let status = client.cuda_shared_memory_status(CudaSharedMemoryStatusRequest::default()).await.expect("answers");
    assert!(status.into_inner().regions.is_empty());
    assert!(client.trace_setting(TraceSettingRequest::default()).await.is_ok());
    assert!(client.log_settings(LogSettingsRequest::default()).await.is_ok());
}

#[actix_web::test]
async fn health_says_serving() {
    use tonic_health::pb::health_check_response::ServingStatus;
    use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

    let server = Server::start().await;
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", server.grpc)).expect("an address");
    let mut client = HealthClient::new(endpoint.connect().await.expect("connects"));
    for service in ["", "inference.GRPCInferenceService"] {
        let answer = client.check(HealthCheckRequest { service: service.into() }).await.expect("answers").into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service}");
    }
}
