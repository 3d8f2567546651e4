//! A small scripted server of the Open Inference Protocol and of nobat's jobs, right or wrong
//! in ways that a test chooses. It is no real server: real ones are asked by `scripts/check_peers`
//! and by the tests of the command line.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use nobat_statistics::random::seeded;
use rand::RngExt;
use serde_json::{Value, json};

/// What is wrong with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing.
    #[default]
    None,
    /// Two classes change places.
    Swapped,
    /// One class is never named.
    NeverNamed,
    /// Scores depend on what else is in the request.
    DependsOnTheBatch,
    /// A wrong datatype is answered as a right one.
    TakesEveryDatatype,
    /// A refusal is a fault of the server.
    RefusesWith500,
    /// One job in a hundred is lost.
    LosesJobs,
    /// Each job is lost with one chance in a hundred, by this seed.
    LosesSomeJobs(u64),
    /// It ends after so many requests.
    GoesAway(u64),
}

/// Serves model `bins`: of two numbers the first, by its tenth, is the class, the second the score.
pub(crate) struct Peer {
    /// Where.
    pub(crate) address: SocketAddr,
}

struct State {
    fault: Fault,
    /// With nobat's jobs beside the protocol.
    jobs: bool,
    requests: AtomicU64,
    results: Mutex<HashMap<u64, Option<Value>>>,
}

impl Peer {
    /// Starts one.
    pub(crate) fn start(fault: Fault, jobs: bool) -> Peer {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let state = Arc::new(State { fault, jobs, requests: AtomicU64::new(0), results: Mutex::default() });
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = state.clone();
                std::thread::spawn(move || while_open(stream, &state));
            }
        });
        Peer { address }
    }

    /// Its address as a client gives it.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

fn while_open(stream: TcpStream, state: &State) {
    let Ok(mut writer) = stream.try_clone() else { return };
    let mut reader = BufReader::new(stream);
    while let Some((method, path, body)) = read(&mut reader) {
        let asked = state.requests.fetch_add(1, Ordering::Relaxed);
        if matches!(state.fault, Fault::GoesAway(after) if asked >= after) {
            return;
        }
        let (status, answer) = match body {
            Some(body) => answer(state, &method, &path, &body),
            None => (413, json!({"error": "the body is too large"})),
        };
        let text = answer.to_string();
        let head =
            format!("HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", text.len());
        if writer.write_all(format!("{head}{text}").as_bytes()).is_err() || status == 413 {
            return;
        }
    }
}

/// A request's method, path and body; no body where it is too large.
fn read(reader: &mut BufReader<TcpStream>) -> Option<(String, String, Option<Vec<u8>>)> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|&n| n > 0)?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, path) = (words.next()?, words.next()?);
    let mut length = 0u64;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok().filter(|&n| n > 0)?;
        match header.trim_end().split_once(':') {
            None => break,
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => length = value.trim().parse().ok()?,
            Some(_) => {}
        }
    }
    if length > 1 << 24 {
        return Some((method, path, None));
    }
    let mut body = vec![0; length as usize];
    reader.read_exact(&mut body).ok()?;
    Some((method, path, Some(body)))
}

fn answer(state: &State, method: &str, path: &str, body: &[u8]) -> (u16, Value) {
    let described = || {
        let tensor =
            |name: &str, datatype: &str, shape: &[i64]| json!({"name": name, "datatype": datatype, "shape": shape});
        (
            json!([tensor("x", "FP32", &[-1, 2])]),
            json!([tensor("label", "INT64", &[-1]), tensor("score", "FP32", &[-1, 1])]),
        )
    };
    let (inputs, outputs) = described();
    match (method, path.split('?').next().unwrap_or(path)) {
        ("GET", "/v2") => (200, json!({"name": "peer", "version": "1", "extensions": []})),
        ("GET", "/v2/models/bins") => {
            (200, json!({"name": "bins", "versions": ["1"], "platform": "", "inputs": inputs, "outputs": outputs}))
        }
        ("POST", "/v2/models/bins/infer") => match rows(state, body) {
            Ok(rows) => {
                let (labels, scores) = computed(state, &rows);
                let n = rows.len();
                (
                    200,
                    json!({"model_name": "bins", "outputs": [
                        {"name": "label", "datatype": "INT64", "shape": [n], "data": labels},
                        {"name": "score", "datatype": "FP32", "shape": [n, 1], "data": scores},
                    ]}),
                )
            }
            Err(why) => (if state.fault == Fault::RefusesWith500 { 500 } else { 400 }, json!({"error": why})),
        },
        ("GET", "/api/v1/models/bins") if state.jobs => {
            let with = |tensors: &Value| {
                let tensors = tensors.as_array().into_iter().flatten();
                tensors
                    .map(|tensor| {
                        let mut tensor = tensor.clone();
                        tensor["optional"] = false.into();
                        tensor
                    })
                    .collect::<Vec<_>>()
            };
            (
                200,
                json!({"default_version": "1", "versions": [{
                    "version": "1", "batched": true, "inputs": with(&inputs), "outputs": with(&outputs), "settings": {},
                }]}),
            )
        }
        ("POST", "/api/v1/predict/bins") if state.jobs => {
            let Ok(body) = serde_json::from_slice::<Value>(body) else { return (400, json!({"detail": "no JSON"})) };
            let numbers =
                |row: &Value| row.as_array().map(|row| row.iter().filter_map(Value::as_f64).collect::<Vec<_>>());
            let rows = body["inputs"]["x"].as_array().map(|rows| rows.iter().filter_map(numbers).collect::<Vec<_>>());
            let Some(rows) = rows else { return (400, json!({"detail": "no rows"})) };
            let (labels, scores) = computed(state, &rows);
            let scores: Vec<_> = scores.into_iter().map(|score| [score]).collect();
            let result = json!({"outputs": {"label": labels, "score": scores}});
            if path.contains("wait=") {
                return (200, result);
            }
            let mut results = state.results.lock().expect("no panic");
            let id = results.len() as u64 + 1;
            let lost = match state.fault {
                Fault::LosesJobs => id.is_multiple_of(100),
                Fault::LosesSomeJobs(seed) => seeded(seed << 32 | id).random_range(0..100) == 0,
                _ => false,
            };
            results.insert(id, (!lost).then_some(result));
            (202, json!({"id": id.to_string(), "state": "queued"}))
        }
        ("GET", path) if state.jobs && path.starts_with("/api/v1/jobs/") => {
            let id = path.split('/').nth(4).and_then(|id| id.parse::<u64>().ok()).unwrap_or(0);
            match state.results.lock().expect("no panic").get(&id) {
                Some(Some(result)) => (200, result.clone()),
                Some(None) => (202, json!({"id": id.to_string(), "state": "queued"})),
                None => (404, json!({"detail": "no such job"})),
            }
        }
        _ => (404, json!({"error": format!("nothing is served at {path}")})),
    }
}

/// The rows of a v2 request, or why it is none.
fn rows(state: &State, body: &[u8]) -> Result<Vec<Vec<f64>>, String> {
    let request: Value = serde_json::from_slice(body).map_err(|e| format!("no JSON: {e}"))?;
    let inputs = request["inputs"].as_array().ok_or("`inputs` is missing")?;
    let [input] = &inputs[..] else { return Err(format!("the model takes one input, not {}", inputs.len())) };
    let takes_all = state.fault == Fault::TakesEveryDatatype;
    if input["name"] != "x" || input["datatype"] != "FP32" && !takes_all {
        return Err("input `x` is FP32".into());
    }
    let shape: Vec<u64> = input["shape"].as_array().into_iter().flatten().filter_map(Value::as_u64).collect();
    let data = input["data"].as_array().ok_or("`data` is missing")?;
    let numbers: Vec<f64> = data.iter().filter_map(Value::as_f64).collect();
    match shape[..] {
        [rows, 2] if rows > 0 && numbers.len() == data.len() && numbers.len() as u64 == rows * 2 => {
            Ok(numbers.chunks(2).map(<[f64]>::to_vec).collect())
        }
        _ => Err(format!("shape {shape:?} with {} numbers is not [-1, 2]", numbers.len())),
    }
}

fn computed(state: &State, rows: &[Vec<f64>]) -> (Vec<i64>, Vec<f64>) {
    let label = |row: &Vec<f64>| {
        let class = ((row[0] * 10.0) as i64).clamp(0, 9);
        match (state.fault, class) {
            (Fault::Swapped, 3) => 5,
            (Fault::Swapped, 5) => 3,
            (Fault::NeverNamed, 4) => 6,
            _ => class,
        }
    };
    let mean = rows.iter().map(|row| row[1]).sum::<f64>() / rows.len() as f64;
    let off = if state.fault == Fault::DependsOnTheBatch { 0.1 * mean } else { 0.0 };
    (rows.iter().map(label).collect(), rows.iter().map(|row| row[1] + off).collect())
}
