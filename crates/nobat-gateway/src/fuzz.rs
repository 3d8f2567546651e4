//! Entries for the fuzz targets and the replay of their corpora (`fuzz/`): what
//! callers send, to the parser that reads it, and what must hold of whatever
//! the parser takes.

use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use actix_web::http::header::{HeaderMap, HeaderValue};
use actix_web::http::{Method, Uri};
use actix_web::test::TestRequest;
use actix_web::web;
use bytes::Bytes;
use nobat_core::infer::InferRequest;
use nobat_core::oip::ModelInferRequest;
use nobat_core::signature::{ModelSignature, ModelState, TensorSpec};
use nobat_core::tensor::Datatype;
use nobat_runtime::Metrics;
use nobat_serving::Predictor;
use nobat_serving::auth::{self, AuthConfig, Keyring, NewKey, Scope, now_s};
use nobat_serving::readiness::Readiness;
use nobat_serving::state::ServingState;
use nobat_serving::store::{self, QueueSettings};
use nobat_webhooks::ResultView;
use prost::Message;

use crate::config::GatewayConfig;
use crate::grpc::convert;
use crate::query::{JobQuery, WITH_WAIT};
use crate::rows;
use crate::state::HttpState;
use crate::table::{self, TableKind};
use crate::v2::{binary, json};
use crate::{context, middleware, routes};

/// A body of the native API. The first byte chooses the model's datatype.
pub fn native_body(data: &[u8]) {
    body(data, "instances");
}

/// A table as CSV. The first byte chooses the model's datatype and whether there is a line of
/// names.
pub fn csv_body(data: &[u8]) {
    let Some((&choice, text)) = data.split_first() else { return };
    let datatype = Datatype::ALL[usize::from(choice & 15) % Datatype::ALL.len()];
    let spec = |name: &str, optional| TensorSpec { name: name.into(), datatype, shape: vec![-1, 1], optional };
    let signature = ModelSignature { inputs: vec![spec("a", false), spec("b", true)], ..model(datatype) };
    let kind = if choice & 16 == 0 { TableKind::Csv } else { TableKind::CsvWithoutHeader };
    if let Ok(inputs) = table::read(kind, Bytes::copy_from_slice(text), &signature, 1 << 20) {
        check(&signature, InferRequest { inputs, ..InferRequest::default() });
    }
}

/// A table in Arrow's formats or Parquet. The first byte chooses the model's datatype and the format.
pub fn columnar_body(data: &[u8]) {
    let Some((&choice, file)) = data.split_first() else { return };
    let datatype = Datatype::ALL[usize::from(choice & 15) % Datatype::ALL.len()];
    let spec = |name: &str, optional| TensorSpec { name: name.into(), datatype, shape: vec![-1, 1], optional };
    let signature = ModelSignature { inputs: vec![spec("a", false), spec("b", true)], ..model(datatype) };
    let kind = [TableKind::ArrowStream, TableKind::ArrowFile, TableKind::Parquet][usize::from(choice >> 4) % 3];
    if let Ok(inputs) = table::read(kind, Bytes::copy_from_slice(file), &signature, 1 << 20) {
        check(&signature, InferRequest { inputs, ..InferRequest::default() });
    }
}

/// A body of TensorFlow Serving's `:classify` and `:regress`.
pub fn serving_body(data: &[u8]) {
    body(data, "examples");
}

/// A v2 document without binary tensors. The first byte chooses the datatype
/// that the model takes.
pub fn v2_document(data: &[u8]) {
    let Some((&choice, text)) = data.split_first() else { return };
    v2(&HeaderMap::new(), text, choice);
}

/// A v2 body with binary tensors: two bytes of the header's value, then the body.
pub fn v2_binary(data: &[u8]) {
    let Some((&length, body)) = data.split_first_chunk::<2>() else { return };
    let mut headers = HeaderMap::new();
    headers.insert(binary::HEADER_LENGTH, HeaderValue::from(u16::from_le_bytes(length)));
    v2(&headers, body, length[0]);
}

/// A gRPC request.
pub fn grpc_request(data: &[u8]) {
    let Ok(message) = ModelInferRequest::decode(Bytes::copy_from_slice(data)) else { return };
    if let Ok(call) = convert::decode(message) {
        for datatype in Datatype::ALL {
            check(&model(datatype), call.request.clone());
        }
    }
}

/// A request's path at the access check. The first byte chooses the method and whether it comes
/// with a key that reads: whatever the path looks like, what is matched decides.
pub fn door(data: &[u8]) {
    let Some((&choice, path)) = data.split_first() else { return };
    let Some(path) = std::str::from_utf8(path).ok().filter(|path| path.starts_with('/')) else { return };
    let Ok(uri) = path.parse::<Uri>() else { return };
    let method =
        [Method::GET, Method::POST, Method::PUT, Method::DELETE, Method::HEAD][usize::from(choice % 8).min(4)].clone();
    let has_key = choice & 0x10 == 0;
    actix_web::rt::System::new().block_on(async {
        let (serving, http, key) = gateway_with_a_key();
        let app = routes::application()
            .0
            .app_data(web::Data::new(Predictor::new(serving)))
            .app_data(web::Data::from(http))
            .wrap_fn(middleware::guard)
            .wrap_fn(context::attach);
        let app = actix_web::test::init_service(app).await;
        let mut request = TestRequest::default().method(method.clone()).uri(path);
        if has_key {
            request = request.insert_header(("authorization", format!("Bearer {key}")));
        }
        let Ok(response) = actix_web::test::try_call_service(&app, request.to_request()).await else { return };
        let matched = response.request().match_pattern().unwrap_or_default();
        let refused = matches!(response.status().as_u16(), 401 | 403);
        let under = |prefix: &str| matched.starts_with(prefix);
        let of_administrators = under("/api/v1/periodic") || under("/api/v1/webhooks");
        assert!(refused || !of_administrators, "{method} {uri} reached {matched}: {}", response.status());
        let reads = matches!(method, Method::GET | Method::HEAD);
        let asks = matched == "/v2/repository/index" || matched.contains("sharedmemory");
        let nothing_there = response.status().as_u16() == 404 && matched.is_empty();
        assert!(
            refused || nothing_there || (reads && (has_key || is_open(&matched))) || (asks && has_key),
            "{method} {uri} reached {matched}: {}",
            response.status()
        );
    });
}

/// What needs no key to be read.
fn is_open(pattern: &str) -> bool {
    [
        "/",
        "/livez",
        "/readyz",
        "/ping",
        "/v2/health/live",
        "/v2/health/ready",
        "/docs",
        "/docs/{_:.*}",
        "/api/openapi.json",
    ]
    .contains(&pattern)
}

/// A gateway on an empty queue, and a key that reads.
fn gateway_with_a_key() -> (Arc<ServingState>, Arc<HttpState>, &'static str) {
    static GATEWAY: OnceLock<(Arc<ServingState>, Arc<HttpState>, String)> = OnceLock::new();
    let (serving, http, key) = GATEWAY.get_or_init(|| {
        let folder = std::env::temp_dir().join(format!("nobat-fuzz-door-{}", std::process::id()));
        let mut ring = Keyring::default();
        let new = NewKey {
            name: "reader".into(),
            scope: Scope::Read,
            models: vec![],
            valid_s: None,
            rate_per_s: 0.0,
            burst: 0,
            max_in_flight: 0,
            tokens_per_min: 0,
            max_priority: None,
        };
        let key = ring.add(new, now_s()).expect("a new key");
        let queue = store::embedded(&folder, QueueSettings::default()).expect("an embedded queue");
        let file = folder.join("keys.toml");
        auth::store(&file, &ring).expect("a file of keys");
        let auth = AuthConfig { keys: file.display().to_string(), insecure: false };
        let config = GatewayConfig { auth, ..GatewayConfig::default() };
        let view = ResultView { url: str::to_owned, json: |_| Vec::new() };
        let serving = ServingState::new(config.serving(), queue, view, Metrics::new(), Readiness::default());
        let serving = Arc::new(serving.expect("a gateway"));
        let http = Arc::new(HttpState::new(config, true, &serving.metrics, None));
        (serving, http, key)
    });
    (serving.clone(), http.clone(), key)
}

/// The query string of a predicting route.
pub fn query(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = JobQuery::read(text, WITH_WAIT, SystemTime::UNIX_EPOCH);
    }
}

fn body(data: &[u8], rows: &'static str) {
    let Some((&choice, text)) = data.split_first() else { return };
    let signature = model(Datatype::ALL[usize::from(choice) % Datatype::ALL.len()]);
    if let Ok((request, _)) = rows::read(text, &signature, rows) {
        assert!(serde_json::from_slice::<serde::de::IgnoredAny>(text).is_ok(), "what is read is JSON");
        for tensor in &request.inputs {
            tensor.check().expect("a tensor has the bytes that its shape calls for");
        }
        check(&signature, request);
    }
}

fn v2(headers: &HeaderMap, body: &[u8], choice: u8) {
    let Ok(binary::Parts::Document(text, blobs)) = binary::split(headers, Bytes::copy_from_slice(body)) else { return };
    if let Ok(document) = json::read(&text, blobs) {
        assert!(serde_json::from_slice::<serde::de::IgnoredAny>(&text).is_ok(), "what is read is JSON");
        let datatype = Datatype::ALL[usize::from(choice) % Datatype::ALL.len()];
        let request = InferRequest { inputs: document.inputs, ..InferRequest::default() };
        check(&model(datatype), request);
    }
}

/// What passes validation has whole tensors and reads back from the queue.
fn check(signature: &ModelSignature, request: InferRequest) {
    if let Ok(rows) = signature.validate(&request) {
        assert!((1..=signature.max_rows).contains(&rows));
        for tensor in &request.inputs {
            tensor.check().expect("validated");
        }
        let again = InferRequest::decode(Bytes::from(request.encode())).expect("what was written is read");
        assert_eq!(again, request);
    }
}

/// Two inputs of the datatype, the second may be left out.
fn model(datatype: Datatype) -> ModelSignature {
    let spec = |name: &str, optional| TensorSpec { name: name.into(), datatype, shape: vec![-1, 2], optional };
    ModelSignature {
        name: "m".into(),
        version: "1".into(),
        digest: String::new(),
        state: ModelState::Ready,
        reason: String::new(),
        inputs: vec![spec("x", false), spec("y", true)],
        outputs: vec![],
        batched: true,
        rows: Default::default(),
        max_batch_size: 4,
        max_rows: 8,
        finite: true,
        default: false,
        labels: vec![],
        settings: serde_json::Map::new(),
        task: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_door_holds_for_every_path_of_its_corpus() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/door");
        let mut files = 0;
        for entry in std::fs::read_dir(folder).expect("a corpus") {
            door(&std::fs::read(entry.expect("an entry").path()).expect("a file"));
            files += 1;
        }
        assert!(files >= 8, "{files}");
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]
        #[test]
        fn the_door_holds_for_paths_that_are_encoded_anywhere(
            choice: u8, path in 0usize..6, encoded in proptest::collection::vec(proptest::bool::weighted(0.3), 40),
        ) {
            let path = [
                "/api/v1/periodic/x/run",
                "/api/v1/webhooks/endpoints/enable",
                "/v2/repository/models/m/unload",
                "/api/v1/queues/m/dead/redrive",
                "/v1/models/m:predict",
                "/api/v1/routes/r",
            ][path];
            let mut data = vec![choice];
            for (at, byte) in path.bytes().enumerate() {
                match at > 0 && encoded[at % encoded.len()] {
                    true => data.extend_from_slice(format!("%{byte:02x}").as_bytes()),
                    false => data.push(byte),
                }
            }
            door(&data);
        }
    }
}
