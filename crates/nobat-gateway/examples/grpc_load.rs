//! How many ModelInfer calls a second a running service answers, each of one
//! row of 64 floats.
//!
//! `cargo run --release -p nobat-gateway --example grpc_load -- 127.0.0.1:8001 digits 64 5`

use std::time::{Duration, Instant};

use nobat_core::oip::ModelInferRequest;
use nobat_core::oip::model_infer_request::InferInputTensor;
use nobat_gateway::proto::grpc_inference_service_client::GrpcInferenceServiceClient;
use tonic::transport::Endpoint;

/// Calls in the air are spread over so many connections.
const CONNECTIONS: usize = 4;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, model, streams, seconds] = &arguments[..] else {
        return Err("usage: grpc_load ADDRESS MODEL STREAMS SECONDS".into());
    };
    let (streams, seconds): (usize, u64) = (streams.parse()?, seconds.parse()?);
    let input = InferInputTensor {
        name: "input".into(),
        datatype: "FP32".into(),
        shape: vec![1, 64],
        ..InferInputTensor::default()
    };
    let request = ModelInferRequest {
        model_name: model.clone(),
        inputs: vec![input],
        raw_input_contents: vec![vec![0; 256].into()],
        ..ModelInferRequest::default()
    };
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS.min(streams) {
        let channel = Endpoint::from_shared(format!("http://{address}"))?.tcp_nodelay(true).connect().await?;
        clients.push(GrpcInferenceServiceClient::new(channel));
    }
    let warm = Instant::now() + Duration::from_secs(1);
    let end = warm + Duration::from_secs(seconds);
    let callers = (0..streams).map(|at| {
        let (mut client, request) = (clients[at % clients.len()].clone(), request.clone());
        tokio::spawn(async move {
            let mut latencies = Vec::new();
            loop {
                let start = Instant::now();
                if start >= end {
                    return Ok::<_, tonic::Status>(latencies);
                }
                client.model_infer(request.clone()).await?;
                if start >= warm {
                    latencies.push(start.elapsed());
                }
            }
        })
    });
    let mut latencies = Vec::new();
    for caller in futures::future::join_all(callers).await {
        latencies.extend(caller??);
    }
    latencies.sort_unstable();
    let at = |share: f64| latencies[((latencies.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    println!(
        "{streams} streams: {:.0} calls/s, p50 {:.2} ms, p99 {:.2} ms",
        latencies.len() as f64 / seconds as f64,
        at(0.5),
        at(0.99)
    );
    Ok(())
}
